// Sources of values for steps that read an image: 16 channels of one pixel as floats. Nothing behind the last channel of
// a pixel is read.
#pragma once

#include "lanes.h"

namespace robustlab {
namespace {

struct FloatPixels {
  const uint8_t* image;
  const int64_t* at;
  int64_t channel;

  FloatPixels(const Step& s, int64_t first_channel) : image(s.image), at(s.at), channel(first_channel) {}

  void read(int64_t row, int64_t lanes, float* out) const {
    copy_lanes<4>(out, image + at[row] + 4 * channel, lanes);
  }
  float one(int64_t row, int64_t lane) const {
    float value;
    std::memcpy(&value, image + at[row] + 4 * (channel + lane), 4);
    return value;
  }
};

template <class Isa>
struct SignPixels {
  const uint8_t* image;
  const int64_t* at;
  int64_t channel;   // of the image

  SignPixels(const Step& s, int64_t first_channel) : image(s.image), at(s.at), channel(s.shift + first_channel) {}

  void read(int64_t row, int64_t lanes, float* out) const {
    const uint8_t* bytes = image + at[row] + channel / 8;
    Isa::signs(static_cast<uint32_t>(bytes[0]) | (lanes > 8 ? static_cast<uint32_t>(bytes[1]) << 8 : 0u), out);
  }
  float one(int64_t row, int64_t lane) const {
    const int64_t bit = channel + lane;
    return (image[at[row] + bit / 8] >> (bit % 8)) & 1 ? -1.0f : 1.0f;
  }
};

struct CodePixels {
  const uint8_t* image;
  const int64_t* at;
  int64_t channel;
  float zero;   // a multiple of 1/2, so that code - zero is exact

  CodePixels(const Step& s, int64_t first_channel)
      : image(s.image),
        at(s.at),
        channel(s.shift + first_channel),
        zero(0.5f * static_cast<float>(s.quantizer.doubled_zero)) {}

  void read(int64_t row, int64_t lanes, float* out) const {
    uint8_t codes[kLanes] = {};
    copy_lanes<1>(codes, image + at[row] + channel, lanes);
    for (int i = 0; i < kLanes; ++i) out[i] = static_cast<float>(codes[i]) - zero;
  }
  float one(int64_t row, int64_t lane) const {
    return static_cast<float>(image[at[row] + channel + lane]) - zero;
  }
};

// Calls f with the source that the step's kind names.
template <class Isa, class F>
void with_pixels(const Step& s, int64_t channel, F f) {
  switch (s.kind) {
    case Kind::kFloat: return f(FloatPixels(s, channel));
    case Kind::kSigns: return f(SignPixels<Isa>(s, channel));
    case Kind::kCodes: return f(CodePixels(s, channel));
  }
}

}  // namespace
}  // namespace robustlab
