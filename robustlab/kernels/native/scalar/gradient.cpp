#include "../generic/gradient.h"
#include "products.h"

namespace robustlab {
namespace scalar {

void gradient_line(const GradientLine& line) { robustlab::gradient_line<4>(line); }

}  // namespace scalar
}  // namespace robustlab
