#include "../generic/ascent.h"
#include "products.h"

namespace robustlab {
namespace neon {

void ascent_step(const AscentStep& s) { robustlab::ascent_step(s); }

}  // namespace neon
}  // namespace robustlab
