// What NEON does better than the compiler with 16 lanes.
#pragma once

#include <arm_neon.h>

#include "../generic/lanes.h"

namespace robustlab {
namespace {

struct Neon : Lanes {
  // Bit i of the result: byte i is not zero; bytes are 0 or 255.
  static uint32_t mask(uint8x16_t bytes) {
    const uint8x8_t bit = vcreate_u8(0x8040201008040201u);
    const uint32_t low = vaddv_u8(vand_u8(vget_low_u8(bytes), bit)), high = vaddv_u8(vand_u8(vget_high_u8(bytes), bit));
    return low | high << 8;
  }
  static uint32_t mask(const uint32x4_t (&lanes)[4]) {
    const uint16x8_t low = vcombine_u16(vmovn_u32(lanes[0]), vmovn_u32(lanes[1]));
    const uint16x8_t high = vcombine_u16(vmovn_u32(lanes[2]), vmovn_u32(lanes[3]));
    return mask(vcombine_u8(vmovn_u16(low), vmovn_u16(high)));
  }

  static uint32_t less(const float* a, const float* b) {
    uint32x4_t set[4];
    for (int i = 0; i < 4; ++i) set[i] = vcltq_f32(vld1q_f32(a + 4 * i), vld1q_f32(b + 4 * i));
    return mask(set);
  }

  static uint32_t less(const int32_t* a, const int32_t* b) {
    uint32x4_t set[4];
    for (int i = 0; i < 4; ++i) set[i] = vcltq_s32(vld1q_s32(a + 4 * i), vld1q_s32(b + 4 * i));
    return mask(set);
  }

  static void signs(uint32_t bits, float* out) {
    const uint32_t first[4] = {1, 2, 4, 8};
    const uint32x4_t lane = vld1q_u32(first);
    for (int i = 0; i < 4; ++i) {
      const uint32x4_t set = vtstq_u32(vdupq_n_u32(bits >> (4 * i)), lane);
      vst1q_f32(out + 4 * i, vbslq_f32(set, vdupq_n_f32(-1.0f), vdupq_n_f32(1.0f)));
    }
  }

  static void levels(const uint8_t* codes, float zero, float* out) {
    const uint8x16_t bytes = vld1q_u8(codes);
    const uint16x8_t words[2] = {vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes)};
    for (int i = 0; i < 2; ++i) {
      const float32x4_t low = vcvtq_f32_u32(vmovl_u16(vget_low_u16(words[i])));
      const float32x4_t high = vcvtq_f32_u32(vmovl_high_u16(words[i]));
      vst1q_f32(out + 8 * i, vsubq_f32(low, vdupq_n_f32(zero)));
      vst1q_f32(out + 8 * i + 4, vsubq_f32(high, vdupq_n_f32(zero)));
    }
  }

  static uint16x4_t codes(const float* x, const Rounding& q) {
    const float32x4_t t = vdivq_f32(vld1q_f32(x), vdupq_n_f32(q.scale));
    const uint32x4_t known = vandq_u32(vreinterpretq_u32_f32(t), vceqq_f32(t, t));
    const float32x4_t inside = vminq_f32(vmaxq_f32(vreinterpretq_f32_u32(known), vdupq_n_f32(q.low)), vdupq_n_f32(q.high));
    const float32x4_t whole = q.down ? vrndmq_f32(inside) : vrndnq_f32(inside);
    return vreinterpret_u16_s16(vmovn_s32(vaddq_s32(vcvtq_s32_f32(whole), vdupq_n_s32(q.zero))));
  }

  static void quantize(const float* x, const Rounding& q, uint8_t* out) {
    const uint16x8_t low = vcombine_u16(codes(x, q), codes(x + 4, q));
    const uint16x8_t high = vcombine_u16(codes(x + 8, q), codes(x + 12, q));
    vst1q_u8(out, vcombine_u8(vmovn_u16(low), vmovn_u16(high)));
  }

  static uint32_t plane(const uint8_t* codes, int plane) {
    return mask(vtstq_u8(vld1q_u8(codes), vdupq_n_u8(static_cast<uint8_t>(1 << plane))));
  }

  static void sign_words(const float* x, int64_t step, int64_t depth, int64_t count, const float* thresholds,
                         uint32_t* words) {
    if (count < kLanes) return Lanes::sign_words(x, step, depth, count, thresholds, words);
    uint32x4_t bits[4] = {vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0)};
    for (int64_t c = 0; c < depth; ++c) {
      const float32x4_t threshold = vdupq_n_f32(thresholds != nullptr ? thresholds[c] : 0.0f);
      const uint32x4_t bit = vdupq_n_u32(1u << c);
      for (int i = 0; i < 4; ++i) {
        const uint32x4_t set = vcltq_f32(vld1q_f32(x + c * step + 4 * i), threshold);
        bits[i] = vorrq_u32(bits[i], vandq_u32(set, bit));
      }
    }
    for (int i = 0; i < 4; ++i) vst1q_u32(words + 4 * i, bits[i]);
  }

  static void transpose4(const int32_t* in, int64_t step, int32_t* out) {
    int32x4_t v[4];
    for (int i = 0; i < 4; ++i) v[i] = vld1q_s32(in + i * step);
    const int32x4_t a = vtrn1q_s32(v[0], v[1]), b = vtrn2q_s32(v[0], v[1]);
    const int32x4_t c = vtrn1q_s32(v[2], v[3]), d = vtrn2q_s32(v[2], v[3]);
    const auto low = [](int32x4_t x, int32x4_t y) {
      return vreinterpretq_s32_s64(vtrn1q_s64(vreinterpretq_s64_s32(x), vreinterpretq_s64_s32(y)));
    };
    const auto high = [](int32x4_t x, int32x4_t y) {
      return vreinterpretq_s32_s64(vtrn2q_s64(vreinterpretq_s64_s32(x), vreinterpretq_s64_s32(y)));
    };
    vst1q_s32(out, low(a, c));
    vst1q_s32(out + kLanes, low(b, d));
    vst1q_s32(out + 2 * kLanes, high(a, c));
    vst1q_s32(out + 3 * kLanes, high(b, d));
  }

  static void transpose(const AnyInt* in, int64_t step, int32_t* out) {
    const int32_t* from = reinterpret_cast<const int32_t*>(in);
    for (int i = 0; i < kLanes; i += 4)
      for (int j = 0; j < kLanes; j += 4) transpose4(from + i * step + j, step, out + kLanes * j + i);
  }

  static void transpose(const uint8_t* in, uint8_t* out) {
    uint8x16_t v[16], t[16];
    for (int i = 0; i < 16; ++i) v[i] = vld1q_u8(in + kLanes * i);
    // four times: rows i and i + 8 take turns, which in the end swaps the two halves of a byte's number
    for (int round = 0; round < 2; ++round) {
      for (int i = 0; i < 8; ++i) {
        t[2 * i] = vzip1q_u8(v[i], v[i + 8]);
        t[2 * i + 1] = vzip2q_u8(v[i], v[i + 8]);
      }
      for (int i = 0; i < 8; ++i) {
        v[2 * i] = vzip1q_u8(t[i], t[i + 8]);
        v[2 * i + 1] = vzip2q_u8(t[i], t[i + 8]);
      }
    }
    for (int i = 0; i < 16; ++i) vst1q_u8(out + kLanes * i, v[i]);
  }
};

}  // namespace
}  // namespace robustlab
