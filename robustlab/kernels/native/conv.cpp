#include "conv.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "base.h"
#include "conv_constants.h"
#include "direct.h"
#include "layer.h"
#include "parallel.h"
#include "scratch.h"

namespace robustlab {

namespace {

struct Scratch {
  Buffer codes, group;
  ConvConstants constants;
};

Scratch& scratch() {
  thread_local Scratch buffers;
  return buffers;
}

struct Plan {
  const KernelTable& kernels;
  const ConvLayer& layer;
  const uint8_t* images;
  const ImageLayout& layout;
  RowSpace space;
  Activation form;
  PixelMap window;
  const ConvConstants& constants;
  const Runs& runs;
  Weights weights{};
  bool unpack_late = false;           // panels are unpacked where they are used
  std::optional<PackedPanels> packed;   // or by a direct product

  Plan(const KernelTable& table, const ConvLayer& of, const ConvConstants& known, const uint8_t* input,
       const ImageLayout& place, int64_t count)
      : kernels(table),
        layer(of),
        images(input),
        layout(place),
        space{count, of.geometry.out_height(place.height), of.geometry.out_width(place.width)},
        form(activation_form(of)),
        window{of.geometry.stride_y, of.geometry.stride_x, -of.geometry.pad_y, -of.geometry.pad_x, false},
        constants(known),
        runs(known.runs) {}

  int64_t planes() const { return form == Activation::kPlanes ? layer.activation_bits : 1; }
  DirectFunction direct(const std::vector<StepPlan>& steps) const {
    return direct_product(kernels, layer, space.width, steps);
  }
  int64_t word_bytes() const { return runs.all_words() * kPanelWordBytes; }

  Panels panels(const uint8_t* data, int64_t count) const {
    const bool codes = form == Activation::kCodes;
    const int weight_planes = codes ? 1 : layer.weight_bits;
    return {data, count, word_bytes() * weight_planes, weight_planes, static_cast<int>(planes())};
  }

  // What pads a run is a zero code, which unpacking makes the offset: whether that must be undone.
  bool pads_with_offset() const {
    const WeightValue value = weight_value(layer);
    return runs.taps * runs.unit % 4 != 0 && value.exact && value.offset != 0;
  }

  // Unpacks `count` prepacked panels from panel `first` on.
  void unpack(int64_t first, int64_t count, uint8_t* out) const {
    const WeightValue value = weight_value(layer);
    const int64_t words = runs.all_words();
    kernels.unpack_codes(layer.weights + first * panel_planes_bytes(layer), layer.weight_bits, count * words,
                         value.exact ? value.factor : 1, value.exact ? value.offset : 0, out);
    if (!pads_with_offset()) return;
    const int64_t used = runs.taps * runs.unit % 4;
    const uint32_t mask = (1u << (8 * used)) - 1u;
    for (int64_t run = 0; run < count * runs.count; ++run) {
      uint8_t* word = out + ((run + 1) * runs.words - 1) * kPanelWordBytes;
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        uint32_t codes;
        std::memcpy(&codes, word + 4 * lane, 4);
        codes &= mask;
        std::memcpy(word + 4 * lane, &codes, 4);
      }
    }
  }

  void windows_of(int64_t begin, int64_t count, int64_t* starts, Windows& windows) const {
    const int64_t* table = constants.starts.empty() ? nullptr : constants.starts.data();
    const Places found = find_places(space, layout, window, table, begin, count, starts);
    windows = {images + found.base, found.at,  count,  constants.offsets.data(), runs.count, runs.words, runs.tail,
               layout.plane_bytes()};
  }

  void produce_depthwise(const Windows& windows, int64_t channel, int64_t width, int32_t* values, int64_t step) const {
    const bool codes = form == Activation::kCodes;
    const int64_t at = codes ? channel : channel / 8;
    const Depthwise d{windows.image + at,       windows.starts, windows.count, windows.offsets,
                      windows.runs,             weights.depthwise + at, depthwise_width(layer.geometry), width};
    (codes ? kernels.depthwise_codes : kernels.depthwise_bits)(d, values, step);
  }

