// The steps of a plain layer (accumulator, scale, maybe a bias, one store of floats) without a detour through step by
// step interpretation.
#include "plain.h"

namespace robustlab {
namespace {

template <int kFactor>
INLINE __m256i accumulate(__m256i base, __m256i raw) {
  if (kFactor == 1) return _mm256_add_epi32(base, raw);
  if (kFactor == 4) return _mm256_add_epi32(base, _mm256_slli_epi32(raw, 2));
  const __m256i twice = _mm256_add_epi32(raw, raw);
  return kFactor == 2 ? _mm256_add_epi32(base, twice) : _mm256_sub_epi32(base, twice);
}

template <int kFactor>
INLINE __m512i accumulate(__m512i base, __m512i raw) {
  if (kFactor == 1) return _mm512_add_epi32(base, raw);
  if (kFactor == 4) return _mm512_add_epi32(base, _mm512_slli_epi32(raw, 2));
  const __m512i twice = _mm512_add_epi32(raw, raw);
  return kFactor == 2 ? _mm512_add_epi32(base, twice) : _mm512_sub_epi32(base, twice);
}

// v[i] lane j <-> v[j] lane i. Half vectors need three levels of shuffles where whole ones need four, and wide stores
// take twice as long as half ones anyway.
INLINE void transpose(__m256 (&v)[8]) {
  __m256 t[8];
  UNROLL for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
  const auto pairs = [](__m256 a, __m256 b, bool high) {
    const __m256d x = _mm256_castps_pd(a), y = _mm256_castps_pd(b);
    return _mm256_castpd_ps(high ? _mm256_unpackhi_pd(x, y) : _mm256_unpacklo_pd(x, y));
  };
  UNROLL for (int i = 0; i < 8; i += 4) {
    v[i] = pairs(t[i], t[i + 2], false);
    v[i + 1] = pairs(t[i], t[i + 2], true);
    v[i + 2] = pairs(t[i + 1], t[i + 3], false);
    v[i + 3] = pairs(t[i + 1], t[i + 3], true);
  }
  UNROLL for (int i = 0; i < 4; ++i) {
    t[i] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x20);
    t[i + 4] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x31);
  }
  UNROLL for (int i = 0; i < 8; ++i) v[i] = t[i];
}

// 8 rows of 8 channels, in planes from `to` on. bases[i]: where the base of row i starts.
template <int kFactor, bool kBias, bool kFull>
INLINE void planar_square(const int32_t* values, int64_t step, int64_t rows, const int32_t* const* bases,
                          int64_t channel, __m256 scale, __m256 bias, uint8_t* to, int64_t plane, int64_t lanes) {
  __m256 v[8];
  UNROLL for (int i = 0; i < 8; ++i) {
    const int64_t r = kFull || i < rows ? i : rows - 1;
    const __m256i raw = _mm256_load_si256(reinterpret_cast<const __m256i*>(values + r * step));
    const __m256i start = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bases[r] + channel));
    v[i] = _mm256_mul_ps(_mm256_cvtepi32_ps(accumulate<kFactor>(start, raw)), scale);
    if (kBias) v[i] = _mm256_add_ps(v[i], bias);
  }
  transpose(v);
  const __mmask8 used = static_cast<__mmask8>(first(rows));
  UNROLL for (int i = 0; i < 8; ++i) {
    if (kFull) _mm256_storeu_ps(reinterpret_cast<float*>(to + i * plane), v[i]);
    else if (i < lanes) _mm256_mask_storeu_ps(to + i * plane, used, v[i]);
  }
}

template <int kFactor, bool kBias>
void store_planar(PlainLayer a) {
  // in memory, since the squares have no registers left for eight addresses
  const int32_t* bases[kBlockRows];
  for (int64_t r = 0; r < a.rows; ++r) bases[r] = a.base + (a.pattern != nullptr ? a.pattern[r] * a.base_step : 0);
  for (int64_t lane = 0; lane < a.width; lane += 8) {
    const int64_t channel = a.channel + lane, lanes = at_most(a.width - lane, 8);
    const __m256 scale = _mm256_loadu_ps(a.scale + channel);
    const __m256 bias = kBias ? _mm256_loadu_ps(a.bias + channel) : _mm256_setzero_ps();
    const int32_t* values = a.values + lane;
    const int32_t* const* base = bases;
    uint8_t* to = a.image + channel * a.plane + a.at[0];
    int64_t left = a.rows;
    for (; left >= 8 && lanes == 8; left -= 8, values += 8 * a.step, to += 32, base += 8)
      planar_square<kFactor, kBias, true>(values, a.step, 8, base, channel, scale, bias, to, a.plane, 8);
    for (; left > 0; left -= 8, values += 8 * a.step, to += 32, base += 8)
      planar_square<kFactor, kBias, false>(values, a.step, at_most(left, 8), base, channel, scale, bias, to, a.plane,
                                           lanes);
  }
}

template <int kFactor, bool kBias, bool kPattern>
void store_pixels(PlainLayer a) {
  for (int64_t lane = 0; lane < a.width; lane += kLanes) {
    const int64_t channel = a.channel + lane;
    const __mmask16 used = first(a.width - lane);
    const __m512 scale = _mm512_loadu_ps(a.scale + channel);
    const __m512 bias = kBias ? _mm512_loadu_ps(a.bias + channel) : _mm512_setzero_ps();
    const int32_t* values = a.values + lane;
    const int32_t* base = a.base + channel;
    uint8_t* image = a.image + 4 * channel;
    const auto one = [&](int64_t r) {
      const __m512i start = _mm512_loadu_si512(kPattern ? base + a.pattern[r] * a.base_step : base);
      const __m512i acc = accumulate<kFactor>(start, _mm512_load_si512(values + r * a.step));
      const __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(acc), scale);
      return kBias ? _mm512_add_ps(y, bias) : y;
    };
    if (used == 0xffff) {
      for (int64_t r = 0; r < a.rows; ++r) _mm512_storeu_ps(image + a.at[r], one(r));
    } else {
      for (int64_t r = 0; r < a.rows; ++r) _mm512_mask_storeu_ps(image + a.at[r], used, one(r));
    }
  }
}

template <int kFactor, bool kBias>
void run(const PlainLayer& a, bool planar) {
  if (a.pattern != nullptr) {
    planar ? store_planar<kFactor, kBias>(a) : store_pixels<kFactor, kBias, true>(a);
  } else {
    planar ? store_planar<kFactor, kBias>(a) : store_pixels<kFactor, kBias, false>(a);
  }
}

template <int kFactor>
void run(const PlainLayer& a, bool planar) {
  a.bias != nullptr ? run<kFactor, true>(a, planar) : run<kFactor, false>(a, planar);
}

}  // namespace

namespace avx512 {

bool run_affine(const Step* steps, int64_t count, const Block& block) {
  PlainLayer a;
  if (!plain_layer(steps, count, block, a)) return false;
  const bool planar = a.store->op == Op::kStorePlanar;
  if (!planar && a.store->op != Op::kStore) return false;
  switch (a.factor) {
    case -2: run<-2>(a, planar); break;
    case 1: run<1>(a, planar); break;
    case 2: run<2>(a, planar); break;
    default: run<4>(a, planar); break;
  }
  return true;
}

}  // namespace avx512
}  // namespace robustlab
