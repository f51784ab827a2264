#include "peaks.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "loops.h"

namespace robustlab {

#ifdef ROBUSTLAB_PEAKS
namespace {

double seconds(const PeakLoop& loop, int64_t turns) {
  const auto start = std::chrono::steady_clock::now();
  loop.run(turns);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Measurement {
  PeakLoop loop;
  double least_short, least_long;
};

constexpr int64_t kShort = 100, kLong = 2100;

// The shortest of many short runs: other programs interrupt some of them, not all. The difference of a long and a short
// run leaves out the clock's own time.
void measure(Measurement& m) {
  for (int run = 0; run < 60; ++run) {
    m.least_short = std::min(m.least_short, seconds(m.loop, kShort));
    m.least_long = std::min(m.least_long, seconds(m.loop, kLong));
  }
}

}  // namespace
#endif

std::vector<std::pair<std::string, double>> measure_peaks() {
  std::vector<std::pair<std::string, double>> peaks;
#ifdef ROBUSTLAB_PEAKS
  std::vector<Measurement> all;
  const auto add = [&](PeakLoops loops) {
    constexpr double kNever = std::numeric_limits<double>::max();
    for (int64_t i = 0; i < loops.count; ++i) all.push_back({loops.first[i], kNever, kNever});
  };
  __builtin_cpu_init();
  if (__builtin_cpu_supports("popcnt")) add(scalar_peak_loops());
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) add(avx2_peak_loops());
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni") &&
      __builtin_cpu_supports("avx512vpopcntdq"))
    add(avx512_peak_loops());
  // Round after round, so that a slow moment of the machine does not hit all runs of one loop.
  for (int round = 0; round < 8; ++round)
    for (Measurement& m : all) measure(m);
  for (const Measurement& m : all)
    peaks.emplace_back(m.loop.name,
                       m.loop.operations * static_cast<double>(kLong - kShort) / (m.least_long - m.least_short));
#endif
  return peaks;
}

}  // namespace robustlab
