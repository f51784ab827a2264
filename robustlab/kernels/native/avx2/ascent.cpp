#include "../generic/ascent.h"
#include "products.h"

namespace robustlab {
namespace avx2 {

void ascent_step(const AscentStep& s) { robustlab::ascent_step(s); }

}  // namespace avx2
}  // namespace robustlab
