// Where the buffers of a straight-line program lie in one arena, so that those that are never alive together share it.
#pragma once

#include <cstdint>
#include <vector>

namespace robustlab {

struct Lifetime {
  int64_t bytes;
  int64_t first, last;   // instructions that write it first and read it last, inclusive
  int64_t offset = 0;    // result, a multiple of kArenaStep
};

constexpr int64_t kArenaStep = 64;

// Sets every offset and returns the bytes of the arena. Buffers that are alive at the same instruction never overlap.
int64_t plan_memory(std::vector<Lifetime>& buffers);

}  // namespace robustlab
