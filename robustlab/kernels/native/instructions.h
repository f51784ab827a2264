// What a program does, one instruction after the other, with the images of its values.
#pragma once

#include <cstdint>
#include <vector>

#include "program_images.h"

namespace robustlab {

// One run of the instructions on a few images.
struct Frame {
  const KernelTable& kernels;
  int threads;
  int64_t images;
  uint8_t* const* image;   // where every ValueImage starts
};

// Where a step's pointers come from.
struct StepSource {
  int64_t image = -1;    // of Step::image
  int64_t back = 0;      // bytes that Step::image lies in front of it
  int64_t scalar = -1;   // of StepPlan::per_image
};

struct Instruction {
  using Run = void (*)(const Instruction& self, const ValueImages& images, const Frame& frame,
                       const std::vector<StepPlan>& steps);
  Run run;
  const ProgramNode* node = nullptr;
  std::vector<size_t> reads{}, writes{};
  std::vector<StepPlan> steps{};        // without pointers to images
  std::vector<StepSource> sources{};    // one for each step
  int64_t height = 0, width = 0, channels = 0;   // what the steps run on
  KeptConvConstants constants{};        // of a convolution
};

// reads[0] is the image that is convolved, pooled, spread over groups or subsampled; joined images are reads in order.
// Instructions with several results in images of other forms write one of them.
void run_pack(const Instruction&, const ValueImages&, const Frame&, const std::vector<StepPlan>&);
void run_convolution(const Instruction&, const ValueImages&, const Frame&, const std::vector<StepPlan>&);
void run_steps(const Instruction&, const ValueImages&, const Frame&, const std::vector<StepPlan>&);
void run_max_pool(const Instruction&, const ValueImages&, const Frame&, const std::vector<StepPlan>&);
void run_sum_pool(const Instruction&, const ValueImages&, const Frame&, const std::vector<StepPlan>&);
void run_join(const Instruction&, const ValueImages&, const Frame&, const std::vector<StepPlan>&);
void run_spread(const Instruction&, const ValueImages&, const Frame&, const std::vector<StepPlan>&);
void run_subsample(const Instruction&, const ValueImages&, const Frame&, const std::vector<StepPlan>&);

}  // namespace robustlab
