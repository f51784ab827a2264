// Float images to sign bits and codes.
#include "internal.h"

namespace robustlab {
namespace {

// The lowest `bytes` of words[i] to out + i * step.
INLINE void store_words(__m512i words, int64_t count, int64_t bytes, uint8_t* out, int64_t step) {
  alignas(64) uint32_t word[16];
  _mm512_store_si512(word, words);
  if (bytes == 4) {
    for (int64_t i = 0; i < count; ++i) std::memcpy(out + i * step, word + i, 4);
  } else if (bytes == 2) {
    for (int64_t i = 0; i < count; ++i) std::memcpy(out + i * step, word + i, 2);
  } else if (bytes == 1) {
    for (int64_t i = 0; i < count; ++i) std::memcpy(out + i * step, word + i, 1);
  } else {
    for (int64_t i = 0; i < count; ++i) std::memcpy(out + i * step, word + i, 3);
  }
}

// Signs of neighbouring channels of one pixel.
void signs_of_pixel(const PackSigns& p) {
  for (int64_t c = 0; c < p.channels; c += 16) {
    const int64_t lanes = p.channels - c;
    const __mmask16 used = first(lanes);
    const __m512 limit = p.thresholds != nullptr ? _mm512_maskz_loadu_ps(used, p.thresholds + c) : _mm512_setzero_ps();
    store_bits(p.out + c / 8, _mm512_mask_cmp_ps_mask(used, _mm512_maskz_loadu_ps(used, p.x + c), limit, _CMP_LT_OQ),
               lanes);
  }
}

alignas(64) constexpr uint32_t kBit[32] = {
    1u << 0,  1u << 1,  1u << 2,  1u << 3,  1u << 4,  1u << 5,  1u << 6,  1u << 7,  1u << 8,  1u << 9,  1u << 10,
    1u << 11, 1u << 12, 1u << 13, 1u << 14, 1u << 15, 1u << 16, 1u << 17, 1u << 18, 1u << 19, 1u << 20, 1u << 21,
    1u << 22, 1u << 23, 1u << 24, 1u << 25, 1u << 26, 1u << 27, 1u << 28, 1u << 29, 1u << 30, 1u << 31};

// Up to 32 channels of `count` pixels, which fill kWide vectors but perhaps the last. Several vectors at a time: more
// bytes of each plane of the image in one go.
template <int kWide, bool kThresholds>
NOINLINE void pack_pixels(const PackSigns& p, int64_t pixel, int64_t count, int64_t channel, int64_t depth) {
  const int64_t step = p.channel_step;
  const float* x = p.x + channel * step + pixel;
  const __mmask16 used = first(count - 16 * (kWide - 1));
  __m512i words[kWide];
  UNROLL for (int j = 0; j < kWide; ++j) words[j] = _mm512_setzero_si512();
  for (int64_t c = 0; c < depth; ++c, x += step) {
    const __m512 limit = kThresholds ? _mm512_set1_ps(p.thresholds[channel + c]) : _mm512_setzero_ps();
    const __m512i bit = _mm512_set1_epi32(static_cast<int32_t>(kBit[c]));
    UNROLL for (int j = 0; j < kWide; ++j) {
      const __m512 v = j == kWide - 1 ? _mm512_maskz_loadu_ps(used, x + 16 * j) : _mm512_loadu_ps(x + 16 * j);
      words[j] = _mm512_mask_or_epi32(words[j], _mm512_cmp_ps_mask(v, limit, _CMP_LT_OQ), words[j], bit);
    }
  }
  uint8_t* out = p.out + pixel * p.pixel + channel / 8;
  UNROLL for (int j = 0; j < kWide; ++j)
    store_words(words[j], at_most(count - 16 * j, 16), (depth + 7) / 8, out + 16 * j * p.pixel, p.pixel);
}

template <bool kThresholds>
void pack_signs_of(const PackSigns& p) {
  for (int64_t c = 0; c < p.channels; c += 32) {
    const int64_t depth = at_most(p.channels - c, 32);
    int64_t begin = 0;
    for (; p.pixels - begin >= 128; begin += 128) pack_pixels<8, kThresholds>(p, begin, 128, c, depth);
    for (int64_t pixel = begin; pixel < p.pixels; pixel += 64) {
      const int64_t count = at_most(p.pixels - pixel, 64);
      if (count > 48) pack_pixels<4, kThresholds>(p, pixel, count, c, depth);
      else if (count > 32) pack_pixels<3, kThresholds>(p, pixel, count, c, depth);
      else if (count > 16) pack_pixels<2, kThresholds>(p, pixel, count, c, depth);
      else pack_pixels<1, kThresholds>(p, pixel, count, c, depth);
    }
  }
}

template <bool kSub, bool kDiv>
INLINE __m512i code_of(__m512 x, __m512 sub, __m512 div, const Rounding& rounding) {
  if (kSub) x = _mm512_sub_ps(x, sub);
  if (kDiv) x = _mm512_div_ps(x, div);
  return rounding.code(x);
}

template <bool kSub, bool kDiv>
void codes_of_pixel(const PackCodes& p, const Rounding& rounding) {
  for (int64_t c = 0; c < p.channels; c += 16) {
    const int64_t lanes = p.channels - c;
    const __mmask16 used = first(lanes);
    const __m512 sub = kSub ? _mm512_maskz_loadu_ps(used, p.sub + c) : _mm512_setzero_ps();
    const __m512 div = kDiv ? _mm512_maskz_loadu_ps(used, p.div + c) : _mm512_setzero_ps();
    const __m512i codes = code_of<kSub, kDiv>(_mm512_maskz_loadu_ps(used, p.x + c), sub, div, rounding);
    if (p.planes == 0) {
      _mm_mask_storeu_epi8(p.out + c, used, _mm512_cvtepi32_epi8(codes));
      continue;
    }
    for (int b = 0; b < p.planes; ++b)
      store_bits(p.out + b * p.plane + c / 8,
                 _mm512_mask_test_epi32_mask(used, codes, _mm512_set1_epi32(static_cast<int32_t>(1u << b))), lanes);
  }
}

// 4 channels of 16 pixels: one word for each pixel.
template <bool kSub, bool kDiv>
INLINE __m512i code_words(const PackCodes& p, const Rounding& rounding, int64_t pixel, int64_t c0, int64_t depth,
                          __mmask16 used) {
  const float* x = p.x + c0 * p.channel_step + pixel;
  __m512i word = _mm512_setzero_si512();
  for (int64_t c = depth - 1; c >= 0; --c) {
    const __m512 sub = _mm512_set1_ps(kSub ? p.sub[c0 + c] : 0.0f), div = _mm512_set1_ps(kDiv ? p.div[c0 + c] : 0.0f);
    const __m512i codes = code_of<kSub, kDiv>(_mm512_maskz_loadu_ps(used, x + c * p.channel_step), sub, div, rounding);
    word = _mm512_or_si512(_mm512_slli_epi32(word, 8), codes);
  }
  return word;
}

// Words of 16 channels, w[i] lane p of pixel p, to 16 neighbouring bytes of every pixel.
INLINE void store_pixels(const __m512i (&w)[4], int64_t count, uint8_t* out, int64_t step) {
  const __m512i a = _mm512_unpacklo_epi32(w[0], w[1]), b = _mm512_unpackhi_epi32(w[0], w[1]);
  const __m512i c = _mm512_unpacklo_epi32(w[2], w[3]), d = _mm512_unpackhi_epi32(w[2], w[3]);
  // 128-bit block q of pixels[i] is pixel 4 q + i
  const __m512i pixels[4] = {_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c), _mm512_unpacklo_epi64(b, d),
                             _mm512_unpackhi_epi64(b, d)};
  if (count == 16) {
    UNROLL for (int i = 0; i < 4; ++i) {
      uint8_t* to = out + i * step;
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_castsi512_si128(pixels[i]));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 4 * step), _mm512_extracti32x4_epi32(pixels[i], 1));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 8 * step), _mm512_extracti32x4_epi32(pixels[i], 2));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 12 * step), _mm512_extracti32x4_epi32(pixels[i], 3));
    }
    return;
  }
  alignas(64) uint8_t bytes[4][64];
  UNROLL for (int i = 0; i < 4; ++i) _mm512_store_si512(bytes[i], pixels[i]);
  for (int64_t i = 0; i < count; ++i) std::memcpy(out + i * step, bytes[i % 4] + i / 4 * 16, 16);
}

