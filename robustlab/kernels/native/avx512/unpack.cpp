// Bit planes of weights to bytes.
#include "internal.h"

namespace robustlab {
namespace avx512 {

// Byte g of every plane holds bit b of codes 8 g .. 8 g + 7: an 8x8 matrix of bits for each g, which one instruction
// transposes. Its rows above the top plane repeat it, which extends the sign of two's complement.
void unpack_codes(const uint8_t* packed, int bits, int64_t steps, int factor, int offset, uint8_t* out) {
  alignas(64) uint8_t order[64];
  for (int g = 0; g < 8; ++g)
    for (int row = 0; row < 8; ++row)   // byte `row` of a matrix makes bit 7 - row
      order[8 * g + row] = static_cast<uint8_t>(8 * (7 - row < bits ? 7 - row : bits - 1) + g);
  const __m512i rows = _mm512_load_si512(order);
  const __m512i columns = _mm512_set1_epi64(static_cast<int64_t>(0x8040201008040201u));
  const __m512i start = _mm512_set1_epi8(static_cast<char>(offset));
  const __mmask64 used = bits == 8 ? ~__mmask64{0} : (__mmask64{1} << (8 * bits)) - 1;
  const __m512i times = _mm512_set1_epi16(static_cast<int16_t>(factor)), even = _mm512_set1_epi16(0xff);
  for (int64_t step = 0; step < steps; ++step, packed += 8 * bits, out += kPanelWordBytes) {
    const __m512i planes = _mm512_permutexvar_epi8(rows, _mm512_maskz_loadu_epi8(used, packed));
    __m512i codes = _mm512_gf2p8affine_epi64_epi8(columns, planes, 0);
    if (factor != 1) {   // modulo 256, so the odd bytes of a product of words are those of the bytes
      const __m512i low = _mm512_and_si512(_mm512_mullo_epi16(codes, times), even);
      codes = _mm512_or_si512(low, _mm512_mullo_epi16(_mm512_andnot_si512(even, codes), times));
    }
    _mm512_storeu_si512(out, _mm512_add_epi8(codes, start));
  }
}

}  // namespace avx512
}  // namespace robustlab
