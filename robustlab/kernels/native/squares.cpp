#include "squares.h"

#include <cstring>

namespace robustlab {
namespace {

constexpr int64_t kBits = 62;   // of a number, one for each channel in turn

bool bit(uint64_t number, int64_t channel) { return (number >> (channel % kBits)) & 1; }

}  // namespace

void paint_square(const Squares& s, int64_t row) {
  const int64_t plane = s.height * s.width, values = s.channels * plane, side = s.side;
  const int64_t* const numbers = s.numbers + 4 * row;
  const auto place = [](int64_t number, int64_t room) { return ((number >> 31) * room) >> 31; };
  const int64_t corner = place(numbers[0], s.height - side + 1) * s.width + place(numbers[1], s.width - side + 1);
  const float* const old = s.best + s.rows[row] * values;
  const float* const extremes[2] = {s.low + s.rows[row] * values, s.high + s.rows[row] * values};
  float* const out = s.out + row * values;
  std::memcpy(out, old, static_cast<size_t>(values) * sizeof(float));

  bool changed = false;
  const auto paint = [&](uint64_t up) {
    for (int64_t channel = 0; channel < s.channels; ++channel) {
      const float* const from = extremes[bit(up, channel)];
      for (int64_t line = 0; line < side; ++line) {
        const int64_t begin = channel * plane + corner + line * s.width;
        for (int64_t i = begin; i < begin + side; ++i) {
          changed |= from[i] != old[i];
          out[i] = from[i];
        }
      }
    }
  };
  const auto up = static_cast<uint64_t>(numbers[2]);
  paint(up);
  if (changed) return;
  // Flips that are not all off; then at least one channel changes, and all other colours are as likely.
  const int64_t colours = (int64_t{1} << (s.channels < kBits ? s.channels : kBits)) - 1;
  paint(up ^ static_cast<uint64_t>(1 + numbers[3] % colours));
}

}  // namespace robustlab
