#include "lower.h"

#include <algorithm>
#include <utility>

#include "cpu.h"

namespace robustlab {
namespace {

using Node = ProgramNode::Kind;

bool is_store(Op op) {
  return op == Op::kStoreInt || op == Op::kStoreBelow || op == Op::kStore || op == Op::kStorePlanar ||
         op == Op::kStoreSigns || op == Op::kStoreCodes || op == Op::kStorePlanes;
}

ImageForm plain_form(ValueKind kind) {
  return kind == ValueKind::kSigns ? ImageForm::kSigns : kind == ValueKind::kCodes ? ImageForm::kCodes : ImageForm::kFloat;
}

Kind image_kind(ValueKind kind) {
  return kind == ValueKind::kSigns ? Kind::kSigns : kind == ValueKind::kCodes ? Kind::kCodes : Kind::kFloat;
}

template <class T>
const T* padded(std::deque<std::vector<T>>& owner, const std::vector<T>& values) {
  owner.push_back(values);
  owner.back().resize((values.size() + kLanes - 1) / kLanes * kLanes, T{});
  return owner.back().data();
}

// Nodes are lowered from the last to the first, so that a value's readers have said in what forms they want it before
// the node that makes it is lowered.
class Lowering {
 public:
  Lowering(const ProgramSource& source, Lowered& result)
      : source_(source), out_(result), images_(result.images), made_by_(source.values.size(), nullptr) {}

  void run() {
    for (const ProgramNode& node : source_.nodes) {
      if (node.result >= 0) made_by_[static_cast<size_t>(node.result)] = &node;
      for (const ProgramStep& step : node.steps)
        if (is_store(step.op)) made_by_[static_cast<size_t>(step.value)] = &node;
    }
    int64_t caller = 0;
    for (const int64_t input : source_.inputs) images_.planar(input, caller++);
    for (const int64_t output : source_.outputs) images_.planar(output, caller++);
    for (auto node = source_.nodes.rbegin(); node != source_.nodes.rend(); ++node) lower(*node);
    for (const int64_t input : source_.inputs) convert(input, [](const ValueImage& i) { return i.form == ImageForm::kPlanar; });
    std::reverse(out_.instructions.begin(), out_.instructions.end());
    settle();
  }

 private:
  const ProgramValue& value(int64_t index) const { return source_.values[static_cast<size_t>(index)]; }

  void emit(Instruction instruction) { out_.instructions.push_back(std::move(instruction)); }   // in reverse

  void lower(const ProgramNode& node) {
    switch (node.kind) {
      case Node::kPack: return lower_pack(node);
      case Node::kConv:
      case Node::kMap: return lower_steps(node);
      case Node::kMaxPool: return is_plain_pool(node) ? lower_max_pool(node) : lower_steps(node);
      case Node::kSumPool: return lower_moves(node, run_sum_pool, node.result);
      case Node::kConcat: return lower_moves(node, run_join, node.result);
      case Node::kSubsample: return lower_moves(node, run_subsample, node.result);
    }
  }

  void lower_pack(const ProgramNode& node) {
    convert(node.result, [](const ValueImage& image) { return image.form != ImageForm::kFloat; });
    for (const size_t image : images_.of(node.result))
      if (images_[image].form != ImageForm::kFloat) emit({run_pack, &node, {images_.of(node.inputs[0])[0]}, {image}});
  }

  // Whether a step can store a value in this form.
  bool stored(const ValueImage& image) const {
    return image.groups == 1 && (image.form != ImageForm::kFloat || value(image.value).kind == ValueKind::kFloat);
  }

  // Emits what makes the images of a value that its node cannot make itself.
  template <class Direct>
  void convert(int64_t index, const Direct& direct) {
    for (size_t i = 0; i < images_.of(index).size(); ++i) {
      const size_t image = images_.of(index)[i];
      if (!direct(images_[image])) emit(conversion(index, image));
    }
  }

  Instruction conversion(int64_t index, size_t image) {
    const ProgramValue& of = value(index);
    const ImageForm form = images_[image].form;
    if (images_[image].groups > 1) return {run_spread, nullptr, {images_.plain(index, form)}, {image}};
    Instruction made = blocks(of);
    if (form == ImageForm::kFloat && images_[images_.of(index)[0]].caller >= 0 &&
        made_by_[static_cast<size_t>(index)] == nullptr) {
      add_step(made, planar_step(Op::kLoadPlanar, of), images_.of(index)[0]);
    } else {
      add_load(made, index, Op::kLoad, {});
    }
    const Op op = form == ImageForm::kPlanar ? Op::kStorePlanar : form == ImageForm::kPlanes ? Op::kStorePlanes : Op::kStore;
    StepPlan store = form == ImageForm::kPlanar ? planar_step(op, of) : image_step(op);
    store.step.quantizer = {1.0f, of.quantizer.doubled_zero, of.quantizer.largest};   // codes are whole levels already
    add_step(made, store, image);
    return made;
  }

