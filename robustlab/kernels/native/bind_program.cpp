// Programs from Python: a builder that checks every operand again, and one call that runs them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include "bind.h"
#include "bind_tensors.h"
#include "program.h"

namespace nb = nanobind;

namespace robustlab {
namespace {

using Node = ProgramNode::Kind;

constexpr int64_t kMostValues = int64_t{1} << 31;   // numbers of an image
constexpr int64_t kMostTaps = 4096;                 // pixels of a window

// name, vector (float32, or int32 for "store_below"), flip (bytes), low, high, value or scalar
using StepTuple = std::tuple<std::string, Span, Span, double, double, int64_t>;
using Sizes = std::array<int64_t, 3>;               // channels, height, width
using Windows6 = std::array<int64_t, 6>;            // kernel, stride, padding (vertical, horizontal)

template <class T>
std::vector<T> copied(Span span, int64_t expected) {
  require(span.second == expected && span.first != 0, "a vector has a wrong length");
  const auto* data = reinterpret_cast<const T*>(span.first);
  return {data, data + span.second};
}

std::vector<float> optional(Span span, int64_t expected) {
  return span.first == 0 ? std::vector<float>{} : copied<float>(span, expected);
}

// How a step is checked.
enum class Operand { kNone, kVector, kNumber, kPair, kValue, kMade, kPixels, kScalar, kBelow };

struct StepRule {
  Op op;
  Operand operand;
};

const StepRule& rule_of(const std::string& name) {
  static const std::map<std::string, StepRule> rules = {
      {"scale", {Op::kScale, Operand::kVector}},
      {"mul", {Op::kMul, Operand::kVector}},
      {"add", {Op::kAdd, Operand::kVector}},
      {"sub", {Op::kSub, Operand::kVector}},
      {"div", {Op::kDiv, Operand::kVector}},
      {"prelu", {Op::kPrelu, Operand::kVector}},
      {"mul_all", {Op::kMulAll, Operand::kNumber}},
      {"add_all", {Op::kAddAll, Operand::kNumber}},
      {"div_all", {Op::kDivAll, Operand::kNumber}},
      {"mul_image", {Op::kMulRow, Operand::kScalar}},
      {"mul_pixel", {Op::kMulRow, Operand::kPixels}},
      {"add_value", {Op::kAddImage, Operand::kValue}},
      {"relu", {Op::kRelu, Operand::kNone}},
      {"clamp", {Op::kClamp, Operand::kPair}},
      {"store_int", {Op::kStoreInt, Operand::kMade}},
      {"store_below", {Op::kStoreBelow, Operand::kBelow}},
      {"store", {Op::kStore, Operand::kMade}},
      {"store_signs", {Op::kStoreSigns, Operand::kMade}},
      {"store_codes", {Op::kStoreCodes, Operand::kMade}},
  };
  const auto found = rules.find(name);
  require(found != rules.end(), "no such step");
  return found->second;
}

ValueKind kind_made(Op op) {
  switch (op) {
    case Op::kStoreInt: return ValueKind::kInt;
    case Op::kStoreBelow:
    case Op::kStoreSigns: return ValueKind::kSigns;
    case Op::kStoreCodes: return ValueKind::kCodes;
    default: return ValueKind::kFloat;
  }
}

class Builder {
 public:
  // kind: 0 float, 1 signs, 2 codes, 3 int32. A node or input() must make the value before it is read.
  int64_t value(int kind, const Sizes& sizes, double scale, int doubled_zero, int64_t bits) {
    open();
    require(kind >= 0 && kind <= 3, "bad kind");
    for (const int64_t size : sizes) require(size > 0, "bad size");
    require(checked_product({sizes[0], sizes[1], sizes[2]}) < kMostValues, "image too large");
    ProgramValue value{static_cast<ValueKind>(kind), sizes[0], sizes[1], sizes[2], Quantizer{1.0f, 0, 0}};
    if (value.kind == ValueKind::kCodes) value.quantizer = checked_quantizer(scale, doubled_zero, bits);
    source_.values.push_back(value);
    made_.push_back(false);
    return static_cast<int64_t>(made_.size()) - 1;
  }

  void input(int64_t index) {
    open();
    require(make(index).kind == ValueKind::kFloat, "inputs are float");
    source_.inputs.push_back(index);
  }

  void scalars(int64_t count) {
    open();
    require(count >= 0, "bad number of scalars");
    scalars_ = count;
  }

  void output(int64_t index) {
    open();
    const ValueKind kind = read(index).kind;
    require(kind == ValueKind::kFloat || kind == ValueKind::kInt, "outputs are float or int32");
    require(!is_input(index) && std::count(source_.outputs.begin(), source_.outputs.end(), index) == 0,
            "an output is no input and given once");
    source_.outputs.push_back(index);
  }

