#include "products.h"

#include <cstring>

#include "../generic/lanes.h"

namespace robustlab {
namespace scalar {

void bits_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step) {
  for (int64_t panel = 0; panel < panels.count; ++panel) {
    for (int64_t row = 0; row < windows.count; ++row) {
      const uint8_t* w = panels.data + panel * panels.bytes;
      uint32_t acc[kLanes] = {};
      for (int i = 0; i < panels.planes; ++i) {
        const bool negative = panels.planes > 1 && i == panels.planes - 1;
        for (int64_t run = 0; run < windows.runs; ++run) {
          const uint8_t* a = windows.image + windows.starts[row] + windows.offsets[run];
          for (int64_t k = 0; k < windows.words; ++k, w += kPanelWordBytes) {
            uint32_t weights[kLanes];
            std::memcpy(weights, w, sizeof weights);
            const uint32_t used = k == windows.words - 1 ? windows.tail : ~0u;
            for (int j = 0; j < panels.activation_planes; ++j) {
              const uint32_t bits = load32(a + j * windows.plane + 4 * k) & used;
              for (int lane = 0; lane < kLanes; ++lane) {
                const uint32_t both = panels.planes > 1 ? bits & weights[lane] : bits ^ weights[lane];
                const uint32_t term = popcount(both) << (i + j);
                acc[lane] += negative ? 0u - term : term;
              }
            }
          }
        }
      }
      std::memcpy(out + row * step + panel * kLanes, acc, sizeof acc);
    }
  }
}

void codes_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step) {
  for (int64_t panel = 0; panel < panels.count; ++panel) {
    for (int64_t row = 0; row < windows.count; ++row) {
      const uint8_t* w = panels.data + panel * panels.bytes;
      uint32_t acc[kLanes] = {};
      for (int64_t run = 0; run < windows.runs; ++run) {
        const uint8_t* a = windows.image + windows.starts[row] + windows.offsets[run];
        for (int64_t k = 0; k < windows.words; ++k, w += kPanelWordBytes) {
          for (int lane = 0; lane < kLanes; ++lane) {
            int32_t sum = 0;
            for (int i = 0; i < 4; ++i) sum += a[4 * k + i] * static_cast<int8_t>(w[4 * lane + i]);
            acc[lane] += static_cast<uint32_t>(sum);
          }
        }
      }
      std::memcpy(out + row * step + panel * kLanes, acc, sizeof acc);
    }
  }
}

void depthwise_codes(const Depthwise& d, int32_t* out, int64_t step) {
  for (int64_t row = 0; row < d.count; ++row) {
    const uint8_t* pixel = d.image + d.starts[row];
    for (int64_t c = 0; c < d.channels; ++c) {
      uint32_t acc = 0;
      for (int64_t t = 0; t < d.taps; ++t)
        acc += static_cast<uint32_t>(pixel[d.offsets[t] + c] * static_cast<int8_t>(d.weights[t * d.width + c]));
      out[row * step + c] = static_cast<int32_t>(acc);
    }
  }
}

void depthwise_bits(const Depthwise& d, int32_t* out, int64_t step) {
  for (int64_t row = 0; row < d.count; ++row) {
    const uint8_t* pixel = d.image + d.starts[row];
    for (int64_t c = 0; c < d.channels; ++c) {
      int32_t acc = 0;
      for (int64_t t = 0; t < d.taps; ++t)
        acc += ((pixel[d.offsets[t] + c / 8] ^ d.weights[t * (d.width / 8) + c / 8]) >> (c % 8)) & 1;
      out[row * step + c] = acc;
    }
  }
}

}  // namespace scalar
}  // namespace robustlab