  void produce(int64_t begin, int64_t count, int64_t channel, int64_t width, int32_t* values, int64_t step) const {
    const Geometry& g = layer.geometry;
    int64_t starts[kBlockRows];
    Windows windows;
    windows_of(begin, count, starts, windows);
    if (g.depthwise()) return produce_depthwise(windows, channel, width, values, step);
    const Product product = form == Activation::kCodes ? kernels.codes_product : kernels.bits_product;
    if (g.groups == 1) {
      const int64_t first = channel / kLanes, used = round_up(width, kLanes) / kLanes;
      if (unpack_late) {
        uint8_t* codes = scratch().codes.room<uint8_t>(used * word_bytes());
        unpack(first, used, codes);
        return product(windows, panels(codes, used), values, step);
      }
      Panels part = weights.panels;
      part.data += first * part.bytes;
      part.count = used;
      return product(windows, part, values, step);
    }
    const int64_t outputs = g.group_outputs(), of_group = group_panels(g);
    Panels part = weights.panels;
    part.count = of_group;
    const uint8_t* first_group = windows.image;
    for (int64_t group = 0; group < g.groups; ++group) {
      windows.image = first_group + group * runs.unit;
      part.data = weights.panels.data + group * of_group * part.bytes;
      if (outputs % kLanes == 0) {
        product(windows, part, values + group * outputs, step);
        continue;
      }
      const int64_t wide = of_group * kLanes;
      int32_t* lanes = scratch().group.room<int32_t>(count * wide);
      product(windows, part, lanes, wide);
      for (int64_t r = 0; r < count; ++r)
        std::memcpy(values + r * step + group * outputs, lanes + r * wide, static_cast<size_t>(4 * outputs));
    }
  }

  void patterns(int64_t begin, int64_t count, int32_t* pattern) const {
    const int64_t pixel = begin % space.pixels();
    int64_t y = pixel / space.width, x = pixel % space.width;
    for (int64_t r = 0; r < count; y = y + 1 == space.height ? 0 : y + 1) {
      const int64_t stop = std::min(count, r + space.width - x);
      for (; r < stop; ++r, ++x) pattern[r] = constants.borders->pattern(y, x);
      x = 0;
    }
  }

  // Sums of the codes of every window. Only layers of one group and 8-bit weights with a zero point need them.
  void sums(int64_t begin, int64_t count, int32_t* out) const {
    int64_t starts[kBlockRows];
    Windows windows;
    windows_of(begin, count, starts, windows);
    const int64_t bytes = runs.taps * runs.unit;
    for (int64_t r = 0; r < count; ++r) {
      uint32_t sum = 0;
      for (const int64_t offset : constants.offsets) {
        const uint8_t* run = windows.image + windows.starts[r] + offset;
        for (int64_t i = 0; i < bytes; ++i) sum += run[i];
      }
      out[r] = static_cast<int32_t>(sum);
    }
  }

