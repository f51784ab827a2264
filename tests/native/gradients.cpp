// What attacks ask of the kernels: the gradient of a convolution with respect to its images, the step towards a
// linearised boundary, and the step along a gradient; all in doubles, as their definitions read. And what Square paints.
#include <algorithm>
#include <cmath>

#include "../../robustlab/kernels/native/image_gradient.h"
#include "../../robustlab/kernels/native/squares.h"
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

void check_ascent_step(const KernelTable& table, Random& random, Case& c) {
  const int64_t values = random.pick<int64_t>({1, 2, 15, 16, 17, 33, 255, 256, 257, 700});
  const bool better = random.one_in(2), back = random.one_in(2), first = random.one_in(3);
  const float eps = random.pick({0.0f, 0.01f, 0.3f, 2.0f}), length = random.pick({0.0f, 0.005f, 0.3f, 4.0f});
  const float momentum = 0.75f;
  c.describe("%lld values, better %d, back %d, first %d, eps %g, length %g", static_cast<long long>(values), better,
             back, first, static_cast<double>(eps), static_cast<double>(length));
  Floats x(random, values), old(random, values), best(random, values), best_gradient(random, values);
  Floats origin(random, values), gradient(random, values);
  std::vector<double> wanted[4];
  const auto into = [&](double value, double centre) {
    const double low = std::max(centre - static_cast<double>(eps), 0.0);
    return std::max(low, std::min(value, std::min(centre + static_cast<double>(eps), 1.0)));
  };
  for (int64_t i = 0; i < values; ++i) {
    for (const Floats* image : {&x, &old, &best, &origin})
      image->at(i) = std::min(std::max(image->at(i) / 3 + 0.5f, 0.0f), 1.0f);
    if (random.one_in(5)) gradient.at(i) = 0;
    const double most = static_cast<double>(better ? x.at(i) : best.at(i));
    const double slope = static_cast<double>(better ? gradient.at(i) : best_gradient.at(i));
    const double from = back ? most : static_cast<double>(x.at(i));
    const double along = back ? slope : static_cast<double>(gradient.at(i));
    const double sign = along > 0 ? 1.0 : along < 0 ? -1.0 : 0.0, centre = static_cast<double>(origin.at(i));
    double there = into(from + static_cast<double>(length) * sign, centre);
    if (!first) {
      const double before = from - static_cast<double>(old.at(i));
      there = into(from + static_cast<double>(momentum) * (there - from) + 0.25 * before, centre);
    }
    wanted[0].push_back(there), wanted[1].push_back(from), wanted[2].push_back(most), wanted[3].push_back(slope);
  }
  table.ascent_step({x.as<float>(), old.as<float>(), best.as<float>(), best_gradient.as<float>(), origin.as<float>(),
                     gradient.as<float>(), values, better, back, first, length, eps, momentum});
  near(c, x, wanted[0], 1e-6), near(c, old, wanted[1], 0), near(c, best, wanted[2], 0);
  near(c, best_gradient, wanted[3], 0);
}

// A square inside the image, its channels at one extreme each, something changed, and nothing else.
void check_paint_square(const KernelTable&, Random& random, Case& c) {
  Squares s{};
  s.channels = random.range(1, 4), s.height = random.range(1, 9), s.width = random.range(1, 9);
  s.side = random.range(1, std::min(s.height, s.width));
  const int64_t plane = s.height * s.width, values = s.channels * plane, count = 2, row = 1;
  c.describe("%lld x %lld x %lld, side %lld", static_cast<long long>(s.channels), static_cast<long long>(s.height),
             static_cast<long long>(s.width), static_cast<long long>(s.side));
  Floats best(random, count * values), low(random, count * values), high(random, count * values);
  Floats out(random, count * values);
  for (int64_t i = 0; i < count * values; ++i) low.at(i) = 1.0f, high.at(i) = 2.0f, best.at(i) = random.pick({1.0f, 2.0f});
  Guarded rows(random, 8 * count, 0), numbers(random, 8 * 4 * count, 0);
  rows.as<int64_t>()[0] = 0, rows.as<int64_t>()[1] = random.range(0, count - 1);
  for (int64_t i = 0; i < 4 * count; ++i) numbers.as<int64_t>()[i] = random.range(0, (int64_t{1} << 62) - 1);
  s.best = best.as<float>(), s.low = low.as<float>(), s.high = high.as<float>(), s.out = out.as<float>();
  s.rows = rows.as<int64_t>(), s.numbers = numbers.as<int64_t>();
  std::vector<float> other(out.as<float>(), out.as<float>() + values);
  paint_square(s, row);
  for (int64_t i = 0; i < values; ++i)
    if (out.at(i) != other[static_cast<size_t>(i)]) return c.fail("wrote to another image", i);
  int64_t top = s.height, left = s.width, bottom = -1, right = -1, changed = 0;
  for (int64_t i = 0; i < values; ++i) {
    if (out.at(values + i) == best.at(s.rows[row] * values + i)) continue;
    const int64_t y = i % plane / s.width, x = i % s.width;
    top = std::min(top, y), bottom = std::max(bottom, y), left = std::min(left, x), right = std::max(right, x);
    ++changed;
  }
  if (changed == 0) return c.fail("changed nothing", 0);
  if (bottom - top >= s.side || right - left >= s.side) c.fail("more than a square", 0);
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
