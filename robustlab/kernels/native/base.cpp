#include "base.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace robustlab {
namespace {

bool half(int doubled_zero) { return doubled_zero % 2 != 0; }

// Zx of conv.h
int32_t activation_zero(const ConvLayer& layer) {
  const int doubled = layer.activation.doubled_zero;
  return half(doubled) ? doubled : doubled / 2;
}

int32_t times(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) * static_cast<uint32_t>(b));
}

int32_t minus(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) - static_cast<uint32_t>(b));
}

// Runs the product on `rows` made-up windows, [row][run][word] bytes, for every group: out[row][group][lane].
void product_of(const KernelTable& kernels, const ConvLayer& layer, const Runs& runs, const Weights& weights,
                const uint8_t* windows, int64_t rows, int32_t* out) {
  const int64_t run_bytes = 4 * runs.words, row_bytes = runs.count * run_bytes;
  const int64_t panels = group_panels(layer.geometry), width = panels * kLanes, groups = layer.geometry.groups;
  std::vector<int64_t> starts(static_cast<size_t>(rows)), offsets(static_cast<size_t>(runs.count));
  for (int64_t r = 0; r < rows; ++r) starts[static_cast<size_t>(r)] = r * row_bytes;
  for (int64_t s = 0; s < runs.count; ++s) offsets[static_cast<size_t>(s)] = s * run_bytes;
  // one bit plane stands for the activations, the window's own bits
  const Windows source{windows, starts.data(), rows, offsets.data(), runs.count, runs.words, runs.tail, 0};
  for (int64_t group = 0; group < groups; ++group) {
    Panels of_group = weights.panels;
    of_group.data += group * panels * of_group.bytes;
    of_group.count = panels;
    of_group.activation_planes = 1;
    const Product product =
        activation_form(layer) == Activation::kCodes ? kernels.codes_product : kernels.bits_product;
    product(source, of_group, out + group * width, groups * width);
  }
}

// Where the taps of sign weights are whole words: popcounts of each, [panel][tap][lane]. One product with an empty window
// sees every tap as a panel of its own.
void ones_by_tap(const KernelTable& kernels, const ConvLayer& layer, const Runs& runs, const Weights& weights,
                 int32_t* out) {
  const int64_t start = 0, words = runs.unit / 4;
  const std::vector<uint8_t> zeros(static_cast<size_t>(runs.unit + kSlack), 0);
  const Windows source{zeros.data(), &start, 1, &start, 1, words, 0xffffffffu, 0};
  Panels taps = weights.panels;
  taps.count *= layer.geometry.taps_y * layer.geometry.taps_x;
  taps.bytes = words * kPanelWordBytes;
  taps.activation_planes = 1;
  kernels.bits_product(source, taps, out, taps.count * kLanes);
}

// The whole base of sign layers of one group whose taps are whole words, the usual ones, in one pass over the panels.
void fill_sign_base(const KernelTable& kernels, const ConvLayer& layer, const Runs& runs, const Weights& weights,
                    const Borders& borders, int64_t step, int32_t* base) {
  const Geometry& g = layer.geometry;
  const int64_t taps = g.taps_y * g.taps_x;
  thread_local Buffer by_panel, by_tap;
  int32_t* ones = by_panel.room<int32_t>(weights.panels.count * taps * kLanes);
  ones_by_tap(kernels, layer, runs, weights, ones);
  // one long line for each tap, which the compiler's vector loops like better than lines of 16
  int32_t* lines = by_tap.room<int32_t>(taps * step);
  for (int64_t panel = 0; panel < weights.panels.count; ++panel)
    for (int64_t tap = 0; tap < taps; ++tap)
      std::memcpy(lines + tap * step + panel * kLanes, ones + (panel * taps + tap) * kLanes, 4 * kLanes);
  for (int64_t pattern = 0; pattern < borders.patterns(); ++pattern) {
    int32_t* row = base + pattern * step;
    int64_t valid = 0;
    for (int64_t tap = 0; tap < taps; ++tap) valid += borders.inside(pattern, tap / g.taps_x, tap % g.taps_x) ? 1 : 0;
    std::fill(row, row + step, static_cast<int32_t>(valid * g.group_channels));
    for (int64_t tap = 0; tap < taps; ++tap) {
      if (borders.inside(pattern, tap / g.taps_x, tap % g.taps_x)) continue;
      const int32_t* line = lines + tap * step;
      for (int64_t o = 0; o < step; ++o) row[o] += 2 * line[o];
    }
  }
}

