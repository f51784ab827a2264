// The steps that follow a product. A block is worked through in columns of 16 channels, one step after the other, so
// that a column (7 KiB at most) stays in the first cache and the parameters of a step stay in registers.
#pragma once

#include "images.h"
#include "lanes.h"

namespace robustlab {
namespace {

template <class Isa>
class Column {
  using V = Vectors<Isa::kWidth>;
  using Floats = typename V::Floats;
  using Words = typename V::Words;

 public:
  Column(const Block& block, int64_t lane)
      : values_(reinterpret_cast<AnyInt*>(block.values) + lane),
        rows_(block.rows),
        step_(block.step),
        channel_(block.channel + lane),
        lanes_(at_most(at_most(block.width - lane, block.channels - channel_), kLanes)) {}

  void apply(const Step& s) const {
    switch (s.op) {
      case Op::kAccumulate: return accumulate(s);
      case Op::kLoad: return load(s);
      case Op::kLoadPlanar: return load_planar(s);
      case Op::kStoreInt: return s.plane > 0 ? store_planar(s) : store(s);
      case Op::kStoreBelow: return store_below(s);
      case Op::kScale: return scale(s);
      case Op::kMul: return with_vector(s, [](Floats v, Floats a) { return v * a; });
      case Op::kAdd: return with_vector(s, [](Floats v, Floats a) { return v + a; });
      case Op::kSub: return with_vector(s, [](Floats v, Floats a) { return v - a; });
      case Op::kDiv: return with_vector(s, [](Floats v, Floats a) { return v / a; });
      case Op::kMulAll: return each([&](Floats v) { return v * s.low; });
      case Op::kAddAll: return each([&](Floats v) { return v + s.low; });
      case Op::kDivAll: return each([&](Floats v) { return v / s.low; });
      case Op::kMulRow: return mul_row(s);
      case Op::kAddImage: return add_image(s);
      case Op::kMaxImage: return max_image(s);
      case Op::kPrelu: return with_vector(s, [](Floats v, Floats a) { return v > 0.0f ? v : a * v; });
      // written so that NaN stays
      case Op::kRelu: return each([](Floats v) { return v < 0.0f ? Floats{} : v; });
      case Op::kClamp: return clamp(s.low, s.high);
      case Op::kStore: return store(s);
      case Op::kStorePlanar: return store_planar(s);
      case Op::kStoreSigns: return store_signs(s);
      case Op::kStoreCodes: return store_codes(s);
      case Op::kStorePlanes: return store_planes(s);
    }
  }

 private:
  AnyInt* ints(int64_t row) const { return values_ + row * step_; }
  const float* floats(int64_t row) const { return reinterpret_cast<const float*>(ints(row)); }

  // v = f(v)
  template <class F>
  void each(F f) const {
    for (int64_t r = 0; r < rows_; ++r) {
      void* v = ints(r);
      for (int i = 0; i < V::kCount; ++i) V::put(v, i, f(V::floats(v, i)));
    }
  }

  // v = f(v, a[c])
  template <class F>
  void with_vector(const Step& s, F f) const {
    Floats a[V::kCount];
    for (int i = 0; i < V::kCount; ++i) a[i] = V::floats(s.a + channel_, i);
    for (int64_t r = 0; r < rows_; ++r) {
      void* v = ints(r);
      for (int i = 0; i < V::kCount; ++i) V::put(v, i, f(V::floats(v, i), a[i]));
    }
  }

  // v = f(v, image value)
  template <class F>
  void with_image(const Step& s, F f) const {
    with_pixels<Isa>(s, channel_, [&](const auto& pixels) {
      float room[kLanes] = {};
      for (int64_t r = 0; r < rows_; ++r) {
        void* v = ints(r);
        const void* x = pixels.read(r, lanes_, room);
        for (int i = 0; i < V::kCount; ++i) V::put(v, i, f(V::floats(v, i), V::floats(x, i)));
      }
    });
  }