  // thresholds for signs, sub and div for codes; null where there are none
  void pack(int64_t from, Span thresholds, Span sub, Span div, int64_t result) {
    open();
    require(is_input(from), "only inputs are packed");
    const ProgramValue& x = read(from);
    const ProgramValue& y = make(result);
    const bool codes = y.kind == ValueKind::kCodes;
    require(codes || y.kind == ValueKind::kSigns, "packing makes signs or codes");
    require(same_sizes(x, y), "packing keeps sizes");
    require(codes ? thresholds.first == 0 : sub.first == 0 && div.first == 0, "operands do not fit the kind");
    ProgramNode node = new_node(Node::kPack, {from}, result);
    node.thresholds = optional(thresholds, x.channels);
    node.sub = optional(sub, x.channels);
    node.div = optional(div, x.channels);
    source_.nodes.push_back(std::move(node));
  }

  void conv(int64_t from, const Form& form, const Place& place, Span weight, const std::vector<StepTuple>& steps) {
    open();
    const ProgramValue x = read(from);
    require(x.kind == ValueKind::kSigns || x.kind == ValueKind::kCodes, "convolutions read signs or codes");
    ProgramNode node = new_node(Node::kConv, {from}, -1);
    node.layer = checked_layer(form, place, x.quantizer.scale, x.quantizer.doubled_zero, weight);
    require(node.layer.activation_bits == 0 ? x.kind == ValueKind::kSigns
                                            : x.kind == ValueKind::kCodes &&
                                                  x.quantizer.largest == node.layer.activation.largest,
            "weights are packed for other activations");
    require(node.layer.geometry.channels() == x.channels, "channels do not fit");
    check_image(node.layer, x.height, x.width);
    const Geometry& g = node.layer.geometry;
    add_steps(node, steps, {g.outputs, g.out_height(x.height), g.out_width(x.width)}, true);
  }

  void map(int64_t from, const std::vector<StepTuple>& steps) {
    open();
    const ProgramValue x = readable(from);
    ProgramNode node = new_node(Node::kMap, {from}, -1);
    add_steps(node, steps, {x.channels, x.height, x.width}, false);
  }

  void pool(int64_t from, bool sum, const Windows6& w, const std::vector<StepTuple>& steps) {
    open();
    const ProgramValue x = readable(from);
    for (const int64_t size : w) require(size >= 0 && size < kMostValues, "bad window");
    require(w[0] > 0 && w[1] > 0 && w[2] > 0 && w[3] > 0, "kernel and stride start at 1");
    require(checked_product({w[0], w[1]}) <= kMostTaps, "window too large");
    require(sum ? w[4] == 0 && w[5] == 0 : w[4] <= w[0] / 2 && w[5] <= w[1] / 2, "too much padding");
    const int64_t height = x.height + 2 * w[4] - w[0], width = x.width + 2 * w[5] - w[1];
    require(height >= 0 && width >= 0, "window larger than the image");
    ProgramNode node = new_node(sum ? Node::kSumPool : Node::kMaxPool, {from}, -1);
    set_window(node, w);
    add_steps(node, steps, {x.channels, height / w[2] + 1, width / w[3] + 1}, false);
  }

  void concat(const std::vector<int64_t>& from, int64_t result) {
    open();
    require(!from.empty(), "nothing to join");
    int64_t channels = 0;
    for (const int64_t index : from) channels += readable(index).channels;
    const ProgramValue& y = make(result);
    require(y.channels == channels, "channels do not fit");
    for (const int64_t index : from) {
      const ProgramValue& x = read(index);
      require(x.kind == y.kind && x.height == y.height && x.width == y.width, "values do not fit");
      require(x.quantizer.largest == y.quantizer.largest && x.quantizer.doubled_zero == y.quantizer.doubled_zero,
              "codes do not fit");
    }
    source_.nodes.push_back(new_node(Node::kConcat, from, result));
  }

  void subsample(int64_t from, int64_t stride_y, int64_t stride_x, int64_t front, int64_t result) {
    open();
    const ProgramValue x = read(from);
    const ProgramValue& y = make(result);
    require(x.kind == ValueKind::kFloat && y.kind == ValueKind::kFloat, "only float values are subsampled");
    require(stride_y > 0 && stride_x > 0 && front >= 0 && front <= y.channels - x.channels, "bad subsample");
    require(y.height == (x.height - 1) / stride_y + 1 && y.width == (x.width - 1) / stride_x + 1, "sizes do not fit");
    ProgramNode node = new_node(Node::kSubsample, {from}, result);
    node.stride_y = stride_y;
    node.stride_x = stride_x;
    node.front = front;
    source_.nodes.push_back(std::move(node));
  }

