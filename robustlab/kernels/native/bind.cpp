#include "bind.h"

#include <cmath>
#include <vector>

#include "base.h"
#include "cpu.h"

namespace robustlab {
namespace {

constexpr int64_t kMostSize = int64_t{1} << 31;

}  // namespace

int64_t checked_product(std::initializer_list<int64_t> factors) {
  constexpr int64_t kMost = int64_t{1} << 46;
  int64_t result = 1;
  for (const int64_t factor : factors) {
    require(factor >= 0, "negative size");
    if (factor == 0) return 0;
    require(result <= kMost / factor, "size too large");
    result *= factor;
  }
  return result;
}

const KernelTable& kernel_table(const std::string& name) {
  static const std::vector<const KernelTable*> tables = available_kernels();
  for (const KernelTable* candidate : tables)
    if (name == candidate->name) return *candidate;
  throw std::invalid_argument("no such kernels: " + name);
}

Quantizer checked_quantizer(double scale, int doubled_zero, int64_t bits) {
  require(bits >= 1 && bits <= 8, "bad activation bits");
  const Quantizer quantizer{static_cast<float>(scale), doubled_zero, (1 << bits) - 1};
  require(quantizer.scale > 0 && std::isfinite(quantizer.scale), "bad activation scale");
  require(doubled_zero >= 0 && doubled_zero <= 2 * quantizer.largest, "bad zero point");
  return quantizer;
}

ConvLayer checked_layer(const Form& form, const Place& place, double scale_x, int doubled_zero_x, Span weight) {
  for (const int64_t size : {form[0], form[1], form[2], form[3], form[5]})
    require(size > 0 && size < kMostSize, "bad weight shape or groups");
  for (const int64_t value : place) require(value >= 0 && value < kMostSize, "bad geometry");
  for (const size_t i : {0, 1, 4, 5}) require(place[i] > 0, "stride and dilation start at 1");
  ConvLayer layer{};
  layer.geometry = {form[0], form[1], form[2], form[3], place[0], place[1], place[2], place[3], place[4], place[5],
                    place[6]};
  const Geometry& g = layer.geometry;
  require(g.groups == form[5] && g.outputs % g.groups == 0, "groups do not fit");
  require(checked_product({g.group_channels, g.taps_y, g.taps_x}) < kMostSize, "too many taps");
  checked_product({g.outputs, g.group_channels, g.taps_y, g.taps_x, 4});
  require(g.groups > 1 || g.taps_x == 1 || form[7] == (g.dilation_x == 1 ? 1 : 0),
          "weights are packed for another dilation");
  require(form[4] >= 1 && form[4] <= 8 && form[6] >= 0 && form[6] <= 8, "bad bits");
  require(form[8] >= -256 && form[8] <= 256, "bad zero point of the weights");
  require(form[4] > 1 || form[8] == 0, "one-bit weights have no zero point");
  require(place[7] <= 2, "bad padding value");
  layer.weight_bits = static_cast<int>(form[4]);
  layer.weight_doubled_zero = static_cast<int>(form[8]);
  layer.activation_bits = static_cast<int>(form[6]);
  layer.padding = static_cast<PaddingValue>(place[7]);
  if (layer.activation_bits == 0) {
    require(layer.weight_bits == 1, "signs meet one-bit weights");
  } else {
    require(layer.padding == PaddingValue::kZero, "codes are padded with zeros");
    layer.activation = checked_quantizer(scale_x, doubled_zero_x, layer.activation_bits);
    require(!has_sums(layer) || g.groups == 1, "8-bit weights with a zero point take one group");
  }
  require(weight.first != 0 && weight.second == weight_bytes(layer), "weight has a wrong size");
  layer.weights = reinterpret_cast<const uint8_t*>(weight.first);
  return layer;
}

void check_image(const ConvLayer& layer, int64_t height, int64_t width) {
  const Geometry& g = layer.geometry;
  require(height > 0 && width > 0 && height < kMostSize && width < kMostSize, "bad image size");
  require(g.out_height(height) > 0 && g.out_width(width) > 0, "kernel larger than the padded image");
  const ImageLayout layout = input_layout(layer, height, width);
  checked_product({layout.height + 2 * layout.halo_y, layout.width + 2 * layout.halo_x, layout.pixel, layout.planes});
}

}  // namespace robustlab