  void accumulate(const Step& s) const {
    const uint32_t factor = static_cast<uint32_t>(s.factor);
    Words sum_factor[V::kCount] = {};
    for (int i = 0; i < V::kCount && s.sums != nullptr; ++i) sum_factor[i] = V::words(s.sum_factor + channel_, i);
    for (int64_t r = 0; r < rows_; ++r) {
      const int32_t* base = s.base + (s.pattern != nullptr ? s.pattern[r] : 0) * s.base_step + channel_;
      const uint32_t sum = s.sums != nullptr ? static_cast<uint32_t>(s.sums[r]) : 0u;
      void* v = ints(r);
      for (int i = 0; i < V::kCount; ++i)
        V::put(v, i, V::words(base, i) + V::words(v, i) * factor + sum_factor[i] * sum);
    }
  }

  void scale(const Step& s) const {
    Floats a[V::kCount];
    for (int i = 0; i < V::kCount; ++i) a[i] = V::floats(s.a + channel_, i);
    for (int64_t r = 0; r < rows_; ++r) {
      void* v = ints(r);
      for (int i = 0; i < V::kCount; ++i) V::put(v, i, __builtin_convertvector(V::ints(v, i), Floats) * a[i]);
    }
  }

  void mul_row(const Step& s) const {
    for (int64_t r = 0; r < rows_; ++r) {
      void* v = ints(r);
      const float factor = s.row[r];
      for (int i = 0; i < V::kCount; ++i) V::put(v, i, V::floats(v, i) * factor);
    }
  }

  void clamp(float low, float high) const {
    const Floats least = Floats{} + low, most = Floats{} + high;
    each([=](Floats v) {
      v = v < least ? least : v;
      return v > most ? most : v;
    });
  }

  void load(const Step& s) const {
    with_image(s, [](Floats, Floats x) { return x; });
  }

  // a NaN in v makes the first comparison false, one in x the second
  void max_image(const Step& s) const {
    with_image(s, [](Floats v, Floats x) {
      const Floats larger = x > v ? x : v;
      return x == x ? larger : x;
    });
  }

  void add_image(const Step& s) const {
    // lanes that have an image value
    const int64_t first = s.size < 0 || s.first <= channel_ ? 0 : s.first - channel_;
    const int64_t end = s.size < 0 ? lanes_ : at_most(s.first + s.size - channel_, lanes_);
    if (first >= end) return;
    if (first == 0 && end == lanes_) return with_image(s, [](Floats v, Floats x) { return v + x; });
    with_pixels<Isa>(s, channel_, [&](const auto& pixels) {
      for (int64_t r = 0; r < rows_; ++r) {
        auto* v = reinterpret_cast<AnyFloat*>(ints(r));
        for (int64_t i = first; i < end; ++i) v[i] += pixels.one(r, i);
      }
    });
  }

  void store(const Step& s) const {
    for (int64_t r = 0; r < rows_; ++r) copy_lanes<4>(s.image + s.at[r] + 4 * channel_, ints(r), lanes_);
  }

  // Whether rows [row, row + count) lie next to each other in a plane.
  static bool adjacent(const Step& s, int64_t row, int64_t count) {
    for (int64_t i = 1; i < count; ++i)
      if (s.at[row + i] != s.at[row] + 4 * i) return false;
    return true;
  }

