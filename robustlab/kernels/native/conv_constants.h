// What a layer needs besides its operands, worked out once where a program runs it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "borders.h"
#include "layer.h"

namespace robustlab {

struct ConvConstants {
  Runs runs{};
  std::vector<int64_t> offsets;      // Windows::offsets
  std::optional<Borders> borders;    // where the base differs along them
  std::vector<int64_t> starts;       // of the windows of one image, or empty
  int64_t step = 0;                  // outputs, in whole panels
  std::vector<int32_t> base;         // [pattern][step], see base.h
  std::vector<int32_t> sum_factor;   // [step], or empty
  // for direct products, see Direct; else empty
  std::vector<float> no_bias;        // [step] of -0, which added changes nothing
  std::vector<float> float_base;     // the base of signs
  std::vector<int64_t> base_at;      // [class of lines][width of the output]
  // bits straight from the product, see BitThreshold; empty if the steps want more
  std::vector<int32_t> limits;       // [pattern][step], and one more line
  std::vector<uint16_t> flip;
};

}  // namespace robustlab
