// Programs: a straight line of nodes over values, lowered once to instructions over packed images that share an arena.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "conv.h"

namespace robustlab {

enum class ValueKind : uint8_t { kFloat, kSigns, kCodes, kInt };

struct ProgramValue {
  ValueKind kind;
  int64_t channels, height, width;
  Quantizer quantizer;   // of codes
};

// A step that follows a node's start, see kernels.h. Stores make a value.
struct ProgramStep {
  Op op;                            // any but those that load, kMaxImage, kStorePlanar and kStorePlanes
  std::vector<float> a{};           // one for each channel; kMulRow: one for each pixel, or empty
  std::vector<int32_t> threshold{}; // kStoreBelow
  std::vector<uint8_t> flip{};
  float low = 0, high = 0;
  int64_t value = -1;               // what a store makes, what kAddImage adds
  int64_t scalar = -1;              // kMulRow: one factor for each image
};

struct ProgramNode {
  enum class Kind : uint8_t { kPack, kConv, kMap, kMaxPool, kSumPool, kConcat, kSubsample };
  Kind kind;
  std::vector<int64_t> inputs;
  int64_t result = -1;                         // of nodes without steps
  std::vector<ProgramStep> steps{};
  ConvLayer layer{};                           // kConv; its weights are not copied
  std::vector<float> thresholds{}, sub{}, div{};   // kPack, one for each channel, or empty
  int64_t kernel_y = 1, kernel_x = 1, stride_y = 1, stride_x = 1, pad_y = 0, pad_x = 0;   // pools, kSubsample
  int64_t front = 0;                           // kSubsample: channels of zeros in front
};

// Every value is an input or made by exactly one node, before any node that reads it. Outputs are float or int32.
struct ProgramSource {
  std::vector<ProgramValue> values;
  std::vector<ProgramNode> nodes;
  std::vector<int64_t> inputs, outputs;
};

struct Executable;

class Program {
 public:
  explicit Program(ProgramSource source);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  const ProgramSource& source() const { return source_; }
  int64_t arena_bytes() const;   // of one image

  // inputs and outputs: channels first, in the order of the source. Any number of threads may run a program at once.
  void run(const KernelTable& kernels, int threads, int64_t images, const std::vector<const float*>& inputs,
           const std::vector<const float*>& scalars, const std::vector<void*>& outputs) const;

 private:
  ProgramSource source_;
  std::unique_ptr<Executable> executable_;
};

}  // namespace robustlab
