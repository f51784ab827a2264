#include "../generic/boundary.h"

namespace robustlab {
namespace avx512 {

void boundary_step(const BoundaryStep& s) { robustlab::boundary_step(s); }

}  // namespace avx512
}  // namespace robustlab
