// Weights of 1..8 bits to bytes: what every set bit is worth, added up modulo 256.
#include <arm_neon.h>

#include "products.h"

namespace robustlab {

void neon::unpack_codes(const uint8_t* packed, int bits, int64_t steps, int factor, int offset, uint8_t* out) {
  const uint8x8_t bit = vcreate_u8(0x8040201008040201u);
  for (int64_t step = 0; step < steps; ++step, packed += 8 * bits, out += kPanelWordBytes) {
    for (int byte = 0; byte < 8; ++byte) {
      uint8x8_t codes = vdup_n_u8(static_cast<uint8_t>(offset));
      for (int b = 0; b < bits; ++b) {
        // the top plane of two's complement counts -2^(bits - 1)
        const int worth = factor * (b == bits - 1 ? -(1 << b) : 1 << b);
        const uint8x8_t set = vtst_u8(vdup_n_u8(packed[8 * b + byte]), bit);
        codes = vadd_u8(codes, vand_u8(set, vdup_n_u8(static_cast<uint8_t>(worth))));
      }
      vst1_u8(out + 8 * byte, codes);
    }
  }
}

}  // namespace robustlab
