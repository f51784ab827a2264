// Weights of 1..8 bits to bytes: what every set bit is worth, added up modulo 256.
#include "bytes.h"
#include "products.h"

namespace robustlab {
namespace {

template <int Bits>
void unpack_planes(const uint8_t* packed, int64_t steps, int factor, int offset, uint8_t* out) {
  __m256i value[Bits];
  for (int b = 0; b < Bits; ++b) {
    // the top plane of two's complement counts -2^(Bits - 1)
    const int worth = factor * (b == Bits - 1 ? -(1 << b) : 1 << b);
    value[b] = _mm256_set1_epi8(static_cast<char>(static_cast<uint8_t>(worth)));
  }
  const __m256i start = _mm256_set1_epi8(static_cast<char>(static_cast<uint8_t>(offset)));
  for (int64_t step = 0; step < steps; ++step, packed += 8 * Bits, out += kPanelWordBytes) {
    for (int half = 0; half < 2; ++half) {
      __m256i codes = start;
      for (int b = 0; b < Bits; ++b)
        codes = _mm256_add_epi8(codes, _mm256_and_si256(bit_bytes(load32(packed + 8 * b + 4 * half)), value[b]));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32 * half), codes);
    }
  }
}

}  // namespace

void avx2::unpack_codes(const uint8_t* packed, int bits, int64_t steps, int factor, int offset, uint8_t* out) {
  switch (bits) {
    case 1: return unpack_planes<1>(packed, steps, factor, offset, out);
    case 2: return unpack_planes<2>(packed, steps, factor, offset, out);
    case 3: return unpack_planes<3>(packed, steps, factor, offset, out);
    case 4: return unpack_planes<4>(packed, steps, factor, offset, out);
    case 5: return unpack_planes<5>(packed, steps, factor, offset, out);
    case 6: return unpack_planes<6>(packed, steps, factor, offset, out);
    case 7: return unpack_planes<7>(packed, steps, factor, offset, out);
    default: return unpack_planes<8>(packed, steps, factor, offset, out);
  }
}

}  // namespace robustlab
