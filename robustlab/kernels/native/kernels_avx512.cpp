// AVX-512 kernels (F, BW, VL, VNNI, VPOPCNTDQ). Lane = output channel, so nothing is summed across lanes. No standard
// library templates here: an inline function compiled for AVX-512 must not be the copy the linker keeps for everybody.
#include <immintrin.h>

#include <cstring>

#include "kernels.h"

#define INLINE __attribute__((always_inline)) inline

namespace robustlab {
namespace {

INLINE int32_t load32(const uint8_t* p) {
  int32_t value;
  std::memcpy(&value, p, 4);
  return value;
}

INLINE __mmask16 first(int64_t count) {
  return count >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << count) - 1u);
}

INLINE void store_words(const uint32_t (&words)[16], int64_t count, int64_t bytes, uint8_t* out, int64_t stride) {
  if (bytes == 4) {
    for (int64_t i = 0; i < count; ++i) std::memcpy(out + i * stride, &words[i], 4);
  } else if (bytes == 2) {
    for (int64_t i = 0; i < count; ++i) std::memcpy(out + i * stride, &words[i], 2);
  } else {
    for (int64_t i = 0; i < count; ++i) std::memcpy(out + i * stride, &words[i], static_cast<size_t>(bytes));
  }
}

void pack_signs(const float* x, int64_t channels, int64_t pixels, uint8_t* out, int64_t stride, bool whole_words) {
  const __m512 zero = _mm512_setzero_ps();
  if (pixels == 1) {  // channels are contiguous
    for (int64_t c = 0; c < channels; c += 16) {
      const __mmask16 valid = first(channels - c);
      const uint16_t bits = _mm512_cmp_ps_mask(_mm512_maskz_loadu_ps(valid, x + c), zero, _CMP_LT_OQ);
      const int64_t bytes = channels - c >= 16 ? 2 : (channels - c + 7) / 8;
      std::memcpy(out + c / 8, &bits, static_cast<size_t>(bytes));
    }
    const int64_t end = (channels + 7) / 8;
    if (whole_words) std::memset(out + end, 0, static_cast<size_t>(-end & 3));
    return;
  }
  for (int64_t p = 0; p < pixels; p += 16) {
    const int64_t count = pixels - p < 16 ? pixels - p : 16;
    const __mmask16 valid = first(count);
    for (int64_t c0 = 0; c0 < channels; c0 += 32) {
      const int64_t depth = channels - c0 < 32 ? channels - c0 : 32;
      __m512i word = _mm512_setzero_si512(), bit = _mm512_set1_epi32(1);
      for (int64_t c = 0; c < depth; ++c) {
        const __m512 v = _mm512_maskz_loadu_ps(valid, x + (c0 + c) * pixels + p);
        word = _mm512_mask_or_epi32(word, _mm512_cmp_ps_mask(v, zero, _CMP_LT_OQ), word, bit);
        bit = _mm512_slli_epi32(bit, 1);
      }
      alignas(64) uint32_t words[16];
      _mm512_store_si512(words, word);
      store_words(words, count, whole_words ? 4 : (depth + 7) / 8, out + p * stride + c0 / 8, stride);
    }
  }
}

struct Rounding {
  __m512 scale, low, high;
  __m512i zero_point;

  explicit INLINE Rounding(const Quantizer& q)
      : scale(_mm512_set1_ps(q.scale)),
        low(_mm512_set1_ps(static_cast<float>(-q.zero_point))),
        high(_mm512_set1_ps(static_cast<float>(q.largest - q.zero_point))),
        zero_point(_mm512_set1_epi32(q.zero_point)) {}

  INLINE __m512i code(__m512 x) const {
    __m512 v = _mm512_div_ps(x, scale);
    v = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(v, v, _CMP_ORD_Q), v);
    v = _mm512_min_ps(_mm512_max_ps(v, low), high);
    // clamping to integers commutes with rounding to nearest even
    const __m512i steps = _mm512_cvt_roundps_epi32(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm512_add_epi32(steps, zero_point);
  }
};

