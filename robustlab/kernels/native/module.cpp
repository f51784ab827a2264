// Python module: checks that sizes and pointers fit together once more, releases the GIL, calls the kernels.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "conv.h"
#include "cpu.h"

namespace nb = nanobind;

namespace robustlab {
namespace {

using Span = std::pair<uintptr_t, int64_t>;  // address and number of elements
using Sizes = std::array<int64_t, 8>;        // N, C, H, W, O, C / groups, kh, kw
using Place = std::array<int64_t, 7>;        // stride, padding, dilation (vertical, horizontal), groups

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

int64_t product(std::initializer_list<int64_t> factors) {
  constexpr int64_t kMost = int64_t{1} << 46;
  int64_t result = 1;
  for (const int64_t factor : factors) {
    require(factor >= 0, "negative size");
    if (factor == 0) return 0;
    require(result <= kMost / factor, "size too large");
    result *= factor;
  }
  return result;
}

const KernelTable& table(const std::string& name) {
  static const std::vector<const KernelTable*> tables = available_kernels();
  for (const KernelTable* candidate : tables)
    if (name == candidate->name) return *candidate;
  throw std::invalid_argument("no such kernels: " + name);
}

ConvShape checked_shape(const Sizes& n, const Place& p) {
  constexpr int64_t kMost = int64_t{1} << 31;
  for (const int64_t size : n) require(size >= 0 && size < kMost, "bad size");
  for (const int64_t value : p) require(value >= 0 && value < kMost, "bad stride, padding, dilation or groups");
  const ConvShape s{n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], p[0], p[1], p[2], p[3], p[4], p[5], p[6]};
  require(s.stride_y > 0 && s.stride_x > 0 && s.dilation_y > 0 && s.dilation_x > 0 && s.groups > 0, "bad geometry");
  require(s.channels > 0 && s.outputs > 0 && s.group_channels > 0 && s.taps_y > 0 && s.taps_x > 0, "empty weights");
  require(s.height > 0 && s.width > 0, "empty image");
  require(s.channels == product({s.group_channels, s.groups}), "channels do not fit groups");
  require(s.outputs % s.groups == 0, "groups do not divide outputs");
  require(product({s.group_channels, s.taps_y, s.taps_x}) < kMost, "too many taps");
  require(s.out_height() > 0 && s.out_width() > 0, "kernel larger than the padded image");
  return s;
}

Operands checked_operands(const ConvShape& s, int bits, Span x, Span weight, uintptr_t scale, uintptr_t bias, Span y) {
  require(x.second == product({s.images, s.channels, s.height, s.width}), "x has a wrong size");
  require(y.second == product({s.images, s.outputs, s.out_height(), s.out_width()}), "y has a wrong size");
  require(weight.second == packed_bytes(s, bits), "weight has a wrong size");
  require(weight.first != 0 && (s.images == 0 || (x.first != 0 && y.first != 0)), "null pointer");
  require(scale != 0 || bias == 0, "bias without scale");
  return {reinterpret_cast<const float*>(x.first), reinterpret_cast<const uint8_t*>(weight.first),
          reinterpret_cast<const float*>(scale), reinterpret_cast<const float*>(bias),
          reinterpret_cast<void*>(y.first)};
}

void bind_binary(const std::string& backend, int threads, Span x, Span weight, uintptr_t scale, uintptr_t bias, Span y,
                 const Sizes& sizes, const Place& place, int padding_value) {
  const KernelTable& kernels = table(backend);
  const ConvShape shape = checked_shape(sizes, place);
  const Operands operands = checked_operands(shape, 1, x, weight, scale, bias, y);
  require(padding_value >= 0 && padding_value <= 2, "bad padding value");
  const nb::gil_scoped_release released;
  binary_conv2d(kernels, threads, shape, operands, static_cast<PaddingValue>(padding_value));
}

void bind_quant(const std::string& backend, int threads, Span x, Span weight, uintptr_t scale, uintptr_t bias, Span y,
                const Sizes& sizes, const Place& place, int bits, double scale_x, int zero_point, int bits_x) {
  const KernelTable& kernels = table(backend);
  require(bits >= 1 && bits <= 8 && bits_x >= 1 && bits_x <= 8, "bad bits");
  const Quantizer quantizer{static_cast<float>(scale_x), zero_point, (1 << bits_x) - 1};
  require(quantizer.scale > 0 && std::isfinite(quantizer.scale), "bad activation scale");
  require(zero_point >= 0 && zero_point <= quantizer.largest, "bad zero point");
  const ConvShape shape = checked_shape(sizes, place);
  const Operands operands = checked_operands(shape, bits, x, weight, scale, bias, y);
  const nb::gil_scoped_release released;
  quant_conv2d(kernels, threads, shape, operands, bits, quantizer);
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
  m.def("binary_conv2d", &robustlab::bind_binary);
  m.def("quant_conv2d", &robustlab::bind_quant);
}
