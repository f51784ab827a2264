// Where the sums of a direct product go: bits, floats of pixels next to each other or in planes, codes.
#pragma once

#include "product.h"
#include "unpack.h"

namespace robustlab {
namespace {

constexpr int kPair = 2;   // panels of a tile

// The pixels of a tile, the first of which moves along the lines.
struct Place {
  const uint8_t* base;      // of the pair's first channel
  const int64_t* base_at;
  uint8_t* to;              // of the pair's first channel, in this line
  const int64_t* at;

  INLINE const uint8_t* base_of(int m) const { return base + 4 * base_at[m]; }
  INLINE uint8_t* to_of(int m) const { return to + at[m]; }
};

// bit = (raw > limit) ^ flip
template <int kRows>
struct DirectBits {
  Place place;
  uint32_t flip;

  static INLINE Nothing aside(const Direct&) { return {}; }
  INLINE DirectBits(const Direct& d, int64_t panel, const Place& first, Nothing&)
      : place(first), flip(d.flip[panel] | static_cast<uint32_t>(d.flip[panel + 1]) << 16) {}
  INLINE void take(int m, const __m512i (&sums)[kPair]) const {
    const uint8_t* limits = place.base_of(m);
    const uint32_t low = _mm512_cmpgt_epi32_mask(sums[0], _mm512_loadu_si512(limits));
    const uint32_t high = _mm512_cmpgt_epi32_mask(sums[1], _mm512_loadu_si512(limits + 4 * kLanes));
    const uint32_t bits = (low | high << 16) ^ flip;
    std::memcpy(place.to_of(m), &bits, 4);
  }
  INLINE void finish(const Sums<kRows, kPair>&) const {}
};

// fl(fl(float(base + raw * factor) * scale) + bias). Signs count -2 for every bit that differs, and `base` is float: all are
// whole numbers below 2^24, so nothing is rounded. Codes count 1, 2 or 4, and `base` is int32.
template <bool kSigns>
struct Affine {
  const float *scale, *bias;
  __m128i shift;

  INLINE Affine(const Direct& d, int64_t panel)
      : scale(d.scale + panel * kLanes),
        bias(d.bias + panel * kLanes),
        shift(_mm_cvtsi32_si128(d.factor >> 1)) {}   // of 1, 2 and 4 to 0, 1 and 2
  INLINE __m512 of(__m512i raw, const uint8_t* base, int n) const {
    base += 4 * kLanes * n;
    const __m512 acc =
        kSigns ? _mm512_fnmadd_ps(_mm512_cvtepi32_ps(raw), _mm512_set1_ps(2.0f), _mm512_loadu_ps(base))
               : _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_loadu_si512(base), _mm512_sll_epi32(raw, shift)));
    return _mm512_add_ps(_mm512_mul_ps(acc, _mm512_loadu_ps(scale + n * kLanes)), _mm512_loadu_ps(bias + n * kLanes));
  }
};

template <bool kSigns, int kRows>
struct DirectPixels {
  Place place;
  Affine<kSigns> affine;

  static INLINE Nothing aside(const Direct&) { return {}; }
  INLINE DirectPixels(const Direct& d, int64_t panel, const Place& first, Nothing&) : place(first), affine(d, panel) {}
  INLINE void take(int m, const __m512i (&sums)[kPair]) const {
    UNROLL for (int n = 0; n < kPair; ++n)
      _mm512_storeu_ps(place.to_of(m) + 4 * kLanes * n, affine.of(sums[n], place.base_of(m), n));
  }
  INLINE void finish(const Sums<kRows, kPair>&) const {}
};

template <bool kSigns, int kRows>
struct DirectCodes {
  Place place;
  Affine<kSigns> affine;
  Rounding rounding;

  static INLINE Nothing aside(const Direct&) { return {}; }
  INLINE DirectCodes(const Direct& d, int64_t panel, const Place& first, Nothing&)
      : place(first), affine(d, panel), rounding(d.quantizer) {}
  INLINE void take(int m, const __m512i (&sums)[kPair]) const {
    UNROLL for (int n = 0; n < kPair; ++n)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(place.to_of(m) + kLanes * n),
                       _mm512_cvtepi32_epi8(rounding.code(affine.of(sums[n], place.base_of(m), n))));
  }
  INLINE void finish(const Sums<kRows, kPair>&) const {}
};

template <bool kSigns, int kRows>
struct DirectPlanes {
  Place place;
  Affine<kSigns> affine;
  Rounding rounding;
  int64_t plane;
  int32_t largest;

