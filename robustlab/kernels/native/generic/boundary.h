// FAB's step towards a linearised decision boundary, one image at a time; see BoundaryStep.
#pragma once

#include "lanes.h"

namespace robustlab {
namespace {

constexpr int64_t kSumRun = 32 * kLanes;   // values that are summed in float before the sum goes on in double

constexpr double kLeastLength = 1e-8;       // of a step, so that two steps of 0 have equal weights

// The sum of term(i) for i in [0, count), in the same order whatever the instruction set.
template <class Term>
double sum_over(int64_t count, Term term) {
  double total = 0.0;
  for (int64_t begin = 0; begin < count; begin += kSumRun) {
    const int64_t end = at_most(begin + kSumRun, count), whole = begin + (end - begin) / kLanes * kLanes;
    float lanes[kLanes] = {};
    for (int64_t i = begin; i < whole; i += kLanes)
      for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
    for (int64_t i = whole; i < end; ++i) lanes[i - whole] += term(i);
    for (const float lane : lanes) total += static_cast<double>(lane);
  }
  return total;
}

// The smallest d with <normal, d> = shift and from + d in [0, 1], or as near to that as the box lets it come:
// d[i] = direction[i] * min(t * speed[i], room[i]), where speed is 1 (l_inf) or |normal[i]| (l_2).
struct Projection {
  const float* from;
  const float* normal;
  bool l2;
  float sign;   // of shift
  float t = 0.0f;

  float speed(int64_t i) const { return l2 ? __builtin_fabsf(normal[i]) : 1.0f; }
  float room(int64_t i) const {
    const float slope = sign * normal[i];
    const float up = 1.0f - from[i], low = slope < 0.0f ? from[i] : 0.0f;
    return slope > 0.0f ? up : low;
  }
  float step(int64_t i) const {
    const float reach = t * speed(i), limit = room(i);
    const float length = reach < limit ? reach : limit;
    return sign * normal[i] < 0.0f ? -length : length;
  }

  // The sum of slope times step grows with t, is concave and piecewise linear: Newton's steps from 0 never pass the
  // solution. A step is a function of which values are at their limit, so that it settles exactly.
  void solve(int64_t count, double wanted) {
    for (;;) {
      const double rate = sum_over(count, [this](int64_t i) {
        const float gain = __builtin_fabsf(normal[i]) * speed(i);
        return t * speed(i) < room(i) ? gain : 0.0f;
      });
      const double full = sum_over(count, [this](int64_t i) {
        const float limit = room(i), most = __builtin_fabsf(normal[i]) * limit;
        return t * speed(i) < limit ? 0.0f : most;
      });
      if (!(rate > 0.0)) return;
      const float following = static_cast<float>((wanted - full) / rate);
      if (!(following > t)) return;
      t = following;
    }
  }

  double length(int64_t count) const {
    if (l2) return __builtin_sqrt(sum_over(count, [this](int64_t i) { return step(i) * step(i); }));
    float lanes[kLanes] = {};
    const int64_t whole = count / kLanes * kLanes;
    for (int64_t i = 0; i < whole; i += kLanes)
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const float size = __builtin_fabsf(step(i + lane));
        lanes[lane] = size > lanes[lane] ? size : lanes[lane];
      }
    for (int64_t i = whole; i < count; ++i) {
      const float size = __builtin_fabsf(step(i));
      lanes[i - whole] = size > lanes[i - whole] ? size : lanes[i - whole];
    }
    float most = 0.0f;
    for (const float lane : lanes) most = lane > most ? lane : most;
    return static_cast<double>(most);
  }
};

inline double not_zero(double length) { return length > kLeastLength ? length : kLeastLength; }

void boundary_step(const BoundaryStep& s) {
  const auto projected = [&s](const float* from, double shift) {
    Projection p{from, s.normal, s.l2, shift > 0.0 ? 1.0f : shift < 0.0 ? -1.0f : 0.0f};
    p.solve(s.values, (shift < 0.0 ? -shift : shift));
    return p;
  };
  const double back = sum_over(s.values, [&s](int64_t i) { return s.normal[i] * (s.x[i] - s.origin[i]); });
  const double gap = static_cast<double>(s.gap);
  const Projection onward = projected(s.x, -gap), anew = projected(s.origin, back - gap);
  const double length = not_zero(onward.length(s.values)), again = not_zero(anew.length(s.values));
  const double share = length / (length + again);
  const float alpha = share < s.alpha_max ? static_cast<float>(share) : static_cast<float>(s.alpha_max);
  const float eta = s.eta, rest = 1.0f - alpha;
  for (int64_t i = 0; i < s.values; ++i) {
    const float there = (s.x[i] + eta * onward.step(i)) * rest + (s.origin[i] + eta * anew.step(i)) * alpha;
    const float above = there < 0.0f ? 0.0f : there;
    s.out[i] = above > 1.0f ? 1.0f : above;
  }
}

}  // namespace
}  // namespace robustlab
