// Convolution of packed weights, for any instruction set: shapes, packing of activations, gathering of rows, threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.h"

namespace robustlab {

struct ConvShape {
  int64_t images, channels, height, width;            // input, NCHW
  int64_t outputs, group_channels, taps_y, taps_x;    // weights (O, C / groups, kh, kw)
  int64_t stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x, groups;

  int64_t out_height() const { return out_length(height, taps_y, stride_y, pad_y, dilation_y); }
  int64_t out_width() const { return out_length(width, taps_x, stride_x, pad_x, dilation_x); }
  int64_t taps() const { return group_channels * taps_y * taps_x; }

 private:
  static int64_t out_length(int64_t size, int64_t taps, int64_t stride, int64_t pad, int64_t dilation) {
    const int64_t room = size + 2 * pad - dilation * (taps - 1) - 1;
    return room < 0 ? 0 : room / stride + 1;
  }
};

// Bytes of prepacked weights of `bits` bits.
int64_t packed_bytes(const ConvShape& shape, int bits);

struct Operands {
  const float* x;
  const uint8_t* weight;
  const float* scale;  // null: y is int32 accumulators
  const float* bias;   // may be null
  void* y;
};

enum class PaddingValue { kZero = 0, kOne = 1, kNegOne = 2 };

void binary_conv2d(const KernelTable& kernels, int threads, const ConvShape& shape, const Operands& operands,
                   PaddingValue padding);

void quant_conv2d(const KernelTable& kernels, int threads, const ConvShape& shape, const Operands& operands, int bits,
                  Quantizer quantizer);

}  // namespace robustlab