  // Lowers the program; nothing can be added from then on.
  void finish() {
    open();
    require(!source_.inputs.empty() && !source_.outputs.empty(), "no inputs or no outputs");
    require(std::all_of(made_.begin(), made_.end(), [](bool made) { return made; }), "a value is never made");
    program_ = std::make_unique<Program>(std::move(source_));
  }

  int64_t arena_bytes() const {
    require(program_ != nullptr, "not finished");
    return program_->arena_bytes();
  }

  void run(const std::string& backend, int threads, int64_t images, const std::vector<Span>& inputs,
           const std::vector<Span>& scalars, const std::vector<Span>& outputs) const {
    require(program_ != nullptr, "not finished");
    require(threads >= 1 && threads <= 4096, "bad number of threads");
    require(images >= 0 && images < kMostValues, "bad batch");
    const KernelTable& kernels = kernel_table(backend);
    const ProgramSource& source = program_->source();
    require(inputs.size() == source.inputs.size() && outputs.size() == source.outputs.size() &&
                static_cast<int64_t>(scalars.size()) == scalars_,
            "wrong number of tensors");
    checked_product({images, program_->arena_bytes()});
    std::vector<const float*> x, factors;
    std::vector<void*> y;
    for (size_t i = 0; i < inputs.size(); ++i)
      x.push_back(static_cast<const float*>(tensor(inputs[i], images, source.values[index(source.inputs[i])])));
    for (const Span& scalar : scalars) {
      require(scalar.second == images && (images == 0 || scalar.first != 0), "a scalar has a wrong size");
      factors.push_back(reinterpret_cast<const float*>(scalar.first));
    }
    for (size_t i = 0; i < outputs.size(); ++i)
      y.push_back(tensor(outputs[i], images, source.values[index(source.outputs[i])]));
    if (images == 0) return;
    const nb::gil_scoped_release released;
    program_->run(kernels, threads, images, x, factors, y);
  }

  // The same on tensors of exactly the type `type`. Makes the outputs with empty(N, C, H, W, dtype=...) and returns
  // them, or nothing where the tensors cannot be read or do not fit: run() then says why, or copies.
  nb::object run_tensors(const std::string& backend, int threads, nb::sequence inputs, nb::sequence scalars,
                         nb::handle type, nb::callable empty, nb::tuple dtypes) const {
    require(program_ != nullptr, "not finished");
    const ProgramSource& source = program_->source();
    require(dtypes.size() == source.outputs.size(), "wrong number of types");
    if (nb::len(inputs) != source.inputs.size() || static_cast<int64_t>(nb::len(scalars)) != scalars_) return nb::none();
    int64_t images = -1;
    std::vector<Span> x, factors, y;
    std::vector<nb::object> alive;   // until the run has ended, whatever becomes of the caller's lists meanwhile
    for (size_t i = 0; i < source.inputs.size(); ++i) {
      TensorView view;
      alive.push_back(inputs[i]);
      if (!read_tensor(alive.back(), type, view) || view.axes != 4 || !view.floating) return nb::none();
      const ProgramValue& value = source.values[index(source.inputs[i])];
      if (images < 0) images = view.shape[0];
      if (view.shape[0] != images || view.shape[1] != value.channels || view.shape[2] != value.height ||
          view.shape[3] != value.width)
        return nb::none();
      x.emplace_back(reinterpret_cast<uintptr_t>(view.data), images * value.channels * value.height * value.width);
    }
    for (int64_t i = 0; i < scalars_; ++i) {
      TensorView view;
      alive.push_back(scalars[i]);
      if (!read_tensor(alive.back(), type, view) || view.axes != 1 || !view.floating || view.shape[0] != images)
        return nb::none();
      factors.emplace_back(reinterpret_cast<uintptr_t>(view.data), images);
    }
    nb::list made;
    for (size_t i = 0; i < source.outputs.size(); ++i) {
      const ProgramValue& value = source.values[index(source.outputs[i])];
      nb::object result = empty(images, value.channels, value.height, value.width, nb::arg("dtype") = dtypes[i]);
      TensorView view;
      if (!read_fresh_tensor(result, type, view) || view.floating != (value.kind == ValueKind::kFloat)) return nb::none();
      y.emplace_back(reinterpret_cast<uintptr_t>(view.data), images * value.channels * value.height * value.width);
      made.append(result);
    }
    run(backend, threads, images, x, factors, y);
    return nb::tuple(made);
  }

 private:
  static size_t index(int64_t value) { return static_cast<size_t>(value); }

  static void* tensor(Span span, int64_t images, const ProgramValue& value) {
    require(span.second == checked_product({images, value.channels, value.height, value.width}),
            "a tensor has a wrong size");
    require(images == 0 || span.first != 0, "null pointer");
    return reinterpret_cast<void*>(span.first);
  }

  static bool same_sizes(const ProgramValue& a, const ProgramValue& b) {
    return a.channels == b.channels && a.height == b.height && a.width == b.width;
  }