  static INLINE Nothing aside(const Direct&) { return {}; }
  INLINE DirectPlanes(const Direct& d, int64_t panel, const Place& first, Nothing&)
      : place(first), affine(d, panel), rounding(d.quantizer), plane(d.plane), largest(d.quantizer.largest) {}
  INLINE void take(int m, const __m512i (&sums)[kPair]) const {
    __m512i codes[kPair];
    UNROLL for (int n = 0; n < kPair; ++n) codes[n] = rounding.code(affine.of(sums[n], place.base_of(m), n));
    uint8_t* to = place.to_of(m);
    for (int32_t bit = 1; bit <= largest; bit *= 2, to += plane) {
      const __m512i one = _mm512_set1_epi32(bit);
      const uint32_t low = _mm512_test_epi32_mask(codes[0], one), high = _mm512_test_epi32_mask(codes[1], one);
      const uint32_t bits = low | high << 16;
      std::memcpy(to, &bits, 4);
    }
  }
  INLINE void finish(const Sums<kRows, kPair>&) const {}
};

// Eight pixels of a pair of panels on their way to planes. To turn them takes as long as all the rest behind a product, so
// it is done four channels at a time, between the words of the next tile.
template <int kRows>
class Turning {
 public:
  explicit INLINE Turning(int64_t plane) : plane_(plane) {}

  INLINE void set(int m, int n, __m512 values) { _mm512_store_ps(values_[m] + n * kLanes, values); }
  INLINE void start(uint8_t* to) {
    to_ = to;
    next_ = 0;
  }
  INLINE void step() {
    if (next_ < kPair * kLanes) turn();
  }
  INLINE void finish() {
    while (next_ < kPair * kLanes) turn();
  }

 private:
  INLINE void turn() {
    __m256 v[4];   // pixels i and 4 + i
    UNROLL for (int i = 0; i < 4; ++i)
      v[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_load_ps(values_[i] + next_)),
                                  _mm_load_ps(values_[4 + i] + next_), 1);
    const __m256 a = _mm256_unpacklo_ps(v[0], v[1]), b = _mm256_unpackhi_ps(v[0], v[1]);
    const __m256 c = _mm256_unpacklo_ps(v[2], v[3]), d = _mm256_unpackhi_ps(v[2], v[3]);
    store(to_, _mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(c)));
    store(to_ + plane_, _mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(c)));
    store(to_ + 2 * plane_, _mm256_unpacklo_pd(_mm256_castps_pd(b), _mm256_castps_pd(d)));
    store(to_ + 3 * plane_, _mm256_unpackhi_pd(_mm256_castps_pd(b), _mm256_castps_pd(d)));
    to_ += 4 * plane_;
    next_ += 4;
  }
  static INLINE void store(uint8_t* at, __m256d pixels) {
    if (kRows == 8) _mm256_storeu_ps(reinterpret_cast<float*>(at), _mm256_castpd_ps(pixels));
    else _mm256_mask_storeu_ps(at, static_cast<__mmask8>((1u << kRows) - 1u), _mm256_castpd_ps(pixels));
  }

  alignas(64) float values_[8][kPair * kLanes] = {};
  int64_t plane_;
  uint8_t* to_ = nullptr;
  int64_t next_ = kPair * kLanes;   // the first channel that is not stored yet
};

template <bool kSigns, int kRows>
struct DirectPlanar {
  Place place;
  Affine<kSigns> affine;
  Turning<kRows>& turning;

  static INLINE Turning<kRows> aside(const Direct& d) { return Turning<kRows>(d.plane); }
  INLINE DirectPlanar(const Direct& d, int64_t panel, const Place& first, Turning<kRows>& other)
      : place(first), affine(d, panel), turning(other) {}
  INLINE void take(int, const __m512i (&)[kPair]) const {}
  INLINE void finish(const Sums<kRows, kPair>& sums) const {
    turning.finish();   // the rest of the tile before, where this one had few words
    UNROLL for (int m = 0; m < kRows; ++m)
      UNROLL for (int n = 0; n < kPair; ++n) turning.set(m, n, affine.of(sums.of[m][n], place.base_of(m), n));
    turning.start(place.to_of(0));
  }
};

// `tiles` tiles of kRows pixels from pixel `x` on, of all lines.
template <class Way, class Sink, int kRows, class Aside>
INLINE void run_tiles(const Windows& windows, const Panels& panels, const Direct& d, int64_t panel, Place start,
                      int64_t x, int64_t tiles, Unpacking* next, Aside& aside) {
  EvenRows<kRows> rows(d.step);
  const uint8_t* weights = panels.data + panel * panels.bytes;
  const uint8_t* line = windows.image + x * d.step;
  start.base_at += x;
  start.at += x;
  for (int64_t l = 0; l < d.lines; ++l, line += d.in, start.to += d.out) {
    Sink sink(d, panel, start, aside);
    const uint8_t* image = line;
    for (int64_t t = 0; t < tiles; ++t) {
      if (Way::kUnpacks && next != nullptr) next->some();
      Sums<kRows, kPair> sums;
      Way::meet(sums, rows, windows, panels, image, weights, sink, aside);
      image += kRows * d.step;
      sink.place.base_at += kRows;
      sink.place.at += kRows;
    }
  }
}

