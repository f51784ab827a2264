// Depthwise products: one channel per lane, so images and weights are read as they lie.
#include <arm_neon.h>

#include "products.h"

#define INLINE __attribute__((always_inline)) inline

namespace robustlab {
namespace {

// 16 channels of a pixel
INLINE void codes_of_pixel(const Depthwise& d, const uint8_t* pixel, const uint8_t* weights, int32_t* out) {
  int32x4_t sums[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
  for (int64_t t = 0; t < d.taps; ++t, weights += d.width) {
    const uint8x16_t a = vld1q_u8(pixel + d.offsets[t]);
    const int8x16_t w = vreinterpretq_s8_u8(vld1q_u8(weights));
    const int16x8_t a_low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(a))), w_low = vmovl_s8(vget_low_s8(w));
    const int16x8_t a_high = vreinterpretq_s16_u16(vmovl_high_u8(a)), w_high = vmovl_high_s8(w);
    sums[0] = vmlal_s16(sums[0], vget_low_s16(a_low), vget_low_s16(w_low));
    sums[1] = vmlal_high_s16(sums[1], a_low, w_low);
    sums[2] = vmlal_s16(sums[2], vget_low_s16(a_high), vget_low_s16(w_high));
    sums[3] = vmlal_high_s16(sums[3], a_high, w_high);
  }
  for (int i = 0; i < 4; ++i) vst1q_s32(out + 4 * i, sums[i]);
}

INLINE void bits_of_pixel(const Depthwise& d, const uint8_t* pixel, const uint8_t* weights, int32_t* out) {
  constexpr int64_t kMostTaps = 255;   // that a byte counts
  const uint8x8_t bit = vcreate_u8(0x8040201008040201u);
  uint32x4_t sums[4] = {vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0)};
  for (int64_t t = 0; t < d.taps;) {
    const int64_t end = d.taps - t < kMostTaps ? d.taps : t + kMostTaps;
    uint8x8_t low = vdup_n_u8(0), high = vdup_n_u8(0);
    for (; t < end; ++t, weights += d.width / 8) {
      const uint8_t* a = pixel + d.offsets[t];
      // a set bit is 255, which is -1
      low = vsub_u8(low, vtst_u8(vdup_n_u8(static_cast<uint8_t>(a[0] ^ weights[0])), bit));
      high = vsub_u8(high, vtst_u8(vdup_n_u8(static_cast<uint8_t>(a[1] ^ weights[1])), bit));
    }
    const uint16x8_t low_words = vmovl_u8(low), high_words = vmovl_u8(high);
    sums[0] = vaddw_u16(sums[0], vget_low_u16(low_words));
    sums[1] = vaddw_high_u16(sums[1], low_words);
    sums[2] = vaddw_u16(sums[2], vget_low_u16(high_words));
    sums[3] = vaddw_high_u16(sums[3], high_words);
  }
  for (int i = 0; i < 4; ++i) vst1q_s32(out + 4 * i, vreinterpretq_s32_u32(sums[i]));
}

}  // namespace

void neon::depthwise_codes(const Depthwise& d, int32_t* out, int64_t step) {
  for (int64_t c = 0; c < d.channels; c += 16)
    for (int64_t row = 0; row < d.count; ++row)
      codes_of_pixel(d, d.image + d.starts[row] + c, d.weights + c, out + row * step + c);
}

void neon::depthwise_bits(const Depthwise& d, int32_t* out, int64_t step) {
  for (int64_t c = 0; c < d.channels; c += 16)
    for (int64_t row = 0; row < d.count; ++row)
      bits_of_pixel(d, d.image + d.starts[row] + c / 8, d.weights + c / 8, out + row * step + c);
}

}  // namespace robustlab
