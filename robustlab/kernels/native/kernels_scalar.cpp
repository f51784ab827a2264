// Portable kernels: plain loops over the 16 lanes of a panel, which any compiler can turn into vector code.
#include <cstring>

#include "kernels.h"

namespace robustlab {
namespace {

uint32_t load32(const uint8_t* p) {
  return static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8 | static_cast<uint32_t>(p[2]) << 16 |
         static_cast<uint32_t>(p[3]) << 24;
}

void store_low_bytes(uint8_t* p, uint32_t value, int64_t count) {
  for (int64_t i = 0; i < count; ++i) p[i] = static_cast<uint8_t>(value >> (8 * i));
}

uint32_t popcount(uint32_t v) {
  v -= (v >> 1) & 0x55555555u;
  v = (v & 0x33333333u) + ((v >> 2) & 0x33333333u);
  v = (v + (v >> 4)) & 0x0f0f0f0fu;
  v += v >> 8;
  return (v + (v >> 16)) & 0x3fu;
}

void pack_signs(const float* x, int64_t channels, int64_t pixels, uint8_t* out, int64_t stride, bool whole_words) {
  for (int64_t c0 = 0; c0 < channels; c0 += 32) {
    const int64_t count = channels - c0 < 32 ? channels - c0 : 32;
    const int64_t bytes = whole_words ? 4 : (count + 7) / 8;
    for (int64_t p = 0; p < pixels; ++p) {
      uint32_t word = 0;
      for (int64_t c = 0; c < count; ++c) word |= static_cast<uint32_t>(x[(c0 + c) * pixels + p] < 0.0f) << c;
      store_low_bytes(out + p * stride + c0 / 8, word, bytes);
    }
  }
}

void quantize(const float* x, int64_t channels, int64_t pixels, Quantizer q, uint8_t* out, int64_t stride) {
  // Clamping to integers commutes with rounding, and |v| < 2^22 rounds to nearest even by adding 1.5 * 2^23.
  const float low = static_cast<float>(-q.zero_point), high = static_cast<float>(q.largest - q.zero_point);
  const float magic = 12582912.0f;
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t p = 0; p < pixels; ++p) {
      float v = x[c * pixels + p] / q.scale;
      v = v == v ? v : 0.0f;
      v = v < low ? low : v;
      v = v > high ? high : v;
      const float rounded = (v + magic) - magic;
      out[p * stride + c] = static_cast<uint8_t>(static_cast<int32_t>(rounded) + q.zero_point);
    }
  }
}

void unpack_signs(const uint8_t* packed, int64_t words, int64_t panels, uint8_t* out) {
  const int64_t bit_words = (words + 7) / 8;
  for (int64_t panel = 0; panel < panels; ++panel) {
    for (int64_t word = 0; word < words; ++word, out += kPanelWordBytes) {
      const uint8_t* source = packed + (panel * bit_words + word / 8) * kPanelWordBytes;
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const uint32_t nibble = load32(source + 4 * lane) >> (4 * (word % 8));
        for (int i = 0; i < 4; ++i) out[4 * lane + i] = (nibble >> i) & 1u ? 0xff : 0x01;
      }
    }
  }
}

void unpack_codes(const uint8_t* packed, int bits, int64_t words, int64_t panels, uint8_t* out) {
  if (bits == 1) return unpack_signs(packed, words, panels, out);
  for (int64_t step = 0; step < words * panels; ++step, packed += 8 * bits, out += kPanelWordBytes) {
    for (int64_t i = 0; i < kPanelWordBytes; ++i) {
      uint32_t code = 0;
      for (int b = 0; b < bits; ++b) {
        const uint32_t bit = (packed[8 * b + i / 8] >> (i % 8)) & 1u;
        // the top plane of two's complement counts -2^(bits-1)
        code += b == bits - 1 ? 0u - (bit << b) : bit << b;
      }
      out[i] = static_cast<uint8_t>(code);
    }
  }
}

void bits_product(const uint8_t* rows, int64_t row_bytes, int64_t count, int64_t words, const uint8_t* panels,
                  int64_t panel_count, int32_t* raw) {
  for (int64_t panel = 0; panel < panel_count; ++panel) {
    const uint8_t* weights = panels + panel * words * kPanelWordBytes;
    for (int64_t row = 0; row < count; ++row) {
      uint32_t acc[kLanes] = {};
      for (int64_t k = 0; k < words; ++k) {
        const uint32_t a = load32(rows + row * row_bytes + 4 * k);
        uint32_t w[kLanes];
        for (int64_t lane = 0; lane < kLanes; ++lane) w[lane] = load32(weights + k * kPanelWordBytes + 4 * lane);
        for (int64_t lane = 0; lane < kLanes; ++lane) acc[lane] += popcount(a ^ w[lane]);
      }
      std::memcpy(raw + (row * panel_count + panel) * kLanes, acc, sizeof acc);
    }
  }
}

void codes_product(const uint8_t* rows, int64_t row_bytes, int64_t count, int64_t words, const uint8_t* panels,
                   int64_t panel_count, int32_t* raw) {
  for (int64_t panel = 0; panel < panel_count; ++panel) {
    const uint8_t* weights = panels + panel * words * kPanelWordBytes;
    for (int64_t row = 0; row < count; ++row) {
      // unsigned, because the sum may pass 2^31 before the zero point is taken out
      uint32_t acc[kLanes] = {};
      for (int64_t k = 0; k < words; ++k) {
        const uint8_t* a = rows + row * row_bytes + 4 * k;
        const uint8_t* w = weights + k * kPanelWordBytes;
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          int32_t sum = 0;
          for (int i = 0; i < 4; ++i) sum += static_cast<int32_t>(a[i]) * static_cast<int8_t>(w[4 * lane + i]);
          acc[lane] += static_cast<uint32_t>(sum);
        }
      }
      std::memcpy(raw + (row * panel_count + panel) * kLanes, acc, sizeof acc);
    }
  }
}

void epilogue(const Epilogue& e) {
  for (int64_t row = 0; row < e.rows; ++row) {
    const int32_t* raw = e.raw + row * e.width;
    const int32_t* base = e.base + e.pattern[row] * e.width;
    for (int64_t c = 0; c < e.channels; ++c) {
      const uint32_t term = static_cast<uint32_t>(raw[c]);
      const uint32_t sum = static_cast<uint32_t>(base[c]) + (e.binary ? 0u - 2u * term : term);
      const int32_t acc = static_cast<int32_t>(sum);
      const int64_t at = row * e.row_step + c * e.channel_step;
      if (e.scale == nullptr) {
        static_cast<int32_t*>(e.out)[at] = acc;
        continue;
      }
      float y = static_cast<float>(acc) * e.scale[c];
      if (e.bias != nullptr) y += e.bias[c];
      static_cast<float*>(e.out)[at] = y;
    }
  }
}

}  // namespace

const KernelTable& scalar_kernels() {
  static const KernelTable table = {"scalar",      12.0,         16.0,          pack_signs, quantize,
                                    unpack_codes, bits_product, codes_product, epilogue};
  return table;
}

}  // namespace robustlab