int64_t depthwise_weight(const ConvLayer& layer, const Weights& weights, int64_t tap, int64_t c) {
  const int64_t width = depthwise_width(layer.geometry);
  if (activation_form(layer) == Activation::kCodes)
    return static_cast<int8_t>(weights.depthwise[tap * width + c]);
  return (weights.depthwise[tap * width / 8 + c / 8] >> (c % 8)) & 1 ? -1 : 1;
}

// Sums of the weights of each tap: out[tap][step], channels in order.
void tap_sums(const KernelTable& kernels, const ConvLayer& layer, const Runs& runs, const Weights& weights,
              int64_t step, int32_t* out) {
  const Geometry& g = layer.geometry;
  const int64_t taps = g.taps_y * g.taps_x, channels = g.group_channels;
  if (g.depthwise()) {
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t c = 0; c < g.outputs; ++c)
        out[tap * step + c] = static_cast<int32_t>(depthwise_weight(layer, weights, tap, c));
    return;
  }
  const int64_t width = g.groups * group_panels(g) * kLanes;
  const Activation form = activation_form(layer);
  std::vector<int32_t> raw(static_cast<size_t>((taps + 1) * width));
  // windows with ones in one tap each, and an empty one
  const int64_t run_bytes = 4 * runs.words, row_bytes = runs.count * run_bytes;
  std::vector<uint8_t> windows(static_cast<size_t>((taps + 1) * row_bytes + kSlack), 0);
  for (int64_t tap = 0; tap < taps; ++tap) {
    uint8_t* unit = windows.data() + tap * row_bytes + tap / runs.taps * run_bytes + tap % runs.taps * runs.unit;
    if (form == Activation::kCodes) {
      std::memset(unit, 1, static_cast<size_t>(channels));
    } else {
      for (int64_t c = 0; c < channels; ++c) unit[c / 8] = static_cast<uint8_t>(unit[c / 8] | 1 << c % 8);
    }
  }
  product_of(kernels, layer, runs, weights, windows.data(), taps + 1, raw.data());
  const int32_t* empty = raw.data() + taps * width;
  const WeightValue value = weight_value(layer);
  for (int64_t tap = 0; tap < taps; ++tap) {
    for (int64_t c = 0; c < width; ++c) {
      int32_t& sum = raw[static_cast<size_t>(tap * width + c)];
      if (form != Activation::kCodes && layer.weight_bits == 1) {
        // popcount(mask ^ w) = |mask| + popcount(w) - 2 popcount(mask & w)
        sum = sum - empty[c];
      } else if (!value.exact) {
        sum = value.scale * sum + value.offset * static_cast<int32_t>(channels);
      }
    }
  }
  for (int64_t tap = 0; tap < taps; ++tap)
    for (int64_t o = 0; o < g.outputs; ++o)
      out[tap * step + o] = raw[static_cast<size_t>(tap * width + o / g.group_outputs() * group_panels(g) * kLanes +
                                                    o % g.group_outputs())];
}

// Sums of all weights w of every output, from the stored sums of q.
void weight_sums(const ConvLayer& layer, int32_t* sums) {
  const Geometry& g = layer.geometry;
  const int64_t outputs = g.depthwise() ? g.outputs : g.group_outputs();
  const int64_t lanes = g.depthwise() ? depthwise_width(g) : group_panels(g) * kLanes;
  const uint8_t* stored = layer.weights + sums_offset(layer);
  for (int64_t o = 0; o < g.outputs; o += outputs, stored += 4 * lanes)
    std::memcpy(sums + o, stored, static_cast<size_t>(4 * outputs));
  const WeightValue value = weight_value(layer);
  // one-bit weights: w = 2 q + 1
  const auto factor = static_cast<uint32_t>(layer.weight_bits == 1 ? 2 : value.scale);
  const int32_t offset = times(value.offset, static_cast<int32_t>(g.taps()));
  for (int64_t o = 0; o < g.outputs; ++o)
    sums[o] = static_cast<int32_t>(factor * static_cast<uint32_t>(sums[o]) + static_cast<uint32_t>(offset));
}

}  // namespace

