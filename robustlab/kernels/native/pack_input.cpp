// Float images, channels first, to packed images.
#include <algorithm>
#include <cstring>

#include "conv.h"
#include "layer.h"
#include "parallel.h"
#include "scratch.h"

namespace robustlab {
namespace {

constexpr double kValueNanoseconds = 0.06;
constexpr double kThreadWorth = 8e3;

struct Packing {
  const KernelTable& kernels;
  const ConvLayer& layer;
  const ImageLayout& layout;
  Activation form;
  Runs runs;
  const float *x, *thresholds, *sub, *div;
  uint8_t* images;
  int64_t lines, parts;   // lines of a task, tasks of an image

  // Lines [begin, end) of an image.
  void pack(int64_t image, int64_t begin, int64_t end) const {
    uint8_t* to = images + image * layout.image_bytes() + layout.at(begin, 0);
    if (layout.halo_x == 0) return pack_pixels(image, begin, (end - begin) * layout.width, to, layout.plane_bytes());
    const int64_t line = layout.width * layout.pixel;
    if (form == Activation::kCodes && layout.width >= 32) {
      for (int64_t y = begin; y < end; ++y, to += layout.pitch()) pack_pixels(image, y, layout.width, to, 0);
      return;
    }
    // Lines are seldom as long as a few vectors, so all of them are packed as one, and then copied apart: bits are small.
    thread_local Buffer buffer;
    const int64_t plane = (end - begin) * line;
    uint8_t* packed = buffer.room<uint8_t>(layout.planes * plane);
    pack_pixels(image, begin, (end - begin) * layout.width, packed, plane);
    for (int64_t p = 0; p < layout.planes; ++p)
      for (int64_t y = 0; y < end - begin; ++y)
        std::memcpy(to + p * layout.plane_bytes() + y * layout.pitch(), packed + p * plane + y * line,
                    static_cast<size_t>(line));
  }

  // `count` pixels from line `y` on, next to each other.
  void pack_pixels(int64_t image, int64_t y, int64_t count, uint8_t* to, int64_t plane) const {
    const Geometry& g = layer.geometry;
    const int64_t pixels = layout.height * layout.width, groups = g.depthwise() ? 1 : g.groups;
    const int64_t channels = g.channels() / groups;
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t channel = group * channels;
      const float* from = x + (image * g.channels() + channel) * pixels + y * layout.width;
      uint8_t* out = to + group * runs.unit;
      if (form == Activation::kSigns) {
        kernels.pack_signs({from, pixels, channels, count, thresholds ? thresholds + channel : nullptr, out,
                            layout.pixel});
      } else {
        kernels.pack_codes({from, pixels, channels, count, sub ? sub + channel : nullptr,
                            div ? div + channel : nullptr, layer.activation, out, layout.pixel,
                            form == Activation::kPlanes ? static_cast<int>(layout.planes) : 0, plane});
      }
    }
  }

  void run(int64_t task) const {
    const int64_t begin = task % parts * lines;
    pack(task / parts, begin, std::min(begin + lines, layout.height));
  }
};

}  // namespace

void pack_input(const KernelTable& kernels, int threads, const ConvLayer& layer, const ImageLayout& layout,
                const float* x, int64_t count, const float* thresholds, const float* sub, const float* div,
                uint8_t* images) {
  if (count == 0) return;
  Packing packing{kernels, layer, layout, activation_form(layer), runs_of(layer), x, thresholds, sub, div, images, 0, 0};
  const double work = kValueNanoseconds * static_cast<double>(count * layer.geometry.channels()) *
                      static_cast<double>(layout.height * layout.width);
  const int64_t workers = std::min<int64_t>(std::max(threads, 1), 1 + static_cast<int64_t>(work / kThreadWorth));
  packing.parts = count >= workers ? 1 : std::min((workers + count - 1) / count, layout.height);
  packing.lines = (layout.height + packing.parts - 1) / packing.parts;
  packing.parts = (layout.height + packing.lines - 1) / packing.lines;
  const Tasks tasks{[](void* context, int64_t task) { static_cast<const Packing*>(context)->run(task); }, &packing,
                    count * packing.parts};
  run_parallel(workers > 1 ? threads : 1, tasks);
  if (layout.halo_y > 0 || layout.halo_x > 0) fill_halo(images, count, layout, halo_pattern(layer).data());
}

}  // namespace robustlab
