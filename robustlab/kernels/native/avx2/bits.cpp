// Products of bits. Counting the bits of a vector takes seven instructions, adding three of them bitwise only five: the
// differing bits of four words are first added up in two running bit planes (`ones`, `twos`), and only the carries out
// of them, each worth four, are counted, in bytes.
#include <immintrin.h>

#include <cstring>

#include "products.h"

#define INLINE __attribute__((always_inline)) inline

namespace robustlab {
namespace {

constexpr int64_t kHalves = 2;          // vectors of a panel
constexpr int64_t kMostCarries = 31;    // a byte holds 31 times 8

INLINE __m256i load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

INLINE uint32_t load32(const uint8_t* p) {
  uint32_t value;
  std::memcpy(&value, p, 4);
  return value;
}

INLINE __m256i byte_counts(__m256i v) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(v, nibble));
  const __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble));
  return _mm256_add_epi8(low, high);
}

// Four bytes of every 32-bit lane added up.
INLINE __m256i lane_sums(__m256i bytes) {
  return _mm256_madd_epi16(_mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1)), _mm256_set1_epi16(1));
}

struct Counter {
  __m256i ones, twos, fours;   // two bit planes, and a byte for each eight bits of carries
  __m256i total;               // of flushed bytes, in fours

  INLINE void clear() { ones = twos = fours = total = _mm256_setzero_si256(); }

  static INLINE __m256i full(__m256i& sum, __m256i a, __m256i b) {
    const __m256i differ = _mm256_xor_si256(a, b);
    const __m256i carry = _mm256_or_si256(_mm256_and_si256(a, b), _mm256_and_si256(differ, sum));
    sum = _mm256_xor_si256(differ, sum);
    return carry;
  }
  static INLINE __m256i half(__m256i& sum, __m256i a) {
    const __m256i carry = _mm256_and_si256(sum, a);
    sum = _mm256_xor_si256(sum, a);
    return carry;
  }

  INLINE void count(__m256i carry) { fours = _mm256_add_epi8(fours, byte_counts(carry)); }
  INLINE void add(const __m256i (&x)[4]) {
    const __m256i a = full(ones, x[0], x[1]);
    const __m256i b = full(ones, x[2], x[3]);
    count(full(twos, a, b));
  }
  INLINE void add(const __m256i (&x)[3]) {
    const __m256i a = full(ones, x[0], x[1]);
    const __m256i b = half(ones, x[2]);
    count(full(twos, a, b));
  }
  INLINE void add(const __m256i (&x)[2]) { count(half(twos, full(ones, x[0], x[1]))); }
  INLINE void add(const __m256i (&x)[1]) { count(half(twos, half(ones, x[0]))); }

  INLINE void flush() {
    total = _mm256_add_epi32(total, lane_sums(fours));
    fours = _mm256_setzero_si256();
  }
  INLINE __m256i result() const {
    // at most 2 (31 * 8 * 4 + 8 * 2 + 8) in 16 bits
    const __m256i four = _mm256_maddubs_epi16(fours, _mm256_set1_epi8(4));
    const __m256i two = _mm256_maddubs_epi16(byte_counts(twos), _mm256_set1_epi8(2));
    const __m256i one = _mm256_maddubs_epi16(byte_counts(ones), _mm256_set1_epi8(1));
    const __m256i sums = _mm256_madd_epi16(_mm256_add_epi16(_mm256_add_epi16(four, two), one), _mm256_set1_epi16(1));
    return _mm256_add_epi32(_mm256_slli_epi32(total, 2), sums);
  }
};

struct Differ {
  static INLINE __m256i of(__m256i a, __m256i w) { return _mm256_xor_si256(a, w); }
};
struct Both {
  static INLINE __m256i of(__m256i a, __m256i w) { return _mm256_and_si256(a, w); }
};

// Words [0, Count) of `pixels + at` joined with those of the panel; words that are not there stay undefined.
template <class Join, int Count, bool Tail>
INLINE void join_words(const uint8_t* pixel, const uint8_t* weights, uint32_t tail, Counter (&c)[kHalves]) {
  __m256i a[Count];
  for (int k = 0; k < Count; ++k) {
    uint32_t word = load32(pixel + 4 * k);
    if (Tail && k == Count - 1) word &= tail;
    a[k] = _mm256_set1_epi32(static_cast<int32_t>(word));
  }
  for (int n = 0; n < kHalves; ++n) {
    __m256i x[Count];
    for (int k = 0; k < Count; ++k) x[k] = Join::of(a[k], load(weights + k * kPanelWordBytes + 32 * n));
    c[n].add(x);
  }
}