bool has_patterns(const ConvLayer& layer) {
  const Geometry& g = layer.geometry;
  if (g.pad_y == 0 && g.pad_x == 0) return false;
  if (layer.activation_bits == 0) return layer.padding == PaddingValue::kZero;
  return half(layer.activation.doubled_zero);
}

bool has_sums(const ConvLayer& layer) {
  return activation_form(layer) == Activation::kCodes && !weight_value(layer).exact;
}

int32_t raw_factor(const ConvLayer& layer) {
  if (layer.activation_bits == 0) return -2;
  const int32_t activation = half(layer.activation.doubled_zero) ? 2 : 1;
  return has_sums(layer) ? activation * weight_value(layer).scale : activation;
}

int32_t sums_factor(const ConvLayer& layer) {
  return (half(layer.activation.doubled_zero) ? 2 : 1) * weight_value(layer).offset;
}

void fill_base(const KernelTable& kernels, const ConvLayer& layer, const Runs& runs, const Weights& weights,
               const Borders* borders, int64_t step, int32_t* base) {
  const Geometry& g = layer.geometry;
  const auto taps = static_cast<int32_t>(g.taps());
  const bool signs = layer.activation_bits == 0;
  const bool bordered = has_patterns(layer);
  const int64_t patterns = bordered ? borders->patterns() : 1;
  if (signs && !bordered) {
    std::fill(base, base + g.outputs, taps);
    return;
  }
  if (signs && g.groups == 1 && runs.unit % 4 == 0)
    return fill_sign_base(kernels, layer, runs, weights, *borders, step, base);
  const int32_t zero = activation_zero(layer);
  std::vector<int32_t> constant(static_cast<size_t>(g.outputs), 0);
  if (!signs) {
    std::vector<int32_t> total(static_cast<size_t>(g.outputs));
    weight_sums(layer, total.data());
    // one-bit weights on bit planes: sum of a w = raw - (2^bits - 1) popcount(w)
    const bool flipped = layer.weight_bits == 1 && activation_form(layer) == Activation::kPlanes;
    const int32_t factor = flipped ? raw_factor(layer) * layer.activation.largest : 0;
    for (size_t o = 0; o < total.size(); ++o) {
      constant[o] = minus(0, times(factor, (taps - total[o]) / 2));
      if (!bordered) constant[o] = minus(constant[o], times(zero, total[o]));
    }
  }
  if (!bordered) {
    std::copy(constant.begin(), constant.end(), base);
    return;
  }
  std::vector<int32_t> sums(static_cast<size_t>(g.taps_y * g.taps_x * step));
  tap_sums(kernels, layer, runs, weights, step, sums.data());
  for (int64_t pattern = 0; pattern < patterns; ++pattern) {
    int32_t* row = base + pattern * step;
    if (signs) std::fill(row, row + g.outputs, taps);
    else std::copy(constant.begin(), constant.end(), row);
    for (int64_t y = 0; y < g.taps_y; ++y) {
      for (int64_t x = 0; x < g.taps_x; ++x) {
        // signs: what the padding's +1 added is taken out; codes: the zero point counts where there are pixels
        if (borders->inside(pattern, y, x) == signs) continue;
        const int32_t* sum = sums.data() + (y * g.taps_x + x) * step;
        const int32_t factor = signs ? 1 : zero;
        for (int64_t o = 0; o < g.outputs; ++o) row[o] = minus(row[o], times(factor, sum[o]));
      }
    }
  }
}

}  // namespace robustlab
