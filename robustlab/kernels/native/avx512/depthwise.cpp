// Depthwise products: one channel per lane.
#include "internal.h"

namespace robustlab {
namespace {

INLINE __m512i load_codes(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

INLINE __m512i load_weights(const uint8_t* p) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

// 3 x 3 taps: the weights of 16 channels stay in registers for all rows. A product of the low halves of two 32-bit
// lanes is the whole product, since the high half of a code is zero.
void nine_taps(const Depthwise& d, int32_t* out, int64_t step) {
  for (int64_t c = 0; c < d.channels; c += kLanes) {
    __m512i w[9];
    UNROLL for (int t = 0; t < 9; ++t) w[t] = load_weights(d.weights + t * d.width + c);
    int64_t offset[9];
    UNROLL for (int t = 0; t < 9; ++t) offset[t] = d.offsets[t] + c;
    for (int64_t row = 0; row < d.count; ++row) {
      const uint8_t* image = d.image + d.starts[row];
      __m512i sum = _mm512_setzero_si512();
      UNROLL for (int t = 0; t < 9; ++t) sum = _mm512_dpwssd_epi32(sum, load_codes(image + offset[t]), w[t]);
      _mm512_storeu_si512(out + row * step + c, sum);
    }
  }
}

}  // namespace

namespace avx512 {

void depthwise_codes(const Depthwise& d, int32_t* out, int64_t step) {
  if (d.taps == 9) return nine_taps(d, out, step);
  for (int64_t row = 0; row < d.count; ++row, out += step) {
    const uint8_t* image = d.image + d.starts[row];
    for (int64_t c = 0; c < d.channels; c += kLanes) {
      __m512i sum = _mm512_setzero_si512();
      for (int64_t t = 0; t < d.taps; ++t)
        sum = _mm512_dpwssd_epi32(sum, load_codes(image + d.offsets[t] + c), load_weights(d.weights + t * d.width + c));
      _mm512_storeu_si512(out + c, sum);
    }
  }
}

// 64 channels at a time are counted in bytes, up to 255 taps before they are widened.
void depthwise_bits(const Depthwise& d, int32_t* out, int64_t step) {
  const __m512i minus_one = _mm512_set1_epi8(-1);
  for (int64_t row = 0; row < d.count; ++row, out += step) {
    const uint8_t* image = d.image + d.starts[row];
    for (int64_t c = 0; c < d.channels; c += 64) {
      const uint8_t* weights = d.weights + c / 8;
      for (int64_t begin = 0; begin < d.taps; begin += 255) {
        const int64_t end = at_most(d.taps, begin + 255);
        __m512i counts = _mm512_setzero_si512();
        for (int64_t t = begin; t < end; ++t) {
          uint64_t a, w;
          std::memcpy(&a, image + d.offsets[t] + c / 8, 8);
          std::memcpy(&w, weights + t * (d.width / 8), 8);
          counts = _mm512_mask_sub_epi8(counts, a ^ w, counts, minus_one);
        }
        alignas(64) uint8_t count[64];
        _mm512_store_si512(count, counts);
        for (int64_t lane = 0; lane < 64 && c + lane < d.channels; lane += kLanes) {
          const __m512i more = load_codes(count + lane);
          int32_t* to = out + c + lane;
          _mm512_storeu_si512(to, begin == 0 ? more : _mm512_add_epi32(more, _mm512_loadu_si512(to)));
        }
      }
    }
  }
}

}  // namespace avx512
}  // namespace robustlab
