// One line of the gradient of a convolution with respect to its images; see GradientLine.
#pragma once

#include "lanes.h"

namespace robustlab {
namespace {

// `K` results at `V` vectors of positions from `at` on, of one block of weights.
template <int Width, int K, int V>
inline void gradient_positions(const GradientLine& line, const float* weights, int64_t at, float* out) {
  using Vector = Vectors<Width>;
  typename Vector::Floats sums[K][V] = {};
  for (int64_t o = 0; o < line.outputs; ++o) {
    for (int64_t y = 0; y < line.taps_y; ++y) {
      const float* from = line.rows[y] + o * line.pitch + at + line.taps_x - 1;
      for (int64_t x = 0; x < line.taps_x; ++x, --from, weights += K) {
        for (int v = 0; v < V; ++v) {
          const typename Vector::Floats values = Vector::floats(from, v);
          for (int k = 0; k < K; ++k) sums[k][v] += values * weights[k];
        }
      }
    }
  }
  for (int k = 0; k < K; ++k)
    for (int v = 0; v < V; ++v) Vector::put(out + k * line.positions + at, v, sums[k][v]);
}

// Positions from `at` on, V vectors at a time, and the rest in one go with fewer.
template <int Width, int K, int V>
inline void gradient_row(const GradientLine& line, const float* weights, int64_t at, float* out) {
  for (; at + Width * V <= line.positions; at += Width * V) gradient_positions<Width, K, V>(line, weights, at, out);
  if constexpr (V > 1) {
    if (at < line.positions) gradient_row<Width, K, V - 1>(line, weights, at, out);
  }
}

template <int Width, int K, int V>
void gradient_blocks(const GradientLine& line) {
  const int64_t block = line.outputs * line.taps_y * line.taps_x * K;
  for (int64_t b = 0; b < line.blocks; ++b)
    gradient_row<Width, K, V>(line, line.weights + b * block, 0, line.out + b * K * line.positions);
}

// As many sums at a time as fit into the registers beside what they are made of: enough of them to hide how long an
// addition takes, and every weight is loaded once for all vectors.
template <int Width>
void gradient_line(const GradientLine& line) {
  constexpr int kSums = Width == 16 ? 24 : 12;
  switch (line.block) {
    case 1: return gradient_blocks<Width, 1, 8>(line);
    case 2: return gradient_blocks<Width, 2, 6>(line);
    case 3: return gradient_blocks<Width, 3, 4>(line);
    case 4: return gradient_blocks<Width, 4, kSums / 4>(line);
    case 8: return gradient_blocks<Width, 8, kSums / 8>(line);
    default: return gradient_blocks<Width, 12, kSums / 12>(line);
  }
}

}  // namespace
}  // namespace robustlab
