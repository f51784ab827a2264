// Whole convolutions through the driver: float images in; accumulators, floats or bits out; one to four threads.
#include "../../robustlab/kernels/native/conv.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "../../robustlab/kernels/native/eager.h"
#include "harness.h"

namespace check {
namespace {

constexpr int64_t kMostProducts = 400000;   // of the naive sums of a case

struct Problem {
  ConvLayer layer{};
  int64_t images = 0, height = 0, width = 0;
  std::vector<int8_t> codes;   // (O, C / groups, kh, kw)
  std::vector<float> x;        // (images, C, H, W)

  int64_t out_height() const { return layer.geometry.out_height(height); }
  int64_t out_width() const { return layer.geometry.out_width(width); }
  int64_t results() const { return images * layer.geometry.outputs * out_height() * out_width(); }
  int code(int64_t o, int64_t c, int64_t y, int64_t x_tap) const {
    const Geometry& g = layer.geometry;
    return codes[static_cast<size_t>(((o * g.group_channels + c) * g.taps_y + y) * g.taps_x + x_tap)];
  }
};

// Planes of two's complement; a one-bit weight is stored as its sign.
int stored(const ConvLayer& layer, int code) { return layer.weight_bits == 1 ? (code - 1) / 2 : code; }

// The layout that robustlab/kernels/prepack.py describes.
std::vector<uint8_t> prepack(const Problem& p) {
  const ConvLayer& layer = p.layer;
  const Geometry& g = layer.geometry;
  const bool signs = layer.activation_bits == 0;
  const bool bits = signs || (layer.weight_bits * layer.activation_bits <= 4 && layer.weight_doubled_zero == 0 && !g.depthwise());
  const int64_t group_panels = (g.group_outputs() + 15) / 16, panels = g.groups * group_panels;
  const int64_t run_taps = g.groups == 1 && g.dilation_x == 1 ? g.taps_x : 1, runs = g.taps_y * g.taps_x / run_taps;
  const int64_t unit = bits ? (g.group_channels + 7) / 8 * 8 : g.group_channels, per_word = bits ? 32 : 4;
  const int64_t words = (run_taps * unit + per_word - 1) / per_word, planes = layer.weight_bits;
  const int64_t lanes = g.depthwise() ? (g.outputs + 63) / 64 * 64 : panels * 16;
  const int64_t code_bytes = g.depthwise() ? g.taps_y * g.taps_x * lanes / 8 * planes
                                           : panels * runs * words * planes * (bits ? 64 : 8);
  std::vector<uint8_t> data(static_cast<size_t>(code_bytes + (signs ? 0 : 4 * lanes)), 0);
  for (int64_t o = 0; o < g.outputs; ++o) {
    const int64_t panel = o / g.group_outputs() * group_panels + o % g.group_outputs() / 16, lane = o % g.group_outputs() % 16;
    int32_t sum = 0;
    for (int64_t tap = 0; tap < g.taps_y * g.taps_x; ++tap) {
      for (int64_t c = 0; c < g.group_channels; ++c) {
        const int q = stored(layer, p.code(o, c, tap / g.taps_x, tap % g.taps_x));
        sum += q;
        const int64_t run = tap / run_taps, value = tap % run_taps * unit + c, word = value / per_word, i = value % per_word;
        if (!g.depthwise() && !bits && planes == 8) {
          data[static_cast<size_t>(((panel * runs + run) * words + word) * 64 + 4 * lane + i)] = static_cast<uint8_t>(q);
          continue;
        }
        for (int64_t b = 0; b < planes; ++b) {
          const int64_t place = g.depthwise() ? ((tap * (lanes / 64) + o / 64) * planes + b) * 64 + o % 64
                                : bits        ? (((panel * planes + b) * runs + run) * words + word) * 512 + 32 * lane + i
                                              : (((panel * runs + run) * words + word) * planes + b) * 64 + 4 * lane + i;
          set_bit(data.data(), place, (q >> b) & 1);
        }
      }
    }
    if (!signs) put(&data[static_cast<size_t>(code_bytes + 4 * (g.depthwise() ? o : panel * 16 + lane))], sum);
  }
  return data;
}

// What a weight and an input count in the accumulator.
int64_t weight_value(const ConvLayer& layer, int code) {
  if (layer.weight_bits == 1) return code;
  return layer.weight_doubled_zero % 2 != 0 ? 2 * code - layer.weight_doubled_zero : code - layer.weight_doubled_zero / 2;
}

int64_t input_value(const ConvLayer& layer, float x) {
  if (layer.activation_bits == 0) return x < 0.0f ? -1 : 1;
  const int code = reference_code(x, layer.activation), doubled = layer.activation.doubled_zero;
  return doubled % 2 != 0 ? 2 * code - doubled : code - doubled / 2;
}

int64_t padding_value(const ConvLayer& layer) {
  return layer.padding == PaddingValue::kZero ? 0 : layer.padding == PaddingValue::kOne ? 1 : -1;
}

std::vector<int32_t> accumulators(const Problem& p) {
  const Geometry& g = p.layer.geometry;
  std::vector<int64_t> x(p.x.size());
  for (size_t i = 0; i < x.size(); ++i) x[i] = input_value(p.layer, p.x[i]);
  std::vector<int32_t> result;
  for (int64_t n = 0; n < p.images; ++n)
    for (int64_t o = 0; o < g.outputs; ++o)
      for (int64_t y = 0; y < p.out_height(); ++y)
        for (int64_t column = 0; column < p.out_width(); ++column) {
          int64_t sum = 0;
          for (int64_t c = 0; c < g.group_channels; ++c)
            for (int64_t ky = 0; ky < g.taps_y; ++ky)
              for (int64_t kx = 0; kx < g.taps_x; ++kx) {
                const int64_t at_y = y * g.stride_y - g.pad_y + ky * g.dilation_y;
                const int64_t at_x = column * g.stride_x - g.pad_x + kx * g.dilation_x;
                const bool inside = at_y >= 0 && at_y < p.height && at_x >= 0 && at_x < p.width;
                const int64_t channel = o / g.group_outputs() * g.group_channels + c;
                const int64_t value = inside ? x[static_cast<size_t>(((n * g.channels() + channel) * p.height + at_y) * p.width + at_x)]
                                             : padding_value(p.layer);
                sum += value * weight_value(p.layer, p.code(o, c, ky, kx));
              }
          result.push_back(static_cast<int32_t>(sum));
        }
  return result;
}

void choose_geometry(Problem& p, Random& random) {
  Geometry& g = p.layer.geometry;
  g.group_channels = channel_count(random);
  g.outputs = random.pick<int64_t>({1, 5, 8, 16, 17, 31, 32, 33, 64});
  g.groups = 1;
  if (random.one_in(5)) {   // depthwise
    g.groups = g.outputs = channel_count(random);
    g.group_channels = 1;
  } else if (random.one_in(4)) {
    g.groups = random.range(2, 4);
    g.outputs = g.groups * random.pick<int64_t>({1, 3, 8, 16, 17});
  }
  g.taps_y = random.pick<int64_t>({1, 1, 2, 3, 3, 5, 7});
  g.taps_x = random.one_in(4) ? random.pick<int64_t>({1, 2, 3, 5}) : g.taps_y;
  if (random.one_in(12)) {   // a linear layer, now and then of many inputs
    g.taps_y = g.taps_x = g.groups = 1;
    g.group_channels = random.pick<int64_t>({300, 1000, 4096, 20000});
  }
  g.stride_y = random.range(1, 3);
  g.stride_x = random.one_in(3) ? random.range(1, 3) : g.stride_y;
  g.dilation_y = random.range(1, 2);
  g.dilation_x = random.range(1, 2);
  g.pad_y = random.range(0, (g.taps_y - 1) * g.dilation_y);
  g.pad_x = random.range(0, (g.taps_x - 1) * g.dilation_x);
  const auto size = [&](int64_t taps, int64_t dilation, int64_t pad) {
    const int64_t least = std::max<int64_t>(1, dilation * (taps - 1) + 1 - 2 * pad);
    return random.one_in(4) ? least : least + random.range(0, g.group_channels > 257 ? 1 : 9);
  };
  p.height = size(g.taps_y, g.dilation_y, g.pad_y);
  p.width = size(g.taps_x, g.dilation_x, g.pad_x);
  p.images = random.pick<int64_t>({0, 1, 1, 2, 5});
  // less of everything that does not change which code runs, until the naive sums are quick
  while (p.images > 1 && p.results() * g.taps() > kMostProducts) --p.images;
  while (p.height > 1 && g.out_height(p.height - 1) > 0 && p.results() * g.taps() > kMostProducts) --p.height;
  while (p.width > 1 && g.out_width(p.width - 1) > 0 && p.results() * g.taps() > kMostProducts) --p.width;
  while (g.groups == 1 && g.outputs > 1 && p.results() * g.taps() > kMostProducts) g.outputs = (g.outputs + 1) / 2;
}

void choose_numbers(Problem& p, Random& random) {
  ConvLayer& layer = p.layer;
  const Geometry& g = layer.geometry;
  layer.weight_bits = 1;
  if (random.one_in(2)) {
    layer.padding = random.pick({PaddingValue::kZero, PaddingValue::kOne, PaddingValue::kNegOne});
  } else {
    layer.activation_bits = static_cast<int>(random.range(1, 8));
    layer.weight_bits = static_cast<int>(random.range(1, 8));
    const int32_t largest = (1 << layer.activation_bits) - 1;
    layer.activation = {random.one_in(2) ? 0.25f : 0.037f, static_cast<int32_t>(random.range(0, 2 * largest)), largest};
    if (random.one_in(3)) layer.activation.doubled_zero = 0;
  }
  const int bits = layer.weight_bits, half = 1 << (bits - 1);
  // eight bits with a zero point are for one group only
  if (bits > 1 && random.one_in(2)) layer.weight_doubled_zero = static_cast<int>(random.range(-2 * half, 2 * half - 2));
  if (bits > 6 && g.groups > 1) layer.weight_doubled_zero = 0;
  const int low = layer.weight_doubled_zero != 0 ? -half : 1 - half, high = half - 1;
  p.codes.resize(static_cast<size_t>(g.outputs * g.taps()));
  const bool extreme = random.one_in(6);
  for (int8_t& code : p.codes) {
    if (bits == 1) code = static_cast<int8_t>(random.one_in(2) ? 1 : -1);
    else code = static_cast<int8_t>(extreme ? low : random.range(low, high));
  }
  p.x.resize(static_cast<size_t>(p.images * g.channels() * p.height * p.width));
  for (float& x : p.x) x = extreme ? 100.0f : random.number();
}

void describe(Case& c, const Problem& p) {
  const Geometry& g = p.layer.geometry;
  const auto i = [](int64_t v) { return static_cast<int>(v); };
  c.describe("w%d a%d zeros %d/2 %d/2, %d x %d x %d x %d, groups %d, weights %d x %d x %d x %d, stride %d %d, pad %d %d (%d), dilation %d %d",
             p.layer.weight_bits, p.layer.activation_bits, p.layer.weight_doubled_zero, p.layer.activation.doubled_zero,
             i(p.images), i(g.channels()), i(p.height), i(p.width), i(g.groups), i(g.outputs), i(g.group_channels),
             i(g.taps_y), i(g.taps_x), i(g.stride_y), i(g.stride_x), i(g.pad_y), i(g.pad_x), i(static_cast<int64_t>(p.layer.padding)),
             i(g.dilation_y), i(g.dilation_x));
}

// Numbers through the operator on float tensors.
void numbers(const KernelTable& table, Random& random, Case& c, const Problem& p, const Input& x,
             const std::vector<int32_t>& expected) {
  const Geometry& g = p.layer.geometry;
  const int64_t pixels = p.out_height() * p.out_width();
  const int choice = static_cast<int>(random.range(0, 2));   // accumulators, scale, scale and bias
  Vector<float> scale(random, g.outputs), bias(random, g.outputs);
  for (int64_t o = 0; o < g.outputs; ++o) {
    scale[o] = random.plain();
    bias[o] = random.plain();
  }
  const float unit = 1.0f / static_cast<float>(accumulator_unit(p.layer));
  for (int threads = 1; threads <= 4; ++threads) {
    Output y(random, 4 * p.results());
    conv2d(table, threads, p.layer,
           {x.as<float>(), p.images, p.height, p.width, choice > 0 ? scale.as<float>() : nullptr,
            choice > 1 ? bias.as<float>() : nullptr, y.data()});
    std::vector<uint8_t> bytes(static_cast<size_t>(y.size()));
    for (int64_t i = 0; i < p.results(); ++i) {
      const int64_t o = i / pixels % g.outputs;
      const int32_t acc = expected[static_cast<size_t>(i)];
      float value = static_cast<float>(acc) * (scale[o] * unit);
      if (choice > 1) value = value + bias[o];
      if (choice == 0) put(&bytes[static_cast<size_t>(4 * i)], acc);
      else put(&bytes[static_cast<size_t>(4 * i)], value);
    }
    c.equal(y, bytes, "another number");
  }
}

// Bits in an image with a halo that nobody may touch.
void bits(const KernelTable& table, Random& random, Case& c, const Problem& p, const Input& x,
          const std::vector<int32_t>& expected) {
  const Geometry& g = p.layer.geometry;
  const int64_t pixels = p.out_height() * p.out_width();
  Vector<int32_t> threshold(random, (g.outputs + 15) / 16 * 16);
  Vector<uint8_t> flip(random, threshold.length);
  for (int64_t o = 0; o < threshold.length; ++o) {
    threshold[o] = random.one_in(8) ? static_cast<int32_t>(random.next()) : static_cast<int32_t>(random.range(-30, 30));
    flip[o] = static_cast<uint8_t>(random.range(0, 1));
  }
  ImageLayout out;
  out.height = p.out_height();
  out.width = p.out_width();
  out.halo_y = random.range(0, 1);
  out.halo_x = random.range(0, 2);
  const int64_t shift = 8 * random.range(0, 2);
  out.pixel = (shift + g.outputs + 7) / 8;
  ImageLayout layout = input_layout(p.layer, p.height, p.width);
  layout.halo_y += random.range(0, 1);
  layout.halo_x += random.range(0, 1);
  std::vector<StepPlan> steps(2);
  steps[0].step.op = Op::kAccumulate;
  Step& store = steps[1].step;
  store.op = Op::kStoreBelow;
  store.threshold = threshold.as<int32_t>();
  store.flip = flip.as<uint8_t>();
  store.shift = shift;
  steps[1].place = StepPlan::Place::kImage;
  steps[1].layout = out;
  for (int threads = 1; threads <= 4; ++threads) {
    Guarded packed(random, p.images * layout.image_bytes(), kSlack);
    Output y(random, p.images * out.image_bytes());
    std::vector<uint8_t> bytes = y.copy();
    store.image = y.data();
    pack_input(table, threads, p.layer, layout, x.as<float>(), p.images, nullptr, nullptr, nullptr, packed.data());
    run_conv(table, threads, p.layer, packed.data(), layout, p.images, steps);
    for (int64_t n = 0; n < p.images; ++n)
      for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        uint8_t* to = &bytes[static_cast<size_t>(n * out.image_bytes() + out.at(pixel / out.width, pixel % out.width))];
        std::memset(to + shift / 8, 0, static_cast<size_t>(out.pixel - shift / 8));
        for (int64_t o = 0; o < g.outputs; ++o) {
          const int32_t acc = expected[static_cast<size_t>((n * g.outputs + o) * pixels + pixel)];
          set_bit(to, shift + o, (acc < threshold[o]) ^ flip[o]);
        }
      }
    c.equal(y, bytes, "another bit");
  }
}

// Too much for one thread, so that several really run; the portable kernels on one thread say what is right.
void heavy(const KernelTable& table, Random& random, Case& c) {
  Problem p;
  Geometry& g = p.layer.geometry;
  g = {64, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1};
  if (random.one_in(3)) g = {96, 1, 5, 5, 1, 1, 2, 2, 1, 1, 96};
  p.images = random.range(1, 3);
  p.height = random.range(14, 20);
  p.width = random.range(14, 20);
  choose_numbers(p, random);
  describe(c, p);
  const std::vector<uint8_t> weights = prepack(p);
  p.layer.weights = weights.data();
  Input x(random, static_cast<int64_t>(4 * p.x.size()));
  std::copy(p.x.begin(), p.x.end(), x.as<float>());
  Output first(random, 4 * p.results());
  conv2d(scalar_kernels(), 1, p.layer, {x.as<float>(), p.images, p.height, p.width, nullptr, nullptr, first.data()});
  for (int threads = 1; threads <= 4; ++threads) {
    Output y(random, 4 * p.results());
    conv2d(table, threads, p.layer, {x.as<float>(), p.images, p.height, p.width, nullptr, nullptr, y.data()});
    c.equal(y, first.copy(), "another number than the portable kernels");
  }
}

}  // namespace

void check_conv(const KernelTable& table, Random& random, Case& c) {
  if (random.one_in(25)) return heavy(table, random, c);
  Problem p;
  choose_geometry(p, random);
  choose_numbers(p, random);
  describe(c, p);
  const std::vector<uint8_t> packed = prepack(p);
  if (static_cast<int64_t>(packed.size()) != weight_bytes(p.layer)) return c.fail("another size of weights", weight_bytes(p.layer));
  Input weights(random, static_cast<int64_t>(packed.size())), x(random, static_cast<int64_t>(4 * p.x.size()));
  std::copy(packed.begin(), packed.end(), weights.data());
  std::copy(p.x.begin(), p.x.end(), x.as<float>());
  p.layer.weights = weights.data();
  const std::vector<int32_t> expected = accumulators(p);
  (random.one_in(2) ? bits : numbers)(table, random, c, p, x, expected);
}

}  // namespace check
