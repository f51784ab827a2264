#include "image.h"

#include <cstring>

namespace robustlab {
namespace {

void fill_pixels(uint8_t* to, int64_t pixels, const uint8_t* pattern, int64_t pixel, bool uniform) {
  if (uniform) {
    std::memset(to, pattern[0], static_cast<size_t>(pixels * pixel));
    return;
  }
  for (int64_t i = 0; i < pixels; ++i) std::memcpy(to + i * pixel, pattern, static_cast<size_t>(pixel));
}

}  // namespace

void fill_halo(uint8_t* images, int64_t count, const ImageLayout& layout, const uint8_t* pattern) {
  if (layout.halo_y == 0 && layout.halo_x == 0) return;
  const int64_t pitch = layout.pitch(), full_width = layout.width + 2 * layout.halo_x;
  for (int64_t plane = 0; plane < count * layout.planes; ++plane) {
    const uint8_t* fill = pattern + plane % layout.planes * layout.pixel;
    bool uniform = true;
    for (int64_t i = 1; i < layout.pixel; ++i) uniform = uniform && fill[i] == fill[0];
    uint8_t* top = images + plane * layout.plane_bytes();
    fill_pixels(top, layout.halo_y * full_width, fill, layout.pixel, uniform);
    uint8_t* row = top + layout.halo_y * pitch;
    // the right halo of one line and the left halo of the next are neighbours
    fill_pixels(row, layout.halo_x, fill, layout.pixel, uniform);
    for (int64_t y = 0; y + 1 < layout.height; ++y)
      fill_pixels(row + y * pitch + (layout.halo_x + layout.width) * layout.pixel, 2 * layout.halo_x, fill,
                  layout.pixel, uniform);
    uint8_t* last = row + (layout.height - 1) * pitch + (layout.halo_x + layout.width) * layout.pixel;
    fill_pixels(last, layout.halo_x + layout.halo_y * full_width, fill, layout.pixel, uniform);
  }
}

}  // namespace robustlab
