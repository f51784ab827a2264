// Float images, channels first, to sign bits and codes, channels last.
#pragma once

#include "lanes.h"

namespace robustlab {
namespace {

// 16 floats of which `lanes` exist: where they lie, or copied into `room`, because nothing behind them may be read.
inline const float* whole_lanes(const float* x, int64_t lanes, float* room) {
  if (lanes == kLanes) return x;
  std::memcpy(room, x, static_cast<size_t>(4 * lanes));
  return room;
}

// Signs of neighbouring channels of one pixel.
template <class Isa>
void pack_signs_of_pixel(const PackSigns& p) {
  const float zeros[kLanes] = {};
  for (int64_t c = 0; c < p.channels; c += kLanes) {
    const int64_t lanes = at_most(p.channels - c, kLanes);
    float room[kLanes] = {}, threshold_room[kLanes] = {};
    const float* x = whole_lanes(p.x + c, lanes, room);
    const float* threshold = p.thresholds != nullptr ? whole_lanes(p.thresholds + c, lanes, threshold_room) : zeros;
    store_bits(p.out + c / 8, Isa::less(x, threshold) & low_bits(lanes), lanes);
  }
}

template <class Isa>
void pack_signs(const PackSigns& p) {
  if (p.pixels == 1 && p.channel_step == 1) return pack_signs_of_pixel<Isa>(p);
  for (int64_t pixel = 0; pixel < p.pixels; pixel += kLanes) {
    const int64_t count = at_most(p.pixels - pixel, kLanes);
    for (int64_t c = 0; c < p.channels; c += 32) {
      const int64_t depth = at_most(p.channels - c, 32);
      alignas(64) uint32_t words[kLanes];
      Isa::sign_words(p.x + c * p.channel_step + pixel, p.channel_step, depth, count,
                      p.thresholds != nullptr ? p.thresholds + c : nullptr, words);
      uint8_t* out = p.out + pixel * p.pixel + c / 8;
      const size_t bytes = static_cast<size_t>((depth + 7) / 8);
      if (bytes == 4) {
        for (int64_t i = 0; i < count; ++i) std::memcpy(out + i * p.pixel, words + i, 4);
      } else {
        for (int64_t i = 0; i < count; ++i) std::memcpy(out + i * p.pixel, words + i, bytes);
      }
    }
  }
}

// 16 codes of a pixel, channels from a multiple of 16 on.
template <class Isa>
void store_pixel(const PackCodes& p, int64_t pixel, int64_t channel, int64_t lanes, const uint8_t* codes) {
  uint8_t* out = p.out + pixel * p.pixel;
  if (p.planes == 0) return copy_lanes<1>(out + channel, codes, lanes);
  for (int b = 0; b < p.planes; ++b)
    store_bits(out + b * p.plane + channel / 8, Isa::plane(codes, b) & low_bits(lanes), lanes);
}

// out = (x - sub) / div; sub and div may be null, and hold a number for `each` lane, else one for all.
template <class Isa>
void normalize(const float* x, const float* sub, const float* div, bool each, float* out) {
  using V = Vectors<Isa::kWidth>;
  for (int i = 0; i < V::kCount; ++i) {
    typename V::Floats v = V::floats(x, i);
    if (sub != nullptr) v = each ? v - V::floats(sub, i) : v - *sub;
    if (div != nullptr) v = each ? v / V::floats(div, i) : v / *div;
    V::put(out, i, v);
  }
}

template <class Isa>
void pack_codes_of_pixel(const PackCodes& p, const Rounding& rounding) {
  for (int64_t c = 0; c < p.channels; c += kLanes) {
    const int64_t lanes = at_most(p.channels - c, kLanes);
    float room[kLanes] = {}, sub_room[kLanes] = {}, div_room[kLanes] = {}, v[kLanes];
    uint8_t codes[kLanes];
    normalize<Isa>(whole_lanes(p.x + c, lanes, room), p.sub != nullptr ? whole_lanes(p.sub + c, lanes, sub_room) : nullptr,
                   p.div != nullptr ? whole_lanes(p.div + c, lanes, div_room) : nullptr, true, v);
    Isa::quantize(v, rounding, codes);
    store_pixel<Isa>(p, 0, c, lanes, codes);
  }
}

template <class Isa>
void pack_codes(const PackCodes& p) {
  const Rounding rounding(p.quantizer);
  if (p.pixels == 1 && p.channel_step == 1) return pack_codes_of_pixel<Isa>(p, rounding);
  for (int64_t pixel = 0; pixel < p.pixels; pixel += kLanes) {
    const int64_t count = at_most(p.pixels - pixel, kLanes);
    for (int64_t c = 0; c < p.channels; c += kLanes) {
      const int64_t lanes = at_most(p.channels - c, kLanes);
      alignas(64) uint8_t lines[kLanes * kLanes] = {}, pixels[kLanes * kLanes];
      for (int64_t i = 0; i < lanes; ++i) {
        float room[kLanes] = {}, v[kLanes];
        normalize<Isa>(whole_lanes(p.x + (c + i) * p.channel_step + pixel, count, room),
                       p.sub != nullptr ? p.sub + c + i : nullptr, p.div != nullptr ? p.div + c + i : nullptr, false, v);
        Isa::quantize(v, rounding, lines + kLanes * i);
      }
      Isa::transpose(lines, pixels);
      for (int64_t i = 0; i < count; ++i) store_pixel<Isa>(p, pixel + i, c, lanes, pixels + kLanes * i);
    }
  }
}

}  // namespace
}  // namespace robustlab
