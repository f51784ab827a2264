#include "loops.h"
#include "repeat.h"

namespace robustlab {
namespace {

#define ROBUSTLAB_ZMM                                                                                              \
  "zmm0", "zmm1", "zmm2", "zmm3", "zmm4", "zmm5", "zmm6", "zmm7", "zmm8", "zmm9", "zmm10", "zmm11", "zmm24", \
      "zmm25", "zmm30", "zmm31"
#define ROBUSTLAB_CLEAR(i) "vpxorq %%zmm" #i ", %%zmm" #i ", %%zmm" #i "\n"
#define ROBUSTLAB_CLEAR_ALL ROBUSTLAB_REPEAT_12(ROBUSTLAB_CLEAR) ROBUSTLAB_CLEAR(30) ROBUSTLAB_CLEAR(31)

void fp32(int64_t turns) {
#define X(i) "vfmadd231ps %%zmm30, %%zmm31, %%zmm" #i "\n"
  ROBUSTLAB_LOOP(turns, ROBUSTLAB_CLEAR_ALL, ROBUSTLAB_REPEAT_12(X), ROBUSTLAB_ZMM);
#undef X
}

void codes(int64_t turns) {
#define X(i) "vpdpbusd %%zmm30, %%zmm31, %%zmm" #i "\n"
  ROBUSTLAB_LOOP(turns, ROBUSTLAB_CLEAR_ALL, ROBUSTLAB_REPEAT_12(X), ROBUSTLAB_ZMM);
#undef X
}

void bits(int64_t turns) {
#define X(i) \
  "vpxord %%zmm30, %%zmm31, %%zmm24\n vpopcntd %%zmm24, %%zmm25\n vpaddd %%zmm25, %%zmm" #i ", %%zmm" #i "\n"
  ROBUSTLAB_LOOP(turns, ROBUSTLAB_CLEAR_ALL, ROBUSTLAB_REPEAT_12(X), ROBUSTLAB_ZMM);
#undef X
}

void loads(int64_t turns) {
  alignas(64) static const uint8_t bytes[12 * 64] = {};
#define X(i) "vmovdqa64 " #i "*64(%1), %%zmm" #i "\n"
  asm volatile("1:\n" ROBUSTLAB_REPEAT_12(X) "dec %0\n jnz 1b\n"
               : "+r"(turns)
               : "r"(bytes), "m"(bytes)
               : "cc", ROBUSTLAB_ZMM);
#undef X
}

constexpr PeakLoop kLoops[] = {
    {"avx512_fp32", fp32, 12 * 2 * 16.0},
    {"avx512_codes", codes, 12 * 2 * 64.0},
    {"avx512_bits", bits, 12 * 2 * 512.0},
    {"avx512_load", loads, 12 * 64.0},
};

}  // namespace

PeakLoops avx512_peak_loops() { return {kLoops, sizeof kLoops / sizeof kLoops[0]}; }

}  // namespace robustlab
