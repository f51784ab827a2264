// Products that end as bits: one panel of a few rows at a time, so that the counts never leave the first cache.
#pragma once

#include "lanes.h"

namespace robustlab {
namespace {

template <class Isa>
void bits_threshold(const Windows& windows, const Panels& panels, const BitThreshold& t) {
  constexpr int64_t kRows = 32;
  alignas(64) int32_t counts[kRows * kLanes];
  for (int64_t row = 0; row < windows.count; row += kRows) {
    Windows some = windows;
    some.starts += row;
    some.count = at_most(windows.count - row, kRows);
    for (int64_t panel = 0; panel < panels.count; ++panel) {
      Panels one = panels;
      one.data += panel * panels.bytes;
      one.count = 1;
      Isa::bits_product(some, one, counts, kLanes);
      const int64_t lanes = at_most(t.channels - panel * kLanes, kLanes);
      const uint32_t used = low_bits(lanes), flip = t.flip[panel];
      for (int64_t r = 0; r < some.count; ++r) {
        const int64_t pattern = t.pattern != nullptr ? t.pattern[row + r] : 0;
        const int32_t* limits = t.limits + pattern * t.limit_step + panel * kLanes;
        store_bits(t.out + t.at[row + r] + 2 * panel, (Isa::less(limits, counts + r * kLanes) ^ flip) & used, lanes);
      }
    }
  }
}

}  // namespace
}  // namespace robustlab