  void fused(int64_t begin, int64_t count, int64_t channel, int64_t width, const Step* steps) const {
    int64_t starts[kBlockRows];
    Windows windows;
    windows_of(begin, count, starts, windows);
    Panels part = weights.panels;
    part.data += channel / kLanes * part.bytes;
    part.count = round_up(width, kLanes) / kLanes;
    const Step& store = steps[1];
    kernels.bits_threshold(windows, part,
                           BitThreshold{constants.limits.data() + channel, constants.step, steps[0].pattern,
                                        constants.flip.data() + channel / kLanes,
                                        store.image + (store.shift + channel) / 8, store.at, width});
  }
};

// Nanoseconds of one row, roughly.
double row_nanoseconds(const Plan& plan) {
  const Geometry& g = plan.layer.geometry;
  const bool codes = plan.form == Activation::kCodes;
  const double products = static_cast<double>(plan.planes()) * (codes ? 1 : plan.layer.weight_bits);
  const double panel_words =
      g.depthwise() ? static_cast<double>(g.taps_y * g.taps_x) * static_cast<double>(g.outputs) / 16
                    : static_cast<double>(plan.runs.all_words()) * static_cast<double>(g.groups * group_panels(g));
  return panel_words * products * (codes ? plan.kernels.codes_step : plan.kernels.bits_step);
}

template <class Function>
void on_threads(int threads, double nanoseconds, int64_t count, const Function& function) {
  constexpr double kThreadWorth = 8e3;
  const auto workers = std::min<int64_t>(std::max(threads, 1), 1 + static_cast<int64_t>(nanoseconds / kThreadWorth));
  const Tasks tasks{[](void* context, int64_t i) { (*static_cast<const Function*>(context))(i); },
                    const_cast<Function*>(&function), count};
  run_parallel(workers > 1 ? threads : 1, tasks);
}

// direct: for a direct product. Panels may then be unpacked by it, else in front of every block.
void prepare_weights(Plan& plan, int threads, bool direct) {
  const ConvLayer& layer = plan.layer;
  const Geometry& g = layer.geometry;
  const WeightValue value = weight_value(layer);
  if (plan.form != Activation::kCodes) {
    if (g.depthwise()) plan.weights.depthwise = layer.weights;
    else plan.weights.panels = plan.panels(layer.weights, g.groups * group_panels(g));
    return;
  }
  if (g.depthwise()) {
    const int64_t steps = g.taps_y * g.taps_x * depthwise_width(g) / 64;
    uint8_t* codes = scratch().codes.room<uint8_t>(steps * 64);
    plan.kernels.unpack_codes(layer.weights, layer.weight_bits, steps, value.factor, value.offset, codes);
    plan.weights.depthwise = codes;
    return;
  }
  const int64_t count = g.groups * group_panels(g);
  if (layer.weight_bits == 8) {   // stored as int8, see layout.py; has_sums() takes care of a zero point
    plan.weights.panels = plan.panels(layer.weights, count);
    return;
  }
  if (!direct && g.groups == 1 && plan.space.rows() <= kBlockRows && !has_patterns(layer)) {
    plan.unpack_late = true;
    return;
  }
  uint8_t* codes = scratch().codes.room<uint8_t>(count * plan.word_bytes());
  if (direct && !plan.pads_with_offset() && is_one_task(plan.space, plan.constants, threads)) {
    plan.weights.panels = plan.panels(nullptr, count);
    plan.packed = {layer.weights, layer.weight_bits, value.exact ? value.factor : 1, value.exact ? value.offset : 0,
                   scratch().codes.room<uint8_t>(4 * plan.word_bytes())};
    return;
  }
  on_threads(threads, 0.1 * static_cast<double>(count * plan.word_bytes()) / 4, count,
             [&](int64_t panel) { plan.unpack(panel, 1, codes + panel * plan.word_bytes()); });
  plan.weights.panels = plan.panels(codes, count);
}

// Bits straight from the product: the accumulator is base - 2 raw, so acc < t is raw > floor((base - t) / 2).
void fill_limits(const Geometry& g, const Step& store, int64_t patterns, ConvConstants& c) {
  c.limits.resize(static_cast<size_t>((patterns + 1) * c.step));
  int32_t* thresholds = c.limits.data() + patterns * c.step;
  // no accumulator is above K or below -K, so thresholds beyond say no more than these do
  const auto most = static_cast<int32_t>(g.taps());
  for (int64_t o = 0; o < c.step; ++o)
    thresholds[o] = o < g.outputs ? std::clamp(store.threshold[o], -most, most + 1) : -most;
  for (int64_t p = 0; p < patterns; ++p) {
    const int32_t* base = c.base.data() + p * c.step;
    int32_t* limits = c.limits.data() + p * c.step;
    for (int64_t o = 0; o < c.step; ++o) limits[o] = (base[o] - thresholds[o]) >> 1;
  }
  c.flip.assign(static_cast<size_t>(c.step / kLanes), 0);
  for (int64_t o = 0; o < g.outputs; ++o)
    if (store.flip[o] != 0)
      c.flip[static_cast<size_t>(o / kLanes)] =
          static_cast<uint16_t>(c.flip[static_cast<size_t>(o / kLanes)] | 1u << o % kLanes);
}

void describe(const ConvLayer& layer, const ImageLayout& layout, ConvConstants& c) {
  c.runs = runs_of(layer);
  c.offsets = run_offsets(layer, c.runs, layout);
  c.step = round_up(layer.geometry.outputs, kLanes);
  c.borders.reset();
  if (has_patterns(layer)) c.borders.emplace(layer.geometry, layout.height, layout.width);
  c.starts.clear();
}

void fill_constants(const Plan& plan, std::vector<StepPlan>& steps, ConvConstants& c) {
  const ConvLayer& layer = plan.layer;
  const Geometry& g = layer.geometry;
  const int64_t patterns = c.borders ? c.borders->patterns() : 1;
  c.base.assign(static_cast<size_t>(patterns * c.step), 0);
  fill_base(plan.kernels, layer, c.runs, plan.weights, c.borders ? &*c.borders : nullptr, c.step, c.base.data());
  Step& accumulate = steps[0].step;
  accumulate.base = c.base.data();
  accumulate.base_step = c.step;
  accumulate.factor = raw_factor(layer);
  c.sum_factor.clear();
  if (has_sums(layer)) {
    c.sum_factor.assign(static_cast<size_t>(c.step), sums_factor(layer));
    accumulate.sum_factor = c.sum_factor.data();
  }
  c.limits.clear();
  if (plan.form == Activation::kSigns && g.groups == 1 && steps.size() == 2 && steps[1].step.op == Op::kStoreBelow)
    fill_limits(g, steps[1].step, patterns, c);
  c.no_bias.clear();
  c.float_base.clear();
  c.base_at.clear();
  if (plan.direct(steps) == nullptr) return;
  c.no_bias.assign(static_cast<size_t>(c.step), -0.0f);
  if (plan.form == Activation::kSigns) c.float_base.assign(c.base.begin(), c.base.end());
  for (int64_t lines = 0; lines < (c.borders ? c.borders->line_classes() : 1); ++lines)
    for (int64_t x = 0; x < plan.space.width; ++x)
      c.base_at.push_back(c.borders ? c.borders->class_pattern(lines, x) * c.step : 0);
}

void run_plan(const Plan& plan, int threads, const std::vector<StepPlan>& steps) {
  const ConvConstants& c = plan.constants;
  const Geometry& g = plan.layer.geometry;
  if (const auto product = plan.direct(steps)) {
    const Windows windows{plan.images + plan.layout.at(plan.window.offset_y, plan.window.offset_x),
                          nullptr, plan.space.width, c.offsets.data(), plan.runs.count, plan.runs.words,
                          plan.runs.tail, plan.layout.plane_bytes()};
    return run_direct({product, windows, plan.weights.panels, plan.packed ? &*plan.packed : nullptr, plan.space,
                       plan.layout, plan.window, c, row_nanoseconds(plan)}, threads, steps);
  }
  Producer producer{};
  producer.context = &plan;
  producer.produce = [](const void* context, int64_t begin, int64_t rows, int64_t channel, int64_t width,
                        int32_t* values, int64_t value_step) {
    static_cast<const Plan*>(context)->produce(begin, rows, channel, width, values, value_step);
  };
  if (c.borders) {
    producer.patterns = [](const void* context, int64_t begin, int64_t rows, int32_t* pattern) {
      static_cast<const Plan*>(context)->patterns(begin, rows, pattern);
    };
  }
  if (!c.sum_factor.empty()) {
    producer.sums = [](const void* context, int64_t begin, int64_t rows, int32_t* sums) {
      static_cast<const Plan*>(context)->sums(begin, rows, sums);
    };
  }
  if (!c.limits.empty()) {
    producer.fused = [](const void* context, int64_t begin, int64_t rows, int64_t channel, int64_t width,
                        const Step* placed) {
      static_cast<const Plan*>(context)->fused(begin, rows, channel, width, placed);
    };
  }
  producer.lanes = g.groups == 1 ? kLanes : g.depthwise() ? 64 : 0;
  producer.nanoseconds = row_nanoseconds(plan);
  run_blocks(plan.kernels, threads, plan.space, g.outputs, steps, &producer);
}

}  // namespace

