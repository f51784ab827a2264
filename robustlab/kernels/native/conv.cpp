#include "conv.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "base.h"
#include "layer.h"
#include "parallel.h"
#include "scratch.h"

namespace robustlab {
namespace {

struct Scratch {
  Buffer codes, base, limits, group;
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
  Runs runs;
  Activation form;
  std::vector<int64_t> offsets;
  PixelMap window;
  Weights weights{};
  bool unpack_late = false;           // panels are unpacked where they are used
  const Borders* borders = nullptr;
  // bits straight from the product
  const int32_t* limits = nullptr;
  int64_t limit_step = 0;
  std::vector<uint16_t> flip{};

  int64_t planes() const { return form == Activation::kPlanes ? layer.activation_bits : 1; }
  int64_t word_bytes() const { return runs.all_words() * kPanelWordBytes; }

  Panels panels(const uint8_t* data, int64_t count) const {
    const bool codes = form == Activation::kCodes;
    const int weight_planes = codes ? 1 : layer.weight_bits;
    return {data, count, word_bytes() * weight_planes, weight_planes, static_cast<int>(planes())};
  }

  // Unpacks `count` prepacked panels from panel `first` on.
  void unpack(int64_t first, int64_t count, uint8_t* out) const {
    const WeightValue value = weight_value(layer);
    const int64_t words = runs.all_words();
    kernels.unpack_codes(layer.weights + first * panel_planes_bytes(layer), layer.weight_bits, count * words,
                         value.exact ? value.factor : 1, value.exact ? value.offset : 0, out);
    // what pads a run is a zero code, which has become the offset
    const int64_t used = runs.taps * runs.unit % 4;
    if (used == 0 || !value.exact || value.offset == 0) return;
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
    row_places(space, layout, window, begin, count, starts);
    windows = {images,     starts,     count,     offsets.data(),       runs.count,
               runs.words, runs.tail,  layout.plane_bytes()};
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
    for (int64_t group = 0; group < g.groups; ++group) {
      windows.image = images + group * runs.unit;
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
      for (; r < stop; ++r, ++x) pattern[r] = borders->pattern(y, x);
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
      for (const int64_t offset : offsets) {
        const uint8_t* run = images + starts[r] + offset;
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
                           BitThreshold{limits + channel, limit_step, steps[0].pattern,
                                        flip.data() + channel / kLanes, store.image + (store.shift + channel) / 8,
                                        store.at, width});
  }
};

template <class Function>
void on_threads(int threads, double nanoseconds, int64_t count, const Function& function) {
  constexpr double kThreadWorth = 8e3;
  const auto workers = std::min<int64_t>(std::max(threads, 1), 1 + static_cast<int64_t>(nanoseconds / kThreadWorth));
  const Tasks tasks{[](void* context, int64_t i) { (*static_cast<const Function*>(context))(i); },
                    const_cast<Function*>(&function), count};
  run_parallel(workers > 1 ? threads : 1, tasks);
}

void prepare_weights(Plan& plan, int threads) {
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
  if (g.groups == 1 && plan.space.rows() <= kBlockRows && !has_patterns(layer)) {
    plan.unpack_late = true;
    return;
  }
  uint8_t* codes = scratch().codes.room<uint8_t>(count * plan.word_bytes());
  on_threads(threads, 0.1 * static_cast<double>(count * plan.word_bytes()) / 4, count,
             [&](int64_t panel) { plan.unpack(panel, 1, codes + panel * plan.word_bytes()); });
  plan.weights.panels = plan.panels(codes, count);
}

// Bits straight from the product: the accumulator is base - 2 raw, so acc < t is raw > floor((base - t) / 2).
bool prepare_limits(Plan& plan, const std::vector<StepPlan>& steps, const int32_t* base, int64_t patterns,
                    int64_t step) {
  const Geometry& g = plan.layer.geometry;
  if (plan.form != Activation::kSigns || g.groups != 1 || steps.size() != 2 || steps[1].step.op != Op::kStoreBelow)
    return false;
  const Step& store = steps[1].step;
  int32_t* limits = scratch().limits.room<int32_t>((patterns + 1) * step);
  int32_t* thresholds = limits + patterns * step;
  // no accumulator is above K or below -K, so thresholds beyond say no more than these do
  const auto most = static_cast<int32_t>(g.taps());
  for (int64_t o = 0; o < step; ++o)
    thresholds[o] = o < g.outputs ? std::clamp(store.threshold[o], -most, most + 1) : -most;
  for (int64_t p = 0; p < patterns; ++p)
    for (int64_t o = 0; o < step; ++o) limits[p * step + o] = (base[p * step + o] - thresholds[o]) >> 1;
  plan.limits = limits;
  plan.limit_step = step;
  plan.flip.assign(static_cast<size_t>(step / kLanes), 0);
  for (int64_t o = 0; o < g.outputs; ++o)
    if (store.flip[o] != 0)
      plan.flip[static_cast<size_t>(o / kLanes)] =
          static_cast<uint16_t>(plan.flip[static_cast<size_t>(o / kLanes)] | 1u << o % kLanes);
  return true;
}

}  // namespace

void run_conv(const KernelTable& kernels, int threads, const ConvLayer& layer, const uint8_t* images,
              const ImageLayout& layout, int64_t count, const std::vector<StepPlan>& steps) {
  const Geometry& g = layer.geometry;
  if (count == 0) return;
  Plan plan{kernels,          layer, images, layout, {count, g.out_height(layout.height), g.out_width(layout.width)},
            runs_of(layer), activation_form(layer), {}, {}};
  plan.offsets = run_offsets(layer, plan.runs, layout);
  plan.window = {g.stride_y, g.stride_x, -g.pad_y, -g.pad_x, false};
  prepare_weights(plan, threads);

  std::unique_ptr<Borders> borders;
  if (has_patterns(layer)) borders = std::make_unique<Borders>(g, layout.height, layout.width);
  plan.borders = borders.get();
  const int64_t step = round_up(g.outputs, kLanes), patterns = borders ? borders->patterns() : 1;
  int32_t* base = scratch().base.room<int32_t>((patterns + 1) * step);
  std::memset(base, 0, static_cast<size_t>((patterns + 1) * step * 4));
  fill_base(kernels, layer, plan.runs, plan.weights, borders.get(), step, base);

  std::vector<StepPlan> filled = steps;
  Step& accumulate = filled[0].step;
  accumulate.base = base;
  accumulate.base_step = step;
  accumulate.factor = raw_factor(layer);
  Producer producer{};
  producer.context = &plan;
  producer.produce = [](const void* context, int64_t begin, int64_t rows, int64_t channel, int64_t width,
                        int32_t* values, int64_t value_step) {
    static_cast<const Plan*>(context)->produce(begin, rows, channel, width, values, value_step);
  };
  if (borders) {
    producer.patterns = [](const void* context, int64_t begin, int64_t rows, int32_t* pattern) {
      static_cast<const Plan*>(context)->patterns(begin, rows, pattern);
    };
  }
  if (has_sums(layer)) {
    int32_t* factors = base + patterns * step;
    std::fill(factors, factors + step, sums_factor(layer));
    accumulate.sum_factor = factors;
    producer.sums = [](const void* context, int64_t begin, int64_t rows, int32_t* sums) {
      static_cast<const Plan*>(context)->sums(begin, rows, sums);
    };
  }
  if (prepare_limits(plan, steps, base, patterns, step)) {
    producer.fused = [](const void* context, int64_t begin, int64_t rows, int64_t channel, int64_t width,
                        const Step* placed) {
      static_cast<const Plan*>(context)->fused(begin, rows, channel, width, placed);
    };
  }
  producer.lanes = g.groups == 1 ? kLanes : g.depthwise() ? 64 : 0;
  const double products = static_cast<double>(plan.planes()) * (plan.form == Activation::kCodes ? 1 : layer.weight_bits);
  const double panel_words =
      g.depthwise() ? static_cast<double>(g.taps_y * g.taps_x) * static_cast<double>(g.outputs) / 16
                    : static_cast<double>(plan.runs.all_words()) * static_cast<double>(g.groups * group_panels(g));
  producer.nanoseconds =
      panel_words * products * (plan.form == Activation::kCodes ? kernels.codes_step : kernels.bits_step);
  run_blocks(kernels, threads, plan.space, g.outputs, filled, &producer);
}

}  // namespace robustlab