  void load_planar(const Step& s) const {
    for (int64_t row = 0; row < rows_; row += kLanes) {
      const int64_t count = at_most(rows_ - row, kLanes);
      const bool together = adjacent(s, row, count);
      alignas(64) int32_t lines[kLanes * kLanes] = {}, pixels[kLanes * kLanes];
      if (together && count == kLanes && lanes_ == kLanes && s.plane % 4 == 0) {
        const uint8_t* first = s.image + channel_ * s.plane + s.at[row];
        Isa::transpose(reinterpret_cast<const AnyInt*>(first), s.plane / 4, pixels);
        for (int64_t r = 0; r < count; ++r) std::memcpy(ints(row + r), pixels + kLanes * r, 4 * kLanes);
        continue;
      }
      for (int64_t i = 0; i < lanes_; ++i) {
        const uint8_t* plane = s.image + (channel_ + i) * s.plane;
        if (together) {
          copy_lanes<4>(lines + kLanes * i, plane + s.at[row], count);
        } else {
          for (int64_t r = 0; r < count; ++r) std::memcpy(lines + kLanes * i + r, plane + s.at[row + r], 4);
        }
      }
      Isa::transpose(lines, kLanes, pixels);
      for (int64_t r = 0; r < count; ++r) std::memcpy(ints(row + r), pixels + kLanes * r, 4 * kLanes);
    }
  }

  void store_planar(const Step& s) const {
    for (int64_t row = 0; row < rows_; row += kLanes) {
      const int64_t count = at_most(rows_ - row, kLanes);
      const bool together = adjacent(s, row, count);
      alignas(64) int32_t lines[kLanes * kLanes];
      if (count == kLanes) {
        Isa::transpose(ints(row), step_, lines);
      } else {
        int32_t pixels[kLanes * kLanes] = {};
        for (int64_t r = 0; r < count; ++r) std::memcpy(pixels + kLanes * r, ints(row + r), 4 * kLanes);
        Isa::transpose(pixels, kLanes, lines);
      }
      for (int64_t i = 0; i < lanes_; ++i) {
        uint8_t* plane = s.image + (channel_ + i) * s.plane;
        if (together) {
          copy_lanes<4>(plane + s.at[row], lines + kLanes * i, count);
        } else {
          for (int64_t r = 0; r < count; ++r) std::memcpy(plane + s.at[row + r], lines + kLanes * i + r, 4);
        }
      }
    }
  }

  uint8_t* bits_of(const Step& s, int64_t row) const { return s.image + s.at[row] + (s.shift + channel_) / 8; }

  void store_below(const Step& s) const {
    const int32_t* threshold = s.threshold + channel_;
    uint32_t flip = 0;
    for (int64_t i = 0; i < lanes_; ++i) flip |= static_cast<uint32_t>(s.flip[channel_ + i]) << i;
    for (int64_t r = 0; r < rows_; ++r) {
      const int32_t* v = reinterpret_cast<const int32_t*>(ints(r));
      store_bits(bits_of(s, r), (Isa::less(v, threshold) ^ flip) & low_bits(lanes_), lanes_);
    }
  }

  void store_signs(const Step& s) const {
    const float zeros[kLanes] = {};
    for (int64_t r = 0; r < rows_; ++r)
      store_bits(bits_of(s, r), Isa::less(floats(r), zeros) & low_bits(lanes_), lanes_);
  }

  void store_codes(const Step& s) const {
    const Rounding rounding(s.quantizer);
    for (int64_t r = 0; r < rows_; ++r) {
      uint8_t codes[kLanes];
      Isa::quantize(floats(r), rounding, codes);
      copy_lanes<1>(s.image + s.at[r] + s.shift + channel_, codes, lanes_);
    }
  }

  void store_planes(const Step& s) const {
    const Rounding rounding(s.quantizer);
    for (int64_t r = 0; r < rows_; ++r) {
      uint8_t codes[kLanes];
      Isa::quantize(floats(r), rounding, codes);
      for (int p = 0; s.quantizer.largest >> p > 0; ++p)
        store_bits(bits_of(s, r) + p * s.plane, Isa::plane(codes, p) & low_bits(lanes_), lanes_);
    }
  }

  AnyInt* values_;
  int64_t rows_, step_, channel_, lanes_;
};

template <class Isa>
void run_steps(const Step* steps, int64_t count, const Block& block) {
  for (int64_t lane = 0; lane < block.width; lane += kLanes) {
    const Column<Isa> column(block, lane);
    for (int64_t i = 0; i < count; ++i) column.apply(steps[i]);
  }
}

}  // namespace
}  // namespace robustlab
