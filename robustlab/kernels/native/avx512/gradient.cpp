#include "../generic/gradient.h"

namespace robustlab {
namespace avx512 {

void gradient_line(const GradientLine& line) { robustlab::gradient_line<16>(line); }

}  // namespace avx512
}  // namespace robustlab
