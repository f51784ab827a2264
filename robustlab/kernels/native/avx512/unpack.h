// Bit planes of weights to bytes.
#pragma once

#include "internal.h"

namespace robustlab {
namespace {

// Byte g of every plane holds bit b of codes 8 g .. 8 g + 7: an 8x8 matrix of bits for each g, which one instruction
// transposes. Its rows above the top plane repeat it, which extends the sign of two's complement.
class Unpacking {
 public:
  INLINE Unpacking(const uint8_t* packed, int bits, int64_t steps, int factor, int offset, uint8_t* out,
                   int64_t some)
      : packed_(packed), bits_(bits), left_(steps), some_(some), factor_(factor), offset_(offset), out_(out) {
    for (int g = 0; g < 8; ++g)
      for (int row = 0; row < 8; ++row)   // byte `row` of a matrix makes bit 7 - row
        order_[8 * g + row] = static_cast<uint8_t>(8 * (7 - row < bits ? 7 - row : bits - 1) + g);
  }

  INLINE void rest() { run(left_); }
  INLINE void some() { run(at_most(left_, some_)); }

  // Goes on behind what is unpacked, into other memory.
  INLINE void more(int64_t steps, uint8_t* out) {
    left_ = steps;
    out_ = out;
  }

 private:
  INLINE void run(int64_t steps) {
    const __m512i rows = _mm512_load_si512(order_);
    const __m512i columns = _mm512_set1_epi64(static_cast<int64_t>(0x8040201008040201u));
    const __m512i start = _mm512_set1_epi8(static_cast<char>(offset_));
    const __mmask64 used = bits_ == 8 ? ~__mmask64{0} : (__mmask64{1} << (8 * bits_)) - 1;
    const __m512i times = _mm512_set1_epi16(static_cast<int16_t>(factor_)), even = _mm512_set1_epi16(0xff);
    // members in variables: what is stored might be one of them, for all the compiler knows
    const uint8_t* packed = packed_;
    uint8_t* out = out_;
    const int64_t size = 8 * bits_;
    const bool scaled = factor_ != 1;
    for (int64_t step = 0; step < steps; ++step, packed += size, out += kPanelWordBytes) {
      const __m512i planes = _mm512_permutexvar_epi8(rows, _mm512_maskz_loadu_epi8(used, packed));
      __m512i codes = _mm512_gf2p8affine_epi64_epi8(columns, planes, 0);
      if (scaled) {   // modulo 256, so the odd bytes of a product of words are those of the bytes
        const __m512i low = _mm512_and_si512(_mm512_mullo_epi16(codes, times), even);
        codes = _mm512_or_si512(low, _mm512_mullo_epi16(_mm512_andnot_si512(even, codes), times));
      }
      _mm512_storeu_si512(out, _mm512_add_epi8(codes, start));
    }
    packed_ = packed;
    out_ = out;
    left_ -= steps;
  }

  alignas(64) uint8_t order_[64];
  const uint8_t* packed_;
  int bits_;
  int64_t left_, some_;
  int factor_, offset_;
  uint8_t* out_;
};

}  // namespace
}  // namespace robustlab
