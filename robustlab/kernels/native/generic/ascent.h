// A step of APGD in the l_inf ball, one image at a time; see AscentStep.
#pragma once

#include "lanes.h"

namespace robustlab {
namespace {

// Written to memory at once, so that no store comes between the loads of a vector loop.
constexpr int64_t kAscentRun = 16 * kLanes;

inline float into(float value, float low, float high) {
  const float above = value < low ? low : value;
  return above > high ? high : above;
}

// One run of `count` values; `Momentum`: the step before has a say.
template <bool Momentum>
void ascend(const AscentStep& s, const float* from, const float* slope, int64_t begin, int64_t count) {
  float here[kAscentRun], there[kAscentRun];
  const float* const old = s.old + begin;
  const float* const origin = s.origin + begin;
  const float length = s.length, eps = s.eps, share = s.momentum, rest = 1.0f - s.momentum;
  for (int64_t i = 0; i < count; ++i) {
    const float at = from[begin + i], up = slope[begin + i] > 0.0f ? length : 0.0f;
    const float move = slope[begin + i] < 0.0f ? -length : up;
    const float low = origin[i] - eps, high = origin[i] + eps;
    const float least = low < 0.0f ? 0.0f : low, most = high > 1.0f ? 1.0f : high;
    float next = into(at + move, least, most);
    if (Momentum) next = into(((next - at) * share + at) + (at - old[i]) * rest, least, most);
    here[i] = at, there[i] = next;
  }
  memcpy(s.old + begin, here, static_cast<size_t>(count) * sizeof(float));
  memcpy(s.x + begin, there, static_cast<size_t>(count) * sizeof(float));
}

void ascent_step(const AscentStep& s) {
  const size_t bytes = static_cast<size_t>(s.values) * sizeof(float);
  if (s.better) {
    memcpy(s.best, s.x, bytes);
    memcpy(s.best_gradient, s.gradient, bytes);
  }
  const float* const from = s.back ? s.best : s.x;
  const float* const slope = s.back ? s.best_gradient : s.gradient;
  for (int64_t begin = 0; begin < s.values; begin += kAscentRun) {
    const int64_t count = at_most(s.values - begin, kAscentRun);
    if (s.first) {
      ascend<false>(s, from, slope, begin, count);
    } else {
      ascend<true>(s, from, slope, begin, count);
    }
  }
}

}  // namespace
}  // namespace robustlab
