#include "layer.h"

#include <algorithm>

namespace robustlab {
namespace {

// Channels next to each other in a pixel: those of a group, or all of a depthwise layer.
int64_t unit_channels(const Geometry& g) { return g.depthwise() ? g.groups : g.group_channels; }

int64_t unit_bytes(const ConvLayer& layer) {
  const int64_t channels = unit_channels(layer.geometry);
  return activation_form(layer) == Activation::kCodes ? channels : (channels + 7) / 8;
}

bool half(int doubled_zero) { return doubled_zero % 2 != 0; }

}  // namespace

Activation activation_form(const ConvLayer& layer) {
  if (layer.activation_bits == 0) return Activation::kSigns;
  const bool serial = layer.weight_bits * layer.activation_bits <= 4 && layer.weight_doubled_zero == 0;
  return serial && !layer.geometry.depthwise() ? Activation::kPlanes : Activation::kCodes;
}

int accumulator_unit(const ConvLayer& layer) {
  if (layer.activation_bits == 0) return 1;
  return (half(layer.activation.doubled_zero) ? 2 : 1) * weight_value(layer).scale;
}

WeightValue weight_value(const ConvLayer& layer) {
  if (layer.weight_bits == 1) return {2, 1, true, 1};
  const int scale = half(layer.weight_doubled_zero) ? 2 : 1;
  const int zero = scale == 2 ? layer.weight_doubled_zero : layer.weight_doubled_zero / 2;
  const int low = -(1 << (layer.weight_bits - 1)), high = -low - 1;
  const bool exact = scale * low - zero >= -128 && scale * high - zero <= 127;
  return {scale, -zero, exact, scale};
}

Runs runs_of(const ConvLayer& layer) {
  const Geometry& g = layer.geometry;
  const bool joined = g.groups == 1 && g.dilation_x == 1;
  const int64_t unit = unit_bytes(layer), taps = joined ? g.taps_x : 1, bytes = taps * unit;
  const int64_t last = (bytes - 1) % 4 + 1;
  const bool codes = activation_form(layer) == Activation::kCodes;
  const uint32_t tail = last == 4 || codes ? 0xffffffffu : (1u << (8 * last)) - 1u;
  return {joined, unit, joined ? g.taps_y : g.taps_y * g.taps_x, taps, (bytes + 3) / 4, tail};
}

std::vector<int64_t> run_offsets(const ConvLayer& layer, const Runs& runs, const ImageLayout& layout) {
  const Geometry& g = layer.geometry;
  std::vector<int64_t> offsets;
  for (int64_t y = 0; y < g.taps_y; ++y)
    for (int64_t x = 0; x < (runs.joined ? 1 : g.taps_x); ++x)
      offsets.push_back(y * g.dilation_y * layout.pitch() + x * g.dilation_x * layout.pixel);
  return offsets;
}

int64_t group_panels(const Geometry& g) { return (g.group_outputs() + kLanes - 1) / kLanes; }

int64_t depthwise_width(const Geometry& g) { return round_up(g.outputs, 64); }

int64_t panel_planes_bytes(const ConvLayer& layer) {
  const int64_t words = runs_of(layer).all_words();
  return activation_form(layer) == Activation::kCodes ? words * 8 * layer.weight_bits
                                                      : words * kPanelWordBytes * layer.weight_bits;
}

int64_t sums_offset(const ConvLayer& layer) {
  const Geometry& g = layer.geometry;
  if (g.depthwise()) return g.taps_y * g.taps_x * depthwise_width(g) / 8 * layer.weight_bits;
  return g.groups * group_panels(g) * panel_planes_bytes(layer);
}

int64_t weight_bytes(const ConvLayer& layer) {
  const Geometry& g = layer.geometry;
  const int64_t lanes = g.depthwise() ? depthwise_width(g) : g.groups * group_panels(g) * kLanes;
  return sums_offset(layer) + (activation_form(layer) == Activation::kSigns ? 0 : 4 * lanes);
}

ImageLayout input_layout(const ConvLayer& layer, int64_t height, int64_t width) {
  const Geometry& g = layer.geometry;
  ImageLayout layout;
  layout.height = height;
  layout.width = width;
  layout.halo_y = g.pad_y;
  layout.halo_x = g.pad_x;
  layout.pixel = unit_bytes(layer) * (g.depthwise() ? 1 : g.groups);
  layout.planes = activation_form(layer) == Activation::kPlanes ? layer.activation_bits : 1;
  return layout;
}

std::vector<uint8_t> halo_pattern(const ConvLayer& layer) {
  const int64_t unit = unit_bytes(layer), channels = unit_channels(layer.geometry);
  const ImageLayout layout = input_layout(layer, 1, 1);
  std::vector<uint8_t> pattern(static_cast<size_t>(layout.pixel * layout.planes), 0);
  // an integer zero point pads with itself; a half-integer one with 0, which the borders' patterns take out again
  const int doubled = layer.activation.doubled_zero;
  const int zero = half(doubled) ? 0 : doubled / 2;
  const Activation form = activation_form(layer);
  for (int64_t i = 0; i < static_cast<int64_t>(pattern.size()); ++i) {
    uint8_t& byte = pattern[static_cast<size_t>(i)];
    if (form == Activation::kCodes) {
      byte = static_cast<uint8_t>(zero);
      continue;
    }
    const int64_t used = std::min<int64_t>(8, channels - i % unit * 8);
    const auto ones = static_cast<uint8_t>((1u << used) - 1u);
    const bool set = form == Activation::kSigns ? layer.padding == PaddingValue::kNegOne
                                                : (zero >> (i / layout.pixel) & 1) != 0;
    byte = set ? ones : 0;
  }
  return pattern;
}

}  // namespace robustlab
