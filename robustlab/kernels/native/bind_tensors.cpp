#include "bind_tensors.h"

namespace robustlab {
namespace {

// The parts of dlpack.h (version 1) that are used here.
struct DlTensor {
  void* data;
  struct {
    int32_t type, id;
  } device;
  int32_t ndim;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};

struct ExchangeApi {
  struct {
    uint32_t major, minor;
  } version;
  void* previous;
  void *allocate, *from_object, *to_object;   // not used
  int (*view)(void* object, DlTensor* out);
};

constexpr int32_t kCpu = 1;
constexpr uint8_t kInt = 0, kFloat = 2;

const ExchangeApi* exchange_api(nanobind::handle type) {
  PyObject* capsule = PyObject_GetAttrString(type.ptr(), "__dlpack_c_exchange_api__");
  void* found = capsule != nullptr ? PyCapsule_GetPointer(capsule, "dlpack_exchange_api") : nullptr;
  Py_XDECREF(capsule);   // the table it points to lives as long as the library
  PyErr_Clear();
  const auto* api = static_cast<const ExchangeApi*>(found);
  return api != nullptr && api->version.major == 1 ? api : nullptr;
}

bool contiguous(const DlTensor& t) {
  int64_t step = 1;
  for (int32_t axis = t.ndim - 1; axis >= 0; --axis) {
    if (t.strides != nullptr && t.shape[axis] != 1 && t.strides[axis] != step) return false;
    step *= t.shape[axis];
  }
  return true;
}

}  // namespace

bool read_tensor(nanobind::handle tensor, nanobind::handle type, TensorView& view) {
  // a view whose sign torch flips when it is read; DLPack does not tell
  return read_fresh_tensor(tensor, type, view) && !nanobind::cast<bool>(tensor.attr("is_neg")());
}

bool read_fresh_tensor(nanobind::handle tensor, nanobind::handle type, TensorView& view) {
  struct Known {
    PyObject* type;
    const ExchangeApi* api;
  };
  thread_local Known known{nullptr, nullptr};
  if (known.type != type.ptr()) {
    known = {type.inc_ref().ptr(), exchange_api(type)};   // kept for good: its address must go on meaning this type
  }
  if (known.api == nullptr || known.api->view == nullptr || tensor.type().ptr() != known.type) return false;
  DlTensor t;
  if (known.api->view(tensor.ptr(), &t) != 0) {
    PyErr_Clear();
    return false;
  }
  if (t.device.type != kCpu || t.dtype.bits != 32 || t.dtype.lanes != 1 || t.ndim < 1 || t.ndim > 4) return false;
  if ((t.dtype.code != kFloat && t.dtype.code != kInt) || !contiguous(t)) return false;
  view.data = static_cast<uint8_t*>(t.data) + t.byte_offset;
  view.axes = t.ndim;
  for (int32_t axis = 0; axis < t.ndim; ++axis) view.shape[axis] = t.shape[axis];
  view.floating = t.dtype.code == kFloat;
  return true;
}

}  // namespace robustlab
