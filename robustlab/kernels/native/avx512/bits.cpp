// Products of sign bits and of bit planes.
#include "product.h"

namespace robustlab {
namespace {

INLINE __m512i count_bits(__m512i v) { return _mm512_popcnt_epi32(v); }

struct Differ {
  static INLINE __m512i add(__m512i sum, __m512i a, __m512i w, __m512i) {
    return _mm512_add_epi32(sum, count_bits(_mm512_xor_si512(w, a)));
  }
};

struct DifferWhereUsed {
  static INLINE __m512i add(__m512i sum, __m512i a, __m512i w, __m512i used) {
    return _mm512_add_epi32(sum, count_bits(_mm512_ternarylogic_epi32(a, w, used, 0x28)));   // (a ^ w) & used
  }
};

// Unused bits of weights are zero, so they count nothing.
struct Both {
  static INLINE __m512i add(__m512i sum, __m512i a, __m512i w, __m512i) {
    return _mm512_add_epi32(sum, count_bits(_mm512_and_si512(w, a)));
  }
};

struct BothNegative {
  static INLINE __m512i add(__m512i sum, __m512i a, __m512i w, __m512i) {
    return _mm512_sub_epi32(sum, count_bits(_mm512_and_si512(w, a)));
  }
};

template <bool kTail, int kRows, int kPanels>
NOINLINE void signs_tile(const Windows& windows, const int64_t* starts, const uint8_t* weights, const Panels& panels,
                         int32_t* out, int64_t step) {
  const Rows<kRows> rows(starts);
  Sums<kRows, kPanels> sums;
  sums.clear();
  meet_runs<Differ, DifferWhereUsed, kTail>(sums, rows, windows, windows.image, weights, panels.bytes);
  sums.store(out, step);
}

// From the largest power of two down: what is summed so far doubles from one power to the next.
template <bool kTail, int kRows, int kPanels>
NOINLINE void planes_tile(const Windows& windows, const int64_t* starts, const uint8_t* weights, const Panels& panels,
                          int32_t* out, int64_t step) {
  const Rows<kRows> rows(starts);
  const int64_t plane_bytes = windows.runs * windows.words * kPanelWordBytes;
  const int top = panels.planes - 1, activation_top = panels.activation_planes - 1;
  Sums<kRows, kPanels> sums;
  sums.clear();
  for (int power = top + activation_top; power >= 0; --power) {
    sums.twice();
    for (int i = power > activation_top ? power - activation_top : 0; i <= top && i <= power; ++i) {
      const uint8_t* image = windows.image + (power - i) * windows.plane;
      const uint8_t* plane = weights + i * plane_bytes;
      if (top == 0) {
        meet_runs<Differ, DifferWhereUsed, kTail>(sums, rows, windows, image, plane, panels.bytes);
      } else if (i < top) {
        meet_runs<Both, Both, false>(sums, rows, windows, image, plane, panels.bytes);
      } else {
        meet_runs<BothNegative, BothNegative, false>(sums, rows, windows, image, plane, panels.bytes);
      }
    }
  }
  sums.store(out, step);
}

template <bool kTail>
struct Signs {
  template <int kRows, int kPanels>
  static constexpr Tile tile = signs_tile<kTail, kRows, kPanels>;
};

template <bool kTail>
struct Planes {
  template <int kRows, int kPanels>
  static constexpr Tile tile = planes_tile<kTail, kRows, kPanels>;
};

}  // namespace

namespace avx512 {

void bits_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step) {
  const bool tail = windows.tail != 0xffffffffu;
  if (panels.planes == 1 && panels.activation_planes == 1) {
    tail ? all_panels<Signs<true>>(windows, panels, out, step) : all_panels<Signs<false>>(windows, panels, out, step);
  } else {
    tail ? all_panels<Planes<true>>(windows, panels, out, step) : all_panels<Planes<false>>(windows, panels, out, step);
  }
}

void bits_threshold(const Windows& windows, const Panels& panels, const BitThreshold& t) {
  constexpr int64_t kRows = 56, kPanels = 2;   // raw sums stay in the first cache
  alignas(64) int32_t sums[kRows * kPanels * kLanes];
  Windows some = windows;
  Panels part = panels;
  for (int64_t panel = 0; panel < panels.count; panel += kPanels) {
    part.data = panels.data + panel * panels.bytes;
    part.count = at_most(panels.count - panel, kPanels);
    const bool wide = t.channels - panel * kLanes >= 2 * kLanes;
    const int64_t lanes = at_most(t.channels - panel * kLanes, kLanes);   // if not wide: of the first panel
    for (int64_t row = 0; row < windows.count; row += kRows) {
      some.starts = windows.starts + row;
      some.count = at_most(windows.count - row, kRows);
      const int64_t step = part.count * kLanes;
      bits_product(some, part, sums, step);
      const int32_t* limits = t.limits + panel * kLanes;
      if (wide) {
        const uint32_t flip = t.flip[panel] | static_cast<uint32_t>(t.flip[panel + 1]) << 16;
        for (int64_t r = 0; r < some.count; ++r) {
          const int32_t* limit = t.pattern != nullptr ? limits + t.pattern[row + r] * t.limit_step : limits;
          const uint32_t low = _mm512_cmpgt_epi32_mask(_mm512_load_si512(sums + r * step), _mm512_loadu_si512(limit));
          const uint32_t high = _mm512_cmpgt_epi32_mask(_mm512_load_si512(sums + r * step + kLanes),
                                                        _mm512_loadu_si512(limit + kLanes));
          const uint32_t bits = (low | high << 16) ^ flip;
          std::memcpy(t.out + t.at[row + r] + 2 * panel, &bits, 4);
        }
        continue;
      }
      for (int64_t n = 0; n < part.count; ++n) {
        const int64_t used = n == 0 ? lanes : t.channels - (panel + n) * kLanes;
        for (int64_t r = 0; r < some.count; ++r) {
          const int32_t* limit = t.pattern != nullptr ? limits + t.pattern[row + r] * t.limit_step : limits;
          const __mmask16 above = _mm512_cmpgt_epi32_mask(_mm512_load_si512(sums + r * step + n * kLanes),
                                                          _mm512_loadu_si512(limit + n * kLanes));
          store_bits(t.out + t.at[row + r] + 2 * (panel + n), (above ^ t.flip[panel + n]) & first(used), used);
        }
      }
    }
  }
}

}  // namespace avx512
}  // namespace robustlab