template <class Way, class Sink, int kRows>
NOINLINE void some_tiles(const Windows& windows, const Panels& panels, const Direct& d, int64_t panel, Place start,
                         int64_t x, int64_t tiles, Unpacking* next) {
  auto aside = Sink::aside(d);
  run_tiles<Way, Sink, kRows>(windows, panels, d, panel, start, x, tiles, next, aside);
  aside.finish();
}

using SomeTiles = void (*)(const Windows& windows, const Panels& panels, const Direct& d, int64_t panel, Place start,
                           int64_t x, int64_t tiles, Unpacking* next);

// A pair of panels meets all lines, in tiles of two heights, up to eight pixels of a line. some[m - 1] takes m.
INLINE void one_pair(const SomeTiles (&some)[8], const Windows& windows, const Panels& panels, const Direct& d, int64_t panel,
                     Unpacking* next) {
  const int64_t tiles = (windows.count + 7) / 8, height = windows.count / tiles, higher = windows.count % tiles;
  const int64_t channel = panel * kLanes;
  const Place start{static_cast<const uint8_t*>(d.base) + 4 * channel, d.base_at, d.image + d.channels(channel), d.at};
  if (higher > 0) some[height](windows, panels, d, panel, start, 0, higher, next);
  some[height - 1](windows, panels, d, panel, start, higher * (height + 1), tiles - higher, next);
}

INLINE void all_lines(const SomeTiles (&some)[8], const Windows& windows, const Panels& panels, const Direct& d) {
  for (int64_t panel = 0; panel + kPair <= panels.count; panel += kPair)
    one_pair(some, windows, panels, d, panel, nullptr);
}

// The same where every pair of panels is unpacked first. That takes other execution units than products do, so it is done
// between the tiles of the pair in front.
INLINE void all_lines_unpacked(const SomeTiles (&some)[8], const Windows& windows, Panels panels, const Direct& d) {
  const PackedPanels& packed = *d.packed;
  const int64_t bytes = kPair * panels.bytes, steps = bytes / kPanelWordBytes;
  const int64_t tiles = d.lines * ((windows.count + 7) / 8);
  Unpacking next(packed.data, packed.bits, steps, packed.factor, packed.offset, packed.room, (steps + tiles - 1) / tiles);
  for (int64_t panel = 0, pair = 0; panel + kPair <= panels.count; panel += kPair, ++pair) {
    next.rest();
    panels.data = packed.room + pair % 2 * bytes - panel * panels.bytes;
    if (panel + 2 * kPair <= panels.count) next.more(steps, packed.room + (pair + 1) % 2 * bytes);
    one_pair(some, windows, panels, d, panel, &next);
  }
}

template <class Way, template <int> class Sink>
constexpr SomeTiles kTiles[] = {some_tiles<Way, Sink<1>, 1>, some_tiles<Way, Sink<2>, 2>, some_tiles<Way, Sink<3>, 3>,
                                some_tiles<Way, Sink<4>, 4>, some_tiles<Way, Sink<5>, 5>, some_tiles<Way, Sink<6>, 6>,
                                some_tiles<Way, Sink<7>, 7>, some_tiles<Way, Sink<8>, 8>};

template <bool kSigns>
struct Numbers {
  template <int kRows>
  using Pixels = DirectPixels<kSigns, kRows>;
  template <int kRows>
  using Planar = DirectPlanar<kSigns, kRows>;
  template <int kRows>
  using Codes = DirectCodes<kSigns, kRows>;
  template <int kRows>
  using Planes = DirectPlanes<kSigns, kRows>;
};

template <class Way>
INLINE void direct_to_bits(const Windows& windows, const Panels& panels, const Direct& d) {
  all_lines(kTiles<Way, DirectBits>, windows, panels, d);
}

// All stores but bits.
template <class Way, bool kSigns>
INLINE void direct_to_numbers(const Windows& windows, const Panels& panels, const Direct& d) {
  using To = Numbers<kSigns>;
  const auto run = [&](const SomeTiles (&some)[8]) {
    if (Way::kUnpacks && d.packed != nullptr) all_lines_unpacked(some, windows, panels, d);
    else all_lines(some, windows, panels, d);
  };
  switch (d.store) {
    case Op::kStore: return run(kTiles<Way, To::template Pixels>);
    case Op::kStorePlanar: return run(kTiles<Way, To::template Planar>);
    case Op::kStoreCodes: return run(kTiles<Way, To::template Codes>);
    default: return run(kTiles<Way, To::template Planes>);
  }
}

}  // namespace
}  // namespace robustlab