void quantize(const float* x, int64_t channels, int64_t pixels, Quantizer quantizer, uint8_t* out, int64_t stride) {
  const Rounding rounding(quantizer);
  if (pixels == 1) {
    for (int64_t c = 0; c < channels; c += 16) {
      const __mmask16 valid = first(channels - c);
      const __m512i codes = rounding.code(_mm512_maskz_loadu_ps(valid, x + c));
      _mm_mask_storeu_epi8(out + c, valid, _mm512_cvtepi32_epi8(codes));
    }
    return;
  }
  for (int64_t p = 0; p < pixels; p += 16) {
    const int64_t count = pixels - p < 16 ? pixels - p : 16;
    const __mmask16 valid = first(count);
    for (int64_t c0 = 0; c0 < channels; c0 += 4) {
      const int64_t depth = channels - c0 < 4 ? channels - c0 : 4;
      __m512i word = _mm512_setzero_si512();
      for (int64_t c = depth - 1; c >= 0; --c) {
        const __m512i codes = rounding.code(_mm512_maskz_loadu_ps(valid, x + (c0 + c) * pixels + p));
        word = _mm512_or_si512(_mm512_slli_epi32(word, 8), codes);
      }
      alignas(64) uint32_t words[16];
      _mm512_store_si512(words, word);
      store_words(words, count, depth, out + p * stride + c0, stride);
    }
  }
}

void unpack_signs(const uint8_t* packed, int64_t words, int64_t panels, uint8_t* out) {
  const int64_t bit_words = (words + 7) / 8;
  const __m512i nibble = _mm512_set1_epi32(0xf), spread = _mm512_set1_epi32(0x00204081);
  const __m512i low_bits = _mm512_set1_epi32(0x01010101), one = _mm512_set1_epi8(1);
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t word = 0; word < words; ++word, out += kPanelWordBytes) {
      const __m512i source = _mm512_loadu_si512(packed + (panel * bit_words + word / 8) * kPanelWordBytes);
      const __m512i bits = _mm512_and_si512(_mm512_srlv_epi32(source, _mm512_set1_epi32(4 * (word % 8))), nibble);
      // bits 0..3 of a lane -> 0 or 1 in its bytes 0..3 -> 1 - 2 bit
      const __m512i bytes = _mm512_and_si512(_mm512_mullo_epi32(bits, spread), low_bits);
      _mm512_storeu_si512(out, _mm512_sub_epi8(one, _mm512_add_epi8(bytes, bytes)));
    }
  }
}

template <int BITS>
void unpack_planes(const uint8_t* packed, int64_t steps, uint8_t* out) {
  __m512i value[BITS];
  for (int b = 0; b < BITS; ++b) value[b] = _mm512_set1_epi8(static_cast<char>(b == BITS - 1 ? -(1 << b) : 1 << b));
  for (int64_t step = 0; step < steps; ++step, packed += 8 * BITS, out += kPanelWordBytes) {
    __m512i codes = _mm512_setzero_si512();
    for (int b = 0; b < BITS; ++b) {
      __mmask64 plane;
      std::memcpy(&plane, packed + 8 * b, 8);
      codes = _mm512_mask_add_epi8(codes, plane, codes, value[b]);
    }
    _mm512_storeu_si512(out, codes);
  }
}

void unpack_codes(const uint8_t* packed, int bits, int64_t words, int64_t panels, uint8_t* out) {
  const int64_t steps = words * panels;
  switch (bits) {
    case 1: return unpack_signs(packed, words, panels, out);
    case 2: return unpack_planes<2>(packed, steps, out);
    case 3: return unpack_planes<3>(packed, steps, out);
    case 4: return unpack_planes<4>(packed, steps, out);
    case 5: return unpack_planes<5>(packed, steps, out);
    case 6: return unpack_planes<6>(packed, steps, out);
    case 7: return unpack_planes<7>(packed, steps, out);
    default: return unpack_planes<8>(packed, steps, out);
  }
}

