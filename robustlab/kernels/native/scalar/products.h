// The portable products.
#pragma once

#include "../kernels.h"

namespace robustlab {
namespace scalar {

void bits_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step);
void codes_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step);
void depthwise_codes(const Depthwise& d, int32_t* out, int64_t step);
void depthwise_bits(const Depthwise& d, int32_t* out, int64_t step);
void boundary_step(const BoundaryStep& s);
void ascent_step(const AscentStep& s);
void gradient_line(const GradientLine& line);

}  // namespace scalar
}  // namespace robustlab