// Bytes: 16 channels at a time, then words of 4.
template <bool kSub, bool kDiv>
INLINE void code_bytes(const PackCodes& p, const Rounding& rounding, int64_t pixel, int64_t count) {
  const __mmask16 used = first(count);
  uint8_t* out = p.out + pixel * p.pixel;
  int64_t c0 = 0;
  for (; p.channels - c0 >= 16; c0 += 16) {
    __m512i words[4];
    UNROLL for (int i = 0; i < 4; ++i)
      words[i] = code_words<kSub, kDiv>(p, rounding, pixel, c0 + 4 * i, 4, used);
    store_pixels(words, count, out + c0, p.pixel);
  }
  for (; c0 < p.channels; c0 += 4) {
    const int64_t depth = at_most(p.channels - c0, 4);
    store_words(code_words<kSub, kDiv>(p, rounding, pixel, c0, depth, used), count, depth, out + c0, p.pixel);
  }
}

// Bit planes: words of 32 channels.
template <bool kSub, bool kDiv, int kPlanes>
INLINE void code_planes(const PackCodes& p, const Rounding& rounding, int64_t pixel, int64_t count) {
  const __mmask16 used = first(count);
  for (int64_t c0 = 0; c0 < p.channels; c0 += 32) {
    const int64_t depth = at_most(p.channels - c0, 32);
    const float* x = p.x + c0 * p.channel_step + pixel;
    __m512i words[kPlanes];
    UNROLL for (int b = 0; b < kPlanes; ++b) words[b] = _mm512_setzero_si512();
    for (int64_t c = 0; c < depth; ++c, x += p.channel_step) {
      const __m512 sub = _mm512_set1_ps(kSub ? p.sub[c0 + c] : 0.0f), div = _mm512_set1_ps(kDiv ? p.div[c0 + c] : 0.0f);
      const __m512i codes = code_of<kSub, kDiv>(_mm512_maskz_loadu_ps(used, x), sub, div, rounding);
      const __m512i bit = _mm512_set1_epi32(static_cast<int32_t>(1u << c));
      UNROLL for (int b = 0; b < kPlanes; ++b)
        words[b] = _mm512_mask_or_epi32(words[b], _mm512_test_epi32_mask(codes, _mm512_set1_epi32(1 << b)), words[b], bit);
    }
    UNROLL for (int b = 0; b < kPlanes; ++b)
      if (b < p.planes)
        store_words(words[b], count, (depth + 7) / 8, p.out + pixel * p.pixel + b * p.plane + c0 / 8, p.pixel);
  }
}

