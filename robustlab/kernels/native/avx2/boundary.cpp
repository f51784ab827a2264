#include "../generic/boundary.h"
#include "products.h"

namespace robustlab {
namespace avx2 {

void boundary_step(const BoundaryStep& s) { robustlab::boundary_step(s); }

}  // namespace avx2
}  // namespace robustlab
