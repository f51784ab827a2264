// Float images, channels first, to sign bits and codes, channels last.
#pragma once

#include "lanes.h"

namespace robustlab {
namespace {

// Signs of neighbouring channels of one pixel.
template <class Isa>
void pack_signs_of_pixel(const PackSigns& p) {
  for (int64_t c = 0; c < p.channels; c += kLanes) {
    const int64_t lanes = at_most(p.channels - c, kLanes);
    float x[kLanes] = {}, threshold[kLanes] = {};
    copy_lanes<4>(x, p.x + c, lanes);
    if (p.thresholds != nullptr) copy_lanes<4>(threshold, p.thresholds + c, lanes);
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

template <class Isa>
void pack_codes_of_pixel(const PackCodes& p, const Rounding& rounding) {
  for (int64_t c = 0; c < p.channels; c += kLanes) {
    const int64_t lanes = at_most(p.channels - c, kLanes);
    float x[kLanes] = {}, a[kLanes] = {};
    uint8_t codes[kLanes];
    copy_lanes<4>(x, p.x + c, lanes);
    if (p.sub != nullptr) {
      copy_lanes<4>(a, p.sub + c, lanes);
      for (int i = 0; i < kLanes; ++i) x[i] -= a[i];
    }
    if (p.div != nullptr) {
      copy_lanes<4>(a, p.div + c, lanes);
      for (int i = 0; i < kLanes; ++i) x[i] /= a[i];
    }
    Isa::quantize(x, rounding, codes);
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
        float x[kLanes] = {};
        copy_lanes<4>(x, p.x + (c + i) * p.channel_step + pixel, count);
        if (p.sub != nullptr) {
          const float a = p.sub[c + i];
          for (int k = 0; k < kLanes; ++k) x[k] -= a;
        }
        if (p.div != nullptr) {
          const float a = p.div[c + i];
          for (int k = 0; k < kLanes; ++k) x[k] /= a;
        }
        Isa::quantize(x, rounding, lines + kLanes * i);
      }
      Isa::transpose(lines, pixels);
      for (int64_t i = 0; i < count; ++i) store_pixel<Isa>(p, pixel + i, c, lanes, pixels + kLanes * i);
    }
  }
}

}  // namespace
}  // namespace robustlab
