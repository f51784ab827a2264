// Where images lie in memory: channels last, each with a halo that padding is read from.
#pragma once

#include <cstdint>

namespace robustlab {

struct ImageLayout {
  int64_t height = 0, width = 0;    // without the halo
  int64_t halo_y = 0, halo_x = 0;
  int64_t pixel = 0;                // bytes of one pixel, in one plane
  int64_t planes = 1;               // bit planes, one whole image each

  int64_t pitch() const { return (width + 2 * halo_x) * pixel; }
  int64_t plane_bytes() const { return (height + 2 * halo_y) * pitch(); }
  int64_t image_bytes() const { return planes * plane_bytes(); }
  int64_t at(int64_t y, int64_t x) const { return (y + halo_y) * pitch() + (x + halo_x) * pixel; }
};

// Bytes of one pixel of sign bits: every group starts at a whole byte.
inline int64_t bits_pixel(int64_t groups, int64_t group_channels) { return groups * ((group_channels + 7) / 8); }

// Writes `pattern` ([planes][pixel] bytes) to every halo pixel of `count` images.
void fill_halo(uint8_t* images, int64_t count, const ImageLayout& layout, const uint8_t* pattern);

}  // namespace robustlab
