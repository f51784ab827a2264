// The steps that follow a product, for 16 channels of 16 rows at a time, which stay in registers from the first step to
// the last.
#include "pixels.h"

namespace robustlab {
namespace {

constexpr int kGroup = 16;

// 16 rows (fewer at the end of a block) and 16 channels.
struct Place {
  int64_t row, rows;       // of the block
  int64_t lane;            // of the block
  int64_t channel, lanes;  // of the layer; lanes <= 16 that count
  const Block& block;
};

template <bool kFull>
struct Group {
  __m512 v[kGroup];
  const Place& p;

  explicit INLINE Group(const Place& place) : p(place) {}

  // Rows behind the last one repeat it; they are never stored.
  INLINE int64_t row(int i) const { return p.row + (kFull || i < p.rows ? i : p.rows - 1); }
  INLINE bool exists(int i) const { return kFull || i < p.rows; }
  INLINE __m512 vector(const float* a) const { return _mm512_loadu_ps(a + p.channel); }

  template <class F>
  INLINE void each(F f) {
    UNROLL for (int i = 0; i < kGroup; ++i) v[i] = f(v[i]);
  }

  template <int kFactor>
  INLINE void accumulate_factor(const Step& s) {
    const int32_t* base = s.base + p.channel;
    const int32_t* values = p.block.values + p.lane;
    UNROLL for (int i = 0; i < kGroup; ++i) {
      const int64_t r = row(i);
      const __m512i start = _mm512_loadu_si512(base + (s.pattern != nullptr ? s.pattern[r] * s.base_step : 0));
      const __m512i raw = _mm512_load_si512(values + r * p.block.step);
      if (kFactor == -2) v[i] = _mm512_castsi512_ps(_mm512_sub_epi32(start, _mm512_add_epi32(raw, raw)));
      if (kFactor == 1) v[i] = _mm512_castsi512_ps(_mm512_add_epi32(start, raw));
      if (kFactor == 2) v[i] = _mm512_castsi512_ps(_mm512_add_epi32(start, _mm512_add_epi32(raw, raw)));
      if (kFactor == 4) v[i] = _mm512_castsi512_ps(_mm512_add_epi32(start, _mm512_slli_epi32(raw, 2)));
    }
  }

