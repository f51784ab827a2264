// Images as sources of steps: 16 channels of one pixel as floats.
#pragma once

#include "internal.h"

namespace robustlab {
namespace {

// Lanes of 16 channels, the first of them `channel`, that have an image value.
INLINE __mmask16 lanes_between(int64_t channel, int64_t begin, int64_t end) {
  const __mmask16 before = first(begin - channel);
  return static_cast<__mmask16>(first(end - channel) & ~before);
}

struct FloatPixels {
  const uint8_t* image;
  __mmask16 lanes;

  INLINE FloatPixels(const Step& s, int64_t channel, __mmask16 used) : image(s.image + 4 * channel), lanes(used) {}
  INLINE __m512 at(int64_t place) const { return _mm512_maskz_loadu_ps(lanes, image + place); }
};

// Lanes in front of the image's first channel are not read: that may be in front of the buffer.
struct SignPixels {
  const uint8_t* image;
  int64_t behind;   // lanes in front of the image
  __m512 plus, minus;

  INLINE SignPixels(const Step& s, int64_t channel, __mmask16)
      : plus(_mm512_set1_ps(1.0f)), minus(_mm512_set1_ps(-1.0f)) {
    const int64_t bit = s.shift + channel;
    behind = bit < 0 ? -bit : 0;
    image = s.image + (bit < 0 ? 0 : bit / 8);
  }
  INLINE __m512 at(int64_t place) const {
    const __mmask16 negative = static_cast<__mmask16>(load16(image + place) << behind);
    return _mm512_mask_mov_ps(plus, negative, minus);
  }
};

struct CodePixels {
  const uint8_t* image;
  __mmask16 lanes;
  __m512 zero;

  INLINE CodePixels(const Step& s, int64_t channel, __mmask16 used)
      : image(s.image + (s.shift + channel)),
        lanes(used),
        zero(_mm512_set1_ps(0.5f * static_cast<float>(s.quantizer.doubled_zero))) {}
  INLINE __m512 at(int64_t place) const {
    const __m128i codes = _mm_maskz_loadu_epi8(lanes, image + place);
    return _mm512_sub_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes)), zero);
  }
};

}  // namespace
}  // namespace robustlab
