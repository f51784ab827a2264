// The constant part of an accumulator: what zero points and padding contribute, for every border pattern.
#pragma once

#include <cstdint>

#include "borders.h"
#include "layer.h"
#include "scratch.h"

namespace robustlab {

// Weights as products take them: prepacked panels of bits, or unpacked int8 panels.
struct Weights {
  Panels panels;      // of all groups
  const uint8_t* depthwise;   // int8 or bits, instead of panels
};

// acc = base[pattern][c] + factor * raw (+ sum_factor[c] * sum of the window's codes). Which of them a layer needs:
bool has_patterns(const ConvLayer& layer);   // the base differs along the borders
bool has_sums(const ConvLayer& layer);       // the weights' zero point is not part of the weights

int32_t raw_factor(const ConvLayer& layer);
int32_t sums_factor(const ConvLayer& layer);

// base: [patterns][step], step >= outputs, written for every output. `borders` is read only if has_patterns(layer).
void fill_base(const KernelTable& kernels, const ConvLayer& layer, const Runs& runs, const Weights& weights,
               const Borders* borders, int64_t step, int32_t* base);

}  // namespace robustlab
