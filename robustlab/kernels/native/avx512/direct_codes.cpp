// Direct products of codes.
#include "codes.h"
#include "direct.h"

namespace robustlab {
namespace avx512 {

void direct_codes(const Windows& windows, const Panels& panels, const Direct& d) {
  direct_to_numbers<Codes, false>(windows, panels, d);
}

}  // namespace avx512
}  // namespace robustlab