  static ProgramNode new_node(Node kind, std::vector<int64_t> inputs, int64_t result) {
    ProgramNode node;
    node.kind = kind;
    node.inputs = std::move(inputs);
    node.result = result;
    return node;
  }

  static void set_window(ProgramNode& node, const Windows6& w) {
    node.kernel_y = w[0];
    node.kernel_x = w[1];
    node.stride_y = w[2];
    node.stride_x = w[3];
    node.pad_y = w[4];
    node.pad_x = w[5];
  }

  void open() const { require(program_ == nullptr, "the program is finished"); }

  bool is_input(int64_t value) const {
    return std::count(source_.inputs.begin(), source_.inputs.end(), value) > 0;
  }

  const ProgramValue& read(int64_t value) const {
    require(value >= 0 && index(value) < made_.size() && made_[index(value)], "no such value");
    return source_.values[index(value)];
  }

  const ProgramValue& readable(int64_t value) const {
    require(read(value).kind != ValueKind::kInt, "int32 values can only be outputs");
    return source_.values[index(value)];
  }

  const ProgramValue& make(int64_t value) {
    require(value >= 0 && index(value) < made_.size() && !made_[index(value)], "no such value, or made twice");
    made_[index(value)] = true;
    return source_.values[index(value)];
  }

  ProgramStep step(const StepTuple& from, const Sizes& sizes) {
    const auto& [name, vector, flip, low, high, value] = from;
    const StepRule& rule = rule_of(name);
    ProgramStep step{rule.op};
    step.low = static_cast<float>(low);
    step.high = static_cast<float>(high);
    switch (rule.operand) {
      case Operand::kNone: break;
      case Operand::kVector: step.a = copied<float>(vector, sizes[0]); break;
      case Operand::kPixels: step.a = copied<float>(vector, sizes[1] * sizes[2]); break;
      case Operand::kNumber: require(!std::isnan(low), "not a number"); break;
      case Operand::kPair: require(step.low <= step.high, "bad range"); break;
      case Operand::kScalar:
        require(value >= 0 && value < scalars_, "no such scalar");
        step.scalar = value;
        break;
      case Operand::kValue: {
        const ProgramValue& other = readable(value);
        require(Sizes{other.channels, other.height, other.width} == sizes, "the value added has another shape");
        step.value = value;
        break;
      }
      case Operand::kBelow:
        step.threshold = copied<int32_t>(vector, sizes[0]);
        step.flip = copied<uint8_t>(flip, sizes[0]);
        for (const uint8_t bit : step.flip) require(bit <= 1, "flips are 0 or 1");
        step.value = value;
        break;
      case Operand::kMade: step.value = value; break;
    }
    return step;
  }

  void add_steps(ProgramNode& node, const std::vector<StepTuple>& steps, const Sizes& sizes, bool integer) {
    std::vector<int64_t> results;
    for (const StepTuple& from : steps) {
      const ProgramStep made = step(from, sizes);
      if (made.op == Op::kScale || made.op == Op::kStoreInt || made.op == Op::kStoreBelow) {
        require(integer, "a step needs the accumulator");
        integer = made.op != Op::kScale;
      } else {
        require(!integer, "a float step in front of scale");
      }
      const Operand operand = rule_of(std::get<0>(from)).operand;
      if (operand == Operand::kMade || operand == Operand::kBelow) results.push_back(made.value);
      else results.push_back(-1);
      node.steps.push_back(made);
    }
    require(!results.empty() && results.back() >= 0, "the last step must be a store");
    for (size_t i = 0; i < results.size(); ++i) {
      if (results[i] < 0) continue;
      const ProgramValue& value = make(results[i]);
      require(value.kind == kind_made(node.steps[i].op), "a store makes another kind");
      require(Sizes{value.channels, value.height, value.width} == sizes, "a store makes another shape");
    }
    source_.nodes.push_back(std::move(node));
  }

  ProgramSource source_;
  std::vector<bool> made_;
  int64_t scalars_ = 0;
  std::unique_ptr<Program> program_;
};

}  // namespace

void bind_program(nb::module_& m) {
  nb::class_<Builder>(m, "Program")
      .def(nb::init<>())
      .def("value", &Builder::value)
      .def("input", &Builder::input)
      .def("scalars", &Builder::scalars)
      .def("output", &Builder::output)
      .def("pack", &Builder::pack)
      .def("conv", &Builder::conv)
      .def("map", &Builder::map)
      .def("pool", &Builder::pool)
      .def("concat", &Builder::concat)
      .def("subsample", &Builder::subsample)
      .def("finish", &Builder::finish)
      .def("arena_bytes", &Builder::arena_bytes)
      .def("run", &Builder::run)
      .def("run_tensors", &Builder::run_tensors);
}

}  // namespace robustlab
