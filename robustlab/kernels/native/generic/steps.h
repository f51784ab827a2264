// The steps that follow a product. A block is worked through in columns of 16 channels, one step after the other, so
// that a column (7 KiB at most) stays in the first cache and the parameters of a step stay in registers.
#pragma once

#include "images.h"
#include "lanes.h"

namespace robustlab {
namespace {

template <class Isa>
class Column {
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
      case Op::kMul: return with_vector(s, [](float v, float a) { return v * a; });
      case Op::kAdd: return with_vector(s, [](float v, float a) { return v + a; });
      case Op::kSub: return with_vector(s, [](float v, float a) { return v - a; });
      case Op::kDiv: return with_vector(s, [](float v, float a) { return v / a; });
      case Op::kMulAll: return each([=](float v) { return v * s.low; });
      case Op::kAddAll: return each([=](float v) { return v + s.low; });
      case Op::kDivAll: return each([=](float v) { return v / s.low; });
      case Op::kMulRow: return mul_row(s);
      case Op::kAddImage: return add_image(s);
      case Op::kMaxImage: return max_image(s);
      case Op::kPrelu:
        return with_vector(s, [](float v, float a) {
          const float below = a * v;
          return v > 0.0f ? v : below;
        });
      // written so that NaN stays
      case Op::kRelu: return each([](float v) { return v < 0.0f ? 0.0f : v; });
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
  AnyFloat* floats(int64_t row) const { return reinterpret_cast<AnyFloat*>(ints(row)); }

  // v = f(v)
  template <class F>
  void each(F f) const {
    for (int64_t r = 0; r < rows_; ++r) {
      AnyFloat* v = floats(r);
      for (int i = 0; i < kLanes; ++i) v[i] = f(v[i]);
    }
  }

  // v = f(v, a[c])
  template <class F>
  void with_vector(const Step& s, F f) const {
    float a[kLanes];
    std::memcpy(a, s.a + channel_, sizeof a);
    for (int64_t r = 0; r < rows_; ++r) {
      AnyFloat* v = floats(r);
      for (int i = 0; i < kLanes; ++i) v[i] = f(v[i], a[i]);
    }
  }

  void accumulate(const Step& s) const {
    uint32_t sum_factor[kLanes] = {};
    if (s.sums != nullptr) std::memcpy(sum_factor, s.sum_factor + channel_, sizeof sum_factor);
    const uint32_t factor = static_cast<uint32_t>(s.factor);
    for (int64_t r = 0; r < rows_; ++r) {
      AnyInt* v = ints(r);
      uint32_t base[kLanes];
      std::memcpy(base, s.base + (s.pattern != nullptr ? s.pattern[r] : 0) * s.base_step + channel_, sizeof base);
      if (s.sums != nullptr) {
        const uint32_t sum = static_cast<uint32_t>(s.sums[r]);
        for (int i = 0; i < kLanes; ++i) base[i] += sum * sum_factor[i];
      }
      for (int i = 0; i < kLanes; ++i) v[i] = static_cast<int32_t>(base[i] + static_cast<uint32_t>(v[i]) * factor);
    }
  }

  void scale(const Step& s) const {
    float a[kLanes];
    std::memcpy(a, s.a + channel_, sizeof a);
    for (int64_t r = 0; r < rows_; ++r) {
      const AnyInt* v = ints(r);
      float y[kLanes];
      for (int i = 0; i < kLanes; ++i) y[i] = static_cast<float>(v[i]) * a[i];
      std::memcpy(ints(r), y, sizeof y);
    }
  }

  void mul_row(const Step& s) const {
    for (int64_t r = 0; r < rows_; ++r) {
      AnyFloat* v = floats(r);
      const float factor = s.row[r];
      for (int i = 0; i < kLanes; ++i) v[i] *= factor;
    }
  }

  void clamp(float low, float high) const {
    each([=](float v) {
      v = v < low ? low : v;
      return v > high ? high : v;
    });
  }

  void load(const Step& s) const {
    with_pixels<Isa>(s, channel_, [&](const auto& pixels) {
      for (int64_t r = 0; r < rows_; ++r) {
        float x[kLanes] = {};
        pixels.read(r, lanes_, x);
        std::memcpy(ints(r), x, sizeof x);
      }
    });
  }

  void max_image(const Step& s) const {
    with_pixels<Isa>(s, channel_, [&](const auto& pixels) {
      for (int64_t r = 0; r < rows_; ++r) {
        AnyFloat* v = floats(r);
        float x[kLanes] = {};
        pixels.read(r, lanes_, x);
        // a NaN in v makes the first comparison false, one in x makes the second true
        for (int i = 0; i < kLanes; ++i) {
          const float larger = x[i] > v[i] ? x[i] : v[i];
          v[i] = x[i] == x[i] ? larger : x[i];
        }
      }
    });
  }

  void add_image(const Step& s) const {
    // lanes that have an image value
    const int64_t first = s.size < 0 || s.first <= channel_ ? 0 : s.first - channel_;
    const int64_t end = s.size < 0 ? lanes_ : at_most(s.first + s.size - channel_, lanes_);
    if (first >= end) return;
    with_pixels<Isa>(s, channel_, [&](const auto& pixels) {
      for (int64_t r = 0; r < rows_; ++r) {
        AnyFloat* v = floats(r);
        if (first > 0 || end < lanes_) {
          for (int64_t i = first; i < end; ++i) v[i] += pixels.one(r, i);
          continue;
        }
        float x[kLanes] = {};
        pixels.read(r, lanes_, x);
        for (int i = 0; i < kLanes; ++i) v[i] += x[i];
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
    int32_t threshold[kLanes];
    std::memcpy(threshold, s.threshold + channel_, sizeof threshold);
    uint32_t flip = 0;
    for (int64_t i = 0; i < lanes_; ++i) flip |= static_cast<uint32_t>(s.flip[channel_ + i]) << i;
    for (int64_t r = 0; r < rows_; ++r) {
      int32_t v[kLanes];
      std::memcpy(v, ints(r), sizeof v);
      store_bits(bits_of(s, r), (Isa::less(v, threshold) ^ flip) & low_bits(lanes_), lanes_);
    }
  }

  void store_signs(const Step& s) const {
    const float zeros[kLanes] = {};
    for (int64_t r = 0; r < rows_; ++r) {
      float v[kLanes];
      std::memcpy(v, ints(r), sizeof v);
      store_bits(bits_of(s, r), Isa::less(v, zeros) & low_bits(lanes_), lanes_);
    }
  }

  void store_codes(const Step& s) const {
    const Rounding rounding(s.quantizer);
    for (int64_t r = 0; r < rows_; ++r) {
      float v[kLanes];
      uint8_t codes[kLanes];
      std::memcpy(v, ints(r), sizeof v);
      Isa::quantize(v, rounding, codes);
      copy_lanes<1>(s.image + s.at[r] + s.shift + channel_, codes, lanes_);
    }
  }

  void store_planes(const Step& s) const {
    const Rounding rounding(s.quantizer);
    for (int64_t r = 0; r < rows_; ++r) {
      float v[kLanes];
      uint8_t codes[kLanes];
      std::memcpy(v, ints(r), sizeof v);
      Isa::quantize(v, rounding, codes);
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
