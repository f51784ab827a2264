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
    INLINE void finish(const Sums<kRows, kPanels>&) const {}
  };
};

template <class A, class B>
constexpr bool same = false;
template <class A>
constexpr bool same<A, A> = true;

// Where the sums of a word go that is not the last.
struct Keep {
  template <int kPanels>
  INLINE void take(int, const __m512i (&)[kPanels]) const {}
  template <int kRows, int kPanels>
  INLINE void finish(const Sums<kRows, kPanels>&) const {}
};

// The rows of a tile: row m of run r is at image + starts[m] + offsets[r], so one moving pointer serves all rows.
// move_to() keeps the compiler from turning one moving pointer and constant row offsets into a moving pointer for every row,
// for which there are not enough registers, and from keeping row offsets in vector registers, which costs vector slots.
template <int kRows>
struct Rows {
  int64_t start[kRows];

  explicit INLINE Rows(const int64_t* starts) {
    UNROLL for (int m = 0; m < kRows; ++m) start[m] = starts[m];
  }
  INLINE void move_to(const uint8_t*& word) {
    __asm__("" : "+r"(word));
    UNROLL for (int m = 0; m < kRows; ++m) {
      if (kRows <= 8) __asm__ volatile("" : : "r"(start[m]));
      else __asm__ volatile("" : : "rm"(start[m]));
    }
  }
  INLINE const uint8_t* at(const uint8_t* word, int m) const { return word + start[m]; }
};

// The same for up to eight rows at equal distances. Two pointers and two distances stay in registers, whatever else
// needs some.
template <int kRows>
struct EvenRows {
  int64_t one, three;
  const uint8_t* fifth;

  explicit INLINE EvenRows(int64_t step) : one(step), three(3 * step), fifth(nullptr) {}
  INLINE void move_to(const uint8_t*& word) {
    __asm__ volatile("" : "+r"(word), "+r"(one), "+r"(three));
    fifth = word + 4 * one;
    if (kRows > 4) __asm__ volatile("" : "+r"(fifth));
  }
  INLINE const uint8_t* at(const uint8_t* word, int m) const {
    const uint8_t* near = m < 4 ? word : fifth;
    return m % 4 == 3 ? near + three : near + m % 4 * one;
  }
};

// One word of every row meets one word of every panel; a row's sums go to `target` as soon as they are there.
template <class Meet, class RowsOf, int kRows, int kPanels, class Target>
INLINE void meet_word(Sums<kRows, kPanels>& sums, RowsOf& rows, const uint8_t*& word, const uint8_t* weights,
                      int64_t panel_bytes, __m512i used, const Target& target) {
  rows.move_to(word);
  __m512i w[kPanels];
  UNROLL for (int n = 0; n < kPanels; ++n) w[n] = _mm512_loadu_si512(weights + n * panel_bytes);
  UNROLL for (int m = 0; m < kRows; ++m) {
    const __m512i a = _mm512_set1_epi32(static_cast<int32_t>(load32(rows.at(word, m))));
    UNROLL for (int n = 0; n < kPanels; ++n) sums.of[m][n] = Meet::add(sums.of[m][n], a, w[n], used);
    target.take(m, sums.of[m]);
  }
}

// Work of another tile that is done between the words of this one.
struct Nothing {
  INLINE void step() const {}
  INLINE void finish() const {}
};

// All runs, in three ways for two words to meet: First for the first word of all, which need not add, and Last for the
// last word of a run, of which only some bits may be used. The very last word stores the sums as it goes: many
// wide stores at once would hold up the sums that follow.
template <class First, class Meet, class Last, class RowsOf, int kRows, int kPanels, class Target, class Aside>
INLINE void meet_runs(Sums<kRows, kPanels>& sums, RowsOf& rows, const Windows& windows, const uint8_t* image,
                      const uint8_t* weights, int64_t panel_bytes, const Target& target, Aside& aside) {
  // where all words meet alike there is one loop: two would not share the registers of their sums
  constexpr bool kAlike = same<Meet, Last>;
  const __m512i used = _mm512_set1_epi32(static_cast<int32_t>(windows.tail));
  const int64_t bytes = 4 * (windows.words - 1);   // of a run without its last word
  const int64_t runs = windows.runs;
  const uint8_t* word = image + windows.offsets[0];
  const uint8_t* end = word + bytes + (kAlike && runs > 1 ? 4 : 0);
  if (word != end) {
    meet_word<First>(sums, rows, word, weights, panel_bytes, used, Keep());
    word += 4;
    weights += kPanelWordBytes;
  } else if (First::kClears) {
    sums.clear();
  }
  for (int64_t run = 1;; ++run) {
    for (; word != end; word += 4, weights += kPanelWordBytes) {
      meet_word<Meet>(sums, rows, word, weights, panel_bytes, used, Keep());
      aside.step();
    }
    if (run == runs) break;
    if (!kAlike) {
      meet_word<Last>(sums, rows, word, weights, panel_bytes, used, Keep());
      weights += kPanelWordBytes;
    }
    word = image + windows.offsets[run];
    end = word + bytes + (kAlike && run + 1 < runs ? 4 : 0);
  }
  meet_word<Last>(sums, rows, word, weights, panel_bytes, used, target);
  target.finish(sums);
}

// A tile's rows start at `row` of the windows and its panels at `panel`; Target is where its sums go.
template <class Target>
using Tile = void (*)(const Windows& windows, const Panels& panels, const Target& target, int64_t row, int64_t panel);

// How a product, such as Signs, fills a tile.
template <class Way, class Target, int kRows, int kPanels>
NOINLINE void tile(const Windows& windows, const Panels& panels, const Target& target, int64_t row, int64_t panel) {
  Rows<kRows> rows(windows.starts + row);
  Sums<kRows, kPanels> sums;
  Nothing aside;
  Way::meet(sums, rows, windows, panels, windows.image, panels.data + panel * panels.bytes,
            typename Target::template Tile<kRows, kPanels>(target, row, panel), aside);
}

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
template <class Way, class Target>
INLINE void all_panels(const Windows& windows, const Panels& panels, const Target& target) {
  static constexpr Tile<Target> kOne[] = {
      tile<Way, Target, 1, 1>, tile<Way, Target, 2, 1>, tile<Way, Target, 3, 1>, tile<Way, Target, 4, 1>,
      tile<Way, Target, 5, 1>, tile<Way, Target, 6, 1>, tile<Way, Target, 7, 1>, tile<Way, Target, 8, 1>,
      tile<Way, Target, 9, 1>, tile<Way, Target, 10, 1>, tile<Way, Target, 11, 1>, tile<Way, Target, 12, 1>,
      tile<Way, Target, 13, 1>, tile<Way, Target, 14, 1>};
  static constexpr Tile<Target> kTwo[] = {
      tile<Way, Target, 1, 2>, tile<Way, Target, 2, 2>, tile<Way, Target, 3, 2>, tile<Way, Target, 4, 2>,
      tile<Way, Target, 5, 2>, tile<Way, Target, 6, 2>, tile<Way, Target, 7, 2>, tile<Way, Target, 8, 2>};
  static constexpr Tile<Target> kFour[] = {
      tile<Way, Target, 1, 4>, tile<Way, Target, 2, 4>, tile<Way, Target, 3, 4>, tile<Way, Target, 4, 4>};
  static constexpr Tile<Target> kEight[] = {
      tile<Way, Target, 1, 8>, tile<Way, Target, 2, 8>};
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
