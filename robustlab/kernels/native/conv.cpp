#include "conv.h"

#include <algorithm>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

#include "rows.h"
#include "scratch.h"

namespace robustlab {
namespace {

constexpr double kThreadWorth = 200e3;        // nanoseconds of work below which no thread is started
constexpr int64_t kChunkBytes = 256 * 1024;   // packed images and gathered rows that should stay in the cache

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step; }

struct Scratch {
  Buffer image, rows, raw, pattern, codes, panels, base;
};

Scratch& scratch() {
  thread_local Scratch buffers;
  return buffers;
}

// A convolution as products of rows and panels; the same for signs and codes.
struct Plan {
  const KernelTable& kernels;
  const ConvShape& shape;
  const Operands& operands;
  const RowGatherer& gatherer;
  bool binary;
  Quantizer quantizer;
  const uint8_t* panels;    // [group][panel][word][lane]
  const int32_t* base;      // [group][pattern][width]
  int64_t patterns;

  int64_t group_outputs() const { return shape.outputs / shape.groups; }
  int64_t group_panels() const { return round_up(group_outputs(), kLanes); }
  int64_t width() const { return group_panels() * kLanes; }
  int64_t panel_bytes() const { return gatherer.words() * kPanelWordBytes; }
  int64_t out_pixels() const { return shape.out_height() * shape.out_width(); }
  Product product() const { return binary ? kernels.bits_product : kernels.codes_product; }
  const uint8_t* group_weights(int64_t group) const { return panels + group * group_panels() * panel_bytes(); }
};

// Panels whose lanes belong to one group each. Prepacked panels run over all outputs, so lanes move if 16 does not
// divide the outputs of a group.
const uint8_t* panels_by_group(const ConvShape& shape, const uint8_t* panels, int64_t words, Buffer& buffer) {
  const int64_t outputs = shape.outputs / shape.groups;
  if (shape.groups == 1 || outputs % kLanes == 0) return panels;
  const int64_t width = round_up(outputs, kLanes) * kLanes, panel_bytes = words * kPanelWordBytes;
  const int64_t total = shape.groups * width / kLanes * panel_bytes;
  uint8_t* result = buffer.room<uint8_t>(total);
  std::memset(result, 0, static_cast<size_t>(total));
  for (int64_t o = 0; o < shape.outputs; ++o) {
    const int64_t to = o / outputs * width + o % outputs;
    const uint8_t* source = panels + o / kLanes * panel_bytes + o % kLanes * 4;
    uint8_t* target = result + to / kLanes * panel_bytes + to % kLanes * 4;
    for (int64_t k = 0; k < words; ++k) std::memcpy(target + k * kPanelWordBytes, source + k * kPanelWordBytes, 4);
  }
  return result;
}

void pack_image(const Plan& plan, const float* x, uint8_t* image) {
  const ConvShape& s = plan.shape;
  const int64_t pixels = s.height * s.width, stride = plan.gatherer.pixel_bytes();
  if (!plan.binary) return plan.kernels.quantize(x, s.channels, pixels, plan.quantizer, image, stride);
  for (int64_t group = 0; group < s.groups; ++group) {
    plan.kernels.pack_signs(x + group * s.group_channels * pixels, s.group_channels, pixels,
                            image + group * plan.gatherer.unit_bytes(), stride, plan.gatherer.whole_words());
  }
}

// Scale, bias and store of rows [begin, end) of one block for one group, image by image.
void finish_block(const Plan& plan, int64_t group, int64_t begin, int64_t end, const int32_t* raw,
                  const int32_t* pattern) {
  const int64_t pixels = plan.out_pixels(), outputs = plan.shape.outputs, first = group * plan.group_outputs();
  Epilogue e;
  e.base = plan.base + group * plan.patterns * plan.width();
  e.width = plan.width();
  e.channels = plan.group_outputs();
  e.binary = plan.binary;
  e.scale = plan.operands.scale ? plan.operands.scale + first : nullptr;
  e.bias = plan.operands.bias ? plan.operands.bias + first : nullptr;
  e.row_step = pixels == 1 ? outputs : 1;
  e.channel_step = pixels == 1 ? 1 : pixels;
  for (int64_t row = begin; row < end;) {
    const int64_t image = row / pixels, next = pixels == 1 ? end : std::min(end, (image + 1) * pixels);
    e.raw = raw + (row - begin) * plan.width();
    e.pattern = pattern + (row - begin);
    e.rows = next - row;
    e.out = static_cast<int32_t*>(plan.operands.y) + (image * outputs + first) * pixels + row % pixels;
    plan.kernels.epilogue(e);
    row = next;
  }
}

// Calls fn(i, image, y, x, stop) for the pieces of output lines that rows [begin, begin + count) consist of: rows i...
// of the range are the pixels (y, x..stop-1) of an image.
template <class Function>
void for_each_line(const Plan& plan, int64_t begin, int64_t count, const Function& fn) {
  const int64_t pixels = plan.out_pixels(), out_width = plan.shape.out_width();
  for (int64_t i = 0; i < count;) {
    const int64_t pixel = (begin + i) % pixels, y = pixel / out_width, x = pixel % out_width;
    const int64_t stop = std::min(out_width, x + count - i);
    fn(i, (begin + i) / pixels, y, x, stop);
    i += stop - x;
  }
}

// Output rows [begin, end) of images that start at `first_image` and lie packed in `images`.
void run_rows(const Plan& plan, const uint8_t* images, int64_t first_image, int64_t begin, int64_t end) {
  const RowGatherer& gatherer = plan.gatherer;
  const int64_t row_bytes = gatherer.row_bytes();
  // Blocks are multiples of 7 rows, the height of a register tile, and of 16, a cache line of the output.
  int64_t block = kChunkBytes / std::max<int64_t>(row_bytes, plan.width() * 4);
  block = block >= 112 ? std::min<int64_t>(block, 1120) / 112 * 112 : std::max<int64_t>(block / 14 * 14, 14);
  Scratch& buffers = scratch();
  for (int64_t row = begin; row < end; row += block) {
    const int64_t count = std::min(block, end - row);
    int32_t* raw = buffers.raw.room<int32_t>(count * plan.width());
    int32_t* pattern = buffers.pattern.room<int32_t>(count);
    if (plan.patterns == 1) {
      std::fill(pattern, pattern + count, 0);
    } else {
      for_each_line(plan, row, count, [&](int64_t i, int64_t, int64_t y, int64_t x, int64_t stop) {
        for (; x < stop; ++x) pattern[i++] = gatherer.pattern(y, x);
      });
    }
    for (int64_t group = 0; group < plan.shape.groups; ++group) {
      const uint8_t* rows = images + (row - first_image * plan.out_pixels()) * row_bytes;
      if (!gatherer.identity()) {
        uint8_t* gathered = buffers.rows.room<uint8_t>(count * row_bytes);
        for_each_line(plan, row, count, [&](int64_t i, int64_t image, int64_t y, int64_t x, int64_t stop) {
          const uint8_t* source = images + (image - first_image) * gatherer.image_bytes();
          gatherer.gather(source, group, y, x, stop, gathered + i * row_bytes);
        });
        rows = gathered;
      }
      plan.product()(rows, row_bytes, count, gatherer.words(), plan.group_weights(group), plan.group_panels(), raw);
      finish_block(plan, group, row, row + count, raw, pattern);
    }
  }
}

// Packs the images that output rows [begin, end) need, a few at a time, and runs those rows.
void run_range(const Plan& plan, int64_t begin, int64_t end) {
  const int64_t pixels = plan.out_pixels(), image_bytes = plan.gatherer.image_bytes();
  const int64_t chunk = std::max<int64_t>(1, kChunkBytes / image_bytes);
  const int64_t image_values = plan.shape.channels * plan.shape.height * plan.shape.width;
  const int64_t last_image = round_up(end, pixels);
  for (int64_t first = begin / pixels; first < last_image; first += chunk) {
    const int64_t stop = std::min(first + chunk, last_image);
    uint8_t* images = scratch().image.room<uint8_t>((stop - first) * image_bytes);
    for (int64_t i = first; i < stop; ++i)
      pack_image(plan, plan.operands.x + i * image_values, images + (i - first) * image_bytes);
    run_rows(plan, images, first, std::max(begin, first * pixels), std::min(end, stop * pixels));
  }
}

void run(const Plan& plan, int threads) {
  const int64_t rows = plan.shape.images * plan.out_pixels();
  const double step = plan.binary ? plan.kernels.bits_step : plan.kernels.codes_step;
  const double work = step * static_cast<double>(rows) * static_cast<double>(plan.gatherer.words()) *
                      static_cast<double>(plan.shape.groups * plan.group_panels());
  const int64_t parts = std::min<int64_t>(threads, rows / 16);
  if (work < kThreadWorth || parts < 2) return run_range(plan, 0, rows);
  // Rows of 16 are written by one thread, so that two threads rarely share a cache line of the output.
  const auto cut = [&](int64_t part) { return part == parts ? rows : rows * part / parts / 16 * 16; };
  std::vector<std::exception_ptr> errors(static_cast<size_t>(parts));
  const auto run_part = [&](int64_t part) {
    try {
      run_range(plan, cut(part), cut(part + 1));
    } catch (...) {
      errors[static_cast<size_t>(part)] = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  others.reserve(static_cast<size_t>(parts));
  int64_t started = 1;
  try {
    for (; started < parts; ++started) others.emplace_back(run_part, started);
  } catch (const std::system_error&) {
    // no more threads to be had: the parts that are left run here
  }
  run_part(0);
  for (int64_t part = started; part < parts; ++part) run_part(part);
  for (std::thread& other : others) other.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace

int64_t packed_bytes(const ConvShape& shape, int bits) {
  const int64_t panels = round_up(shape.outputs, kLanes);
  return bits == 1 ? panels * round_up(shape.taps(), 32) * kPanelWordBytes
                   : panels * round_up(shape.taps(), 4) * 8 * bits;
}

void binary_conv2d(const KernelTable& kernels, int threads, const ConvShape& shape, const Operands& operands,
                   PaddingValue padding) {
  if (shape.images == 0) return;
  Scratch& buffers = scratch();
  const RowGatherer gatherer(shape, 1, padding == PaddingValue::kNegOne ? 0xff : 0x00);
  const uint8_t* panels = panels_by_group(shape, operands.weight, gatherer.words(), buffers.panels);
  Plan plan{kernels, shape, operands, gatherer, true, {}, panels, nullptr, 1};
  // +1 and -1 padding: acc = K - 2 raw. Zero padding: a padded tap has bit 0 (+1), which adds its weight. With the
  // bits of the padded taps alone, the product gives raw_pad = popc(w) + popc(pad) - 2 popc(w & pad), so that
  // acc = K + popc(w) - raw_pad - 2 raw, where popc(w) is the product with an empty row.
  const bool corrected = padding == PaddingValue::kZero && (shape.pad_y > 0 || shape.pad_x > 0);
  const auto positions = corrected ? gatherer.representatives() : std::vector<RowGatherer::Position>{};
  plan.patterns = corrected ? static_cast<int64_t>(positions.size()) : 1;
  const int64_t width = plan.width();
  int32_t* base = buffers.base.room<int32_t>(shape.groups * plan.patterns * width);
  std::fill(base, base + shape.groups * plan.patterns * width, static_cast<int32_t>(shape.taps()));
  if (corrected) {
    const int64_t row_bytes = gatherer.row_bytes(), count = plan.patterns + 1;
    const RowGatherer padded(shape, 1, 0xff);
    std::vector<uint8_t> empty(static_cast<size_t>(gatherer.image_bytes() + 8));
    std::vector<uint8_t> rows(static_cast<size_t>(count * row_bytes + 8));
    for (int64_t p = 0; p < plan.patterns; ++p) {
      const auto at = positions[static_cast<size_t>(p)];
      padded.gather(empty.data(), 0, at.y, at.x, at.x + 1, rows.data() + p * row_bytes);
    }
    std::fill(rows.end() - row_bytes - 8, rows.end(), static_cast<uint8_t>(0));
    std::vector<int32_t> raw(static_cast<size_t>(count * width));
    for (int64_t group = 0; group < shape.groups; ++group) {
      kernels.bits_product(rows.data(), row_bytes, count, gatherer.words(), plan.group_weights(group),
                           plan.group_panels(), raw.data());
      const int32_t* ones = raw.data() + plan.patterns * width;
      for (int64_t p = 0; p < plan.patterns; ++p)
        for (int64_t c = 0; c < width; ++c)
          base[(group * plan.patterns + p) * width + c] += ones[c] - raw[static_cast<size_t>(p * width + c)];
    }
  }
  plan.base = base;
  run(plan, threads);
}

void quant_conv2d(const KernelTable& kernels, int threads, const ConvShape& shape, const Operands& operands, int bits,
                  Quantizer quantizer) {
  if (shape.images == 0) return;
  Scratch& buffers = scratch();
  const RowGatherer gatherer(shape, 8, static_cast<uint8_t>(quantizer.zero_point));
  const int64_t all_panels = round_up(shape.outputs, kLanes), words = gatherer.words();
  uint8_t* codes = buffers.codes.room<uint8_t>(all_panels * words * kPanelWordBytes);
  kernels.unpack_codes(operands.weight, bits, words, all_panels, codes);
  const uint8_t* panels = panels_by_group(shape, codes, words, buffers.panels);
  Plan plan{kernels, shape, operands, gatherer, false, quantizer, panels, nullptr, 1};
  // acc = sum (qx - z) qw = raw - z sum qw, and padded taps hold z. A row of ones gives sum qw.
  std::vector<uint8_t> ones(static_cast<size_t>(gatherer.row_bytes()));
  std::fill(ones.begin(), ones.begin() + shape.taps(), static_cast<uint8_t>(1));
  const int64_t width = plan.width();
  int32_t* base = buffers.base.room<int32_t>(shape.groups * width);
  for (int64_t group = 0; group < shape.groups; ++group) {
    int32_t* sums = base + group * width;
    kernels.codes_product(ones.data(), gatherer.row_bytes(), 1, words, plan.group_weights(group), plan.group_panels(),
                          sums);
    for (int64_t c = 0; c < width; ++c)
      sums[c] = static_cast<int32_t>(0u - static_cast<uint32_t>(quantizer.zero_point) * static_cast<uint32_t>(sums[c]));
  }
  plan.base = base;
  run(plan, threads);
}

}  // namespace robustlab
