// Products of codes.
#include "codes.h"

namespace robustlab {
namespace avx512 {

void codes_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step) {
  all_panels<Codes>(windows, panels, RawSums{out, step});
}

}  // namespace avx512
}  // namespace robustlab
