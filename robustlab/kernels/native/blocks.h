// Runs the steps that make up a layer's output, block by block, on several threads.
#pragma once

#include <cstdint>
#include <vector>

#include "image.h"
#include "kernels.h"

namespace robustlab {

// The rows of a layer: the output pixels of all images, in order.
struct RowSpace {
  int64_t images, height, width;
  int64_t pixels() const { return height * width; }
  int64_t rows() const { return images * pixels(); }
};

// Which pixel of an image belongs to output pixel (y, x): (y * stride_y + offset_y, x * stride_x + offset_x), moved into
// the image if `clamped`.
struct PixelMap {
  int64_t stride_y = 1, stride_x = 1, offset_y = 0, offset_x = 0;
  bool clamped = false;
};

// A step, and how the driver finds `at` and `row` for every block.
struct StepPlan {
  Step step{};                 // image: first byte of the first image; at, row and pattern are set by the driver
  enum class Place { kNone, kImage, kPlanar } place = Place::kNone;
  ImageLayout layout{};        // kImage
  PixelMap map{};              // kImage
  const int64_t* table = nullptr;     // kImage: row_places() of one image, or null: worked out for every block
  int64_t image_bytes = 0;     // kPlanar: from one image to the next; step.plane is height * width * 4
  const float* per_image = nullptr;   // kMulRow: one factor an image, ...
  const float* per_pixel = nullptr;   // ... or one for each output pixel
};

// What a block of values starts from: a convolution's products, or nothing where the first step loads.
struct Producer {
  // Fills values of rows [begin, begin + count) and channels [channel, channel + width); both multiples as in Block.
  void (*produce)(const void* context, int64_t begin, int64_t count, int64_t channel, int64_t width, int32_t* values,
                  int64_t step);
  // Patterns, and sums of kAccumulate, of the same rows; null where there are none.
  void (*patterns)(const void* context, int64_t begin, int64_t count, int32_t* pattern);
  void (*sums)(const void* context, int64_t begin, int64_t count, int32_t* sums);
  // Does all the steps itself, instead of `produce`; may be null.
  void (*fused)(const void* context, int64_t begin, int64_t count, int64_t channel, int64_t width, const Step* steps);
  const void* context;
  int64_t lanes;              // channels a block may be cut at, a multiple of 16; 0: blocks hold all channels
  double nanoseconds;         // of one row, all channels, roughly
};

// Byte offsets of the pixels of rows [begin, begin + count) in images of `layout`.
void row_places(const RowSpace& space, const ImageLayout& layout, const PixelMap& map, int64_t begin, int64_t count,
                int64_t* at);

// The same from a table for one image, if there is one. They are relative to byte `base` of the images, and lie in the
// table or in `room`, which has room for `count`.
constexpr int64_t kMostTablePixels = 4096;   // tables of larger images would push values out of the cache
struct Places {
  const int64_t* at;
  int64_t base;
};
Places find_places(const RowSpace& space, const ImageLayout& layout, const PixelMap& map, const int64_t* table,
                   int64_t begin, int64_t count, int64_t* room);

// Every row and channel once. `producer` may be null: then the first step loads.
void run_blocks(const KernelTable& kernels, int threads, const RowSpace& space, int64_t channels,
                const std::vector<StepPlan>& steps, const Producer* producer);

}  // namespace robustlab
