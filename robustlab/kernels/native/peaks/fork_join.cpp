#include <algorithm>
#include <chrono>
#include <limits>

#include "../parallel.h"
#include "peaks.h"

namespace robustlab {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kWork = std::chrono::microseconds(10);

void work(void*, int64_t) {
  for (const auto end = Clock::now() + kWork; Clock::now() < end;) {
  }
}

}  // namespace

double measure_fork_join(int threads) {
  double least = std::numeric_limits<double>::max();
  for (int run = 0; run < 2000; ++run) {
    const auto start = Clock::now();
    run_parallel(threads, Tasks{work, nullptr, threads});
    least = std::min(least, std::chrono::duration<double>(Clock::now() - start - kWork).count());
  }
  return least;
}

}  // namespace robustlab
