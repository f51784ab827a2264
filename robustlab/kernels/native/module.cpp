// Python module: checks that sizes and pointers fit together once more, releases the GIL, calls the kernels.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bind.h"
#include "cpu.h"
#include "eager.h"
#include "image_gradient.h"
#include "parallel.h"
#include "peaks/peaks.h"

namespace nb = nanobind;

namespace robustlab {

void bind_program(nb::module_& m);   // bind_program.cpp

namespace {

void bind_conv2d(const std::string& backend, int threads, Span x, Span weight, uintptr_t scale, uintptr_t bias, Span y,
                 const std::array<int64_t, 4>& sizes, const Form& form, const Place& place, double scale_x,
                 int doubled_zero_x) {
  const KernelTable& kernels = kernel_table(backend);
  const ConvLayer layer = checked_layer(form, place, scale_x, doubled_zero_x, weight);
  const Geometry& g = layer.geometry;
  check_image(layer, sizes[2], sizes[3]);
  require(sizes[1] == g.channels(), "channels do not fit groups");
  require(x.second == checked_product({sizes[0], sizes[1], sizes[2], sizes[3]}), "x has a wrong size");
  require(y.second == checked_product({sizes[0], g.outputs, g.out_height(sizes[2]), g.out_width(sizes[3])}),
          "y has a wrong size");
  require(sizes[0] == 0 || (x.first != 0 && y.first != 0), "null pointer");
  require(scale != 0 || bias == 0, "bias without scale");
  const Operands operands{reinterpret_cast<const float*>(x.first),
                          sizes[0],
                          sizes[2],
                          sizes[3],
                          reinterpret_cast<const float*>(scale),
                          reinterpret_cast<const float*>(bias),
                          reinterpret_cast<void*>(y.first)};
  const nb::gil_scoped_release released;
  conv2d(kernels, threads, layer, operands);
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

}  // namespace
}  // namespace robustlab

NB_MODULE(_native, m) {
  m.def("available", [] {
    std::vector<std::string> names;
    for (const robustlab::KernelTable* table : robustlab::available_kernels()) names.emplace_back(table->name);
    return nb::tuple(nb::cast(names));
  });
  m.def("cpu_flags", [] { return nb::tuple(nb::cast(robustlab::cpu_flags())); });
  m.def("compiler", [] { return std::string(ROBUSTLAB_COMPILER); });
  m.def("parallel_runtime", [] { return std::string(robustlab::parallel_runtime()); });
  m.def("peaks", [] {
    std::vector<std::pair<std::string, double>> peaks;
    {
      const nb::gil_scoped_release released;
      peaks = robustlab::measure_peaks();
    }
    nb::dict result;
    for (const auto& [name, rate] : peaks) result[name.c_str()] = rate;
    return result;
  });
  m.def("fork_join", [](int threads) {
    robustlab::require(threads >= 1 && threads <= 1024, "bad threads");
    const nb::gil_scoped_release released;
    return robustlab::measure_fork_join(threads);
  });
  m.def("conv2d", &robustlab::bind_conv2d);
  m.def("boundary_step", &robustlab::bind_boundary_step);
  m.def("image_gradient", &robustlab::bind_image_gradient);
  robustlab::bind_program(m);
}
