// The gradient of a convolution with respect to images of few channels.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace robustlab {

struct ImageConv {
  int64_t images, outputs, channels, height, width;   // of the images
  int64_t taps_y, taps_x, stride_y, stride_x, pad_y, pad_x;

  int64_t out_height() const { return (height + 2 * pad_y - taps_y) / stride_y + 1; }
  int64_t out_width() const { return (width + 2 * pad_x - taps_x) / stride_x + 1; }
};

// above: (images, outputs, out_height, out_width), weights: (outputs, channels, taps_y, taps_x), gradient: the images'
// shape. All sizes are positive.
void image_gradient(const KernelTable& kernels, int threads, const ImageConv& conv, const float* above,
                    const float* weights, float* gradient);

}  // namespace robustlab
