// What the Python bindings share: layers from flat integers, every one checked before a kernel sees it.
#pragma once

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#include "conv.h"

namespace robustlab {

using Span = std::pair<uintptr_t, int64_t>;   // address and number of elements
// O, C / groups, kh, kw, weight bits, groups, activation bits (0: signs), lines, twice the weights' zero point
using Form = std::array<int64_t, 9>;
using Place = std::array<int64_t, 8>;         // stride, padding, dilation (vertical, horizontal), groups, padding value

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// Product of sizes; throws where one is negative or the product is absurd.
int64_t checked_product(std::initializer_list<int64_t> factors);

const KernelTable& kernel_table(const std::string& name);

// scale_x and doubled_zero_x are those of the activations' quantizer, unused for signs. `weight` must be the prepacked
// weights, and is not copied.
ConvLayer checked_layer(const Form& form, const Place& place, double scale_x, int doubled_zero_x, Span weight);

Quantizer checked_quantizer(double scale, int doubled_zero, int64_t bits);

// Throws unless the layer gives an output for an image of this size.
void check_image(const ConvLayer& layer, int64_t height, int64_t width);

}  // namespace robustlab