struct DifferingBits {
  static INLINE __m512i add(__m512i acc, __m512i a, __m512i w) {
    return _mm512_add_epi32(acc, _mm512_popcnt_epi32(_mm512_xor_si512(w, a)));
  }
};

struct CodeProducts {
  static INLINE __m512i add(__m512i acc, __m512i a, __m512i w) { return _mm512_dpbusd_epi32(acc, a, w); }
};

// MR rows times NR panels in registers. Not inlined, because the loops around it would take its address registers.
template <class Step, int MR, int NR>
__attribute__((noinline)) void tile(const uint8_t* rows, int64_t row_bytes, int64_t words, const uint8_t* panels, int32_t* raw, int64_t width) {
  __m512i acc[MR][NR];
  for (int m = 0; m < MR; ++m)
    for (int n = 0; n < NR; ++n) acc[m][n] = _mm512_setzero_si512();
  const int64_t panel_bytes = words * kPanelWordBytes;
  for (int64_t k = 0; k < words; ++k) {
    __m512i w[NR];
    for (int n = 0; n < NR; ++n) w[n] = _mm512_loadu_si512(panels + n * panel_bytes + k * kPanelWordBytes);
    for (int m = 0; m < MR; ++m) {
      const __m512i a = _mm512_set1_epi32(load32(rows + m * row_bytes + 4 * k));
      for (int n = 0; n < NR; ++n) acc[m][n] = Step::add(acc[m][n], a, w[n]);
    }
  }
  for (int m = 0; m < MR; ++m)
    for (int n = 0; n < NR; ++n) _mm512_storeu_si512(raw + m * width + n * kLanes, acc[m][n]);
}

template <class Step, int NR>
void panel_block(const uint8_t* rows, int64_t row_bytes, int64_t count, int64_t words, const uint8_t* panels,
                 int32_t* raw, int64_t width) {
  constexpr int kFull = NR == 1 ? 14 : NR == 2 ? 7 : 4;
  int64_t row = 0;
  const auto run = [&](auto kernel, int64_t height) {
    for (; count - row >= height; row += height)
      kernel(rows + row * row_bytes, row_bytes, words, panels, raw + row * width, width);
  };
  run(tile<Step, kFull, NR>, kFull);
  run(tile<Step, 4, NR>, 4);
  run(tile<Step, 2, NR>, 2);
  run(tile<Step, 1, NR>, 1);
}

template <class Step>
void product(const uint8_t* rows, int64_t row_bytes, int64_t count, int64_t words, const uint8_t* panels,
             int64_t panel_count, int32_t* raw) {
  const int64_t panel_bytes = words * kPanelWordBytes, width = panel_count * kLanes;
  int64_t panel = 0;
  const auto run = [&](auto kernel, int64_t wide) {
    for (; panel_count - panel >= wide; panel += wide)
      kernel(rows, row_bytes, count, words, panels + panel * panel_bytes, raw + panel * kLanes, width);
  };
  if (count < 4) run(panel_block<Step, 4>, 4);  // few rows: more panels at a time hide the latency of the adds
  run(panel_block<Step, 2>, 2);
  run(panel_block<Step, 1>, 1);
}

INLINE void transpose(__m512i (&v)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // v[4 j + i] holds, in 128-bit block b, column 4 b + i of rows 4 j .. 4 j + 3
  for (int i = 0; i < 4; ++i) {
    const __m512i a = _mm512_shuffle_i32x4(v[i], v[4 + i], 0x88), b = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0x88);
    const __m512i c = _mm512_shuffle_i32x4(v[i], v[4 + i], 0xdd), d = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0xdd);
    t[i] = _mm512_shuffle_i32x4(a, b, 0x88);
    t[8 + i] = _mm512_shuffle_i32x4(a, b, 0xdd);
    t[4 + i] = _mm512_shuffle_i32x4(c, d, 0x88);
    t[12 + i] = _mm512_shuffle_i32x4(c, d, 0xdd);
  }
  for (int i = 0; i < 16; ++i) v[i] = t[i];
}

