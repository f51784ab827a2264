// Depthwise products: one channel per lane.
#include "internal.h"

namespace robustlab {
namespace avx512 {

void depthwise_codes(const Depthwise& d, int32_t* out, int64_t step) {
  for (int64_t row = 0; row < d.count; ++row, out += step) {
    const uint8_t* image = d.image + d.starts[row];
    for (int64_t c = 0; c < d.channels; c += kLanes) {
      __m512i sum = _mm512_setzero_si512();
      for (int64_t t = 0; t < d.taps; ++t) {
        const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(image + d.offsets[t] + c));
        const __m128i w = _mm_loadu_si128(reinterpret_cast<const __m128i*>(d.weights + t * d.width + c));
        // |u8 * s8| < 2^15, and the pairs' other halves are zero
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_cvtepu8_epi32(a), _mm512_cvtepi8_epi32(w)));
      }
      _mm512_storeu_si512(out + c, sum);
    }
  }
}

void depthwise_bits(const Depthwise& d, int32_t* out, int64_t step) {
  const __m512i one = _mm512_set1_epi32(1);
  for (int64_t row = 0; row < d.count; ++row, out += step) {
    const uint8_t* image = d.image + d.starts[row];
    for (int64_t c = 0; c < d.channels; c += kLanes) {
      __m512i sum = _mm512_setzero_si512();
      for (int64_t t = 0; t < d.taps; ++t) {
        const uint32_t differ = load16(image + d.offsets[t] + c / 8) ^ load16(d.weights + t * (d.width / 8) + c / 8);
        sum = _mm512_mask_add_epi32(sum, static_cast<__mmask16>(differ), sum, one);
      }
      _mm512_storeu_si512(out + c, sum);
    }
  }
}

}  // namespace avx512
}  // namespace robustlab
