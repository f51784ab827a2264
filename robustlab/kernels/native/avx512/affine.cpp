// The steps of a plain layer (accumulator, scale, maybe a bias, one store of floats) without a detour through step by
// step interpretation.
#include "internal.h"

namespace robustlab {
namespace {

struct Affine {
  const Step& start;
  const Step& store;
  const float* scale;
  const float* bias;   // null: none
  const Block& block;

  INLINE const int32_t* base(int64_t row, int64_t channel) const {
    return start.base + (start.pattern != nullptr ? start.pattern[row] * start.base_step : 0) + channel;
  }
};

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

// 8 rows of 8 channels.
template <int kFactor, bool kBias, bool kFull>
INLINE void planar_square(const Affine& a, int64_t row, int64_t rows, int64_t lane, int64_t lanes, __m256 scale,
                          __m256 bias) {
  const int64_t channel = a.block.channel + lane;
  const int32_t* values = a.block.values + lane;
  __m256 v[8];
  UNROLL for (int i = 0; i < 8; ++i) {
    const int64_t r = row + (kFull || i < rows ? i : rows - 1);
    const __m256i raw = _mm256_load_si256(reinterpret_cast<const __m256i*>(values + r * a.block.step));
    const __m256i base = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a.base(r, channel)));
    v[i] = _mm256_mul_ps(_mm256_cvtepi32_ps(accumulate<kFactor>(base, raw)), scale);
    if (kBias) v[i] = _mm256_add_ps(v[i], bias);
  }
  transpose(v);
  const int64_t plane = a.store.plane;
  uint8_t* to = a.store.image + channel * plane + a.store.at[row];
  const __mmask8 used = static_cast<__mmask8>(first(rows));
  UNROLL for (int i = 0; i < 8; ++i) {
    if (kFull) _mm256_storeu_ps(reinterpret_cast<float*>(to + i * plane), v[i]);
    else if (i < lanes) _mm256_mask_storeu_ps(to + i * plane, used, v[i]);
  }
}

template <int kFactor, bool kBias>
void store_planar(const Affine& a) {
  const int64_t width = at_most(a.block.width, a.block.channels - a.block.channel);
  for (int64_t lane = 0; lane < width; lane += 8) {
    const int64_t channel = a.block.channel + lane, lanes = at_most(width - lane, 8);
    const __m256 scale = _mm256_loadu_ps(a.scale + channel);
    const __m256 bias = kBias ? _mm256_loadu_ps(a.bias + channel) : _mm256_setzero_ps();
    int64_t row = 0;
    if (lanes == 8)
      for (; a.block.rows - row >= 8; row += 8)
        planar_square<kFactor, kBias, true>(a, row, 8, lane, 8, scale, bias);
    for (; row < a.block.rows; row += 8)
      planar_square<kFactor, kBias, false>(a, row, at_most(a.block.rows - row, 8), lane, lanes, scale, bias);
  }
}

template <int kFactor, bool kBias>
void store_pixels(const Affine& a) {
  const int64_t width = at_most(a.block.width, a.block.channels - a.block.channel);
  for (int64_t lane = 0; lane < width; lane += kLanes) {
    const int64_t channel = a.block.channel + lane;
    const __mmask16 used = first(width - lane);
    const __m512 scale = _mm512_loadu_ps(a.scale + channel);
    const __m512 bias = kBias ? _mm512_loadu_ps(a.bias + channel) : _mm512_setzero_ps();
    const int32_t* values = a.block.values + lane;
    uint8_t* image = a.store.image + 4 * channel;
    for (int64_t r = 0; r < a.block.rows; ++r, values += a.block.step) {
      const __m512i acc = accumulate<kFactor>(_mm512_loadu_si512(a.base(r, channel)), _mm512_load_si512(values));
      __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(acc), scale);
      if (kBias) y = _mm512_add_ps(y, bias);
      _mm512_mask_storeu_ps(image + a.store.at[r], used, y);
    }
  }
}

template <int kFactor>
void run(const Affine& a) {
  const bool planar = a.store.op == Op::kStorePlanar;
  if (a.bias != nullptr) return planar ? store_planar<kFactor, true>(a) : store_pixels<kFactor, true>(a);
  return planar ? store_planar<kFactor, false>(a) : store_pixels<kFactor, false>(a);
}

}  // namespace

namespace avx512 {

bool run_affine(const Step* steps, int64_t count, const Block& block) {
  if (count < 3 || count > 4 || steps[0].op != Op::kAccumulate || steps[0].sums != nullptr) return false;
  const Step& store = steps[count - 1];
  if (steps[1].op != Op::kScale || (count == 4 && steps[2].op != Op::kAdd)) return false;
  if (store.op != Op::kStorePlanar && store.op != Op::kStore) return false;
  const Affine a{steps[0], store, steps[1].a, count == 4 ? steps[2].a : nullptr, block};
  switch (steps[0].factor) {
    case -2: run<-2>(a); break;
    case 1: run<1>(a); break;
    case 2: run<2>(a); break;
    default: run<4>(a); break;
  }
  return true;
}

}  // namespace avx512
}  // namespace robustlab
