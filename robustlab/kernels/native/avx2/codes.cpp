// Products of bytes. The one instruction that multiplies unsigned by signed bytes adds two products in 16 bits and
// saturates, so it is used only for panels whose weights are small enough that it cannot; the smaller they are, the more
// sums fit 16 bits before they are widened. Other panels are multiplied in 16 bits.
#include <immintrin.h>

#include <cstring>

#include "products.h"

#define INLINE __attribute__((always_inline)) inline

namespace robustlab {
namespace {

constexpr int kHalves = 2;   // vectors of a panel

INLINE __m256i load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

INLINE __m256i broadcast(const uint8_t* p) {
  int32_t value;
  std::memcpy(&value, p, 4);
  return _mm256_set1_epi32(value);
}

// Hides where a value comes from: the compiler must not gather all products of a group to add them up later, for which
// there are not enough registers.
INLINE void settle(__m256i& v) { asm("" : "+x"(v)); }

// The largest magnitude of a weight, or any number above `limit`.
int largest_weight(const uint8_t* weights, int64_t bytes, int limit) {
  int largest = 0;
  for (int64_t i = 0; i < bytes && largest <= limit;) {
    const int64_t end = bytes - i < 4096 ? bytes : i + 4096;
    __m256i most = _mm256_setzero_si256();
    for (; i < end; i += 32) most = _mm256_max_epu8(most, _mm256_abs_epi8(load(weights + i)));
    alignas(32) uint8_t parts[32];
    _mm256_store_si256(reinterpret_cast<__m256i*>(parts), most);
    for (const uint8_t part : parts) largest = part > largest ? part : largest;
  }
  return largest;
}

// Sums of Group words in 16 bits, then in 32: for weights of at most 64 / Group, as 2 * Group * 255 * 64 / Group < 2^15.
template <int Group>
struct Small {
  static constexpr int kRows = Group > 1 ? 4 : 2;   // of a tile, by measurement

  template <int Rows, int Words>
  static INLINE void group(const uint8_t* const (&at)[Rows], const uint8_t* weights, __m256i (&acc)[Rows][kHalves]) {
    __m256i sum[Rows][kHalves];
    for (int k = 0; k < Words; ++k) {
      __m256i w[kHalves];
      for (int n = 0; n < kHalves; ++n) w[n] = load(weights + k * kPanelWordBytes + 32 * n);
      for (int m = 0; m < Rows; ++m) {
        const __m256i a = broadcast(at[m] + 4 * k);
        for (int n = 0; n < kHalves; ++n) {
          const __m256i pairs = _mm256_maddubs_epi16(a, w[n]);
          sum[m][n] = k == 0 ? pairs : _mm256_add_epi16(sum[m][n], pairs);
          settle(sum[m][n]);
        }
      }
    }
    const __m256i one = _mm256_set1_epi16(1);
    for (int m = 0; m < Rows; ++m)
      for (int n = 0; n < kHalves; ++n) acc[m][n] = _mm256_add_epi32(acc[m][n], _mm256_madd_epi16(sum[m][n], one));
  }

  template <int Rows>
  static INLINE void run(const uint8_t* const (&pixels)[Rows], int64_t offset, int64_t words, const uint8_t* weights,
                         __m256i (&acc)[Rows][kHalves]) {
    const uint8_t* at[Rows];
    for (int m = 0; m < Rows; ++m) at[m] = pixels[m] + offset;
    for (; words >= Group; words -= Group, weights += Group * kPanelWordBytes) {
      group<Rows, Group>(at, weights, acc);
      for (int m = 0; m < Rows; ++m) at[m] += 4 * Group;
    }
    for (; words > 0; --words, weights += kPanelWordBytes) {
      group<Rows, 1>(at, weights, acc);
      for (int m = 0; m < Rows; ++m) at[m] += 4;
    }
  }
};

struct Wide {
  static constexpr int kRows = 2;

  template <int Rows>
  static INLINE void run(const uint8_t* const (&pixels)[Rows], int64_t offset, int64_t words, const uint8_t* weights,
                         __m256i (&acc)[Rows][kHalves]) {
    const __m256i low = _mm256_set1_epi16(0xff);
    for (int64_t at = offset; words > 0; --words, weights += kPanelWordBytes, at += 4) {
      __m256i even[Rows], odd[Rows];
      for (int m = 0; m < Rows; ++m) {
        const __m256i a = broadcast(pixels[m] + at);
        even[m] = _mm256_and_si256(a, low);
        odd[m] = _mm256_srli_epi16(a, 8);
      }
      for (int n = 0; n < kHalves; ++n) {
        const __m256i w = load(weights + 32 * n);
        const __m256i w_even = _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), w_odd = _mm256_srai_epi16(w, 8);
        for (int m = 0; m < Rows; ++m) {
          acc[m][n] = _mm256_add_epi32(acc[m][n], _mm256_madd_epi16(even[m], w_even));
          settle(acc[m][n]);
          acc[m][n] = _mm256_add_epi32(acc[m][n], _mm256_madd_epi16(odd[m], w_odd));
        }
      }
    }
  }
};

// Not inlined, because the loops around it would take its address registers.
template <class Method, int Rows>
__attribute__((noinline)) void tile(const Windows& windows, int64_t row, const uint8_t* weights, int32_t* out,
                                    int64_t step) {
  const uint8_t* pixels[Rows];
  for (int m = 0; m < Rows; ++m) pixels[m] = windows.image + windows.starts[row + m];
  __m256i acc[Rows][kHalves];
  for (int m = 0; m < Rows; ++m)
    for (int n = 0; n < kHalves; ++n) acc[m][n] = _mm256_setzero_si256();
  for (int64_t run = 0; run < windows.runs; ++run, weights += windows.words * kPanelWordBytes)
    Method::run(pixels, windows.offsets[run], windows.words, weights, acc);
  for (int m = 0; m < Rows; ++m)
    for (int n = 0; n < kHalves; ++n)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + (row + m) * step + 8 * n), acc[m][n]);
}

template <class Method>
void panel_rows(const Windows& windows, const uint8_t* weights, int32_t* out, int64_t step) {
  int64_t row = 0;
  for (; row + Method::kRows <= windows.count; row += Method::kRows)
    tile<Method, Method::kRows>(windows, row, weights, out, step);
  for (; row < windows.count; ++row) tile<Method, 1>(windows, row, weights, out, step);
}

}  // namespace

void avx2::codes_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step) {
  for (int64_t panel = 0; panel < panels.count; ++panel, out += kLanes) {
    const uint8_t* weights = panels.data + panel * panels.bytes;
    const int largest = largest_weight(weights, windows.runs * windows.words * kPanelWordBytes, 64);
    if (largest <= 8) {
      panel_rows<Small<8>>(windows, weights, out, step);
    } else if (largest <= 16) {
      panel_rows<Small<4>>(windows, weights, out, step);
    } else if (largest <= 32) {
      panel_rows<Small<2>>(windows, weights, out, step);
    } else if (largest <= 64) {
      panel_rows<Small<1>>(windows, weights, out, step);
    } else {
      panel_rows<Wide>(windows, weights, out, step);
    }
  }
}

}  // namespace robustlab
