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

// One row of one run reads every weight once, from wherever it lies: panel after panel is one stream, which caches hand
// over faster than several at a time. A panel's words are spread over several sums, so that none waits for the one before.
NOINLINE void one_row(const Windows& windows, const Panels& panels, int32_t* out) {
  constexpr int kSums = 4;
  const uint8_t* image = windows.image + windows.starts[0] + windows.offsets[0];
  const __m512i used = _mm512_set1_epi32(static_cast<int32_t>(windows.tail));
  const int64_t last = windows.words - 1;
  for (int64_t panel = 0; panel < panels.count; ++panel) {
    const uint8_t* weights = panels.data + panel * panels.bytes;
    __m512i sums[kSums];
    UNROLL for (int n = 0; n < kSums; ++n) sums[n] = _mm512_setzero_si512();
    const auto word = [&](int64_t i) { return _mm512_set1_epi32(static_cast<int32_t>(load32(image + 4 * i))); };
    const auto weight = [&](int64_t i) { return _mm512_loadu_si512(weights + i * kPanelWordBytes); };
    int64_t i = 0;
    for (; i + kSums <= last; i += kSums)
      UNROLL for (int n = 0; n < kSums; ++n) sums[n] = Differ::add(sums[n], word(i + n), weight(i + n), used);
    for (; i < last; ++i) sums[0] = Differ::add(sums[0], word(i), weight(i), used);
    sums[1] = DifferWhereUsed::add(sums[1], word(last), weight(last), used);
    const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(sums[0], sums[1]), _mm512_add_epi32(sums[2], sums[3]));
    _mm512_storeu_si512(out + panel * kLanes, sum);
  }
}

}  // namespace

namespace avx512 {

void bits_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step) {
  const bool tail = windows.tail != 0xffffffffu;
  const bool signs = panels.planes == 1 && panels.activation_planes == 1;
  if (signs && windows.count == 1 && windows.runs == 1) return one_row(windows, panels, out);
  const RawSums target{out, step};
  if (signs) {
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
