// Sequences of steps, interpreted one element at a time.
#include <algorithm>
#include <cmath>
#include <deque>
#include <memory>

#include "harness.h"

namespace check {
namespace {

// What a step reads or writes, and where rows lie in it.
struct Operand {
  std::unique_ptr<Output> written;
  std::vector<uint8_t> expected;
  bool floats = false;   // compared as numbers: zeros may differ in sign, what is no number in its bits
};

class Sequence {
 public:
  Sequence(Random& random, Case& c) : random_(random), case_(c) {
    block_.channels = channel_count(random);
    block_.rows = row_count(random);
    const int64_t columns = (block_.channels + kLanes - 1) / kLanes;
    const int64_t column = random.range(0, columns - 1), count = random.range(1, columns - column);
    block_.channel = column * kLanes;
    block_.width = std::min(count * kLanes, block_.channels - block_.channel);
    block_.step = kLanes * (count + random.range(0, 1));
    values_.reset(new Output(random, 4 * block_.rows * block_.step));
    block_.values = values_->as<int32_t>();
    ints_.resize(static_cast<size_t>(block_.rows * block_.step));
    floats_.resize(ints_.size());
    c.describe("%lld rows, channels %lld + %lld of %lld:", static_cast<long long>(block_.rows),
               static_cast<long long>(block_.channel), static_cast<long long>(block_.width),
               static_cast<long long>(block_.channels));
  }

  void build();
  void run(const KernelTable& table) {
    table.run_steps(steps_.data(), static_cast<int64_t>(steps_.size()), block_);
    for (const Operand& o : operands_) compare(o);
    if (!values_->front_untouched()) case_.fail("wrote in front of the block", 0);
  }

 private:
  // Every element of the block: f(row, channel, index of the element)
  template <class F>
  void each(F f) const {
    for (int64_t r = 0; r < block_.rows; ++r)
      for (int64_t i = 0; i < block_.width; ++i) f(r, block_.channel + i, static_cast<size_t>(r * block_.step + i));
  }
  int64_t padded() const { return (block_.channels + kLanes - 1) / kLanes * kLanes; }

  const float* vector(bool divisor);
  const int64_t* places(int64_t pixel, int64_t front);
  const int64_t* planar_places(bool together, int64_t* plane);
  const uint8_t* read_image(Step& s);
  float image_value(const Step& s, int64_t row, int64_t channel) const;
  Step add(Op op) {
    Step s{};
    s.op = op;
    case_.describe(" %d", static_cast<int>(op));
    return s;
  }
  Operand& output(Step& s, int64_t bytes);
  void compare(const Operand& o) const;

  void accumulate();
  void load(Op op);
  void store_ints();
  void scale();
  void arithmetic();
  void store_floats();
  void store_bits();
  void store_codes();
  bool bits_step(Step& s, int64_t* pixel);

