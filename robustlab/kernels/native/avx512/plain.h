// A plain layer: accumulator, scale, maybe a bias, one store.
#pragma once

#include "internal.h"

namespace robustlab {
namespace {

// Copied where it is used: through a reference every field would be read again after every store.
struct PlainLayer {
  const int32_t* base;
  const int32_t* pattern;   // null: none
  int64_t base_step;
  int32_t factor;
  const float* scale;
  const float* bias;        // null: none
  const int32_t* values;
  int64_t rows, step, channel, width;
  const Step* store;
  uint8_t* image;
  const int64_t* at;
  int64_t plane;
};

// Whether the steps are those of a plain layer; `layer` is filled in then.
INLINE bool plain_layer(const Step* steps, int64_t count, const Block& block, PlainLayer& layer) {
  if (count < 3 || count > 4 || steps[0].op != Op::kAccumulate || steps[0].sums != nullptr) return false;
  if (steps[1].op != Op::kScale || (count == 4 && steps[2].op != Op::kAdd)) return false;
  const Step& store = steps[count - 1];
  layer = {steps[0].base,
           steps[0].pattern,
           steps[0].base_step,
           steps[0].factor,
           steps[1].a,
           count == 4 ? steps[2].a : nullptr,
           block.values,
           block.rows,
           block.step,
           block.channel,
           at_most(block.width, block.channels - block.channel),
           &store,
           store.image,
           store.at,
           store.plane};
  return true;
}

}  // namespace
}  // namespace robustlab
