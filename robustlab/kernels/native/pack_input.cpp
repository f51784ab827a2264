// Float images, channels first, to packed images.
#include <algorithm>

#include "conv.h"
#include "layer.h"
#include "parallel.h"

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

  // Lines [begin, end) of an image; all at once where the packed image has no halo between them.
  void pack(int64_t image, int64_t begin, int64_t end) const {
    const Geometry& g = layer.geometry;
    const int64_t pixels = layout.height * layout.width, groups = g.depthwise() ? 1 : g.groups;
    const int64_t channels = g.channels() / groups;
    const bool whole = layout.halo_x == 0;
    const int64_t count = whole ? (end - begin) * layout.width : layout.width;
    for (int64_t y = begin; y < end; y += whole ? end - begin : 1) {
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t channel = group * channels;
        const float* from = x + (image * g.channels() + channel) * pixels + y * layout.width;
        uint8_t* to = images + image * layout.image_bytes() + layout.at(y, 0) + group * runs.unit;
        if (form == Activation::kSigns) {
          kernels.pack_signs({from, pixels, channels, count, thresholds ? thresholds + channel : nullptr, to,
                              layout.pixel});
        } else {
          kernels.pack_codes({from, pixels, channels, count, sub ? sub + channel : nullptr,
                              div ? div + channel : nullptr, layer.activation, to, layout.pixel,
                              form == Activation::kPlanes ? static_cast<int>(layout.planes) : 0,
                              layout.plane_bytes()});
        }
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
  fill_halo(images, count, layout, halo_pattern(layer).data());
}

}  // namespace robustlab
