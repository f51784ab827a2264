// From nodes over values to instructions over images.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "instructions.h"

namespace robustlab {

struct Lowered {
  explicit Lowered(const ProgramSource& source);

  ValueImages images;
  std::vector<Instruction> instructions;   // what no output depends on is left out
  int64_t arena = 0;                       // bytes for one image; arenas of n images are n times as large
  int64_t margin = 0;                      // bytes in front of an arena that pointers, but no reads, may reach into
  std::deque<std::vector<int64_t>> tables; // StepPlan::table
  std::deque<std::vector<float>> vectors;  // padded to whole panels, as steps want them
  std::deque<std::vector<int32_t>> thresholds;
  std::deque<std::vector<uint8_t>> flips;
};

}  // namespace robustlab
