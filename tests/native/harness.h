// What the checks of the native kernels share: seeded random numbers, buffers that end at a page nobody may touch, and
// the counting of failures.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "../../robustlab/kernels/native/kernels.h"

namespace check {

using namespace robustlab;

// The same numbers on every machine (splitmix64).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int64_t range(int64_t low, int64_t high) {   // both included
    return low + static_cast<int64_t>(next() % static_cast<uint64_t>(high - low + 1));
  }
  bool one_in(int64_t n) { return range(1, n) == 1; }
  template <class T>
  T pick(std::initializer_list<T> choices) {
    return choices.begin()[range(0, static_cast<int64_t>(choices.size()) - 1)];
  }
  void fill(void* to, int64_t bytes);
  float number();   // small and large, halves, zeros of both signs, and now and then an infinity or no number
  float plain();    // about -4 .. 4, never zero

 private:
  uint64_t state_;
};

int64_t channel_count(Random& random);   // around the borders of bytes, vectors and words
int64_t row_count(Random& random);       // 1 .. kBlockRows

// `bytes` of memory right in front of a page that cannot be read or written; `slack` bytes behind them, of undefined
// value, belong to the buffer as far as reading goes. The bytes in front are checked not to change.
class Guarded {
 public:
  Guarded(Random& random, int64_t bytes, int64_t slack);
  virtual ~Guarded();
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  uint8_t* data() const { return data_; }
  int64_t size() const { return bytes_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  bool front_untouched() const;

 private:
  size_t region_;
  uint8_t* data_;
  int64_t bytes_;
};

// An input: random bytes, kSlack behind them. An output: random bytes, nothing behind them.
struct Input : Guarded {
  Input(Random& random, int64_t bytes) : Guarded(random, bytes, kSlack) {}
};
struct Output : Guarded {
  Output(Random& random, int64_t bytes) : Guarded(random, bytes, 0) {}
  std::vector<uint8_t> copy() const { return {data(), data() + size()}; }
};

// Vectors of parameters: random numbers in a guarded input.
template <class T>
struct Vector : Input {
  Vector(Random& random, int64_t count) : Input(random, count * static_cast<int64_t>(sizeof(T))), length(count) {}
  T& operator[](int64_t i) const { return this->template as<T>()[i]; }
  int64_t length;
};

// One case: says what it is before it runs anything, so that a crash can be placed.
class Case {
 public:
  Case(const char* table, const char* what, uint64_t number);
  __attribute__((format(printf, 2, 3))) void describe(const char* format, ...);
  void equal(const Output& actual, const std::vector<uint8_t>& expected, const char* part);
  void fail(const char* reason, int64_t at);
  static int64_t failures();
};

// -1, 0 or 1 of a bit string
inline int bit(const uint8_t* p, int64_t i) { return (p[i / 8] >> (i % 8)) & 1; }
inline void set_bit(uint8_t* p, int64_t i, int value) {
  p[i / 8] = static_cast<uint8_t>((p[i / 8] & ~(1 << (i % 8))) | value << (i % 8));
}
template <class T>
T get(const uint8_t* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}
template <class T>
void put(uint8_t* p, T value) {
  std::memcpy(p, &value, sizeof value);
}

// The tables that this machine can run.
const std::vector<const KernelTable*>& tables();

// The checks; each runs one case of a table.
using Check = void (*)(const KernelTable& table, Random& random, Case& c);
void check_bits_product(const KernelTable& table, Random& random, Case& c);
void check_codes_product(const KernelTable& table, Random& random, Case& c);
void check_bits_threshold(const KernelTable& table, Random& random, Case& c);
void check_depthwise(const KernelTable& table, Random& random, Case& c);
void check_pack_signs(const KernelTable& table, Random& random, Case& c);
void check_pack_codes(const KernelTable& table, Random& random, Case& c);
void check_unpack_codes(const KernelTable& table, Random& random, Case& c);
void check_direct(const KernelTable& table, Random& random, Case& c);
void check_steps(const KernelTable& table, Random& random, Case& c);
void check_conv(const KernelTable& table, Random& random, Case& c);
void check_boundary_step(const KernelTable& table, Random& random, Case& c);
void check_ascent_step(const KernelTable& table, Random& random, Case& c);
void check_paint_square(const KernelTable& table, Random& random, Case& c);
void check_image_gradient(const KernelTable& table, Random& random, Case& c);

// What a quantizer makes of a number, in doubles.
int reference_code(float x, const Quantizer& q);
Quantizer random_quantizer(Random& random);

}  // namespace check
