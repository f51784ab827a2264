// Tiles of codes: u8 activations times s8 weights.
#pragma once

#include "product.h"

namespace robustlab {
namespace {

struct Multiply {
  static constexpr bool kClears = false;
  static INLINE __m512i add(__m512i sum, __m512i a, __m512i w, __m512i) { return _mm512_dpbusd_epi32(sum, a, w); }
};

struct Codes {
  static constexpr bool kUnpacks = true;   // weights come in fewer bits as well

  template <class RowsOf, int kRows, int kPanels, class Target, class Aside>
  static INLINE void meet(Sums<kRows, kPanels>& sums, RowsOf& rows, const Windows& windows, const Panels& panels,
                          const uint8_t* image, const uint8_t* weights, const Target& target, Aside& aside) {
    sums.clear();
    meet_runs<Multiply, Multiply, Multiply>(sums, rows, windows, image, weights, panels.bytes, target, aside);
  }
};

}  // namespace
}  // namespace robustlab
