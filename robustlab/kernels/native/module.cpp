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
#include "parallel.h"
#include "peaks/peaks.h"

namespace nb = nanobind;

namespace robustlab {

void bind_program(nb::module_& m);   // bind_program.cpp
void bind_attacks(nb::module_& m);   // bind_attacks.cpp

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
  robustlab::bind_attacks(m);
  robustlab::bind_program(m);
}
