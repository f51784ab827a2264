// Direct products of sign bits and of bit planes.
#include "bits.h"
#include "direct.h"

namespace robustlab {
namespace avx512 {

void direct_bits(const Windows& windows, const Panels& panels, const Direct& d) {
  const bool part = windows.tail != 0xffffffffu;
  if (d.store == Op::kStoreBelow)
    return part ? direct_to_bits<Signs<DifferWhereUsed>>(windows, panels, d)
                : direct_to_bits<Signs<Differ>>(windows, panels, d);
  if (d.factor < 0)
    return part ? direct_to_numbers<Signs<DifferWhereUsed>, true>(windows, panels, d)
                : direct_to_numbers<Signs<Differ>, true>(windows, panels, d);
  part ? direct_to_numbers<Planes<DifferWhereUsed>, false>(windows, panels, d)
       : direct_to_numbers<Planes<Differ>, false>(windows, panels, d);
}

}  // namespace avx512
}  // namespace robustlab
