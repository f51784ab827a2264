#include "loops.h"
#include "repeat.h"

namespace robustlab {
namespace {

#define ROBUSTLAB_YMM_0_11 \
  "ymm0", "ymm1", "ymm2", "ymm3", "ymm4", "ymm5", "ymm6", "ymm7", "ymm8", "ymm9", "ymm10", "ymm11"
#define ROBUSTLAB_CLEAR_12_15                                                     \
  "vpxor %%ymm12, %%ymm12, %%ymm12\n vpxor %%ymm13, %%ymm13, %%ymm13\n"           \
  "vpxor %%ymm14, %%ymm14, %%ymm14\n vpxor %%ymm15, %%ymm15, %%ymm15\n"
#define ROBUSTLAB_CLEAR(i) "vpxor %%ymm" #i ", %%ymm" #i ", %%ymm" #i "\n"

void fp32(int64_t turns) {
#define X(i) "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #i "\n"
  ROBUSTLAB_LOOP(turns, ROBUSTLAB_REPEAT_12(ROBUSTLAB_CLEAR) ROBUSTLAB_CLEAR_12_15, ROBUSTLAB_REPEAT_12(X),
                 ROBUSTLAB_YMM_0_11, "ymm12", "ymm13", "ymm14", "ymm15");
#undef X
}

// Popcount by a table of 16 counts, for the low and the high four bits of every byte; sums in bytes.
void bits(int64_t turns) {
#define X(i)                                                                             \
  "vpxor %%ymm13, %%ymm14, %%ymm8\n vpand %%ymm8, %%ymm12, %%ymm9\n vpsrlw $4, %%ymm8, %%ymm8\n" \
  "vpand %%ymm8, %%ymm12, %%ymm8\n vpshufb %%ymm9, %%ymm15, %%ymm9\n vpshufb %%ymm8, %%ymm15, %%ymm8\n" \
  "vpaddb %%ymm9, %%ymm8, %%ymm8\n vpaddb %%ymm8, %%ymm" #i ", %%ymm" #i "\n"
  ROBUSTLAB_LOOP(turns, ROBUSTLAB_CLEAR_12_15, ROBUSTLAB_REPEAT_8(X), ROBUSTLAB_YMM_0_11, "ymm12", "ymm13", "ymm14",
                 "ymm15");
#undef X
}

// Bytes times bytes to pairs of 16 bits (which saturate for codes of 8 bits), pairs to 32 bits, sums.
void codes_saturating(int64_t turns) {
#define X(i)                                                                              \
  "vpmaddubsw %%ymm13, %%ymm14, %%ymm12\n vpmaddwd %%ymm12, %%ymm15, %%ymm12\n vpaddd %%ymm12, %%ymm" #i \
  ", %%ymm" #i "\n"
  ROBUSTLAB_LOOP(turns, ROBUSTLAB_CLEAR_12_15, ROBUSTLAB_REPEAT_12(X), ROBUSTLAB_YMM_0_11, "ymm12", "ymm13", "ymm14",
                 "ymm15");
#undef X
}

// Codes widened to 16 bits beforehand: products and pairs to 32 bits, sums.
void codes(int64_t turns) {
#define X(i) "vpmaddwd %%ymm13, %%ymm14, %%ymm12\n vpaddd %%ymm12, %%ymm" #i ", %%ymm" #i "\n"
  ROBUSTLAB_LOOP(turns, ROBUSTLAB_CLEAR_12_15, ROBUSTLAB_REPEAT_12(X), ROBUSTLAB_YMM_0_11, "ymm12", "ymm13", "ymm14",
                 "ymm15");
#undef X
}

constexpr PeakLoop kLoops[] = {
    {"avx2_fp32", fp32, 12 * 2 * 8.0},
    {"avx2_bits", bits, 8 * 2 * 256.0},
    {"avx2_codes_saturating", codes_saturating, 12 * 2 * 32.0},
    {"avx2_codes", codes, 12 * 2 * 16.0},
};

}  // namespace

PeakLoops avx2_peak_loops() { return {kLoops, sizeof kLoops / sizeof kLoops[0]}; }

}  // namespace robustlab