  INLINE void accumulate(const Step& s) {
    switch (s.factor) {
      case -2: accumulate_factor<-2>(s); break;
      case 1: accumulate_factor<1>(s); break;
      case 2: accumulate_factor<2>(s); break;
      default: accumulate_factor<4>(s); break;
    }
    if (s.sums == nullptr) return;
    const __m512i factor = _mm512_loadu_si512(s.sum_factor + p.channel);
    UNROLL for (int i = 0; i < kGroup; ++i) {
      const __m512i term = _mm512_mullo_epi32(factor, _mm512_set1_epi32(s.sums[row(i)]));
      v[i] = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v[i]), term));
    }
  }

  template <class Pixels>
  INLINE void load(const Step& s) {
    const Pixels pixels(s, p.channel, first(p.lanes));
    UNROLL for (int i = 0; i < kGroup; ++i) v[i] = pixels.at(s.at[row(i)]);
  }

  template <class Pixels>
  INLINE void add_image(const Step& s) {
    __mmask16 lanes = first(p.lanes);
    if (s.size >= 0) lanes &= lanes_between(p.channel, s.first, s.first + s.size);
    if (lanes == 0) return;
    const Pixels pixels(s, p.channel, lanes);
    UNROLL for (int i = 0; i < kGroup; ++i) v[i] = _mm512_mask_add_ps(v[i], lanes, v[i], pixels.at(s.at[row(i)]));
  }

  template <class Pixels>
  INLINE void max_image(const Step& s) {
    const Pixels pixels(s, p.channel, first(p.lanes));
    UNROLL for (int i = 0; i < kGroup; ++i) {
      const __m512 x = pixels.at(s.at[row(i)]);
      // the maximum is v where either is NaN, which is right unless it is x alone
      v[i] = _mm512_mask_mov_ps(_mm512_max_ps(x, v[i]), _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
    }
  }

  // Whether the group's rows lie next to each other in a plane.
  INLINE bool adjacent(const Step& s) const {
    const int64_t* at = s.at + p.row;
    bool all = true;
    for (int64_t i = 1; i < p.rows; ++i) all &= at[i] == at[0] + 4 * i;
    return all;
  }

  INLINE void turn() {
    __m512i bits[kGroup];
    UNROLL for (int i = 0; i < kGroup; ++i) bits[i] = _mm512_castps_si512(v[i]);
    transpose(bits);
    UNROLL for (int i = 0; i < kGroup; ++i) v[i] = _mm512_castsi512_ps(bits[i]);
  }

  NOINLINE void load_planar_now(const Step& s) {
    const uint8_t* planes = s.image + p.channel * s.plane;
    if (adjacent(s)) {
      const __mmask16 rows = first(p.rows);
      const uint8_t* from = planes + s.at[p.row];
      UNROLL for (int i = 0; i < kGroup; ++i)
        v[i] = i < p.lanes ? _mm512_maskz_loadu_ps(rows, from + i * s.plane) : _mm512_setzero_ps();
      turn();
      return;
    }
    alignas(64) float lines[kGroup][kLanes] = {};
    for (int64_t i = 0; i < p.rows; ++i)
      for (int64_t c = 0; c < p.lanes; ++c) std::memcpy(&lines[i][c], planes + c * s.plane + s.at[p.row + i], 4);
    UNROLL for (int i = 0; i < kGroup; ++i) v[i] = _mm512_load_ps(lines[i]);
  }

  NOINLINE void store_planar_now(const Step& s) const {
    Group lines(p);
    UNROLL for (int i = 0; i < kGroup; ++i) lines.v[i] = v[i];
    uint8_t* planes = s.image + p.channel * s.plane;
    if (adjacent(s)) {
      lines.turn();
      uint8_t* to = planes + s.at[p.row];
      const __mmask16 rows = first(p.rows);
      UNROLL for (int i = 0; i < kGroup; ++i)
        if (i < p.lanes) _mm512_mask_storeu_ps(to + i * s.plane, rows, lines.v[i]);
      return;
    }
    alignas(64) float line[kLanes];
    UNROLL for (int i = 0; i < kGroup; ++i) {
      _mm512_store_ps(line, v[i]);
      for (int64_t c = 0; c < p.lanes && exists(i); ++c)
        std::memcpy(planes + c * s.plane + s.at[p.row + i], line + c, 4);
    }
  }

  INLINE void store(const Step& s) const {
    const __mmask16 lanes = first(p.lanes);
    UNROLL for (int i = 0; i < kGroup; ++i)
      if (exists(i)) _mm512_mask_storeu_ps(s.image + s.at[row(i)] + 4 * p.channel, lanes, v[i]);
  }

  INLINE uint8_t* bits_of(const Step& s, int i) const { return s.image + s.at[row(i)] + (s.shift + p.channel) / 8; }

  INLINE void store_below(const Step& s) const {
    const __m512i threshold = _mm512_loadu_si512(s.threshold + p.channel);
    const __m128i flips = _mm_loadu_si128(reinterpret_cast<const __m128i*>(s.flip + p.channel));
    const __mmask16 lanes = first(p.lanes), flip = _mm_test_epi8_mask(flips, flips);
    UNROLL for (int i = 0; i < kGroup; ++i)
      if (exists(i))
        store_bits(bits_of(s, i), (_mm512_cmplt_epi32_mask(_mm512_castps_si512(v[i]), threshold) ^ flip) & lanes,
                   p.lanes);
  }

  INLINE void store_signs(const Step& s) const {
    const __mmask16 lanes = first(p.lanes);
    UNROLL for (int i = 0; i < kGroup; ++i)
      if (exists(i))
        store_bits(bits_of(s, i), _mm512_mask_cmp_ps_mask(lanes, v[i], _mm512_setzero_ps(), _CMP_LT_OQ), p.lanes);
  }

  NOINLINE void store_codes_now(const Step& s) const {
    const __mmask16 lanes = first(p.lanes);
    const Rounding rounding(s.quantizer);
    UNROLL for (int i = 0; i < kGroup; ++i)
      if (exists(i))
        _mm_mask_storeu_epi8(s.image + s.at[row(i)] + s.shift + p.channel, lanes,
                             _mm512_cvtepi32_epi8(rounding.code(v[i])));
  }

  NOINLINE void store_planes_now(const Step& s) const {
    const __mmask16 lanes = first(p.lanes);
    const Rounding rounding(s.quantizer);
    for (int i = 0; i < (kFull ? kGroup : p.rows); ++i) {
      const __m512i codes = rounding.code(v[i]);
      uint8_t* to = bits_of(s, i);
      for (int b = 0; s.quantizer.largest >> b > 0; ++b, to += s.plane)
        store_bits(to, _mm512_mask_test_epi32_mask(lanes, codes, _mm512_set1_epi32(1 << b)), p.lanes);
    }
  }

  // What is not inlined works on a copy: v itself has no address, so that it can stay in registers.
  INLINE Group copied() const {
    Group copy(p);
    UNROLL for (int i = 0; i < kGroup; ++i) copy.v[i] = v[i];
    return copy;
  }
  INLINE void store_planar(const Step& s) const { copied().store_planar_now(s); }
  INLINE void store_codes(const Step& s) const { copied().store_codes_now(s); }
  INLINE void store_planes(const Step& s) const { copied().store_planes_now(s); }
  INLINE void load_planar(const Step& s) {
    Group fresh(p);
    fresh.load_planar_now(s);
    UNROLL for (int i = 0; i < kGroup; ++i) v[i] = fresh.v[i];
  }

  INLINE void apply(const Step& s) {
    switch (s.op) {
      case Op::kAccumulate: return accumulate(s);
      case Op::kLoad:
        if (s.kind == Kind::kFloat) return load<FloatPixels>(s);
        return s.kind == Kind::kSigns ? load<SignPixels>(s) : load<CodePixels>(s);
      case Op::kLoadPlanar: return load_planar(s);
      case Op::kStoreInt: return s.plane > 0 ? store_planar(s) : store(s);
      case Op::kStoreBelow: return store_below(s);
      case Op::kScale: {
        const __m512 a = vector(s.a);
        return each([=](__m512 x) { return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_castps_si512(x)), a); });
      }
      case Op::kMul: return each([a = vector(s.a)](__m512 x) { return _mm512_mul_ps(x, a); });
      case Op::kAdd: return each([a = vector(s.a)](__m512 x) { return _mm512_add_ps(x, a); });
      case Op::kSub: return each([a = vector(s.a)](__m512 x) { return _mm512_sub_ps(x, a); });
      case Op::kDiv: return each([a = vector(s.a)](__m512 x) { return _mm512_div_ps(x, a); });
      case Op::kMulAll: return each([a = _mm512_set1_ps(s.low)](__m512 x) { return _mm512_mul_ps(x, a); });
      case Op::kAddAll: return each([a = _mm512_set1_ps(s.low)](__m512 x) { return _mm512_add_ps(x, a); });
      case Op::kDivAll: return each([a = _mm512_set1_ps(s.low)](__m512 x) { return _mm512_div_ps(x, a); });
      case Op::kMulRow:
        UNROLL for (int i = 0; i < kGroup; ++i) v[i] = _mm512_mul_ps(v[i], _mm512_set1_ps(s.row[row(i)]));
        return;
      case Op::kAddImage:
        if (s.kind == Kind::kFloat) return add_image<FloatPixels>(s);
        return s.kind == Kind::kSigns ? add_image<SignPixels>(s) : add_image<CodePixels>(s);
      case Op::kMaxImage:
        if (s.kind == Kind::kFloat) return max_image<FloatPixels>(s);
        return s.kind == Kind::kSigns ? max_image<SignPixels>(s) : max_image<CodePixels>(s);
      case Op::kPrelu:
        return each([a = vector(s.a)](__m512 x) {
          return _mm512_mask_mul_ps(x, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NGT_UQ), a, x);
        });
      // maximum and minimum give their second operand where one is NaN
      case Op::kRelu: return each([](__m512 x) { return _mm512_max_ps(_mm512_setzero_ps(), x); });
      case Op::kClamp:
        return each([low = _mm512_set1_ps(s.low), high = _mm512_set1_ps(s.high)](__m512 x) {
          return _mm512_min_ps(high, _mm512_max_ps(low, x));
        });
      case Op::kStore: return store(s);
      case Op::kStorePlanar: return store_planar(s);
      case Op::kStoreSigns: return store_signs(s);
      case Op::kStoreCodes: return store_codes(s);
      case Op::kStorePlanes: return store_planes(s);
    }
  }
};

template <bool kFull>
NOINLINE void run_group(const Step* steps, int64_t count, const Place& place) {
  Group<kFull> group(place);
  for (int64_t i = 0; i < count; ++i) group.apply(steps[i]);
}

}  // namespace

namespace avx512 {

void run_steps(const Step* steps, int64_t count, const Block& block) {
  if (run_affine(steps, count, block) || run_requant(steps, count, block)) return;
  for (int64_t lane = 0; lane < block.width; lane += kLanes) {
    const int64_t channel = block.channel + lane;
    const int64_t lanes = at_most(at_most(block.width - lane, block.channels - channel), kLanes);
    for (int64_t row = 0; row < block.rows; row += kGroup) {
      const int64_t rows = at_most(block.rows - row, kGroup);
      const Place place{row, rows, lane, channel, lanes, block};
      rows == kGroup ? run_group<true>(steps, count, place) : run_group<false>(steps, count, place);
    }
  }
}

}  // namespace avx512
}  // namespace robustlab
