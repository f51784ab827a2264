#include "../generic/ascent.h"

namespace robustlab {
namespace avx512 {

void ascent_step(const AscentStep& s) { robustlab::ascent_step(s); }

}  // namespace avx512
}  // namespace robustlab
