#include "../generic/ascent.h"
#include "products.h"

namespace robustlab {
namespace scalar {

void ascent_step(const AscentStep& s) { robustlab::ascent_step(s); }

}  // namespace scalar
}  // namespace robustlab
