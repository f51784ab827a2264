// Sources of values for steps that read an image: 16 channels of one pixel as floats, where they lie or in `room`.
// Nothing behind the last channel of a pixel is read.
#pragma once

#include "lanes.h"

namespace robustlab {
namespace {

struct FloatPixels {
  const uint8_t* image;
  const int64_t* at;
  int64_t channel;

  FloatPixels(const Step& s, int64_t first_channel) : image(s.image), at(s.at), channel(first_channel) {}

  const void* read(int64_t row, int64_t lanes, float* room) const {
    const uint8_t* values = image + at[row] + 4 * channel;
    if (lanes == kLanes) return values;
    std::memcpy(room, values, static_cast<size_t>(4 * lanes));
    return room;
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

  const void* read(int64_t row, int64_t lanes, float* room) const {
    const uint8_t* bytes = image + at[row] + channel / 8;
    Isa::signs(static_cast<uint32_t>(bytes[0]) | (lanes > 8 ? static_cast<uint32_t>(bytes[1]) << 8 : 0u), room);
    return room;
  }
  float one(int64_t row, int64_t lane) const {
    const int64_t bit = channel + lane;
    return (image[at[row] + bit / 8] >> (bit % 8)) & 1 ? -1.0f : 1.0f;
  }
};

template <class Isa>
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

  const void* read(int64_t row, int64_t lanes, float* room) const {
    const uint8_t* codes = image + at[row] + channel;
    uint8_t some[kLanes] = {};
    if (lanes < kLanes) {
      std::memcpy(some, codes, static_cast<size_t>(lanes));
      codes = some;
    }
    Isa::levels(codes, zero, room);
    return room;
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
    case Kind::kCodes: return f(CodePixels<Isa>(s, channel));
  }
}

}  // namespace
}  // namespace robustlab