template <bool kSub, bool kDiv>
void codes(const PackCodes& p) {
  const Rounding rounding(p.quantizer);
  if (p.pixels == 1 && p.channel_step == 1) return codes_of_pixel<kSub, kDiv>(p, rounding);
  for (int64_t pixel = 0; pixel < p.pixels; pixel += 16) {
    const int64_t count = at_most(p.pixels - pixel, 16);
    if (p.planes == 0) {
      code_bytes<kSub, kDiv>(p, rounding, pixel, count);
    } else if (p.planes <= 2) {
      code_planes<kSub, kDiv, 2>(p, rounding, pixel, count);
    } else if (p.planes <= 4) {
      code_planes<kSub, kDiv, 4>(p, rounding, pixel, count);
    } else {
      code_planes<kSub, kDiv, 8>(p, rounding, pixel, count);
    }
  }
}

}  // namespace

namespace avx512 {

void pack_signs(const PackSigns& p) {
  if (p.pixels == 1 && p.channel_step == 1) return signs_of_pixel(p);
  p.thresholds != nullptr ? pack_signs_of<true>(p) : pack_signs_of<false>(p);
}

void pack_codes(const PackCodes& p) {
  if (p.sub != nullptr) return p.div != nullptr ? codes<true, true>(p) : codes<true, false>(p);
  return p.div != nullptr ? codes<false, true>(p) : codes<false, false>(p);
}

}  // namespace avx512
}  // namespace robustlab
