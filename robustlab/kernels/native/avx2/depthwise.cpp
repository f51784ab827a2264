// Depthwise products: one channel per lane, so images and weights are read as they lie.
#include <immintrin.h>

#include "bytes.h"
#include "products.h"

namespace robustlab {
namespace {

INLINE __m256i unsigned_words(const uint8_t* p) {
  return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
INLINE __m256i signed_words(const uint8_t* p) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
INLINE void store(int32_t* out, __m256i v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), v); }

// Sums of 16 channels of a pixel. The products of two taps, at most 2^15 each, are added in 32 bits.
INLINE void codes_of_pixel(const Depthwise& d, const uint8_t* pixel, const uint8_t* weights, int32_t* out) {
  const __m256i none = _mm256_setzero_si256();
  __m256i low = none, high = none;   // channels 0..3 and 8..11, channels 4..7 and 12..15
  const auto add = [&](__m256i a, __m256i b, __m256i wa, __m256i wb) {
    low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), _mm256_unpacklo_epi16(wa, wb)));
    high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), _mm256_unpackhi_epi16(wa, wb)));
  };
  int64_t t = 0;
  for (; t + 2 <= d.taps; t += 2, weights += 2 * d.width)
    add(unsigned_words(pixel + d.offsets[t]), unsigned_words(pixel + d.offsets[t + 1]), signed_words(weights),
        signed_words(weights + d.width));
  if (t < d.taps) add(unsigned_words(pixel + d.offsets[t]), none, signed_words(weights), none);
  store(out, _mm256_permute2x128_si256(low, high, 0x20));
  store(out + 8, _mm256_permute2x128_si256(low, high, 0x31));
}

// Counts of 32 channels of a pixel; the first `lanes` are stored, a multiple of 16.
INLINE void bits_of_pixel(const Depthwise& d, const uint8_t* pixel, const uint8_t* weights, int64_t lanes, int32_t* out) {
  constexpr int64_t kMostTaps = 255;   // that a byte counts
  const int64_t width = d.width / 8;
  __m256i sums[4] = {};
  for (int64_t t = 0; t < d.taps;) {
    const int64_t end = d.taps - t < kMostTaps ? d.taps : t + kMostTaps;
    __m256i counts = _mm256_setzero_si256();
    for (; t < end; ++t)
      counts = _mm256_sub_epi8(counts, bit_bytes(load32(pixel + d.offsets[t]) ^ load32(weights + t * width)));
    const __m128i parts[2] = {_mm256_castsi256_si128(counts), _mm256_extracti128_si256(counts, 1)};
    for (int i = 0; i < 2; ++i) {
      sums[2 * i] = _mm256_add_epi32(sums[2 * i], _mm256_cvtepu8_epi32(parts[i]));
      sums[2 * i + 1] = _mm256_add_epi32(sums[2 * i + 1], _mm256_cvtepu8_epi32(_mm_srli_si128(parts[i], 8)));
    }
  }
  for (int64_t i = 0; 8 * i < lanes; ++i) store(out + 8 * i, sums[i]);
}

}  // namespace

void avx2::depthwise_codes(const Depthwise& d, int32_t* out, int64_t step) {
  for (int64_t c = 0; c < d.channels; c += 16)
    for (int64_t row = 0; row < d.count; ++row)
      codes_of_pixel(d, d.image + d.starts[row] + c, d.weights + c, out + row * step + c);
}

void avx2::depthwise_bits(const Depthwise& d, int32_t* out, int64_t step) {
  for (int64_t c = 0; c < d.channels; c += 32) {
    const int64_t lanes = d.channels - c > 16 ? 32 : 16;
    for (int64_t row = 0; row < d.count; ++row)
      bits_of_pixel(d, d.image + d.starts[row] + c / 8, d.weights + c / 8, lanes, out + row * step + c);
  }
}

}  // namespace robustlab
