#include "memory_plan.h"

#include <algorithm>
#include <numeric>

namespace robustlab {
namespace {

int64_t rounded(int64_t bytes) { return (bytes + kArenaStep - 1) / kArenaStep * kArenaStep; }

bool together(const Lifetime& a, const Lifetime& b) { return a.first <= b.last && b.first <= a.last; }

}  // namespace

int64_t plan_memory(std::vector<Lifetime>& buffers) {
  // The largest first, each into the first gap between those that are placed and alive with it.
  std::vector<size_t> order(buffers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return buffers[a].bytes > buffers[b].bytes; });
  std::vector<size_t> placed;   // by offset
  int64_t total = 0;
  for (const size_t i : order) {
    Lifetime& buffer = buffers[i];
    buffer.offset = 0;
    for (const size_t j : placed) {
      const Lifetime& other = buffers[j];
      if (!together(buffer, other)) continue;
      if (buffer.offset + buffer.bytes <= other.offset) break;
      buffer.offset = std::max(buffer.offset, rounded(other.offset + other.bytes));
    }
    const auto behind = std::find_if(placed.begin(), placed.end(),
                                     [&](size_t j) { return buffers[j].offset > buffer.offset; });
    placed.insert(behind, i);
    total = std::max(total, rounded(buffer.offset + buffer.bytes));
  }
  return total;
}

}  // namespace robustlab
