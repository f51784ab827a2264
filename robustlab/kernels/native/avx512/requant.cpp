// The steps of a plain layer whose output is codes (accumulator, scale, maybe a bias, codes or their bit planes).
#include "plain.h"

namespace robustlab {
namespace {

// Codes of 16 channels of every row, one after the other. kPlain: no border patterns, and a factor of 1.
template <bool kBias, bool kPlain, class Store>
INLINE void each_row(const PlainLayer& q, int64_t lane, const Rounding& rounding, const Store& store) {
  const int64_t channel = q.channel + lane, rows = q.rows, step = q.step, base_step = q.base_step;
  const __mmask16 used = first(q.width - lane);
  const __m512 scale = _mm512_maskz_loadu_ps(used, q.scale + channel);
  const __m512 bias = kBias ? _mm512_maskz_loadu_ps(used, q.bias + channel) : _mm512_setzero_ps();
  const __m512i factor = _mm512_set1_epi32(q.factor);
  const int32_t *values = q.values + lane, *base = q.base + channel, *pattern = q.pattern;
  const __m512i first_base = _mm512_loadu_si512(base);
  for (int64_t r = 0; r < rows; ++r) {
    __m512i start = first_base, raw = _mm512_load_si512(values + r * step);
    if (!kPlain) {
      if (pattern != nullptr) start = _mm512_loadu_si512(base + pattern[r] * base_step);
      raw = _mm512_mullo_epi32(raw, factor);
    }
    const __m512i acc = _mm512_add_epi32(start, raw);
    __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(acc), scale);
    if (kBias) y = _mm512_add_ps(y, bias);
    store(r, rounding.code(y), used);
  }
}

template <bool kBias, bool kPlain>
void run(const PlainLayer& q) {
  const Rounding rounding(q.store->quantizer);
  const int64_t* at = q.at;
  for (int64_t lane = 0; lane < q.width; lane += kLanes) {
    const int64_t channel = q.store->shift + q.channel + lane, left = q.width - lane;
    if (q.store->op == Op::kStoreCodes) {
      uint8_t* image = q.image + channel;
      each_row<kBias, kPlain>(q, lane, rounding, [=](int64_t r, __m512i codes, __mmask16 used) {
        const __m128i bytes = _mm512_cvtepi32_epi8(codes);
        if (used == 0xffff) _mm_storeu_si128(reinterpret_cast<__m128i*>(image + at[r]), bytes);
        else _mm_mask_storeu_epi8(image + at[r], used, bytes);
      });
      continue;
    }
    uint8_t* image = q.image + channel / 8;
    const int64_t plane = q.plane;
    const int32_t largest = q.store->quantizer.largest;
    each_row<kBias, kPlain>(q, lane, rounding, [=](int64_t r, __m512i codes, __mmask16 used) {
      uint8_t* to = image + at[r];
      for (int32_t bit = 1; bit <= largest; bit *= 2, to += plane)
        store_bits(to, _mm512_mask_test_epi32_mask(used, codes, _mm512_set1_epi32(bit)), left);
    });
  }
}

}  // namespace

namespace avx512 {

bool run_requant(const Step* steps, int64_t count, const Block& block) {
  PlainLayer q;
  if (!plain_layer(steps, count, block, q)) return false;
  if (q.store->op != Op::kStoreCodes && q.store->op != Op::kStorePlanes) return false;
  const bool plain = q.pattern == nullptr && q.factor == 1;
  if (q.bias != nullptr) plain ? run<true, true>(q) : run<true, false>(q);
  else plain ? run<false, true>(q) : run<false, false>(q);
  return true;
}

}  // namespace avx512
}  // namespace robustlab
