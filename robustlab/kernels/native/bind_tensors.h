// Tensors as Python has them, without a detour through their attributes.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

namespace robustlab {

// A contiguous float32 or int32 tensor in main memory.
struct TensorView {
  void* data;
  int64_t axes, shape[4];
  bool floating;
};

// Reads a tensor of exactly the type `type` through DLPack's exchange interface, where the type has it (torch 2.10 and
// newer). False, without an error, for everything else; the caller then takes the way through attributes.
bool read_tensor(nanobind::handle tensor, nanobind::handle type, TensorView& view);

// The same for a tensor that was made just now, which is no view of another.
bool read_fresh_tensor(nanobind::handle tensor, nanobind::handle type, TensorView& view);

}  // namespace robustlab
