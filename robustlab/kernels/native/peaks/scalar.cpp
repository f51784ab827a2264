#include "loops.h"
#include "repeat.h"

namespace robustlab {
namespace {

// A chain of additions, each of which waits for the one before: one a cycle on every processor.
void additions(int64_t turns) {
#define X(i) "add %%rdx, %%rax\n"
  ROBUSTLAB_LOOP(turns, "xor %%eax, %%eax\n xor %%edx, %%edx\n", ROBUSTLAB_REPEAT_12(X), "rax", "rdx");
#undef X
}

void bits(int64_t turns) {
#define X(i) "mov %%rax, %%rcx\n xor %%rdx, %%rcx\n popcnt %%rcx, %%rcx\n add %%rcx, %%r" #i "\n"
  ROBUSTLAB_LOOP(turns, "", X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15), "rax", "rcx", "rdx", "r8", "r9", "r10",
                 "r11", "r12", "r13", "r14", "r15");
#undef X
}

constexpr PeakLoop kLoops[] = {
    {"clock", additions, 12.0},
    {"scalar_bits", bits, 8 * 2 * 64.0},
};

}  // namespace

PeakLoops scalar_peak_loops() { return {kLoops, sizeof kLoops / sizeof kLoops[0]}; }

}  // namespace robustlab
