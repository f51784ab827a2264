// The register tiles of a product: kRows output pixels times kPanels panels, for any way to meet two words.
#pragma once

#include "internal.h"

namespace robustlab {
namespace {

template <int kRows, int kPanels>
struct Sums {
  __m512i of[kRows][kPanels];

  INLINE void clear() {
    UNROLL for (int m = 0; m < kRows; ++m)
      UNROLL for (int n = 0; n < kPanels; ++n) of[m][n] = _mm512_setzero_si512();
  }

  INLINE void twice() {
    UNROLL for (int m = 0; m < kRows; ++m)
      UNROLL for (int n = 0; n < kPanels; ++n) of[m][n] = _mm512_slli_epi32(of[m][n], 1);
  }

  INLINE void store(int32_t* out, int64_t step) const {
    UNROLL for (int m = 0; m < kRows; ++m)
      UNROLL for (int n = 0; n < kPanels; ++n) _mm512_storeu_si512(out + m * step + n * kLanes, of[m][n]);
  }
};

// The rows of a tile: row m of run r is at image + starts[m] + offsets[r], so one moving pointer serves all rows.
template <int kRows>
struct Rows {
  int64_t start[kRows];

  explicit INLINE Rows(const int64_t* starts) {
    UNROLL for (int m = 0; m < kRows; ++m) start[m] = starts[m];
  }
};

// Keeps the compiler from turning one moving pointer and constant row offsets into a moving pointer for every row, for
// which there are not enough registers.
INLINE void hide(const uint8_t*& pointer) { __asm__("" : "+r"(pointer)); }

// One word of every row meets one word of every panel.
template <class Meet, int kRows, int kPanels>
INLINE void meet_word(Sums<kRows, kPanels>& sums, const Rows<kRows>& rows, const uint8_t* word, const uint8_t* weights,
                      int64_t panel_bytes, __m512i used) {
  __m512i w[kPanels];
  UNROLL for (int n = 0; n < kPanels; ++n) w[n] = _mm512_loadu_si512(weights + n * panel_bytes);
  UNROLL for (int m = 0; m < kRows; ++m) {
    const __m512i a = _mm512_set1_epi32(static_cast<int32_t>(load32(word + rows.start[m])));
    UNROLL for (int n = 0; n < kPanels; ++n) sums.of[m][n] = Meet::add(sums.of[m][n], a, w[n], used);
  }
}

// All runs. kTail: of a run's last word only some bits are used, Last takes care of them.
template <class Meet, class Last, bool kTail, int kRows, int kPanels>
INLINE void meet_runs(Sums<kRows, kPanels>& sums, const Rows<kRows>& rows, const Windows& windows, const uint8_t* image,
                      const uint8_t* weights, int64_t panel_bytes) {
  const __m512i used = _mm512_set1_epi32(static_cast<int32_t>(windows.tail));
  const int64_t whole = windows.words - (kTail ? 1 : 0);
  for (int64_t run = 0; run < windows.runs; ++run) {
    const uint8_t* word = image + windows.offsets[run];
    for (int64_t k = 0; k < whole; ++k, word += 4, weights += kPanelWordBytes) {
      hide(word);
      meet_word<Meet>(sums, rows, word, weights, panel_bytes, used);
    }
    if (kTail) {
      meet_word<Last>(sums, rows, word, weights, panel_bytes, used);
      weights += kPanelWordBytes;
    }
  }
}

using Tile = void (*)(const Windows& windows, const int64_t* starts, const uint8_t* weights, const Panels& panels,
                      int32_t* out, int64_t step);

// All rows, in tiles of about the same height. tiles[m - 1] takes m rows.
template <int64_t kMost>
INLINE void all_rows(const Tile (&tiles)[kMost], const Windows& windows, const uint8_t* weights, const Panels& panels,
                     int32_t* out, int64_t step) {
  int64_t left = (windows.count + kMost - 1) / kMost;
  for (int64_t row = 0; row < windows.count; --left) {
    const int64_t rows = (windows.count - row + left - 1) / left;
    tiles[rows - 1](windows, windows.starts + row, weights, panels, out + row * step, step);
    row += rows;
  }
}

// The weights of a few panels at a time stay in the first cache while all rows pass. Few rows take more panels at a
// time, so that there are always enough independent sums.
template <class Family>
INLINE void all_panels(const Windows& windows, const Panels& panels, int32_t* out, int64_t step) {
  static constexpr Tile kOne[] = {Family::template tile<1, 1>,  Family::template tile<2, 1>,
                                  Family::template tile<3, 1>,  Family::template tile<4, 1>,
                                  Family::template tile<5, 1>,  Family::template tile<6, 1>,
                                  Family::template tile<7, 1>,  Family::template tile<8, 1>,
                                  Family::template tile<9, 1>,  Family::template tile<10, 1>,
                                  Family::template tile<11, 1>, Family::template tile<12, 1>,
                                  Family::template tile<13, 1>, Family::template tile<14, 1>};
  static constexpr Tile kTwo[] = {Family::template tile<1, 2>, Family::template tile<2, 2>,
                                  Family::template tile<3, 2>, Family::template tile<4, 2>,
                                  Family::template tile<5, 2>, Family::template tile<6, 2>,
                                  Family::template tile<7, 2>, Family::template tile<8, 2>};
  static constexpr Tile kFour[] = {Family::template tile<1, 4>, Family::template tile<2, 4>,
                                   Family::template tile<3, 4>, Family::template tile<4, 4>};
  static constexpr Tile kEight[] = {Family::template tile<1, 8>, Family::template tile<2, 8>};
  int64_t panel = 0;
  const auto each = [&](const auto& tiles, int64_t wide) {
    for (; panels.count - panel >= wide; panel += wide)
      all_rows(tiles, windows, panels.data + panel * panels.bytes, panels, out + panel * kLanes, step);
  };
  if (windows.count <= 2) each(kEight, 8);
  if (windows.count <= 4) each(kFour, 4);
  each(kTwo, 2);
  each(kOne, 1);
}

}  // namespace
}  // namespace robustlab
