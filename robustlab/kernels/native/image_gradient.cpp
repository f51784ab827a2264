// A pixel of the image at Y = stride * q + a (padding included) gets from line q - m of the gradient above, for every
// m < ceil(taps / stride), what tap stride * m + a is worth. So all pixels with the same a, and the same b along the line,
// are a convolution of stride 1 of their own, and those of all (a, b) and channels read the same values.
#include "image_gradient.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "layer.h"
#include "parallel.h"
#include "scratch.h"

namespace robustlab {
namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Short lines, for which a call of memcpy would cost more than the copy.
void copy_line(float* to, const float* from, int64_t count) {
  for (; count >= kLanes; count -= kLanes, to += kLanes, from += kLanes) std::memcpy(to, from, kLanes * sizeof(float));
  for (; count > 0; --count) *to++ = *from++;
}

struct Job {
  const KernelTable& kernels;
  const ImageConv& conv;
  const float* above;
  float* gradient;
  int64_t taps_y, taps_x;        // of the convolutions of stride 1
  int64_t first, last;           // lines q
  int64_t start;                 // the first position of a line
  int64_t positions, pitch;
  int64_t blocks, block;
  std::vector<float> weights;

  Job(const KernelTable& table, const ImageConv& c, const float* from, const float* given, float* to)
      : kernels(table), conv(c), above(from), gradient(to) {
    taps_y = divide_up(c.taps_y, c.stride_y);
    taps_x = divide_up(c.taps_x, c.stride_x);
    first = c.pad_y / c.stride_y;
    last = (c.pad_y + c.height - 1) / c.stride_y;
    start = c.pad_x / c.stride_x;
    positions = divide_up((c.pad_x + c.width - 1) / c.stride_x - start + 1, kLanes) * kLanes;
    pitch = divide_up(positions + taps_x - 1, kLanes) * kLanes;
    const int64_t all = c.stride_y * c.stride_x * c.channels;
    block = all <= 4 ? all : all <= 8 ? 8 : 12;
    blocks = divide_up(all, block);
    pack(given);
  }

  void pack(const float* given) {
    const ImageConv& c = conv;
    weights.assign(static_cast<size_t>(blocks * block * c.outputs * taps_y * taps_x), 0.0f);
    for (int64_t o = 0; o < c.outputs; ++o)
      for (int64_t channel = 0; channel < c.channels; ++channel)
        for (int64_t ky = 0; ky < c.taps_y; ++ky)
          for (int64_t kx = 0; kx < c.taps_x; ++kx) {
            const int64_t at = phase(ky % c.stride_y, kx % c.stride_x, channel);
            const int64_t tap = (o * taps_y + ky / c.stride_y) * taps_x + kx / c.stride_x;
            const int64_t place = (at / block * c.outputs * taps_y * taps_x + tap) * block + at % block;
            weights[static_cast<size_t>(place)] = given[((o * c.channels + channel) * c.taps_y + ky) * c.taps_x + kx];
          }
  }

  int64_t phase(int64_t a, int64_t b, int64_t channel) const { return (a * conv.stride_x + b) * conv.channels + channel; }

  void run(int64_t image) const {
    const ImageConv& c = conv;
    const int64_t height = c.out_height(), width = c.out_width(), line = c.outputs * pitch;
    const float* from = above + image * c.outputs * height * width;
    float* to = gradient + image * c.channels * c.height * c.width;
    thread_local Buffer buffer;
    // taps_y lines in turn, a line of zeros, and the sums
    float* ring = buffer.room<float>((taps_y + 1) * line + blocks * block * positions);
    float* zeros = ring + taps_y * line;
    float* sums = zeros + line;
    // Position r reads columns r - taps_x + 1 to r; padding is less than a tap, so that column 0 is among them.
    const int64_t margin = taps_x - 1 - start, columns = std::min(width, pitch - margin);
    std::memset(ring, 0, sizeof(float) * static_cast<size_t>((taps_y + 1) * line));
    std::vector<const float*> rows(static_cast<size_t>(taps_y));
    int64_t loaded = std::max<int64_t>(first - taps_y + 1, 0);
    for (int64_t q = first; q <= last; ++q) {
      for (; loaded <= std::min(q, height - 1); ++loaded)
        for (int64_t o = 0; o < c.outputs; ++o)
          copy_line(ring + loaded % taps_y * line + o * pitch + margin, from + (o * height + loaded) * width, columns);
      for (int64_t y = 0; y < taps_y; ++y) {
        const int64_t row = q - y;
        rows[static_cast<size_t>(y)] = row < 0 || row >= height ? zeros : ring + row % taps_y * line;
      }
      kernels.gradient_line(
          {rows.data(), c.outputs, taps_y, taps_x, pitch, positions, weights.data(), blocks, block, sums});
      for (int64_t a = 0; a < c.stride_y; ++a) {
        const int64_t y = c.stride_y * q + a - c.pad_y;
        if (y >= 0 && y < c.height) spread(sums, a, to + y * c.width);
      }
    }
  }

  // Sums of the lines with this `a` to their line of the image, of every channel.
  void spread(const float* sums, int64_t a, float* to) const {
    const ImageConv& c = conv;
    for (int64_t channel = 0; channel < c.channels; ++channel, to += c.height * c.width)
      for (int64_t b = 0; b < c.stride_x; ++b) {
        const float* from = sums + phase(a, b, channel) * positions - start;
        int64_t r = divide_up(std::max<int64_t>(c.pad_x - b, 0), c.stride_x);
        if (c.stride_x == 1) {
          copy_line(to, from + r, c.width);
          continue;
        }
        for (int64_t x = c.stride_x * r + b - c.pad_x; x < c.width; x += c.stride_x, ++r) to[x] = from[r];
      }
  }
};

}  // namespace

void image_gradient(const KernelTable& kernels, int threads, const ImageConv& conv, const float* above,
                    const float* weights, float* gradient) {
  Job job(kernels, conv, above, weights, gradient);
  const Tasks tasks{[](void* context, int64_t image) { static_cast<const Job*>(context)->run(image); }, &job,
                    conv.images};
  run_parallel(conv.images > 1 ? threads : 1, tasks);
}

}  // namespace robustlab