  Random& random_;
  Case& case_;
  Block block_{};
  std::unique_ptr<Output> values_;
  std::vector<Step> steps_;
  std::vector<int32_t> ints_;
  std::vector<float> floats_;
  std::deque<Operand> operands_;
  std::vector<std::unique_ptr<Input>> inputs_;
};

const float* Sequence::vector(bool divisor) {
  auto v = std::make_unique<Vector<float>>(random_, padded());
  for (int64_t i = 0; i < v->length; ++i) (*v)[i] = divisor || !random_.one_in(10) ? random_.plain() : random_.number();
  const float* p = v->as<float>();
  inputs_.push_back(std::move(v));
  return p;
}

// Rows at pixels in some order; `front` bytes lie in front of the first.
const int64_t* Sequence::places(int64_t pixel, int64_t front) {
  auto at = std::make_unique<Vector<int64_t>>(random_, block_.rows);
  const int64_t rows = block_.rows, shift = random_.range(0, rows - 1);
  const bool backwards = random_.one_in(2);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t p = (r + shift) % rows;
    (*at)[r] = front + (backwards ? rows - 1 - p : p) * pixel;
  }
  const int64_t* p = at->as<int64_t>();
  inputs_.push_back(std::move(at));
  return p;
}

const int64_t* Sequence::planar_places(bool together, int64_t* plane) {
  *plane = 4 * (block_.rows + random_.range(0, 5));
  if (!together) return places(4, 0);
  auto at = std::make_unique<Vector<int64_t>>(random_, block_.rows);
  for (int64_t r = 0; r < block_.rows; ++r) (*at)[r] = 4 * r;
  const int64_t* p = at->as<int64_t>();
  inputs_.push_back(std::move(at));
  return p;
}

// An image that a step reads: its first channel is channel `s.first` of the layer, and it has `s.size` channels.
const uint8_t* Sequence::read_image(Step& s) {
  s.kind = random_.pick({Kind::kFloat, Kind::kSigns, Kind::kCodes});
  const bool some = s.op == Op::kAddImage && random_.one_in(2);
  s.size = -1;
  int64_t first = 0, size = block_.channels;
  if (some) {
    first = random_.range(0, block_.channels - 1);
    if (s.kind == Kind::kSigns) first = first / 8 * 8;
    size = random_.range(1, block_.channels - first);
    s.first = first;
    s.size = size;
  }
  const int64_t front = s.kind == Kind::kFloat ? 0 : random_.range(0, 5) * (s.kind == Kind::kSigns ? 8 : 1);
  s.shift = s.kind == Kind::kFloat ? 0 : front - first;
  const int64_t pixel = s.kind == Kind::kFloat   ? 4 * size + random_.range(0, 3)
                        : s.kind == Kind::kSigns ? (front + size + 7) / 8 + random_.range(0, 3)
                                                 : front + size + random_.range(0, 3);
  auto image = std::make_unique<Input>(random_, block_.rows * pixel);
  if (s.kind == Kind::kFloat)
    for (int64_t i = 0; i + 4 <= image->size(); i += 4) put(image->data() + i, random_.number());
  s.image = image->data();
  s.at = places(pixel, s.kind == Kind::kFloat ? -4 * first : 0);
  s.quantizer = random_quantizer(random_);
  inputs_.push_back(std::move(image));
  return s.image;
}

float Sequence::image_value(const Step& s, int64_t row, int64_t channel) const {
  const uint8_t* pixel = s.image + s.at[row];
  if (s.kind == Kind::kFloat) return get<float>(pixel + 4 * channel);
  if (s.kind == Kind::kSigns) return bit(pixel, s.shift + channel) ? -1.0f : 1.0f;
  return static_cast<float>(2 * pixel[s.shift + channel] - s.quantizer.doubled_zero) / 2.0f;
}

Operand& Sequence::output(Step& s, int64_t bytes) {
  operands_.emplace_back();
  Operand& o = operands_.back();
  o.written.reset(new Output(random_, bytes));
  o.expected = o.written->copy();
  s.image = o.written->data();
  return o;
}

void Sequence::compare(const Operand& o) const {
  if (!o.floats) return case_.equal(*o.written, o.expected, "another byte");
  // whole floats, then perhaps bytes between pixels that nobody writes
  std::vector<uint8_t> expected = o.expected;
  const int64_t size = o.written->size();
  for (const Step& s : steps_) {
    if (s.image != o.written->data()) continue;
    each([&](int64_t r, int64_t c, size_t) {
      const int64_t at = s.at[r] + c * (s.op == Op::kStorePlanar ? s.plane : 4);
      if (at + 4 > size) return;
      const float a = get<float>(o.written->data() + at), b = get<float>(&expected[static_cast<size_t>(at)]);
      if (a == b || (std::isnan(a) && std::isnan(b))) put(&expected[static_cast<size_t>(at)], a);
    });
  }
  case_.equal(*o.written, expected, "another float");
}

void Sequence::accumulate() {
  Step s = add(Op::kAccumulate);
  const int64_t patterns = random_.range(1, 3);
  s.base_step = padded() + kLanes * random_.range(0, 1);
  s.factor = random_.pick<int32_t>({-2, 1, 2, 4});
  const bool sums = random_.one_in(2), patterned = random_.one_in(2), small = !random_.one_in(4);
  auto base = std::make_unique<Vector<int32_t>>(random_, patterns * s.base_step);
  auto pattern = std::make_unique<Vector<int32_t>>(random_, block_.rows), sum = std::make_unique<Vector<int32_t>>(random_, block_.rows);
  auto factors = std::make_unique<Vector<int32_t>>(random_, padded());
  for (int64_t r = 0; r < block_.rows; ++r) (*pattern)[r] = static_cast<int32_t>(random_.range(0, patterns - 1));
  if (small) {   // so that later steps meet small numbers
    for (int64_t i = 0; i < base->length; ++i) (*base)[i] = static_cast<int32_t>(random_.range(-99, 99));
    for (int64_t i = 0; i < factors->length; ++i) (*factors)[i] = static_cast<int32_t>(random_.range(-9, 9));
    for (int64_t r = 0; r < block_.rows; ++r) (*sum)[r] = static_cast<int32_t>(random_.range(0, 99));
    for (int64_t i = 0; i < block_.rows * block_.step; ++i) block_.values[i] = static_cast<int32_t>(random_.range(-99, 99));
  }
  s.base = base->as<int32_t>();
  s.pattern = patterned ? pattern->as<int32_t>() : nullptr;
  s.sums = sums ? sum->as<int32_t>() : nullptr;
  s.sum_factor = sums ? factors->as<int32_t>() : nullptr;
  each([&](int64_t r, int64_t c, size_t i) {
    uint32_t v = static_cast<uint32_t>(s.base[(patterned ? s.pattern[r] : 0) * s.base_step + c]);
    v += static_cast<uint32_t>(block_.values[i]) * static_cast<uint32_t>(s.factor);
    if (sums) v += static_cast<uint32_t>(s.sums[r]) * static_cast<uint32_t>(s.sum_factor[c]);
    ints_[i] = static_cast<int32_t>(v);
  });
  steps_.push_back(s);
  inputs_.push_back(std::move(base));
  inputs_.push_back(std::move(pattern));
  inputs_.push_back(std::move(sum));
  inputs_.push_back(std::move(factors));
}

void Sequence::load(Op op) {
  Step s = add(op);
  if (op == Op::kLoad) {
    read_image(s);
    each([&](int64_t r, int64_t c, size_t i) { floats_[i] = image_value(s, r, c); });
  } else {
    s.at = planar_places(!random_.one_in(3), &s.plane);
    auto image = std::make_unique<Input>(random_, (block_.channels - 1) * s.plane + 4 * block_.rows);
    for (int64_t i = 0; i < image->size(); i += 4) put(image->data() + i, random_.number());
    s.image = image->data();
    inputs_.push_back(std::move(image));
    each([&](int64_t r, int64_t c, size_t i) { floats_[i] = get<float>(s.image + s.at[r] + c * s.plane); });
  }
  steps_.push_back(s);
}

void Sequence::store_ints() {
  Step s = add(Op::kStoreInt);
  const bool planar = random_.one_in(2);
  if (planar) s.at = planar_places(!random_.one_in(3), &s.plane);
  if (!planar) s.at = places(4 * block_.channels + random_.range(0, 3), 0);
  int64_t last = 0;
  for (int64_t r = 0; r < block_.rows; ++r) last = std::max(last, s.at[r]);
  const int64_t step = planar ? s.plane : 4;
  Operand& o = output(s, last + 4 + (block_.channel + block_.width - 1) * step);
  each([&](int64_t r, int64_t c, size_t i) { put(&o.expected[static_cast<size_t>(s.at[r] + c * step)], ints_[i]); });
  steps_.push_back(s);
}

void Sequence::scale() {
  Step s = add(Op::kScale);
  s.a = vector(false);
  each([&](int64_t, int64_t c, size_t i) { floats_[i] = static_cast<float>(ints_[i]) * s.a[c]; });
  steps_.push_back(s);
}

void Sequence::arithmetic() {
  const Op op = random_.pick({Op::kMul, Op::kAdd, Op::kSub, Op::kDiv, Op::kMulAll, Op::kAddAll, Op::kDivAll, Op::kMulRow,
                              Op::kAddImage, Op::kMaxImage, Op::kPrelu, Op::kRelu, Op::kClamp});
  Step s = add(op);
  if (op == Op::kMul || op == Op::kAdd || op == Op::kSub || op == Op::kDiv || op == Op::kPrelu)
    s.a = vector(op == Op::kDiv);
  s.low = random_.plain();
  s.high = s.low + std::fabs(random_.plain());
  auto row = std::make_unique<Vector<float>>(random_, block_.rows);
  for (int64_t r = 0; r < block_.rows; ++r) (*row)[r] = random_.number();
  s.row = row->as<float>();
  inputs_.push_back(std::move(row));
  if (op == Op::kAddImage || op == Op::kMaxImage) read_image(s);
  each([&](int64_t r, int64_t c, size_t i) {
    const float v = floats_[i];
    float y = v;
    switch (op) {
      case Op::kMul: y = v * s.a[c]; break;
      case Op::kAdd: y = v + s.a[c]; break;
      case Op::kSub: y = v - s.a[c]; break;
      case Op::kDiv: y = v / s.a[c]; break;
      case Op::kMulAll: y = v * s.low; break;
      case Op::kAddAll: y = v + s.low; break;
      case Op::kDivAll: y = v / s.low; break;
      case Op::kMulRow: y = v * s.row[r]; break;
      case Op::kAddImage:
        if (s.size < 0 || (c >= s.first && c < s.first + s.size)) y = v + image_value(s, r, c);
        break;
      case Op::kMaxImage: {
        const float other = image_value(s, r, c);
        if (std::isnan(v) || std::isnan(other)) {
          y = std::nanf("");
        } else {
          y = other > v ? other : v;
        }
        break;
      }
      case Op::kPrelu: y = v > 0.0f ? v : s.a[c] * v; break;
      case Op::kRelu: y = v < 0.0f ? 0.0f : v; break;
      default:
        if (v < s.low) y = s.low;
        if (v > s.high) y = s.high;
    }
    floats_[i] = y;
  });
  steps_.push_back(s);
}

void Sequence::store_floats() {
  const bool planar = random_.one_in(2);
  Step s = add(planar ? Op::kStorePlanar : Op::kStore);
  if (planar) s.at = planar_places(true, &s.plane);
  if (!planar) s.at = places(4 * block_.channels + random_.range(0, 3), 0);
  int64_t last = 0;
  for (int64_t r = 0; r < block_.rows; ++r) last = std::max(last, s.at[r]);
  const int64_t step = planar ? s.plane : 4;
  Operand& o = output(s, last + 4 + (block_.channel + block_.width - 1) * step);
  o.floats = true;
  each([&](int64_t r, int64_t c, size_t i) { put(&o.expected[static_cast<size_t>(s.at[r] + c * step)], floats_[i]); });
  steps_.push_back(s);
}

void Sequence::store_bits() {
  const bool ints = steps_.size() == 1 && steps_[0].op == Op::kAccumulate;
  Step s = add(ints ? Op::kStoreBelow : Op::kStoreSigns);
  s.shift = 8 * random_.range(0, 4);
  const int64_t end = (s.shift + block_.channel + block_.width + 7) / 8, begin = (s.shift + block_.channel) / 8;
  s.at = places(end + random_.range(0, 2), 0);
  auto threshold = std::make_unique<Vector<int32_t>>(random_, padded());
  auto flip = std::make_unique<Vector<uint8_t>>(random_, padded());
  for (int64_t i = 0; i < padded(); ++i) {
    (*threshold)[i] = random_.one_in(5) ? static_cast<int32_t>(random_.next()) : static_cast<int32_t>(random_.range(-99, 99));
    (*flip)[i] = static_cast<uint8_t>(random_.range(0, 1));
  }
  s.threshold = threshold->as<int32_t>();
  s.flip = flip->as<uint8_t>();
  int64_t last = 0;
  for (int64_t r = 0; r < block_.rows; ++r) last = std::max(last, s.at[r]);
  Operand& o = output(s, last + end);
  for (int64_t r = 0; r < block_.rows; ++r)
    std::memset(&o.expected[static_cast<size_t>(s.at[r] + begin)], 0, static_cast<size_t>(end - begin));
  each([&](int64_t r, int64_t c, size_t i) {
    const int value = ints ? (ints_[i] < s.threshold[c]) ^ s.flip[c] : floats_[i] < 0.0f;
    set_bit(&o.expected[static_cast<size_t>(s.at[r])], s.shift + c, value);
  });
  steps_.push_back(s);
  inputs_.push_back(std::move(threshold));
  inputs_.push_back(std::move(flip));
}

void Sequence::store_codes() {
  const bool planes = random_.one_in(2);
  Step s = add(planes ? Op::kStorePlanes : Op::kStoreCodes);
  s.quantizer = random_quantizer(random_);
  int bits = 0;
  while (s.quantizer.largest >> bits > 0) ++bits;
  s.shift = random_.range(0, 4) * (planes ? 8 : 1);
  const int64_t unit = planes ? 8 : 1;
  const int64_t begin = (s.shift + block_.channel) / unit, end = (s.shift + block_.channel + block_.width + unit - 1) / unit;
  s.at = places(end + random_.range(0, 2), 0);
  int64_t last = 0;
  for (int64_t r = 0; r < block_.rows; ++r) last = std::max(last, s.at[r]);
  s.plane = last + end + random_.range(0, 4);
  Operand& o = output(s, last + end + (planes ? (bits - 1) * s.plane : 0));
  for (int64_t r = 0; planes && r < block_.rows; ++r)
    for (int b = 0; b < bits; ++b)
      std::memset(&o.expected[static_cast<size_t>(s.at[r] + begin + b * s.plane)], 0, static_cast<size_t>(end - begin));
  each([&](int64_t r, int64_t c, size_t i) {
    const int code = reference_code(floats_[i], s.quantizer);
    uint8_t* to = &o.expected[static_cast<size_t>(s.at[r])];
    if (!planes) to[s.shift + c] = static_cast<uint8_t>(code);
    for (int b = 0; planes && b < bits; ++b) set_bit(to + b * s.plane, s.shift + c, (code >> b) & 1);
  });
  steps_.push_back(s);
}

void Sequence::build() {
  if (random_.one_in(2)) {
    accumulate();
    if (random_.one_in(3)) return store_bits();
    if (random_.one_in(3)) return store_ints();
    scale();
  } else {
    load(random_.one_in(2) ? Op::kLoad : Op::kLoadPlanar);
  }
  const int64_t length = random_.range(0, 5);
  for (int64_t i = 0; i < length; ++i) {
    if (random_.one_in(4)) store_floats();
    arithmetic();
  }
  if (random_.one_in(2)) store_floats();
  if (random_.one_in(2)) store_bits();
  if (random_.one_in(2)) store_codes();
  if (operands_.empty()) store_floats();
}

}  // namespace

void check_steps(const KernelTable& table, Random& random, Case& c) {
  Sequence sequence(random, c);
  sequence.build();
  sequence.run(table);
}

}  // namespace check
