// Tiles of sign bits and of bit planes.
#pragma once

#include "product.h"

namespace robustlab {
namespace {

INLINE __m512i count_bits(__m512i v) { return _mm512_popcnt_epi32(v); }

struct Differ {
  static constexpr bool kClears = false;
  static INLINE __m512i add(__m512i sum, __m512i a, __m512i w, __m512i) {
    return _mm512_add_epi32(sum, count_bits(_mm512_xor_si512(w, a)));
  }
};

struct DifferFirst {
  static constexpr bool kClears = true;
  static INLINE __m512i add(__m512i, __m512i a, __m512i w, __m512i) { return count_bits(_mm512_xor_si512(w, a)); }
};

struct DifferWhereUsed {
  static INLINE __m512i add(__m512i sum, __m512i a, __m512i w, __m512i used) {
    return _mm512_add_epi32(sum, count_bits(_mm512_ternarylogic_epi32(a, w, used, 0x28)));   // (a ^ w) & used
  }
};

// Unused bits of weights are zero, so they count nothing.
struct Both {
  static constexpr bool kClears = false;
  static INLINE __m512i add(__m512i sum, __m512i a, __m512i w, __m512i) {
    return _mm512_add_epi32(sum, count_bits(_mm512_and_si512(w, a)));
  }
};

struct BothNegative {
  static constexpr bool kClears = false;
  static INLINE __m512i add(__m512i sum, __m512i a, __m512i w, __m512i) {
    return _mm512_sub_epi32(sum, count_bits(_mm512_and_si512(w, a)));
  }
};

template <class Last>
struct Signs {
  static constexpr bool kUnpacks = false;

  template <class RowsOf, int kRows, int kPanels, class Target, class Aside>
  static INLINE void meet(Sums<kRows, kPanels>& sums, RowsOf& rows, const Windows& windows, const Panels& panels,
                          const uint8_t* image, const uint8_t* weights, const Target& target, Aside& aside) {
    meet_runs<DifferFirst, Differ, Last>(sums, rows, windows, image, weights, panels.bytes, target, aside);
  }
};

// From the largest power of two down: what is summed so far doubles from one power to the next.
template <class Last>
struct Planes {
  static constexpr bool kUnpacks = false;

  template <class RowsOf, int kRows, int kPanels, class Target, class Aside>
  static INLINE void meet(Sums<kRows, kPanels>& sums, RowsOf& rows, const Windows& windows, const Panels& panels,
                          const uint8_t* image, const uint8_t* weights, const Target& target, Aside& aside) {
    const int64_t plane_bytes = windows.runs * windows.words * kPanelWordBytes;
    const int top = panels.planes - 1, activation_top = panels.activation_planes - 1;
    if (top == 0) {
      meet_runs<DifferFirst, Differ, Last>(sums, rows, windows, image + activation_top * windows.plane, weights,
                                           panels.bytes, Keep(), aside);
      for (int power = activation_top - 1; power >= 0; --power) {
        sums.twice();
        meet_runs<Differ, Differ, Last>(sums, rows, windows, image + power * windows.plane, weights, panels.bytes, Keep(), aside);
      }
    } else {
      sums.clear();
      for (int power = top + activation_top; power >= 0; --power) {
        sums.twice();
        for (int i = power > activation_top ? power - activation_top : 0; i <= top && i <= power; ++i) {
          const uint8_t* from = image + (power - i) * windows.plane;
          const uint8_t* plane = weights + i * plane_bytes;
          if (i < top) meet_runs<Both, Both, Both>(sums, rows, windows, from, plane, panels.bytes, Keep(), aside);
          else meet_runs<BothNegative, BothNegative, BothNegative>(sums, rows, windows, from, plane, panels.bytes, Keep(), aside);
        }
      }
    }
    UNROLL for (int m = 0; m < kRows; ++m) target.take(m, sums.of[m]);
    target.finish(sums);
  }
};

}  // namespace
}  // namespace robustlab
