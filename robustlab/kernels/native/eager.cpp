#include "eager.h"

#include <algorithm>

#include "layer.h"
#include "scratch.h"

namespace robustlab {
namespace {

constexpr int64_t kChunkBytes = 512 * 1024;   // packed images that should stay in the cache

StepPlan planar_store(const Operands& operands, int64_t outputs, int64_t pixels, Op op) {
  StepPlan plan;
  plan.step.op = op;
  plan.step.image = static_cast<uint8_t*>(operands.y);
  plan.step.plane = 4 * pixels;
  plan.place = StepPlan::Place::kPlanar;
  plan.image_bytes = 4 * outputs * pixels;
  return plan;
}

}  // namespace

void conv2d(const KernelTable& kernels, int threads, const ConvLayer& layer, const Operands& operands) {
  if (operands.images == 0) return;
  thread_local Buffer packed, vectors;
  const Geometry& g = layer.geometry;
  const int64_t pixels = g.out_height(operands.height) * g.out_width(operands.width);
  std::vector<StepPlan> steps(1);
  steps[0].step.op = Op::kAccumulate;
  if (operands.scale == nullptr) {
    steps.push_back(planar_store(operands, g.outputs, pixels, Op::kStoreInt));
  } else {
    const int64_t width = round_up(g.outputs, kLanes);
    float* scale = vectors.room<float>(2 * width);
    const float unit = 1.0f / static_cast<float>(accumulator_unit(layer));
    for (int64_t o = 0; o < width; ++o) scale[o] = o < g.outputs ? operands.scale[o] * unit : 0.0f;
    StepPlan plan;
    plan.step.op = Op::kScale;
    plan.step.a = scale;
    steps.push_back(plan);
    if (operands.bias != nullptr) {
      float* bias = scale + width;
      for (int64_t o = 0; o < width; ++o) bias[o] = o < g.outputs ? operands.bias[o] : 0.0f;
      plan.step.op = Op::kAdd;
      plan.step.a = bias;
      steps.push_back(plan);
    }
    steps.push_back(planar_store(operands, g.outputs, pixels, Op::kStorePlanar));
  }
  const ImageLayout layout = input_layout(layer, operands.height, operands.width);
  const int64_t chunk = std::clamp<int64_t>(kChunkBytes / layout.image_bytes(), 1, operands.images);
  uint8_t* images = packed.room<uint8_t>(chunk * layout.image_bytes());
  const int64_t image_values = g.channels() * operands.height * operands.width;
  uint8_t* y = steps.back().step.image;
  for (int64_t first = 0; first < operands.images; first += chunk) {
    const int64_t count = std::min(chunk, operands.images - first);
    pack_input(kernels, threads, layer, layout, operands.x + first * image_values, count, nullptr, nullptr, nullptr,
               images);
    steps.back().step.image = y + first * steps.back().image_bytes;
    run_conv(kernels, threads, layer, images, layout, count, steps);
  }
}

}  // namespace robustlab
