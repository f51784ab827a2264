#include "program.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "lower.h"
#include "parallel.h"
#include "scratch.h"

namespace robustlab {
namespace {

constexpr int64_t kChunkBytes = 1024 * 1024;   // arena that should stay in the cache, unless one image needs more
constexpr size_t kIdle = 8;                    // contexts kept between calls

// Sums of windows become nodes of their own, whose float values the steps then start from.
ProgramSource with_sums_apart(ProgramSource source) {
  std::vector<ProgramNode> nodes;
  for (ProgramNode& node : source.nodes) {
    if (node.kind != ProgramNode::Kind::kSumPool) {
      nodes.push_back(std::move(node));
      continue;
    }
    const ProgramValue from = source.values[static_cast<size_t>(node.inputs[0])];
    source.values.push_back({ValueKind::kFloat, from.channels, (from.height - node.kernel_y) / node.stride_y + 1,
                             (from.width - node.kernel_x) / node.stride_x + 1, Quantizer{1.0f, 0, 0}});
    ProgramNode steps;
    steps.kind = ProgramNode::Kind::kMap;
    steps.steps = std::move(node.steps);
    node.result = static_cast<int64_t>(source.values.size()) - 1;
    node.steps.clear();
    steps.inputs = {node.result};
    nodes.push_back(std::move(node));
    nodes.push_back(std::move(steps));
  }
  source.nodes = std::move(nodes);
  return source;
}

struct Call {
  const KernelTable& kernels;
  const std::vector<const float*>& inputs;
  const std::vector<const float*>& scalars;
  const std::vector<void*>& outputs;
};

// What one thread needs to run a program.
struct Context {
  explicit Context(const Lowered& lowered) : image(lowered.images.size()) {
    for (const Instruction& instruction : lowered.instructions) steps.push_back(instruction.steps);
  }

  Buffer arena;
  std::vector<uint8_t*> image;
  std::vector<std::vector<StepPlan>> steps;   // of every instruction, with pointers
};

}  // namespace

struct Executable {
  explicit Executable(const ProgramSource& source) : inputs(source.inputs.size()), lowered(source) {}

  size_t inputs;
  Lowered lowered;
  std::mutex mutex;
  std::vector<std::unique_ptr<Context>> idle;

  // Never waits: whoever finds the list in use takes a new context.
  std::unique_ptr<Context> borrow() {
    const std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
    if (!lock.owns_lock() || idle.empty()) return std::make_unique<Context>(lowered);
    std::unique_ptr<Context> context = std::move(idle.back());
    idle.pop_back();
    return context;
  }

  void give_back(std::unique_ptr<Context> context) {
    const std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
    if (lock.owns_lock() && idle.size() < kIdle) idle.push_back(std::move(context));
  }

  // Points images and steps at images [first, first + count) of the call.
  void place(Context& context, const Call& call, int64_t first, int64_t count) const {
    uint8_t* arena = context.arena.room<uint8_t>(lowered.margin + lowered.arena * count) + lowered.margin;
    for (size_t i = 0; i < context.image.size(); ++i) {
      const ValueImage& image = lowered.images[i];
      if (image.form != ImageForm::kPlanar) {
        context.image[i] = arena + image.offset * count;
        continue;
      }
      const ProgramValue& of = lowered.images.value(image);
      const auto caller = static_cast<size_t>(image.caller);
      // inputs are only read
      uint8_t* base = caller < inputs
                          ? reinterpret_cast<uint8_t*>(const_cast<float*>(call.inputs[caller]))
                          : static_cast<uint8_t*>(call.outputs[caller - inputs]);
      context.image[i] = base + 4 * first * of.channels * of.height * of.width;
    }
    for (size_t i = 0; i < context.steps.size(); ++i) {
      const std::vector<StepSource>& sources = lowered.instructions[i].sources;
      for (size_t s = 0; s < sources.size(); ++s) {
        StepPlan& plan = context.steps[i][s];
        if (sources[s].image >= 0)
          plan.step.image = context.image[static_cast<size_t>(sources[s].image)] - sources[s].back;
        if (sources[s].scalar >= 0) plan.per_image = call.scalars[static_cast<size_t>(sources[s].scalar)] + first;
      }
    }
  }

  void run_images(const Call& call, int threads, int64_t first, int64_t stop) {
    std::unique_ptr<Context> context = borrow();
    const int64_t chunk = std::max<int64_t>(1, kChunkBytes / std::max<int64_t>(lowered.arena, 1));
    for (; first < stop; first += chunk) {
      const int64_t count = std::min(chunk, stop - first);
      place(*context, call, first, count);
      const Frame frame{call.kernels, threads, count, context->image.data()};
      for (size_t i = 0; i < context->steps.size(); ++i)
        lowered.instructions[i].run(lowered.instructions[i], lowered.images, frame, context->steps[i]);
    }
    give_back(std::move(context));
  }
};

Program::Program(ProgramSource source)
    : source_(with_sums_apart(std::move(source))), executable_(std::make_unique<Executable>(source_)) {}

Program::~Program() = default;

int64_t Program::arena_bytes() const { return executable_->lowered.arena; }

void Program::run(const KernelTable& kernels, int threads, int64_t images, const std::vector<const float*>& inputs,
                  const std::vector<const float*>& scalars, const std::vector<void*>& outputs) const {
  const Call call{kernels, inputs, scalars, outputs};
  // As many images as there are whole shares for are spread over the threads; the threads share the others' work.
  const int64_t share = threads > 1 ? images / threads : 0, spread = share * threads;
  if (share > 0) {
    struct Shares {
      Executable& executable;
      const Call& call;
      int64_t images;
    } shares{*executable_, call, share};
    const Tasks tasks{[](void* context, int64_t i) {
                        const auto& s = *static_cast<const Shares*>(context);
                        s.executable.run_images(s.call, 1, i * s.images, (i + 1) * s.images);
                      },
                      &shares, threads};
    run_parallel(threads, tasks);
  }
  if (spread < images) executable_->run_images(call, threads, spread, images);
}

}  // namespace robustlab
