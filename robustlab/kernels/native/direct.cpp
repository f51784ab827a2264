#include "direct.h"

#include <algorithm>

#include "base.h"
#include "parallel.h"
#include "scratch.h"

namespace robustlab {
namespace {

constexpr int64_t kMostTaps = 1 << 22;  // sums and bases of signs stay below 2^24, see Direct
constexpr int64_t kLeastWidth = 5;      // narrower lines leave registers of a tile empty: blocks are better
constexpr int64_t kMostRows = 448;      // of a task, so that its inputs and outputs stay in the first cache
constexpr double kThreadWorth = 8e3;    // nanoseconds of work that are worth one more thread

// Lines [begin, begin + count) of an image, all of one class.
struct Stretch {
  int64_t begin, count;
  const int64_t* base_at;   // [width]
};

struct Job {
  const DirectLayer& layer;
  const StepPlan& store;
  const Direct& direct;              // of the first image, without lines and base_at
  const std::vector<Stretch>& stretches;
  int64_t chunk, chunks;             // panels of a task

  void run(int64_t task) const {
    // stretches first: tasks that run at the same time then write other lines
    const auto of_image = static_cast<int64_t>(stretches.size());
    const int64_t s = task % of_image, rest = task / of_image;
    const int64_t first = rest % chunks * chunk, image = rest / chunks;
    const Stretch& stretch = stretches[static_cast<size_t>(s)];
    Windows windows = layer.windows;
    windows.image += image * layer.layout.image_bytes() + stretch.begin * direct.in;
    Panels panels = layer.panels;
    panels.data += first * panels.bytes;
    panels.count = std::min(chunk, layer.panels.count - first);
    Direct part = direct;
    const int64_t channel = first * kLanes;
    part.lines = stretch.count;
    part.base = static_cast<const int32_t*>(part.base) + channel;
    part.base_at = stretch.base_at;
    if (part.flip != nullptr) part.flip += first;
    if (part.scale != nullptr) part.scale += channel;
    if (part.bias != nullptr) part.bias += channel;
    const bool planar = store.place == StepPlan::Place::kPlanar;
    part.image += image * (planar ? store.image_bytes : store.layout.image_bytes()) + stretch.begin * direct.out +
                  direct.channels(channel);
    layer.product(windows, panels, part);
  }
};

// The lines of an image, those of one class together but at most `most` of them.
std::vector<Stretch> stretches_of(const RowSpace& space, const ConvConstants& c, int64_t most) {
  const auto line_class = [&](int64_t y) { return c.borders ? c.borders->line_class(y) : 0; };
  std::vector<Stretch> found;
  for (int64_t y = 0; y < space.height;) {
    const int32_t of = line_class(y);
    int64_t stop = y + 1;
    while (stop < space.height && line_class(stop) == of) ++stop;
    for (int64_t parts = (stop - y + most - 1) / most; parts > 0; --parts) {
      const int64_t lines = (stop - y + parts - 1) / parts;
      found.push_back({y, lines, c.base_at.data() + of * space.width});
      y += lines;
    }
  }
  return found;
}

}  // namespace

DirectFunction direct_product(const KernelTable& kernels, const ConvLayer& layer, int64_t width,
                              const std::vector<StepPlan>& steps) {
  const Geometry& g = layer.geometry;
  if (g.groups != 1 || g.outputs % (2 * kLanes) != 0 || width < kLeastWidth || has_sums(layer)) return nullptr;
  const StepPlan& store = steps.back();
  const Op op = store.step.op;
  if (store.map.clamped) return nullptr;
  const Activation form = activation_form(layer);
  if (form == Activation::kSigns && g.taps() > kMostTaps) return nullptr;
  const DirectFunction product = form == Activation::kCodes ? kernels.direct_codes : kernels.direct_bits;
  if (steps.size() == 2) return op == Op::kStoreBelow && form == Activation::kSigns ? product : nullptr;
  if (steps.size() > 4 || steps[1].step.op != Op::kScale || (steps.size() == 4 && steps[2].step.op != Op::kAdd))
    return nullptr;
  const bool known = op == Op::kStore || op == Op::kStorePlanar || op == Op::kStoreCodes || op == Op::kStorePlanes;
  return known ? product : nullptr;
}

bool is_one_task(const RowSpace& space, const ConvConstants& constants, int threads) {
  return threads <= 1 && space.images == 1 && space.rows() <= kMostRows && !constants.borders;
}

void run_direct(const DirectLayer& layer, int threads, const std::vector<StepPlan>& steps) {
  thread_local Buffer at_room;
  const ConvConstants& c = layer.constants;
  const StepPlan& store = steps.back();
  const int64_t width = layer.space.width;
  Direct direct{};
  int64_t* at = at_room.room<int64_t>(width);
  if (store.place == StepPlan::Place::kPlanar) {
    for (int64_t x = 0; x < width; ++x) at[x] = 4 * x;
    direct.out = 4 * width;
  } else {
    row_places({1, 1, width}, store.layout, store.map, 0, width, at);
    direct.out = store.map.stride_y * store.layout.pitch();
  }
  direct.at = at;
  direct.in = layer.window.stride_y * layer.layout.pitch();
  direct.packed = layer.packed;
  direct.step = layer.window.stride_x * layer.layout.pixel;
  direct.store = store.step.op;
  direct.image = store.step.image;
  direct.plane = store.step.plane;
  direct.quantizer = store.step.quantizer;
  if (direct.store == Op::kStoreBelow) {
    direct.base = c.limits.data();
    direct.flip = c.flip.data();
  } else {
    direct.base = c.float_base.empty() ? static_cast<const void*>(c.base.data()) : c.float_base.data();
    direct.factor = steps[0].step.factor;
    direct.scale = steps[1].step.a;
    direct.bias = steps.size() == 4 ? steps[2].step.a : c.no_bias.data();
  }
  direct.image += direct.store == Op::kStore || direct.store == Op::kStorePlanar ? 0 : direct.channels(store.step.shift);

  const double work = layer.nanoseconds * static_cast<double>(layer.space.rows());
  const int64_t workers = std::min<int64_t>(std::max(threads, 1), 1 + static_cast<int64_t>(work / kThreadWorth));
  const int64_t most = workers > 1 ? layer.space.rows() / (4 * workers) : kMostRows;
  const std::vector<Stretch> stretches =
      stretches_of(layer.space, c, std::max<int64_t>(1, std::clamp<int64_t>(most, 1, kMostRows) / width));
  Job job{layer, store, direct, stretches, layer.panels.count, 1};
  // few lines: threads share the channels as well, 64 or more of them each
  if (workers > 1 && static_cast<int64_t>(stretches.size()) * layer.space.images < 4 * workers)
    job.chunk = std::max<int64_t>(4, layer.panels.count / 8 * 2);
  job.chunks = (layer.panels.count + job.chunk - 1) / job.chunk;
  const int64_t count = static_cast<int64_t>(stretches.size()) * job.chunks * layer.space.images;
  const Tasks tasks{[](void* context, int64_t task) { static_cast<const Job*>(context)->run(task); }, &job, count};
  run_parallel(workers > 1 ? threads : 1, tasks);
}

}  // namespace robustlab
