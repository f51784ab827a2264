#include "../generic/boundary.h"
#include "products.h"

namespace robustlab {
namespace neon {

void boundary_step(const BoundaryStep& s) { robustlab::boundary_step(s); }

}  // namespace neon
}  // namespace robustlab