void ConvConstantsDeleter::operator()(ConvConstants* constants) const { delete constants; }

KeptConvConstants conv_constants(const KernelTable& kernels, const ConvLayer& layer, const ImageLayout& layout,
                                 std::vector<StepPlan>& steps) {
  KeptConvConstants constants(new ConvConstants);
  describe(layer, layout, *constants);
  Plan plan(kernels, layer, *constants, nullptr, layout, 1);
  prepare_weights(plan, 1, false);
  fill_constants(plan, steps, *constants);
  if (plan.space.pixels() <= kMostTablePixels) {
    constants->starts.resize(static_cast<size_t>(plan.space.pixels()));
    row_places(plan.space, layout, plan.window, 0, plan.space.pixels(), constants->starts.data());
  }
  return constants;
}

void run_conv(const KernelTable& kernels, int threads, const ConvLayer& layer, const ConvConstants& constants,
              const uint8_t* images, const ImageLayout& layout, int64_t count, const std::vector<StepPlan>& steps) {
  if (count == 0) return;
  Plan plan(kernels, layer, constants, images, layout, count);
  prepare_weights(plan, threads, plan.direct(steps) != nullptr);
  run_plan(plan, threads, steps);
}

void run_conv(const KernelTable& kernels, int threads, const ConvLayer& layer, const uint8_t* images,
              const ImageLayout& layout, int64_t count, std::vector<StepPlan>& steps) {
  if (count == 0) return;
  ConvConstants& constants = scratch().constants;
  describe(layer, layout, constants);
  Plan plan(kernels, layer, constants, images, layout, count);
  prepare_weights(plan, threads, plan.direct(steps) != nullptr);
  fill_constants(plan, steps, constants);
  run_plan(plan, threads, steps);
}

}  // namespace robustlab
