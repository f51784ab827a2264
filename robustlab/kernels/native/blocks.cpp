#include "blocks.h"

#include <algorithm>

#include "parallel.h"
#include "scratch.h"

namespace robustlab {
namespace {

constexpr int64_t kBlockBytes = 16 * 1024;    // values of a block, about half of a first-level cache
constexpr double kThreadWorth = 8e3;          // nanoseconds of work that are worth one more thread
constexpr double kStepNanoseconds = 0.1;      // of one value and step, roughly

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

struct Scratch {
  Buffer values, places, patterns, sums, factors;
};

Scratch& scratch() {
  thread_local Scratch buffers;
  return buffers;
}

// The same steps where a pixel is a whole image: channels first and channels last are one layout then.
std::vector<StepPlan> settled(std::vector<StepPlan> steps) {
  for (StepPlan& plan : steps) {
    if (plan.place != StepPlan::Place::kPlanar) continue;
    Step& step = plan.step;
    if (step.op == Op::kLoadPlanar) {
      step.op = Op::kLoad;
      step.kind = Kind::kFloat;
    } else if (step.op == Op::kStorePlanar) {
      step.op = Op::kStore;
    }
    step.plane = 0;
  }
  return steps;
}

struct Grid {
  const KernelTable& kernels;
  const RowSpace& space;
  const std::vector<StepPlan>& steps;
  const Producer* producer;
  int64_t channels;
  int64_t part_rows, block_rows, parts, blocks;   // blocks never cross parts
  int64_t chunk, chunks;                          // channels of a task

