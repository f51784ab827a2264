// Weights of 1..8 bits to bytes.
#pragma once

#include "../generic/lanes.h"

namespace robustlab {
namespace {

template <int Bits>
void unpack_planes(const uint8_t* packed, int64_t steps, int factor, int offset, uint8_t* out) {
  // In bytes modulo 256: what does not fit an int8 is not asked for.
  for (int64_t step = 0; step < steps; ++step, packed += 8 * Bits, out += kPanelWordBytes) {
    for (int byte = 0; byte < 8; ++byte) {
      uint8_t code[8] = {};
      for (int b = 0; b < Bits; ++b) {
        const uint32_t bits = packed[8 * b + byte];
        // the top plane of two's complement counts -2^(Bits - 1)
        const uint32_t value = b == Bits - 1 ? 0u - (1u << b) : 1u << b;
        for (int i = 0; i < 8; ++i) code[i] = static_cast<uint8_t>(code[i] + value * ((bits >> i) & 1u));
      }
      for (int i = 0; i < 8; ++i)
        code[i] = static_cast<uint8_t>(code[i] * static_cast<uint32_t>(factor) + static_cast<uint32_t>(offset));
      std::memcpy(out + 8 * byte, code, 8);
    }
  }
}

inline void unpack_codes(const uint8_t* packed, int bits, int64_t steps, int factor, int offset, uint8_t* out) {
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

}  // namespace
}  // namespace robustlab
