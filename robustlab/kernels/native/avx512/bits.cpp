// Products of sign bits and of bit planes.
#include "bits.h"

namespace robustlab {
namespace {

// Bits of all channels of a tile, which must be whole panels: sum > limit.
struct Bits {
  const BitThreshold& t;

  template <int kRows, int kPanels>
  struct Tile {
    const int32_t* limits[kRows];
    uint8_t* to[kRows];
    uint32_t flip[(kPanels + 1) / 2];

    INLINE Tile(const Bits& bits, int64_t row, int64_t panel) {
      static constexpr int32_t kNoPatterns[kRows] = {};
      const BitThreshold& t = bits.t;
      const int32_t* pattern = t.pattern != nullptr ? t.pattern + row : kNoPatterns;
      UNROLL for (int m = 0; m < kRows; ++m) {
        limits[m] = t.limits + panel * kLanes + pattern[m] * t.limit_step;
        to[m] = t.out + 2 * panel + t.at[row + m];
      }
      // not worth registers while the sums are made
      UNROLL for (int m = 0; m < kRows; ++m) __asm__ volatile("" : "+m"(limits[m]), "+m"(to[m]));
      flip[0] = t.flip[panel];
      UNROLL for (int n = 1; n < kPanels; ++n)
        flip[n / 2] = n % 2 != 0 ? flip[n / 2] | static_cast<uint32_t>(t.flip[panel + n]) << 16 : t.flip[panel + n];
    }

    INLINE void take(int m, const __m512i (&sums)[kPanels]) const {
      uint32_t bits[kPanels];
      UNROLL for (int n = 0; n < kPanels; ++n)
        bits[n] = _mm512_cmpgt_epi32_mask(sums[n], _mm512_loadu_si512(limits[m] + n * kLanes));
      UNROLL for (int n = 0; n + 1 < kPanels; n += 2) {
        const uint32_t both = (bits[n] | bits[n + 1] << 16) ^ flip[n / 2];
        std::memcpy(to[m] + 2 * n, &both, 4);
      }
      if (kPanels == 1) store_bits(to[m], bits[0] ^ flip[0], kLanes);
    }
    INLINE void finish(const Sums<kRows, kPanels>&) const {}
  };
};

}  // namespace

namespace avx512 {

void bits_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step) {
  const bool tail = windows.tail != 0xffffffffu;
  const RawSums target{out, step};
  if (panels.planes == 1 && panels.activation_planes == 1) {
    tail ? all_panels<Signs<DifferWhereUsed>>(windows, panels, target)
         : all_panels<Signs<Differ>>(windows, panels, target);
  } else {
    tail ? all_panels<Planes<DifferWhereUsed>>(windows, panels, target)
         : all_panels<Planes<Differ>>(windows, panels, target);
  }
}

void bits_threshold(const Windows& windows, const Panels& panels, const BitThreshold& t) {
  Panels part = panels;
  part.count = t.channels / kLanes;
  const Bits target{t};
  windows.tail != 0xffffffffu ? all_panels<Signs<DifferWhereUsed>>(windows, part, target)
                              : all_panels<Signs<Differ>>(windows, part, target);
  const int64_t lanes = t.channels - part.count * kLanes;
  if (lanes == 0) return;
  // the last panel, of which only some channels exist
  constexpr int64_t kRows = 56;
  alignas(64) int32_t sums[kRows * kLanes];
  const int64_t panel = part.count;
  part.data += panel * part.bytes;
  part.count = 1;
  Windows some = windows;
  for (int64_t row = 0; row < windows.count; row += kRows) {
    some.starts = windows.starts + row;
    some.count = at_most(windows.count - row, kRows);
    bits_product(some, part, sums, kLanes);
    for (int64_t r = 0; r < some.count; ++r) {
      const int64_t pattern = t.pattern != nullptr ? t.pattern[row + r] : 0;
      const __m512i limit = _mm512_loadu_si512(t.limits + pattern * t.limit_step + panel * kLanes);
      const __mmask16 above = _mm512_cmpgt_epi32_mask(_mm512_load_si512(sums + r * kLanes), limit);
      store_bits(t.out + t.at[row + r] + 2 * panel, (above ^ t.flip[panel]) & first(lanes), lanes);
    }
  }
}

}  // namespace avx512
}  // namespace robustlab
