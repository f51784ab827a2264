// What attacks ask of the kernels: the gradient of a convolution with respect to its images, and the step towards a
// linearised boundary; both in doubles, as their definitions read.
#include <algorithm>
#include <cmath>

#include "../../robustlab/kernels/native/image_gradient.h"
#include "harness.h"

namespace check {
namespace {

// Floats with nothing behind them.
struct Floats : Guarded {
  Floats(Random& random, int64_t count) : Guarded(random, 4 * count, 0), length(count) {
    for (int64_t i = 0; i < count; ++i) at(i) = random.plain();
  }
  float& at(int64_t i) const { return as<float>()[i]; }
  int64_t length;
};

void near(Case& c, const Floats& found, const std::vector<double>& expected, double tolerance) {
  for (int64_t i = 0; i < found.length; ++i) {
    const double wanted = expected[static_cast<size_t>(i)];
    if (!(std::fabs(static_cast<double>(found.at(i)) - wanted) <= tolerance * (1.0 + std::fabs(wanted))))
      return c.fail("another number", i);
  }
  if (!found.front_untouched()) c.fail("wrote in front of the buffer", 0);
}

// The step in the box onto <normal, d> = shift, by bisection.
std::vector<double> onto(const std::vector<double>& from, const std::vector<double>& normal, double shift, bool l2) {
  const size_t count = from.size();
  std::vector<double> speed(count), room(count), step(count);
  for (size_t i = 0; i < count; ++i) {
    const double slope = shift > 0 ? normal[i] : -normal[i];
    speed[i] = l2 ? std::fabs(slope) : 1.0;
    room[i] = slope > 0 ? 1 - from[i] : slope < 0 ? from[i] : 0.0;
  }
  const auto gained = [&](double t) {
    double sum = 0;
    for (size_t i = 0; i < count; ++i) sum += std::fabs(normal[i]) * std::min(t * speed[i], room[i]);
    return sum;
  };
  double low = 0, high = 1e6;
  for (int k = 0; k < 200; ++k) {
    const double middle = (low + high) / 2;
    (gained(middle) < std::fabs(shift) ? low : high) = middle;
  }
  for (size_t i = 0; i < count; ++i) {
    const double length = shift == 0 ? 0 : std::min(high * speed[i], room[i]);
    step[i] = (shift > 0) == (normal[i] > 0) ? length : -length;
  }
  return step;
}

double length_of(const std::vector<double>& step, bool l2) {
  double sum = 0;
  for (const double d : step) sum = l2 ? sum + d * d : std::max(sum, std::fabs(d));
  return std::max(l2 ? std::sqrt(sum) : sum, 1e-8);
}

}  // namespace

void check_boundary_step(const KernelTable& table, Random& random, Case& c) {
  const int64_t values = random.pick<int64_t>({1, 2, 15, 16, 17, 31, 33, 100, 511, 512, 513, 700});
  const bool l2 = random.one_in(2);
  const double alpha_max = 0.1;
  const float eta = 1.05f, gap = random.one_in(8) ? 0.0f : random.plain() * random.pick({0.01f, 0.3f, 5.0f});
  c.describe("%lld values, %s, gap %g", static_cast<long long>(values), l2 ? "l2" : "linf", static_cast<double>(gap));
  Floats x(random, values), origin(random, values), normal(random, values), out(random, values);
  std::vector<double> from, start, slope;
  double back = 0;
  for (int64_t i = 0; i < values; ++i) {
    for (const Floats* image : {&x, &origin}) image->at(i) = std::min(std::max(image->at(i) / 3 + 0.5f, 0.0f), 1.0f);
    if (random.one_in(5)) normal.at(i) = 0;
    from.push_back(static_cast<double>(x.at(i)));
    start.push_back(static_cast<double>(origin.at(i)));
    slope.push_back(static_cast<double>(normal.at(i)));
    back += slope.back() * (from.back() - start.back());
  }
  const double wanted = -static_cast<double>(gap);
  const std::vector<double> onward = onto(from, slope, wanted, l2), anew = onto(start, slope, wanted + back, l2);
  const double share = length_of(onward, l2) / (length_of(onward, l2) + length_of(anew, l2));
  const double alpha = std::min(share, alpha_max);
  std::vector<double> expected;
  for (size_t i = 0; i < from.size(); ++i) {
    const double there = (from[i] + eta * onward[i]) * (1 - alpha) + (start[i] + eta * anew[i]) * alpha;
    expected.push_back(std::min(std::max(there, 0.0), 1.0));
  }
  table.boundary_step({x.as<float>(), origin.as<float>(), normal.as<float>(), gap, out.as<float>(), values, l2,
                       alpha_max, eta});
  near(c, out, expected, 1e-4);
}

void check_image_gradient(const KernelTable& table, Random& random, Case& c) {
  ImageConv g{};
  g.images = random.range(1, 3);
  g.outputs = random.range(1, 9);
  g.channels = random.range(1, 4);
  g.taps_y = random.range(1, 7), g.taps_x = random.range(1, 7);
  g.stride_y = random.range(1, 5), g.stride_x = random.range(1, 5);
  g.pad_y = random.range(0, g.taps_y - 1), g.pad_x = random.range(0, g.taps_x - 1);
  g.height = g.taps_y + random.range(0, 9), g.width = g.taps_x + random.range(0, 50);
  const int64_t height = g.out_height(), width = g.out_width();
  c.describe("%lld x %lld x %lld, %lld outputs, taps %lld x %lld, stride %lld x %lld, padding %lld x %lld",
             static_cast<long long>(g.channels), static_cast<long long>(g.height), static_cast<long long>(g.width),
             static_cast<long long>(g.outputs), static_cast<long long>(g.taps_y), static_cast<long long>(g.taps_x),
             static_cast<long long>(g.stride_y), static_cast<long long>(g.stride_x), static_cast<long long>(g.pad_y),
             static_cast<long long>(g.pad_x));
  Floats above(random, g.images * g.outputs * height * width);
  Floats weights(random, g.outputs * g.channels * g.taps_y * g.taps_x);
  Floats gradient(random, g.images * g.channels * g.height * g.width);
  std::vector<double> expected(static_cast<size_t>(gradient.length));
  for (int64_t i = 0; i < above.length; ++i) {
    const int64_t x = i % width, y = i / width % height, o = i / (width * height) % g.outputs;
    const int64_t image = i / (width * height * g.outputs);
    for (int64_t w = 0; w < g.channels * g.taps_y * g.taps_x; ++w) {
      const int64_t kx = w % g.taps_x, ky = w / g.taps_x % g.taps_y, channel = w / (g.taps_x * g.taps_y);
      const int64_t to_y = g.stride_y * y + ky - g.pad_y, to_x = g.stride_x * x + kx - g.pad_x;
      if (to_y < 0 || to_y >= g.height || to_x < 0 || to_x >= g.width) continue;
      const int64_t pixel = ((image * g.channels + channel) * g.height + to_y) * g.width + to_x;
      expected[static_cast<size_t>(pixel)] +=
          static_cast<double>(above.at(i)) * weights.at(o * g.channels * g.taps_y * g.taps_x + w);
    }
  }
  image_gradient(table, static_cast<int>(random.range(1, 3)), g, above.as<float>(), weights.as<float>(),
                 gradient.as<float>());
  near(c, gradient, expected, 1e-4);
}

}  // namespace check
