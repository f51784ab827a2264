// Products of bytes with the instructions every 64-bit ARM has: an unsigned times a signed byte always fits 16 bits, and
// neighbouring products are added in 32.
#include <arm_neon.h>

#include <cstring>

#include "products.h"

#define INLINE __attribute__((always_inline)) inline

namespace robustlab {
namespace {

constexpr int kParts = 8;   // of a panel: two output channels each, whose two pairs of products are added at the end
constexpr int kRows = 2;    // of a tile: 16 of 32 registers add up

// Four codes twice, in 16 bits.
INLINE int16x8_t activation(const uint8_t* p) {
  uint32_t codes;
  std::memcpy(&codes, p, 4);
  return vreinterpretq_s16_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(codes))));
}

// Not inlined, because the loops around it would take its address registers.
template <int Rows>
__attribute__((noinline)) void tile(const Windows& windows, const uint8_t* weights, int64_t row, int32_t* out,
                                    int64_t step) {
  const uint8_t* pixels[Rows];
  for (int m = 0; m < Rows; ++m) pixels[m] = windows.image + windows.starts[row + m];
  int32x4_t sums[Rows][kParts];
  for (int m = 0; m < Rows; ++m)
    for (int n = 0; n < kParts; ++n) sums[m][n] = vdupq_n_s32(0);
  for (int64_t run = 0; run < windows.runs; ++run) {
    const int64_t begin = windows.offsets[run], end = begin + 4 * windows.words;
    for (int64_t at = begin; at < end; at += 4, weights += kPanelWordBytes) {
      int16x8_t a[Rows];
      for (int m = 0; m < Rows; ++m) a[m] = activation(pixels[m] + at);
      for (int n = 0; n < kParts; ++n) {
        const int16x8_t w = vmovl_s8(vreinterpret_s8_u8(vld1_u8(weights + 8 * n)));
        for (int m = 0; m < Rows; ++m) sums[m][n] = vpadalq_s16(sums[m][n], vmulq_s16(a[m], w));
      }
    }
  }
  for (int m = 0; m < Rows; ++m)
    for (int n = 0; n < kParts; n += 2)
      vst1q_s32(out + (row + m) * step + 2 * n, vpaddq_s32(sums[m][n], sums[m][n + 1]));
}

}  // namespace

void neon::codes_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step) {
  for (int64_t panel = 0; panel < panels.count; ++panel, out += kLanes) {
    const uint8_t* weights = panels.data + panel * panels.bytes;
    int64_t row = 0;
    for (; row + kRows <= windows.count; row += kRows) tile<kRows>(windows, weights, row, out, step);
    for (; row < windows.count; ++row) tile<1>(windows, weights, row, out, step);
  }
}

}  // namespace robustlab
