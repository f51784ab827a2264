// What a layer's description implies: how its weights and windows are cut into runs, and which zero points are left.
#pragma once

#include <cstdint>
#include <vector>

#include "conv.h"

namespace robustlab {

inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// The weights as a product sees them: w = factor * q + offset for two's complement q; `exact` if w fits an int8.
struct WeightValue {
  int factor, offset;
  bool exact;
  int scale;   // mw of conv.h: w = mw (q - z); 1 for one-bit weights, whose w is -1 or +1
};
WeightValue weight_value(const ConvLayer& layer);

struct Runs {
  bool joined;        // a run is a whole line of the kernel, else one tap
  int64_t unit;       // bytes of one tap and group
  int64_t count;      // runs of a window
  int64_t taps;       // taps of a run
  int64_t words;      // 32-bit words of a run
  uint32_t tail;      // Windows::tail

  int64_t all_words() const { return count * words; }
};
Runs runs_of(const ConvLayer& layer);

// Windows::offsets in images of `layout`.
std::vector<int64_t> run_offsets(const ConvLayer& layer, const Runs& runs, const ImageLayout& layout);

int64_t group_panels(const Geometry& geometry);          // panels of 16 outputs that hold one group
int64_t depthwise_width(const Geometry& geometry);       // channels of a tap of depthwise weights
int64_t panel_planes_bytes(const ConvLayer& layer);      // of one prepacked panel
int64_t sums_offset(const ConvLayer& layer);             // where the int32 sums of q start in the prepacked weights

}  // namespace robustlab
