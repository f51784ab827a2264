// Loops that do nothing but the arithmetic of an inner loop, on registers: what a processor can do at most.
#pragma once

#include <cstdint>

namespace robustlab {

struct PeakLoop {
  const char* name;
  void (*run)(int64_t turns);
  double operations;  // of one turn; a multiplication and an addition are two
};

struct PeakLoops {
  const PeakLoop* first;
  int64_t count;
};

// One instruction set each; the caller makes sure that the processor has it.
PeakLoops scalar_peak_loops();
PeakLoops avx2_peak_loops();
PeakLoops avx512_peak_loops();

}  // namespace robustlab