// Counts of one row and one panel, one plane of each. A run is some groups of four words and Rest more, the last of
// them with the tail if it has one. Short: a byte holds all the carries.
template <class Join, int Rest, bool Tail, bool Short>
INLINE void count_bits(const Windows& windows, const uint8_t* pixel, const uint8_t* weights, __m256i (&counts)[kHalves]) {
  Counter c[kHalves];
  for (int n = 0; n < kHalves; ++n) c[n].clear();
  const int64_t whole = (windows.words - Rest) / 4;
  int64_t room = kMostCarries;
  const auto flush = [&] {
    room = kMostCarries;
    for (int n = 0; n < kHalves; ++n) c[n].flush();
  };
  for (int64_t run = 0; run < windows.runs; ++run) {
    const uint8_t* at = pixel + windows.offsets[run];
    if (Short) {
      for (int64_t k = 0; k < whole; ++k, weights += 4 * kPanelWordBytes, at += 16)
        join_words<Join, 4, false>(at, weights, 0, c);
    }
    for (int64_t left = Short ? 0 : whole; left > 0;) {
      const int64_t some = left < room ? left : room;
      const uint8_t* end = weights + some * 4 * kPanelWordBytes;
      do {
        join_words<Join, 4, false>(at, weights, 0, c);
        weights += 4 * kPanelWordBytes;
        at += 16;
      } while (weights != end);
      left -= some;
      room -= some;
      if (room == 0) flush();
    }
    if (Rest == 0) continue;
    join_words<Join, Rest == 0 ? 1 : Rest, Tail>(at, weights, windows.tail, c);
    weights += Rest * kPanelWordBytes;
    if (!Short && --room == 0) flush();
  }
  for (int n = 0; n < kHalves; ++n) counts[n] = c[n].result();
}

INLINE void store(int32_t* out, const __m256i (&sums)[kHalves]) {
  for (int n = 0; n < kHalves; ++n) _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8 * n), sums[n]);
}

template <class Join, int Rest, bool Tail>
void product_of_planes(const Windows& windows, const Panels& panels, int64_t panel, int32_t* out, int64_t step) {
  const int64_t plane_bytes = windows.runs * windows.words * kPanelWordBytes;
  for (int64_t row = 0; row < windows.count; ++row) {
    const uint8_t* weights = panels.data + panel * panels.bytes;
    __m256i sums[kHalves] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int i = 0; i < panels.planes; ++i, weights += plane_bytes) {
      const bool negative = panels.planes > 1 && i == panels.planes - 1;
      for (int j = 0; j < panels.activation_planes; ++j) {
        const uint8_t* pixel = windows.image + windows.starts[row] + j * windows.plane;
        __m256i counts[kHalves];
        count_bits<Join, Rest, Tail, false>(windows, pixel, weights, counts);
        const __m128i shift = _mm_cvtsi32_si128(i + j);
        for (int n = 0; n < kHalves; ++n) {
          const __m256i term = _mm256_sll_epi32(counts[n], shift);
          sums[n] = negative ? _mm256_sub_epi32(sums[n], term) : _mm256_add_epi32(sums[n], term);
        }
      }
    }
    store(out + row * step + panel * kLanes, sums);
  }
}

template <class Join, int Rest, bool Tail, bool Short>
void product_of_bits(const Windows& windows, const uint8_t* weights, int32_t* out, int64_t step) {
  for (int64_t row = 0; row < windows.count; ++row) {
    __m256i counts[kHalves];
    count_bits<Join, Rest, Tail, Short>(windows, windows.image + windows.starts[row], weights, counts);
    store(out + row * step, counts);
  }
}

template <class Join, int Rest, bool Tail>
void product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step) {
  const bool one_plane = panels.planes == 1 && panels.activation_planes == 1;
  const bool few = windows.runs * ((windows.words + 3) / 4) <= kMostCarries;
  for (int64_t panel = 0; panel < panels.count; ++panel) {
    const uint8_t* weights = panels.data + panel * panels.bytes;
    if (!one_plane) product_of_planes<Join, Rest, Tail>(windows, panels, panel, out, step);
    else if (few) product_of_bits<Join, Rest, Tail, true>(windows, weights, out + panel * kLanes, step);
    else product_of_bits<Join, Rest, Tail, false>(windows, weights, out + panel * kLanes, step);
  }
}

template <class Join>
void untailed(const Windows& windows, const Panels& panels, int32_t* out, int64_t step) {
  switch (windows.words % 4) {
    case 0: return product<Join, 0, false>(windows, panels, out, step);
    case 1: return product<Join, 1, false>(windows, panels, out, step);
    case 2: return product<Join, 2, false>(windows, panels, out, step);
    default: return product<Join, 3, false>(windows, panels, out, step);
  }
}

}  // namespace

void avx2::bits_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step) {
  // weights have no bits behind a run's end, so that only the bits of activations that differ from them need a mask
  if (panels.planes > 1) return untailed<Both>(windows, panels, out, step);
  if (windows.tail == ~0u) return untailed<Differ>(windows, panels, out, step);
  switch (windows.words % 4) {
    case 0: return product<Differ, 4, true>(windows, panels, out, step);
    case 1: return product<Differ, 1, true>(windows, panels, out, step);
    case 2: return product<Differ, 2, true>(windows, panels, out, step);
    default: return product<Differ, 3, true>(windows, panels, out, step);
  }
}

}  // namespace robustlab
