#include "moves.h"

#include <algorithm>
#include <cstring>

namespace robustlab {
namespace {

// Calls f(image, y, x, target pixel) for every pixel of `count` images.
template <class Function>
void each_pixel(uint8_t* to, const ImageLayout& target, int64_t count, const Function& f) {
  for (int64_t image = 0; image < count; ++image) {
    for (int64_t y = 0; y < target.height; ++y) {
      uint8_t* pixel = to + image * target.image_bytes() + target.at(y, 0);
      for (int64_t x = 0; x < target.width; ++x, pixel += target.pixel) f(image, y, x, pixel);
    }
  }
}

// The same for one plane after the other; f(source plane, y, x, target pixel).
template <class Function>
void each_plane_pixel(const uint8_t* from, const ImageLayout& source, uint8_t* to, const ImageLayout& target,
                      int64_t count, const Function& f) {
  ImageLayout one = target;
  one.planes = 1;
  for (int64_t plane = 0; plane < count * target.planes; ++plane) {
    const uint8_t* bits = from + plane * source.plane_bytes();
    each_pixel(to + plane * target.plane_bytes(), one, 1,
               [&](int64_t, int64_t y, int64_t x, uint8_t* pixel) { f(bits, y, x, pixel); });
  }
}

struct Window {
  int64_t begin, end;
};

Window clipped(int64_t out, int64_t stride, int64_t pad, int64_t kernel, int64_t size) {
  const int64_t begin = out * stride - pad;
  return {std::max<int64_t>(begin, 0), std::min(begin + kernel, size)};
}

// to[i] = combine of every tap's bytes
template <class Combine>
void pool(const uint8_t* from, const ImageLayout& source, int64_t count, const Pooling& p, uint8_t* to,
          const ImageLayout& target, const Combine& combine) {
  each_pixel(to, target, count, [&](int64_t image, int64_t out_y, int64_t out_x, uint8_t* pixel) {
    const Window rows = clipped(out_y, p.stride_y, p.pad_y, p.kernel_y, source.height);
    const Window columns = clipped(out_x, p.stride_x, p.pad_x, p.kernel_x, source.width);
    const uint8_t* top = from + image * source.image_bytes();
    std::memcpy(pixel, top + source.at(rows.begin, columns.begin), static_cast<size_t>(source.pixel));
    for (int64_t y = rows.begin; y < rows.end; ++y) {
      const uint8_t* tap = top + source.at(y, columns.begin);
      for (int64_t x = columns.begin; x < columns.end; ++x, tap += source.pixel) combine(tap, pixel, source.pixel);
    }
  });
}

// Bits [from_bit, from_bit + bits) to to_bit on; the rest of the last byte written is cleared.
void copy_bits(const uint8_t* from, int64_t from_bit, int64_t bits, uint8_t* to, int64_t to_bit) {
  for (int64_t done = 0; done < bits;) {
    const int64_t at = from_bit + done, place = to_bit + done;
    const int64_t count = std::min({bits - done, 8 - at % 8, 8 - place % 8});
    const unsigned value = (static_cast<unsigned>(from[at / 8]) >> (at % 8)) & ((1u << count) - 1u);
    const unsigned kept = to[place / 8] & ((1u << (place % 8)) - 1u);
    to[place / 8] = static_cast<uint8_t>(kept | value << (place % 8));
    done += count;
  }
}

}  // namespace

void max_pool_bytes(const uint8_t* from, const ImageLayout& source, int64_t count, const Pooling& pooling, uint8_t* to,
                    const ImageLayout& target) {
  pool(from, source, count, pooling, to, target, [](const uint8_t* tap, uint8_t* pixel, int64_t bytes) {
    for (int64_t i = 0; i < bytes; ++i) pixel[i] = std::max(pixel[i], tap[i]);
  });
}

// A set bit is -1, so the largest sign of a window is the conjunction of its bits.
void max_pool_signs(const uint8_t* from, const ImageLayout& source, int64_t count, const Pooling& pooling, uint8_t* to,
                    const ImageLayout& target) {
  pool(from, source, count, pooling, to, target, [](const uint8_t* tap, uint8_t* pixel, int64_t bytes) {
    for (int64_t i = 0; i < bytes; ++i) pixel[i] = static_cast<uint8_t>(pixel[i] & tap[i]);
  });
}

void sum_pool(const uint8_t* from, const ImageLayout& source, int64_t count, const Pooling& p, int64_t channels,
              uint8_t* to, const ImageLayout& target) {
  constexpr int64_t kWidth = 32;   // channels that are summed in registers
  each_pixel(to, target, count, [&](int64_t image, int64_t out_y, int64_t out_x, uint8_t* pixel) {
    const uint8_t* first = from + image * source.image_bytes() + source.at(out_y * p.stride_y, out_x * p.stride_x);
    for (int64_t channel = 0; channel < channels; channel += kWidth) {
      const auto bytes = static_cast<size_t>(4 * std::min(kWidth, channels - channel));
      float sums[kWidth] = {}, tap[kWidth] = {};
      for (int64_t y = 0; y < p.kernel_y; ++y) {
        for (int64_t x = 0; x < p.kernel_x; ++x) {
          const uint8_t* at = first + y * source.pitch() + x * source.pixel + 4 * channel;
          if (bytes == sizeof tap) std::memcpy(tap, at, sizeof tap);
          else std::memcpy(tap, at, bytes);
          if (x + y == 0) std::memcpy(sums, tap, sizeof sums);
          else for (int64_t i = 0; i < kWidth; ++i) sums[i] += tap[i];
        }
      }
      std::memcpy(pixel + 4 * channel, sums, bytes);
    }
  });
}

void join_bytes(const uint8_t* from, const ImageLayout& source, int64_t count, int64_t bytes, int64_t shift, uint8_t* to,
                const ImageLayout& target) {
  each_pixel(to, target, count, [&](int64_t image, int64_t y, int64_t x, uint8_t* pixel) {
    std::memcpy(pixel + shift, from + image * source.image_bytes() + source.at(y, x), static_cast<size_t>(bytes));
  });
}

void join_bits(const uint8_t* from, const ImageLayout& source, int64_t count, int64_t bits, int64_t shift, uint8_t* to,
               const ImageLayout& target) {
  if (shift % 8 == 0) {
    // whole bytes: what lies behind the bits is zero already
    each_plane_pixel(from, source, to, target, count, [&](const uint8_t* plane, int64_t y, int64_t x, uint8_t* pixel) {
      std::memcpy(pixel + shift / 8, plane + source.at(y, x), static_cast<size_t>((bits + 7) / 8));
    });
    return;
  }
  each_plane_pixel(from, source, to, target, count, [&](const uint8_t* plane, int64_t y, int64_t x, uint8_t* pixel) {
    copy_bits(plane + source.at(y, x), 0, bits, pixel, shift);
  });
}

void spread_groups(const uint8_t* from, const ImageLayout& source, int64_t count, int64_t groups, int64_t bits,
                   uint8_t* to, const ImageLayout& target) {
  const int64_t unit = (bits + 7) / 8;
  each_plane_pixel(from, source, to, target, count, [&](const uint8_t* plane, int64_t y, int64_t x, uint8_t* pixel) {
    const uint8_t* packed = plane + source.at(y, x);
    for (int64_t group = 0; group < groups; ++group) copy_bits(packed, group * bits, bits, pixel + group * unit, 0);
  });
}

void subsample(const uint8_t* from, const ImageLayout& source, int64_t count, int64_t channels, int64_t stride_y,
               int64_t stride_x, int64_t front, uint8_t* to, const ImageLayout& target) {
  each_pixel(to, target, count, [&](int64_t image, int64_t y, int64_t x, uint8_t* pixel) {
    std::memset(pixel, 0, static_cast<size_t>(target.pixel));
    std::memcpy(pixel + 4 * front, from + image * source.image_bytes() + source.at(y * stride_y, x * stride_x),
                static_cast<size_t>(4 * channels));
  });
}

}  // namespace robustlab
