// What programs do to packed images without arithmetic on floats: pooling of bits and bytes, joining, regrouping.
#pragma once

#include <cstdint>

#include "image.h"

namespace robustlab {

struct Pooling {
  int64_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x;
};

// The largest value of every window, where the images hold bytes, or the largest sign, where they hold sign bits. Padding
// never wins; every window holds a pixel.
void max_pool_bytes(const uint8_t* from, const ImageLayout& source, int64_t count, const Pooling& pooling, uint8_t* to,
                    const ImageLayout& target);
void max_pool_signs(const uint8_t* from, const ImageLayout& source, int64_t count, const Pooling& pooling, uint8_t* to,
                    const ImageLayout& target);

// The sum of every window of float images, added row by row from the window's first pixel on. No padding.
void sum_pool(const uint8_t* from, const ImageLayout& source, int64_t count, const Pooling& pooling, int64_t channels,
              uint8_t* to, const ImageLayout& target);

// Every pixel's bytes to byte `shift` of the pixels of `to`.
void join_bytes(const uint8_t* from, const ImageLayout& source, int64_t count, int64_t bytes, int64_t shift, uint8_t* to,
                const ImageLayout& target);

// Every pixel's `bits` bits, of all planes, to bit `shift` of the pixels of `to`; values are joined in order, so what
// lies behind the bits in their last byte is cleared.
void join_bits(const uint8_t* from, const ImageLayout& source, int64_t count, int64_t bits, int64_t shift, uint8_t* to,
               const ImageLayout& target);

// Bits of all planes, `groups` groups of `bits` bits, to groups that start at whole bytes.
void spread_groups(const uint8_t* from, const ImageLayout& source, int64_t count, int64_t groups, int64_t bits,
                   uint8_t* to, const ImageLayout& target);

// Every stride-th pixel of float images; channels [front, front + channels) of `to`, zeros in all others.
void subsample(const uint8_t* from, const ImageLayout& source, int64_t count, int64_t channels, int64_t stride_y,
               int64_t stride_x, int64_t front, uint8_t* to, const ImageLayout& target);

}  // namespace robustlab
