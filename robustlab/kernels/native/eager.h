// One layer on float tensors: pack, convolve, scale.
#pragma once

#include "conv.h"

namespace robustlab {

struct Operands {
  const float* x;       // (images, C, H, W)
  int64_t images, height, width;
  const float* scale;   // [O], or null: y is the int32 accumulator
  const float* bias;    // [O], may be null
  void* y;              // (images, O, H', W')
};

// The scale is that of true codes: it is divided by the unit of the accumulator (see run_conv), a power of two.
void conv2d(const KernelTable& kernels, int threads, const ConvLayer& layer, const Operands& operands);

}  // namespace robustlab