  // Nodes without steps: one instruction for every image of the result.
  void lower_moves(const ProgramNode& node, Instruction::Run run, int64_t result) {
    const bool joins = node.kind == Node::kConcat;
    convert(result, [](const ValueImage& image) { return image.groups == 1 && image.form != ImageForm::kPlanar; });
    for (const size_t image : images_.of(result)) {
      if (images_[image].groups > 1 || images_[image].form == ImageForm::kPlanar) continue;
      Instruction made{run, &node, {}, {image}};
      for (const int64_t input : node.inputs)
        made.reads.push_back(images_.plain(input, joins ? images_[image].form : ImageForm::kFloat));
      emit(std::move(made));
    }
  }

  // Whether the largest bits or bytes are all that is stored.
  bool is_plain_pool(const ProgramNode& node) const {
    if (node.steps.size() != 1) return false;
    const ProgramValue& from = value(node.inputs[0]);
    const ProgramStep& step = node.steps[0];
    if (from.kind == ValueKind::kSigns) return step.op == Op::kStoreSigns;
    if (from.kind != ValueKind::kCodes || step.op != Op::kStoreCodes) return false;
    const Quantizer &a = from.quantizer, &b = value(step.value).quantizer;
    return b.scale == 1.0f && a.doubled_zero == b.doubled_zero && a.largest == b.largest;
  }

  void lower_max_pool(const ProgramNode& node) {
    const int64_t result = node.steps[0].value;
    const ImageForm form = plain_form(value(result).kind);
    convert(result, [=](const ValueImage& image) { return image.groups == 1 && image.form == form; });
    for (const size_t image : images_.of(result))
      if (images_[image].groups == 1 && images_[image].form == form)
        emit({run_max_pool, &node, {images_.plain(node.inputs[0], form)}, {image}});
  }

  static StepPlan image_step(Op op) {
    StepPlan plan;
    plan.step.op = op;
    plan.place = StepPlan::Place::kImage;
    return plan;
  }

  static StepPlan planar_step(Op op, const ProgramValue& of) {
    StepPlan plan;
    plan.step.op = op;
    plan.step.plane = 4 * of.height * of.width;
    plan.place = StepPlan::Place::kPlanar;
    plan.image_bytes = plan.step.plane * of.channels;
    return plan;
  }

  static Instruction blocks(const ProgramValue& of) {
    Instruction made{run_steps};
    made.height = of.height;
    made.width = of.width;
    made.channels = of.channels;
    return made;
  }

  static void add_step(Instruction& made, const StepPlan& plan, size_t image) {
    made.steps.push_back(plan);
    made.sources.push_back({static_cast<int64_t>(image), 0, -1});
    (is_store(plan.step.op) ? made.writes : made.reads).push_back(image);
  }

  // A step that reads a value in its plain form.
  void add_load(Instruction& made, int64_t index, Op op, const PixelMap& map) {
    const ProgramValue& of = value(index);
    StepPlan plan = image_step(op);
    plan.step.kind = image_kind(of.kind);
    plan.step.quantizer = of.quantizer;
    plan.step.size = -1;
    plan.map = map;
    add_step(made, plan, images_.plain(index, plain_form(of.kind)));
  }

  // A value that only takes every so many pixels of another one is added without being made.
  void add_value(Instruction& made, int64_t index) {
    const ProgramNode* node = made_by_[static_cast<size_t>(index)];
    if (node == nullptr || node->kind != Node::kSubsample) return add_load(made, index, Op::kAddImage, {});
    add_load(made, node->inputs[0], Op::kAddImage, {node->stride_y, node->stride_x, 0, 0, false});
    made.steps.back().step.first = node->front;
    made.steps.back().step.size = value(node->inputs[0]).channels;
    made.sources.back().back = 4 * node->front;
    out_.margin = std::max(out_.margin, (4 * node->front + kArenaStep - 1) / kArenaStep * kArenaStep);
  }

  void add_store(Instruction& made, const ProgramStep& step) {
    const ProgramValue& of = value(step.value);
    for (const size_t image : images_.of(step.value)) {
      const ImageForm form = images_[image].form;
      if (!stored(images_[image])) continue;
      Op op = step.op;
      if (op == Op::kStore && form == ImageForm::kPlanar) op = Op::kStorePlanar;
      if (op == Op::kStoreCodes && form == ImageForm::kPlanes) op = Op::kStorePlanes;
      StepPlan plan = form == ImageForm::kPlanar ? planar_step(op, of) : image_step(op);
      plan.step.quantizer = of.quantizer;
      if (op == Op::kStoreBelow) {
        plan.step.threshold = padded(out_.thresholds, step.threshold);
        plan.step.flip = padded(out_.flips, step.flip);
      }
      add_step(made, plan, image);
    }
  }

