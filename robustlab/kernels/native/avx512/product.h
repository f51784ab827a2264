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
};

// out[row * step + panel * 16 + lane]
struct RawSums {
  int32_t* out;
  int64_t step;

  template <int kRows, int kPanels>
  struct Tile {
    int32_t* to;
    int64_t step;

    INLINE Tile(const RawSums& raw, int64_t row, int64_t panel)
        : to(raw.out + row * raw.step + panel * kLanes), step(raw.step) {}
    INLINE void take(int m, const __m512i (&sums)[kPanels]) const {
      UNROLL for (int n = 0; n < kPanels; ++n) _mm512_storeu_si512(to + m * step + n * kLanes, sums[n]);
    }
  };
};

// For products that are summed up further.
struct Keep {
  template <int kPanels>
  INLINE void take(int, const __m512i (&)[kPanels]) const {}
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
// which there are not enough registers, and from keeping row offsets in vector registers, which costs vector slots.
template <int kRows>
INLINE void settle(const uint8_t*& word, const Rows<kRows>& rows) {
  __asm__("" : "+r"(word));
  UNROLL for (int m = 0; m < kRows; ++m) {
    if (kRows <= 8) __asm__ volatile("" : : "r"(rows.start[m]));
    else __asm__ volatile("" : : "rm"(rows.start[m]));
  }
}

// One word of every row meets one word of every panel; a row's sums go to `target` as soon as they are there.
template <class Meet, int kRows, int kPanels, class Target>
INLINE void meet_word(Sums<kRows, kPanels>& sums, const Rows<kRows>& rows, const uint8_t* word, const uint8_t* weights,
                      int64_t panel_bytes, __m512i used, const Target& target) {
  __m512i w[kPanels];
  UNROLL for (int n = 0; n < kPanels; ++n) w[n] = _mm512_loadu_si512(weights + n * panel_bytes);
  UNROLL for (int m = 0; m < kRows; ++m) {
    const __m512i a = _mm512_set1_epi32(static_cast<int32_t>(load32(word + rows.start[m])));
    UNROLL for (int n = 0; n < kPanels; ++n) sums.of[m][n] = Meet::add(sums.of[m][n], a, w[n], used);
    target.take(m, sums.of[m]);
  }
}

// All runs, in three ways for two words to meet: First for the first word of all, which need not add, and Last for the
// last word of a run, of which only some bits may be used. The very last word stores the sums as it goes: many
// wide stores at once would hold up the sums that follow.
template <class First, class Meet, class Last, int kRows, int kPanels, class Target>
INLINE void meet_runs(Sums<kRows, kPanels>& sums, const Rows<kRows>& rows, const Windows& windows, const uint8_t* image,
                      const uint8_t* weights, int64_t panel_bytes, const Target& target) {
  const __m512i used = _mm512_set1_epi32(static_cast<int32_t>(windows.tail));
  const int64_t bytes = 4 * (windows.words - 1);   // of a run without its last word
  const uint8_t* word = image + windows.offsets[0];
  const uint8_t* end = word + bytes;
  if (bytes > 0) {
    settle(word, rows);
    meet_word<First>(sums, rows, word, weights, panel_bytes, used, Keep());
    word += 4;
    weights += kPanelWordBytes;
  } else if (First::kClears) {
    sums.clear();
  }
  for (int64_t run = 1;; ++run) {
    for (; word != end; word += 4, weights += kPanelWordBytes) {
      settle(word, rows);
      meet_word<Meet>(sums, rows, word, weights, panel_bytes, used, Keep());
    }
    settle(word, rows);
    if (run == windows.runs) break;
    meet_word<Last>(sums, rows, word, weights, panel_bytes, used, Keep());
    weights += kPanelWordBytes;
    word = image + windows.offsets[run];
    end = word + bytes;
  }
  meet_word<Last>(sums, rows, word, weights, panel_bytes, used, target);
}

// A tile's rows start at `row` of the windows and its panels at `panel`; Target is where its sums go.
template <class Target>
using Tile = void (*)(const Windows& windows, const Panels& panels, const Target& target, int64_t row, int64_t panel);

// All rows, in tiles of about the same height. tiles[m - 1] takes m rows.
template <class Target, int64_t kMost>
INLINE void all_rows(const Tile<Target> (&tiles)[kMost], const Windows& windows, const Panels& panels,
                     const Target& target, int64_t panel) {
  int64_t left = (windows.count + kMost - 1) / kMost;
  for (int64_t row = 0; row < windows.count; --left) {
    const int64_t rows = (windows.count - row + left - 1) / left;
    tiles[rows - 1](windows, panels, target, row, panel);
    row += rows;
  }
}

// The weights of a few panels at a time stay in the first cache while all rows pass. Few rows take more panels at a
// time, so that there are always enough independent sums.
template <template <int, int> class Family, class Target>
INLINE void all_panels(const Windows& windows, const Panels& panels, const Target& target) {
  static constexpr Tile<Target> kOne[] = {
      Family<1, 1>::tile, Family<2, 1>::tile,  Family<3, 1>::tile,  Family<4, 1>::tile,  Family<5, 1>::tile,
      Family<6, 1>::tile, Family<7, 1>::tile,  Family<8, 1>::tile,  Family<9, 1>::tile,  Family<10, 1>::tile,
      Family<11, 1>::tile, Family<12, 1>::tile, Family<13, 1>::tile, Family<14, 1>::tile};
  static constexpr Tile<Target> kTwo[] = {Family<1, 2>::tile, Family<2, 2>::tile, Family<3, 2>::tile,
                                          Family<4, 2>::tile, Family<5, 2>::tile, Family<6, 2>::tile,
                                          Family<7, 2>::tile, Family<8, 2>::tile};
  static constexpr Tile<Target> kFour[] = {Family<1, 4>::tile, Family<2, 4>::tile, Family<3, 4>::tile,
                                           Family<4, 4>::tile};
  static constexpr Tile<Target> kEight[] = {Family<1, 8>::tile, Family<2, 8>::tile};
  int64_t panel = 0;
  const auto each = [&](const auto& tiles, int64_t wide) {
    for (; panels.count - panel >= wide; panel += wide) all_rows(tiles, windows, panels, target, panel);
  };
  if (windows.count <= 2) each(kEight, 8);
  if (windows.count <= 4) each(kFour, 4);
  each(kTwo, 2);
  each(kOne, 1);
}

}  // namespace
}  // namespace robustlab
