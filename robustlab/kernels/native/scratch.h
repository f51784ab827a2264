// Buffers that a thread keeps between calls, so that a small layer does not pay for the allocator.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>

namespace robustlab {

class Buffer {
 public:
  // 64-byte aligned room for `count` values and 64 bytes of slack; the contents are undefined.
  template <class T>
  T* room(int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T) + 128;
    if (bytes > size_) {
      data_.reset(new uint8_t[bytes]);
      size_ = bytes;
    }
    const auto address = reinterpret_cast<uintptr_t>(data_.get());
    return reinterpret_cast<T*>((address + 63) & ~static_cast<uintptr_t>(63));
  }

 private:
  std::unique_ptr<uint8_t[]> data_;
  size_t size_ = 0;
};

}  // namespace robustlab
