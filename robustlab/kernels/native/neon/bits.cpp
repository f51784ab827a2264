// Products of bits: one instruction counts the bits of every byte, and bytes are added until they might overflow.
#include <arm_neon.h>

#include <cstring>

#include "products.h"

#define INLINE __attribute__((always_inline)) inline

namespace robustlab {
namespace {

constexpr int kParts = 4;            // vectors of a panel
constexpr int kRows = 4;             // of a tile: 16 of 32 registers count
constexpr int64_t kMostWords = 31;   // that a byte can count

INLINE uint32_t load32(const uint8_t* p) {
  uint32_t value;
  std::memcpy(&value, p, 4);
  return value;
}

struct Differ {
  static INLINE uint8x16_t of(uint8x16_t a, uint8x16_t w) { return veorq_u8(a, w); }
};
struct Both {
  static INLINE uint8x16_t of(uint8x16_t a, uint8x16_t w) { return vandq_u8(a, w); }
};

template <int Rows>
struct Counter {
  uint8x16_t bytes[Rows][kParts];
  uint32x4_t total[Rows][kParts];
  int64_t room;

  INLINE void clear() {
    room = kMostWords;
    for (int m = 0; m < Rows; ++m) {
      for (int n = 0; n < kParts; ++n) {
        bytes[m][n] = vdupq_n_u8(0);
        total[m][n] = vdupq_n_u32(0);
      }
    }
  }

  template <class Join>
  INLINE void add(const uint8_t* const (&at)[Rows], const uint8_t* weights, uint32_t used) {
    uint8x16_t w[kParts];
    for (int n = 0; n < kParts; ++n) w[n] = vld1q_u8(weights + 16 * n);
    for (int m = 0; m < Rows; ++m) {
      const uint8x16_t a = vreinterpretq_u8_u32(vdupq_n_u32(load32(at[m]) & used));
      for (int n = 0; n < kParts; ++n) bytes[m][n] = vaddq_u8(bytes[m][n], vcntq_u8(Join::of(a, w[n])));
    }
  }

  INLINE void flush() {
    room = kMostWords;
    for (int m = 0; m < Rows; ++m) {
      for (int n = 0; n < kParts; ++n) {
        total[m][n] = vpadalq_u16(total[m][n], vpaddlq_u8(bytes[m][n]));
        bytes[m][n] = vdupq_n_u8(0);
      }
    }
  }
};

// Counts of Rows rows and one panel, one plane of each, in c.total.
template <class Join, int Rows>
INLINE void count_bits(const Windows& windows, const uint8_t* const (&pixels)[Rows], const uint8_t* weights,
                       Counter<Rows>& c) {
  c.clear();
  for (int64_t run = 0; run < windows.runs; ++run) {
    const uint8_t* at[Rows];
    for (int m = 0; m < Rows; ++m) at[m] = pixels[m] + windows.offsets[run];
    const auto next = [&] {
      weights += kPanelWordBytes;
      for (int m = 0; m < Rows; ++m) at[m] += 4;
    };
    // the last word of a run is the one with a tail
    for (int64_t left = windows.words - 1; left > 0;) {
      const int64_t some = left < c.room ? left : c.room;
      for (int64_t k = 0; k < some; ++k, next()) c.template add<Join>(at, weights, ~0u);
      left -= some;
      c.room -= some;
      if (c.room == 0) c.flush();
    }
    c.template add<Join>(at, weights, windows.tail);
    next();
    if (--c.room == 0) c.flush();
  }
  c.flush();
}

// Not inlined, because the loops around it would take its address registers.
template <class Join, int Rows>
__attribute__((noinline)) void tile(const Windows& windows, const Panels& panels, int64_t panel, int64_t row,
                                    int32_t* out, int64_t step) {
  uint32x4_t sums[Rows][kParts];
  for (int m = 0; m < Rows; ++m)
    for (int n = 0; n < kParts; ++n) sums[m][n] = vdupq_n_u32(0);
  const uint8_t* weights = panels.data + panel * panels.bytes;
  const int64_t plane_bytes = windows.runs * windows.words * kPanelWordBytes;
  for (int i = 0; i < panels.planes; ++i, weights += plane_bytes) {
    const bool negative = panels.planes > 1 && i == panels.planes - 1;
    for (int j = 0; j < panels.activation_planes; ++j) {
      const uint8_t* pixels[Rows];
      for (int m = 0; m < Rows; ++m) pixels[m] = windows.image + windows.starts[row + m] + j * windows.plane;
      Counter<Rows> c;
      count_bits<Join, Rows>(windows, pixels, weights, c);
      const int32x4_t shift = vdupq_n_s32(i + j);
      for (int m = 0; m < Rows; ++m) {
        for (int n = 0; n < kParts; ++n) {
          const uint32x4_t term = vshlq_u32(c.total[m][n], shift);
          sums[m][n] = negative ? vsubq_u32(sums[m][n], term) : vaddq_u32(sums[m][n], term);
        }
      }
    }
  }
  for (int m = 0; m < Rows; ++m)
    for (int n = 0; n < kParts; ++n)
      vst1q_s32(out + (row + m) * step + panel * kLanes + 4 * n, vreinterpretq_s32_u32(sums[m][n]));
}

template <class Join>
void product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step) {
  for (int64_t panel = 0; panel < panels.count; ++panel) {
    int64_t row = 0;
    for (; row + kRows <= windows.count; row += kRows) tile<Join, kRows>(windows, panels, panel, row, out, step);
    for (; row < windows.count; ++row) tile<Join, 1>(windows, panels, panel, row, out, step);
  }
}

}  // namespace

void neon::bits_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step) {
  panels.planes > 1 ? product<Both>(windows, panels, out, step) : product<Differ>(windows, panels, out, step);
}

}  // namespace robustlab
