// Convolutions of packed images with packed weights, for any instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "blocks.h"
#include "image.h"
#include "kernels.h"

namespace robustlab {

struct Geometry {
  int64_t outputs, group_channels, taps_y, taps_x;   // weights (O, C / groups, kh, kw)
  int64_t stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x, groups;

  int64_t channels() const { return group_channels * groups; }
  int64_t group_outputs() const { return outputs / groups; }
  int64_t taps() const { return group_channels * taps_y * taps_x; }
  bool depthwise() const { return groups > 1 && group_channels == 1 && outputs == groups; }
  int64_t out_height(int64_t height) const { return out_length(height, taps_y, stride_y, pad_y, dilation_y); }
  int64_t out_width(int64_t width) const { return out_length(width, taps_x, stride_x, pad_x, dilation_x); }

 private:
  static int64_t out_length(int64_t size, int64_t taps, int64_t stride, int64_t pad, int64_t dilation) {
    const int64_t room = size + 2 * pad - dilation * (taps - 1) - 1;
    return room < 0 ? 0 : room / stride + 1;
  }
};

enum class PaddingValue { kZero = 0, kOne = 1, kNegOne = 2 };

// How activations reach a layer.
enum class Activation {
  kSigns,    // one bit: signs
  kPlanes,   // bit planes of codes, for bit-serial products
  kCodes,    // one byte for each code
};

struct ConvLayer {
  Geometry geometry;
  int weight_bits;             // 1..8
  int weight_doubled_zero;     // twice the zero point of the weights, which may be a half-integer
  int activation_bits;         // 0 for signs, else 1..8
  Quantizer activation;        // of codes
  PaddingValue padding;        // kZero unless the activations are signs
  const uint8_t* weights;      // prepacked, weight_bytes(layer) bytes
};

Activation activation_form(const ConvLayer& layer);

// Bytes of the prepacked weights (robustlab/kernels/layout.py describes them).
int64_t weight_bytes(const ConvLayer& layer);

// mx * mw of run_conv: the accumulator counts in steps of 1, 1/2 or 1/4 of the product of two codes.
int accumulator_unit(const ConvLayer& layer);

// The image a layer reads, with the smallest halo that will do; a larger halo will do as well.
ImageLayout input_layout(const ConvLayer& layer, int64_t height, int64_t width);

// What halo pixels must hold, [planes][pixel] bytes.
std::vector<uint8_t> halo_pattern(const ConvLayer& layer);

// Packs float images (channels first) into `images` and fills their halo. sub and div: see PackCodes, may be null.
// thresholds: see PackSigns, may be null.
void pack_input(const KernelTable& kernels, int threads, const ConvLayer& layer, const ImageLayout& layout,
                const float* x, int64_t count, const float* thresholds, const float* sub, const float* div,
                uint8_t* images);

// What a layer needs besides its operands, the same for all images of a layout and for every instruction set. `steps` are
// those it will run with: steps[0] is kAccumulate, whose base, factor and sum_factor are filled in with pointers to the
// constants.
struct ConvConstants;
struct ConvConstantsDeleter {
  void operator()(ConvConstants* constants) const;
};
using KeptConvConstants = std::unique_ptr<ConvConstants, ConvConstantsDeleter>;
KeptConvConstants conv_constants(const KernelTable& kernels, const ConvLayer& layer, const ImageLayout& layout,
                                 std::vector<StepPlan>& steps);

// steps[0] is kAccumulate. The accumulator is
//   sum of (mx qx - Zx) (mw qw - Zw),  m = 2 and Z = 2 z for a half-integer zero point z, else m = 1 and Z = z,
// and the sum of sx * sw for signs.
void run_conv(const KernelTable& kernels, int threads, const ConvLayer& layer, const ConvConstants& constants,
              const uint8_t* images, const ImageLayout& layout, int64_t count, const std::vector<StepPlan>& steps);

// The same with constants for this call, which fill in steps[0].
void run_conv(const KernelTable& kernels, int threads, const ConvLayer& layer, const uint8_t* images,
              const ImageLayout& layout, int64_t count, std::vector<StepPlan>& steps);

}  // namespace robustlab
