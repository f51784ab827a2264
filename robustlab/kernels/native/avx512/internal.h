// Shared by the AVX-512 files (F, BW, VL, DQ, VNNI, VPOPCNTDQ, VBMI, GFNI: Ice Lake, Zen 4 and newer). No standard library
// templates anywhere in this folder, and every inline function in an anonymous namespace: code compiled for AVX-512 must
// not become the copy that the linker keeps for everybody.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "../kernels.h"

#define INLINE __attribute__((always_inline)) inline
#define NOINLINE __attribute__((noinline))
// Loops over registers: an array indexed by a constant is a set of registers only once the loop is gone.
#define UNROLL _Pragma("GCC unroll 16")

namespace robustlab {
namespace avx512 {

void pack_signs(const PackSigns& p);
void pack_codes(const PackCodes& p);
void unpack_codes(const uint8_t* packed, int bits, int64_t steps, int factor, int offset, uint8_t* out);
void bits_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step);
void codes_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step);
void bits_threshold(const Windows& windows, const Panels& panels, const BitThreshold& threshold);
void depthwise_codes(const Depthwise& d, int32_t* out, int64_t step);
void depthwise_bits(const Depthwise& d, int32_t* out, int64_t step);
void run_steps(const Step* steps, int64_t count, const Block& block);
void boundary_step(const BoundaryStep& s);
void ascent_step(const AscentStep& s);
void gradient_line(const GradientLine& line);
void direct_bits(const Windows& windows, const Panels& panels, const Direct& direct);
void direct_codes(const Windows& windows, const Panels& panels, const Direct& direct);
// Runs the most common steps, an accumulator times a factor (plus another) as float, in one go; false if it cannot.
bool run_affine(const Step* steps, int64_t count, const Block& block);
bool run_requant(const Step* steps, int64_t count, const Block& block);

}  // namespace avx512

namespace {

INLINE uint32_t load32(const uint8_t* p) {
  uint32_t value;
  std::memcpy(&value, p, 4);
  return value;
}

INLINE uint32_t load16(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, 2);
  return value;
}

INLINE int64_t at_most(int64_t value, int64_t limit) { return value < limit ? value : limit; }

// The lowest `count` lanes; none for a negative count.
INLINE __mmask16 first(int64_t count) {
  if (count >= 16) return static_cast<__mmask16>(0xffff);
  return count <= 0 ? static_cast<__mmask16>(0) : static_cast<__mmask16>((1u << count) - 1u);
}

// The lowest `lanes` <= 16 bits in whole bytes.
INLINE void store_bits(uint8_t* to, uint32_t bits, int64_t lanes) {
  if (lanes > 8) {
    const uint16_t both = static_cast<uint16_t>(bits);
    std::memcpy(to, &both, 2);
  } else {
    *to = static_cast<uint8_t>(bits);
  }
}

// x / scale to codes. Both bounds are whole numbers, so clamping before rounding gives the same code.
struct Rounding {
  __m512 scale, low, high;
  __m512i zero;
  bool down;

  explicit INLINE Rounding(const Quantizer& q)
      : scale(_mm512_set1_ps(q.scale)), down((q.doubled_zero & 1) != 0) {
    const int32_t rounded_zero = (q.doubled_zero + 1) >> 1;   // floor(t) + z + 1/2 if z is a half-integer
    low = _mm512_set1_ps(static_cast<float>(-rounded_zero));
    high = _mm512_set1_ps(static_cast<float>(q.largest - rounded_zero));
    zero = _mm512_set1_epi32(rounded_zero);
  }

  INLINE __m512i code(__m512 x) const {
    __m512 t = _mm512_div_ps(x, scale);
    t = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(t, t, _CMP_ORD_Q), t);
    t = _mm512_min_ps(_mm512_max_ps(t, low), high);
    const __m512i steps = down ? _mm512_cvt_roundps_epi32(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)
                               : _mm512_cvt_roundps_epi32(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm512_add_epi32(steps, zero);
  }
};

// v[i] lane j <-> v[j] lane i
INLINE void transpose(__m512i (&v)[16]) {
  __m512i t[16];
  UNROLL for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
  UNROLL for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // v[4 j + i] holds, in 128-bit block b, column 4 b + i of rows 4 j .. 4 j + 3
  UNROLL for (int i = 0; i < 4; ++i) {
    const __m512i a = _mm512_shuffle_i32x4(v[i], v[4 + i], 0x88), b = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0x88);
    const __m512i c = _mm512_shuffle_i32x4(v[i], v[4 + i], 0xdd), d = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0xdd);
    t[i] = _mm512_shuffle_i32x4(a, b, 0x88);
    t[8 + i] = _mm512_shuffle_i32x4(a, b, 0xdd);
    t[4 + i] = _mm512_shuffle_i32x4(c, d, 0x88);
    t[12 + i] = _mm512_shuffle_i32x4(c, d, 0xdd);
  }
  UNROLL for (int i = 0; i < 16; ++i) v[i] = t[i];
}

}  // namespace
}  // namespace robustlab
