#include "../generic/boundary.h"
#include "products.h"

namespace robustlab {
namespace scalar {

void boundary_step(const BoundaryStep& s) { robustlab::boundary_step(s); }

}  // namespace scalar
}  // namespace robustlab