// Scale and bias of 16 channels, applied to one row at a time.
template <bool kBinary, bool kAffine, bool kBias>
struct Finish {
  const int32_t *raw, *base, *pattern;
  int64_t width;
  __m512 scale, bias;

  INLINE Finish(const Epilogue& e, int64_t c, __mmask16 valid)
      : raw(e.raw + c), base(e.base + c), pattern(e.pattern), width(e.width) {
    scale = kAffine ? _mm512_maskz_loadu_ps(valid, e.scale + c) : _mm512_setzero_ps();
    bias = kBias ? _mm512_maskz_loadu_ps(valid, e.bias + c) : _mm512_setzero_ps();
  }

  INLINE __m512i operator()(int64_t row) const {
    const __m512i term = _mm512_loadu_si512(raw + row * width), start = _mm512_loadu_si512(base + pattern[row] * width);
    const __m512i acc = kBinary ? _mm512_sub_epi32(start, _mm512_slli_epi32(term, 1)) : _mm512_add_epi32(start, term);
    if (!kAffine) return acc;
    const __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(acc), scale);
    return _mm512_castps_si512(kBias ? _mm512_add_ps(y, bias) : y);
  }
};

template <bool kBinary, bool kAffine, bool kBias>
void finish(const Epilogue& e) {
  int32_t* out = static_cast<int32_t*>(e.out);
  const int64_t rows = e.rows, row_step = e.row_step, channel_step = e.channel_step;
  for (int64_t c = 0; c < e.channels; c += kLanes) {
    const int64_t lanes = e.channels - c < kLanes ? e.channels - c : kLanes;
    const __mmask16 valid = first(lanes);
    const Finish<kBinary, kAffine, kBias> output(e, c, valid);
    if (channel_step == 1) {
      for (int64_t row = 0; row < rows; ++row) _mm512_mask_storeu_epi32(out + row * row_step + c, valid, output(row));
      continue;
    }
    int64_t row = 0;
    for (; row + 16 <= rows; row += 16) {
      __m512i block[16];
      for (int i = 0; i < 16; ++i) block[i] = output(row + i);
      transpose(block);
      int32_t* to = out + c * channel_step + row;
      if (lanes == kLanes) {
        for (int lane = 0; lane < 16; ++lane) _mm512_storeu_si512(to + lane * channel_step, block[lane]);
      } else {
        for (int64_t lane = 0; lane < lanes; ++lane) _mm512_storeu_si512(to + lane * channel_step, block[lane]);
      }
    }
    if (row < rows) {
      __m512i block[16];
      for (int64_t i = 0; i < 16; ++i) block[i] = row + i < rows ? output(row + i) : _mm512_setzero_si512();
      transpose(block);
      for (int64_t lane = 0; lane < lanes; ++lane)
        _mm512_mask_storeu_epi32(out + (c + lane) * channel_step + row, first(rows - row), block[lane]);
    }
  }
}

template <bool kBinary>
void finish_any(const Epilogue& e) {
  if (!e.scale) return finish<kBinary, false, false>(e);
  if (!e.bias) return finish<kBinary, true, false>(e);
  return finish<kBinary, true, true>(e);
}

void epilogue(const Epilogue& e) { e.binary ? finish_any<true>(e) : finish_any<false>(e); }

}  // namespace

const KernelTable& avx512_kernels() {
  static const KernelTable table = {"avx512",     0.4,
                                    0.27,         pack_signs,
                                    quantize,     unpack_codes,
                                    product<DifferingBits>, product<CodeProducts>,
                                    epilogue};
  return table;
}

}  // namespace robustlab
