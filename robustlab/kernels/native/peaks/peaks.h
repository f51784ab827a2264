// What one core of this machine can do at most, measured.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace robustlab {

// Operations per second of one thread, by name:
//   clock                   cycles
//   <set>_fp32              float32 multiplications and additions
//   <set>_codes             u8 * s8 products and their sums (avx2_codes: from 16 bits; avx2_codes_saturating: from 8)
//   <set>_bits              products of signs and their sums: xor, popcount, add
//   <set>_load              bytes from the first cache
// Only what this build and this processor have. Takes some 50 milliseconds.
std::vector<std::pair<std::string, double>> measure_peaks();

// Seconds that handing work to `threads` threads and collecting it again takes, on threads that are awake.
double measure_fork_join(int threads);

}  // namespace robustlab
