// The products of the AVX2 table, and their weights.
#pragma once

#include "../kernels.h"

namespace robustlab {
namespace avx2 {

void bits_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step);
void codes_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step);
void depthwise_codes(const Depthwise& d, int32_t* out, int64_t step);
void depthwise_bits(const Depthwise& d, int32_t* out, int64_t step);
void unpack_codes(const uint8_t* packed, int bits, int64_t steps, int factor, int offset, uint8_t* out);
void boundary_step(const BoundaryStep& s);
void ascent_step(const AscentStep& s);
void gradient_line(const GradientLine& line);

}  // namespace avx2
}  // namespace robustlab