  void run(int64_t task) const;
};

// at, row, pattern and sums of one block, for all its steps
void place_steps(const Grid& grid, int64_t begin, int64_t count, std::vector<Step>& placed) {
  Scratch& buffers = scratch();
  const int64_t pixels = grid.space.pixels(), steps = static_cast<int64_t>(grid.steps.size());
  int64_t* places = buffers.places.room<int64_t>(steps * kBlockRows);
  float* factors = buffers.factors.room<float>(steps * kBlockRows);
  for (int64_t i = 0; i < steps; ++i) {
    const StepPlan& plan = grid.steps[static_cast<size_t>(i)];
    Step& step = placed[static_cast<size_t>(i)];
    int64_t* at = places + i * kBlockRows;
    if (plan.place == StepPlan::Place::kImage) {
      const Places found = find_places(grid.space, plan.layout, plan.map, plan.table, begin, count, at);
      step.at = found.at;
      step.image += found.base;
    } else if (plan.place == StepPlan::Place::kPlanar) {
      int64_t image = begin / pixels, pixel = begin % pixels;
      for (int64_t r = 0; r < count; pixel = 0, ++image) {
        const int64_t stop = std::min(count, r + pixels - pixel);
        for (; r < stop; ++r, ++pixel) at[r] = image * plan.image_bytes + 4 * pixel;
      }
      step.at = at;
    }
    if (plan.per_image != nullptr || plan.per_pixel != nullptr) {
      float* row = factors + i * kBlockRows;
      for (int64_t r = 0; r < count; ++r)
        row[r] = plan.per_image != nullptr ? plan.per_image[(begin + r) / pixels]
                                           : plan.per_pixel[(begin + r) % pixels];
      step.row = row;
    }
  }
  if (grid.producer == nullptr) return;
  if (grid.producer->patterns != nullptr) {
    int32_t* pattern = buffers.patterns.room<int32_t>(kBlockRows);
    grid.producer->patterns(grid.producer->context, begin, count, pattern);
    placed[0].pattern = pattern;
  }
  if (grid.producer->sums != nullptr) {
    int32_t* sums = buffers.sums.room<int32_t>(kBlockRows);
    grid.producer->sums(grid.producer->context, begin, count, sums);
    placed[0].sums = sums;
  }
}

void Grid::run(int64_t task) const {
  // blocks first: tasks that run at the same time then write other pixels, not the same cache lines
  const int64_t block = task % (parts * blocks), first = task / (parts * blocks) * chunk;
  const int64_t stop = std::min(channels, first + chunk);
  const int64_t begin = block / blocks * part_rows + block % blocks * block_rows;
  const int64_t count = std::min(block_rows, (block / blocks + 1) * part_rows - begin);
  thread_local std::vector<Step> placed;
  placed.resize(steps.size());
  for (size_t i = 0; i < steps.size(); ++i) placed[i] = steps[i].step;
  place_steps(*this, begin, count, placed);
  if (producer != nullptr && producer->fused != nullptr) {
    producer->fused(producer->context, begin, count, first, stop - first, placed.data());
    return;
  }
  const int64_t lanes = producer == nullptr ? 16 : producer->lanes;
  int64_t width = round_up(channels, 16);
  if (lanes > 0) {
    const int64_t step = std::max<int64_t>(lanes, 32);
    width = std::max(step, kBlockBytes / (4 * count) / step * step);
    width = std::min(width, round_up(stop - first, 16));
  }
  Scratch& buffers = scratch();
  int32_t* values = buffers.values.room<int32_t>(count * width);
  for (int64_t channel = first; channel < stop; channel += width) {
    const int64_t used = std::min(width, stop - channel);
    if (producer != nullptr) producer->produce(producer->context, begin, count, channel, used, values, width);
    kernels.run_steps(placed.data(), static_cast<int64_t>(placed.size()),
                      Block{values, count, width, channel, used, channels});
  }
}

}  // namespace

void row_places(const RowSpace& space, const ImageLayout& layout, const PixelMap& map, int64_t begin, int64_t count,
                int64_t* at) {
  const int64_t pixels = space.pixels();
  int64_t image = begin / pixels, y = begin % pixels / space.width, x = begin % pixels % space.width;
  for (int64_t r = 0; r < count;) {
    const int64_t stop = std::min(count, r + space.width - x);
    const int64_t base = image * layout.image_bytes();
    int64_t source_y = y * map.stride_y + map.offset_y, source_x = x * map.stride_x + map.offset_x;
    if (map.clamped) {
      source_y = std::clamp<int64_t>(source_y, 0, layout.height - 1);
      for (; r < stop; ++r, source_x += map.stride_x)
        at[r] = base + layout.at(source_y, std::clamp<int64_t>(source_x, 0, layout.width - 1));
    } else {
      int64_t place = base + layout.at(source_y, source_x);
      for (; r < stop; ++r, place += map.stride_x * layout.pixel) at[r] = place;
    }
    x = 0;
    if (++y == space.height) {
      y = 0;
      ++image;
    }
  }
}

Places find_places(const RowSpace& space, const ImageLayout& layout, const PixelMap& map, const int64_t* table,
                   int64_t begin, int64_t count, int64_t* room) {
  if (table == nullptr) {
    row_places(space, layout, map, begin, count, room);
    return {room, 0};
  }
  const int64_t pixels = space.pixels();
  int64_t image = begin / pixels, pixel = begin % pixels;
  if (pixel + count <= pixels) return {table + pixel, image * layout.image_bytes()};
  for (int64_t r = 0; r < count; pixel = 0, ++image) {
    const int64_t stop = std::min(count, r + pixels - pixel), base = image * layout.image_bytes();
    for (; r < stop; ++r, ++pixel) room[r] = base + table[pixel];
  }
  return {room, 0};
}

void run_blocks(const KernelTable& kernels, int threads, const RowSpace& space, int64_t channels,
                const std::vector<StepPlan>& plans, const Producer* producer) {
  const int64_t rows = space.rows();
  if (rows == 0) return;
  const std::vector<StepPlan> single = space.pixels() > 1 ? std::vector<StepPlan>{} : settled(plans);
  const std::vector<StepPlan>& steps = space.pixels() > 1 ? plans : single;
  const bool planar = std::any_of(steps.begin(), steps.end(), [&](const StepPlan& plan) {
    return plan.place == StepPlan::Place::kPlanar && space.pixels() > 1;
  });
  double nanoseconds = kStepNanoseconds * static_cast<double>(channels) * static_cast<double>(steps.size());
  if (producer != nullptr) nanoseconds += producer->nanoseconds;
  nanoseconds *= static_cast<double>(rows);
  const int64_t workers = std::min<int64_t>(std::max(threads, 1), 1 + static_cast<int64_t>(nanoseconds / kThreadWorth));

  Grid grid{kernels, space, steps, producer, channels, 0, 0, 0, 0, 0, 0};
  grid.part_rows = planar ? space.pixels() : rows;
  grid.parts = rows / grid.part_rows;
  grid.blocks = (grid.part_rows + kBlockRows - 1) / kBlockRows;
  // an even share for every worker: a few blocks more where they would not divide
  if (workers > 1 && grid.parts * grid.blocks < 8 * workers && grid.part_rows >= 14 * workers)
    grid.blocks = round_up(grid.blocks, workers);
  // multiples of 14, the rows of the register tiles
  grid.block_rows = std::min(round_up((grid.part_rows + grid.blocks - 1) / grid.blocks, 14), kBlockRows);
  grid.blocks = (grid.part_rows + grid.block_rows - 1) / grid.block_rows;
  grid.block_rows = std::min(grid.block_rows, grid.part_rows);
  grid.chunks = 1;
  const int64_t lanes = producer == nullptr ? 16 : producer->lanes;
  const int64_t whole = grid.parts * grid.blocks;
  if (lanes > 0 && whole < workers) grid.chunks = (workers + whole - 1) / whole;
  // few blocks of unequal height: halves of their channels even that out
  if (lanes > 0 && workers > 1 && whole < 4 * workers && grid.part_rows % grid.block_rows != 0 && channels >= 128)
    grid.chunks = std::max<int64_t>(grid.chunks, 2);
  grid.chunk = round_up((channels + grid.chunks - 1) / grid.chunks, std::max<int64_t>(lanes, 64));
  grid.chunks = (channels + grid.chunk - 1) / grid.chunk;
  const int64_t count = grid.parts * grid.blocks * grid.chunks;
  const Tasks tasks{[](void* context, int64_t task) { static_cast<const Grid*>(context)->run(task); }, &grid, count};
  run_parallel(workers > 1 ? threads : 1, tasks);
}

}  // namespace robustlab
