#include "../generic/gradient.h"
#include "products.h"

namespace robustlab {
namespace avx2 {

void gradient_line(const GradientLine& line) { robustlab::gradient_line<8>(line); }

}  // namespace avx2
}  // namespace robustlab
