// What AVX2 does better than the compiler with 16 lanes.
#pragma once

#include <immintrin.h>

#include "../generic/lanes.h"

namespace robustlab {
namespace {

struct Avx2 : Lanes {
  static constexpr int kWidth = 8;

  static __m256 floats(const float* p) { return _mm256_loadu_ps(p); }
  static __m256i ints(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static void put(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  static uint32_t mask(__m256 low, __m256 high) {
    return static_cast<uint32_t>(_mm256_movemask_ps(low) | _mm256_movemask_ps(high) << 8);
  }

  static uint32_t less(const float* a, const float* b) {
    return mask(_mm256_cmp_ps(floats(a), floats(b), _CMP_LT_OQ),
                _mm256_cmp_ps(floats(a + 8), floats(b + 8), _CMP_LT_OQ));
  }

  static uint32_t less(const int32_t* a, const int32_t* b) {
    return mask(_mm256_castsi256_ps(_mm256_cmpgt_epi32(ints(b), ints(a))),
                _mm256_castsi256_ps(_mm256_cmpgt_epi32(ints(b + 8), ints(a + 8))));
  }

  static void signs(uint32_t bits, float* out) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i sign = _mm256_set1_epi32(INT32_MIN), one = _mm256_castps_si256(_mm256_set1_ps(1.0f));
    for (int half = 0; half < 2; ++half) {
      const __m256i all = _mm256_set1_epi32(static_cast<int32_t>(bits >> (8 * half)));
      const __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(all, lane), lane);
      put(out + 8 * half, _mm256_or_si256(one, _mm256_and_si256(set, sign)));
    }
  }

  static void levels(const uint8_t* codes, float zero, float* out) {
    for (int half = 0; half < 2; ++half) {
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + 8 * half));
      const __m256 v = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
      _mm256_storeu_ps(out + 8 * half, _mm256_sub_ps(v, _mm256_set1_ps(zero)));
    }
  }

  static __m256i codes(__m256 x, const Rounding& q) {
    const __m256 t = _mm256_div_ps(x, _mm256_set1_ps(q.scale));
    const __m256 known = _mm256_and_ps(t, _mm256_cmp_ps(t, t, _CMP_ORD_Q));
    const __m256 inside = _mm256_min_ps(_mm256_max_ps(known, _mm256_set1_ps(q.low)), _mm256_set1_ps(q.high));
    const __m256 whole = q.down ? _mm256_floor_ps(inside)
                                : _mm256_round_ps(inside, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm256_add_epi32(_mm256_cvttps_epi32(whole), _mm256_set1_epi32(q.zero));
  }

  static void quantize(const float* x, const Rounding& q, uint8_t* out) {
    const __m256i words = _mm256_packus_epi32(codes(floats(x), q), codes(floats(x + 8), q));
    // quarters 0 2 1 3 of the channels; then 8 bytes from each 128 bits
    const __m256i bytes = _mm256_packus_epi16(_mm256_permute4x64_epi64(words, 0xd8), _mm256_setzero_si256());
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                     _mm256_castsi256_si128(_mm256_permute4x64_epi64(bytes, 0x08)));
  }

  static uint32_t plane(const uint8_t* codes, int plane) {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
    // shifts of 16-bit words: what comes in from the lower byte never reaches the top bit
    return static_cast<uint32_t>(_mm_movemask_epi8(_mm_sll_epi16(v, _mm_cvtsi32_si128(7 - plane))));
  }

  static void sign_words(const float* x, int64_t step, int64_t depth, int64_t count, const float* thresholds,
                         uint32_t* words) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (int half = 0; half < 2; ++half) {
      const int64_t left = count - 8 * half;
      // lanes without a pixel are not read
      const __m256i valid = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(left)), lane);
      __m256i bits = _mm256_setzero_si256(), bit = _mm256_set1_epi32(1);
      for (int64_t c = 0; c < depth && left > 0; ++c) {
        const float* line = x + c * step + 8 * half;
        const __m256 v = left >= 8 ? floats(line) : _mm256_maskload_ps(line, valid);
        const __m256 threshold = thresholds != nullptr ? _mm256_set1_ps(thresholds[c]) : _mm256_setzero_ps();
        const __m256i set = _mm256_castps_si256(_mm256_cmp_ps(v, threshold, _CMP_LT_OQ));
        bits = _mm256_or_si256(bits, _mm256_and_si256(set, bit));
        bit = _mm256_add_epi32(bit, bit);
      }
      put(words + 8 * half, bits);
    }
  }

  static void transpose8(const AnyInt* in, int64_t step, int32_t* out) {
    __m256 v[8], t[8];
    for (int i = 0; i < 8; ++i) v[i] = _mm256_castsi256_ps(ints(in + i * step));
    for (int i = 0; i < 8; i += 2) {
      t[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
      t[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      v[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
      v[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
      v[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
      v[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    // v[4 h + i]: columns i and 4 + i of rows 4 h .. 4 h + 3
    for (int i = 0; i < 4; ++i) {
      put(out + kLanes * i, _mm256_castps_si256(_mm256_permute2f128_ps(v[i], v[4 + i], 0x20)));
      put(out + kLanes * (4 + i), _mm256_castps_si256(_mm256_permute2f128_ps(v[i], v[4 + i], 0x31)));
    }
  }

  static void transpose(const AnyInt* in, int64_t step, int32_t* out) {
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 2; ++j) transpose8(in + 8 * i * step + 8 * j, step, out + kLanes * 8 * j + 8 * i);
  }

  static void transpose(const uint8_t* in, uint8_t* out) {
    __m128i v[16], t[16];
    for (int i = 0; i < 16; ++i) v[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + kLanes * i));
    // four times: rows i and i + 8 take turns, which in the end swaps the two halves of a byte's number
    for (int round = 0; round < 2; ++round) {
      for (int i = 0; i < 8; ++i) {
        t[2 * i] = _mm_unpacklo_epi8(v[i], v[i + 8]);
        t[2 * i + 1] = _mm_unpackhi_epi8(v[i], v[i + 8]);
      }
      for (int i = 0; i < 8; ++i) {
        v[2 * i] = _mm_unpacklo_epi8(t[i], t[i + 8]);
        v[2 * i + 1] = _mm_unpackhi_epi8(t[i], t[i + 8]);
      }
    }
    for (int i = 0; i < 16; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + kLanes * i), v[i]);
  }
};

}  // namespace
}  // namespace robustlab
