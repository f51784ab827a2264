// The bindings of what attacks do in every step: gradients with respect to images, steps, proposals.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <vector>

#include "bind.h"
#include "image_gradient.h"
#include "parallel.h"
#include "squares.h"

namespace nb = nanobind;

namespace robustlab {
namespace {

template <class T>
T* at(Span span) {
  return reinterpret_cast<T*>(span.first);
}

// Throws unless `rows` names rows in [0, count), each at most once, so that no two tasks write to one of them.
void check_rows(const int64_t* rows, int64_t length, int64_t count) {
  std::vector<bool> seen(static_cast<size_t>(count));
  for (int64_t i = 0; i < length; ++i) {
    require(rows[i] >= 0 && rows[i] < count, "a row that is not there");
    require(!seen[static_cast<size_t>(rows[i])], "a row that comes twice");
    seen[static_cast<size_t>(rows[i])] = true;
  }
}

// x, origin, normal and out are (rows, values), gap is (rows,).
void bind_boundary_step(const std::string& backend, int threads, Span x, Span origin, Span normal, Span gap, Span out,
                        bool l2, double alpha_max, double eta) {
  const KernelTable& kernels = kernel_table(backend);
  const int64_t rows = gap.second;
  require(rows >= 0 && (rows == 0 ? out.second == 0 : out.second % rows == 0), "gap does not fit out");
  for (const Span& span : {x, origin, normal, out}) {
    require(span.second == out.second, "x, origin, normal and out of different sizes");
    require(span.second == 0 || span.first != 0, "null pointer");
  }
  require(rows == 0 || gap.first != 0, "null pointer");
  if (out.second == 0) return;
  struct Call {
    const KernelTable& kernels;
    BoundaryStep first;
    const float* gap;
  } call{kernels, {reinterpret_cast<const float*>(x.first), reinterpret_cast<const float*>(origin.first),
                   reinterpret_cast<const float*>(normal.first), 0.0f, reinterpret_cast<float*>(out.first),
                   out.second / rows, l2, alpha_max, static_cast<float>(eta)},
         reinterpret_cast<const float*>(gap.first)};
  const Tasks tasks{[](void* context, int64_t row) {
                      const auto& c = *static_cast<const Call*>(context);
                      BoundaryStep s = c.first;
                      const int64_t at = row * s.values;
                      s.x += at, s.origin += at, s.normal += at, s.out += at, s.gap = c.gap[row];
                      c.kernels.boundary_step(s);
                    },
                    &call, rows};
  const nb::gil_scoped_release released;
  run_parallel(rows > 1 ? threads : 1, tasks);
}

// images (N, C, H, W), above (N, O, out_height, out_width), weights (O, C, kh, kw); place: stride, padding (y, x each).
void bind_image_gradient(const std::string& backend, int threads, Span above, Span weights, Span gradient,
                         const std::array<int64_t, 4>& images, const std::array<int64_t, 3>& form,
                         const std::array<int64_t, 4>& place) {
  const KernelTable& kernels = kernel_table(backend);
  const ImageConv conv{images[0], form[0], images[1], images[2], images[3], form[1],
                       form[2],   place[0], place[1], place[2],  place[3]};
  for (const int64_t size : {conv.outputs, conv.channels, conv.height, conv.width, conv.taps_y, conv.taps_x,
                             conv.stride_y, conv.stride_x})
    require(size >= 1 && size < int64_t{1} << 31, "a size that is not positive");
  require(conv.pad_y >= 0 && conv.pad_y < conv.taps_y && conv.pad_x >= 0 && conv.pad_x < conv.taps_x,
          "padding does not fit the taps");
  require(conv.height + 2 * conv.pad_y >= conv.taps_y && conv.width + 2 * conv.pad_x >= conv.taps_x,
          "image smaller than the taps");
  require(gradient.second == checked_product({conv.images, conv.channels, conv.height, conv.width}),
          "gradient has a wrong size");
  require(weights.second == checked_product({conv.outputs, conv.channels, conv.taps_y, conv.taps_x}),
          "weights have a wrong size");
  require(above.second == checked_product({conv.images, conv.outputs, conv.out_height(), conv.out_width()}),
          "above has a wrong size");
  if (conv.images == 0) return;
  require(above.first != 0 && weights.first != 0 && gradient.first != 0, "null pointer");
  const nb::gil_scoped_release released;
  image_gradient(kernels, threads, conv, reinterpret_cast<const float*>(above.first),
                 reinterpret_cast<const float*>(weights.first), reinterpret_cast<float*>(gradient.first));
}

// x, old, best, best_gradient and origin are (n, values), gradient is (rows, values), the others are (rows,).
void bind_ascent_step(const std::string& backend, int threads, Span x, Span old, Span best, Span best_gradient,
                      Span origin, Span gradient, Span rows, Span better, Span back, Span first, Span length,
                      double eps, double momentum) {
  const KernelTable& kernels = kernel_table(backend);
  const int64_t count = rows.second;
  for (const Span& span : {better, back, first, length}) require(span.second == count, "rows of different numbers");
  for (const Span& span : {old, best, best_gradient, origin})
    require(span.second == x.second, "x, old, best, best_gradient and origin of different sizes");
  if (count == 0 || gradient.second == 0) return;
  const int64_t values = gradient.second / count;
  require(gradient.second == values * count && x.second % values == 0, "gradient does not fit x");
  for (const Span& span : {x, old, best, best_gradient, origin, gradient, rows, better, back, first, length})
    require(span.first != 0, "null pointer");
  check_rows(at<int64_t>(rows), count, x.second / values);
  struct Call {
    const KernelTable& kernels;
    AscentStep first;
    const int64_t* rows;
    const bool *better, *back, *firsts;
    const float* length;
  } call{kernels,
         {at<float>(x), at<float>(old), at<float>(best), at<float>(best_gradient), at<float>(origin),
          at<float>(gradient), values, false, false, false, 0.0f, static_cast<float>(eps),
          static_cast<float>(momentum)},
         at<int64_t>(rows), at<bool>(better), at<bool>(back), at<bool>(first), at<float>(length)};
  const Tasks tasks{[](void* context, int64_t i) {
                      const auto& c = *static_cast<const Call*>(context);
                      AscentStep s = c.first;
                      const int64_t offset = c.rows[i] * s.values;
                      s.x += offset, s.old += offset, s.best += offset, s.best_gradient += offset;
                      s.origin += offset, s.gradient += i * s.values;
                      s.better = c.better[i], s.back = c.back[i], s.first = c.firsts[i], s.length = c.length[i];
                      c.kernels.ascent_step(s);
                    },
                    &call, count};
  const nb::gil_scoped_release released;
  run_parallel(count > 1 ? threads : 1, tasks);
}

// best, low and high are images (n, channels, height, width), out is (rows, channels, height, width), numbers is (rows,
// 4).
void bind_paint_squares(int threads, Span best, Span low, Span high, Span rows, Span numbers, Span out,
                        const std::array<int64_t, 3>& shape, int64_t side) {
  const Squares s{at<float>(best), at<float>(low), at<float>(high), at<int64_t>(rows), at<int64_t>(numbers),
                  at<float>(out),  shape[0],      shape[1],       shape[2],          side};
  const int64_t count = rows.second, values = checked_product({s.channels, s.height, s.width});
  require(values >= 1, "images without values");
  require(low.second == best.second && high.second == best.second, "best, low and high of different sizes");
  require(best.second % values == 0, "best does not fit its shape");
  require(out.second == checked_product({count, values}), "out has a wrong size");
  require(numbers.second == checked_product({count, 4}), "rows of different numbers");
  require(side >= 1 && side <= s.height && side <= s.width, "a square larger than its image");
  if (count == 0) return;
  for (const Span& span : {best, low, high, rows, numbers, out}) require(span.first != 0, "null pointer");
  check_rows(s.rows, count, best.second / values);
  for (int64_t i = 0; i < 4 * count; ++i)
    require(s.numbers[i] >= 0 && s.numbers[i] < int64_t{1} << 62, "a number outside [0, 2^62)");
  const Tasks tasks{[](void* context, int64_t i) { paint_square(*static_cast<const Squares*>(context), i); },
                    const_cast<Squares*>(&s), count};
  const nb::gil_scoped_release released;
  run_parallel(count > 1 ? threads : 1, tasks);
}

}  // namespace

void bind_attacks(nb::module_& m) {
  m.def("boundary_step", &bind_boundary_step);
  m.def("image_gradient", &bind_image_gradient);
  m.def("ascent_step", &bind_ascent_step);
  m.def("paint_squares", &bind_paint_squares);
}

}  // namespace robustlab