  void add_start(Instruction& made, const ProgramNode& node) {
    const int64_t input = node.inputs[0];
    const ProgramValue& of = value(input);
    if (node.kind == Node::kConv) {
      const size_t image = images_.read_by(input, node.layer);
      made.run = run_convolution;
      made.reads.push_back(image);
      made.steps.emplace_back();
      made.steps.back().step.op = Op::kAccumulate;
      made.sources.emplace_back();
    } else if (node.kind == Node::kMaxPool) {
      for (int64_t y = 0; y < node.kernel_y; ++y)
        for (int64_t x = 0; x < node.kernel_x; ++x)
          add_load(made, input, x + y == 0 ? Op::kLoad : Op::kMaxImage,
                   {node.stride_y, node.stride_x, y - node.pad_y, x - node.pad_x, true});
    } else if (made_by_[static_cast<size_t>(input)] == nullptr) {
      add_step(made, planar_step(Op::kLoadPlanar, of), images_.of(input)[0]);
    } else {
      add_load(made, input, Op::kLoad, {});
    }
  }

  void lower_steps(const ProgramNode& node) {
    size_t live = 0;   // steps up to the last store that is read
    for (size_t i = 0; i < node.steps.size(); ++i) {
      const ProgramStep& step = node.steps[i];
      if (!is_store(step.op)) continue;
      convert(step.value, [this](const ValueImage& image) { return stored(image); });
      if (!images_.of(step.value).empty()) live = i + 1;
    }
    if (live == 0) return;
    Instruction made = blocks(value(node.steps[live - 1].value));
    made.node = &node;
    add_start(made, node);
    for (size_t i = 0; i < live; ++i) {
      const ProgramStep& step = node.steps[i];
      if (is_store(step.op)) {
        add_store(made, step);
      } else if (step.op == Op::kAddImage) {
        add_value(made, step.value);
      } else {
        StepPlan plan;
        plan.step.op = step.op;
        plan.step.low = step.low;
        plan.step.high = step.high;
        const float* vector = step.a.empty() ? nullptr : padded(out_.vectors, step.a);
        (step.op == Op::kMulRow ? plan.per_pixel : plan.step.a) = vector;
        made.steps.push_back(plan);
        made.sources.push_back({-1, 0, step.scalar});
      }
    }
    emit(std::move(made));
  }

  // Where the pixels of one image lie; steps of one instruction often have one table in common.
  const int64_t* table(const RowSpace& space, const StepPlan& plan) {
    const int64_t pixels = space.pixels();
    if (pixels > kMostTablePixels) return nullptr;
    std::vector<int64_t> places(static_cast<size_t>(pixels));
    row_places(space, plan.layout, plan.map, 0, pixels, places.data());
    for (auto known = out_.tables.rbegin(); known != out_.tables.rend() && known - out_.tables.rbegin() < 8; ++known)
      if (*known == places) return known->data();
    out_.tables.push_back(std::move(places));
    return out_.tables.back().data();
  }

  // What can be known once all images are: layouts in steps, and where images lie.
  void settle() {
    std::vector<Lifetime> lifetimes(images_.size(), {0, 0, -1});
    const auto count = static_cast<int64_t>(out_.instructions.size());
    for (int64_t i = 0; i < count; ++i) {
      Instruction& made = out_.instructions[static_cast<size_t>(i)];
      for (size_t s = 0; s < made.steps.size(); ++s) {
        StepPlan& plan = made.steps[s];
        if (plan.place != StepPlan::Place::kImage) continue;
        plan.layout = images_[static_cast<size_t>(made.sources[s].image)].layout;
        plan.step.plane = plan.layout.plane_bytes();
        plan.table = table({1, made.height, made.width}, plan);
      }
      if (made.run == run_convolution) {
        // with the fastest kernels; the constants are the same for all
        static const KernelTable* kernels = available_kernels().back();
        made.constants = conv_constants(*kernels, made.node->layer, images_[made.reads[0]].layout, made.steps);
      }
      for (const size_t image : made.writes) {
        Lifetime& life = lifetimes[image];
        if (images_[image].form == ImageForm::kPlanar) continue;
        life.bytes = images_[image].bytes();
        if (life.last < 0) life.first = i;
        life.last = std::max(life.last, i);
      }
      for (const size_t image : made.reads) lifetimes[image].last = i;
    }
    out_.arena = plan_memory(lifetimes);
    for (size_t i = 0; i < lifetimes.size(); ++i) images_[i].offset = lifetimes[i].offset;
  }

  const ProgramSource& source_;
  Lowered& out_;
  ValueImages& images_;
  std::vector<const ProgramNode*> made_by_;
};

}  // namespace

Lowered::Lowered(const ProgramSource& source) : images(source) { Lowering(source, *this).run(); }

}  // namespace robustlab
