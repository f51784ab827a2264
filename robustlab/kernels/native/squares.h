// What Square tries next in the l_inf ball: copies of images with one square repainted, each channel at one extreme.
#pragma once

#include <cstdint>

namespace robustlab {

// Images of (channels, height, width) floats. Row i of `out` is image rows[i] of `best` with a square of `side` by
// `side` pixels, whose channels take the values of `low` or of `high`; where, and which, is in numbers[4 * i ...], each in
// [0, 2^62): the line, the column, the channels that are high, and which of them flip where the square would be as it
// was.
struct Squares {
  const float* best;
  const float* low;
  const float* high;
  const int64_t* rows;
  const int64_t* numbers;
  float* out;
  int64_t channels, height, width, side;
};

void paint_square(const Squares& s, int64_t row);

}  // namespace robustlab
