// What the other headers of this folder need from an instruction set, 16 lanes at a time, as plain loops. An instruction
// set derives from `Lanes` and replaces what its intrinsics do better than the compiler.
//
// Everything in this folder is in an anonymous namespace: every file that includes it compiles its own copy with its own
// flags, and no linker can hand a copy made for one processor to code that runs on another.
#pragma once

#include <cstdint>
#include <cstring>

#include "../kernels.h"

namespace robustlab {
namespace {

// A block holds int32 first and float bits later.
using AnyInt = int32_t __attribute__((may_alias));
using AnyFloat = float __attribute__((may_alias));

// Vectors of the compiler (GCC and Clang), as wide as an instruction set's registers: element by element they compute
// what the same expression computes for numbers. The loose ones are for memory: of any alignment, and of values that may
// have been stored as another type.
template <int Width>
struct Vectors {
  typedef float Floats __attribute__((vector_size(4 * Width)));
  typedef int32_t Ints __attribute__((vector_size(4 * Width)));
  typedef uint32_t Words __attribute__((vector_size(4 * Width)));
  typedef float LooseFloats __attribute__((vector_size(4 * Width), aligned(1), may_alias));
  typedef int32_t LooseInts __attribute__((vector_size(4 * Width), aligned(1), may_alias));
  typedef uint32_t LooseWords __attribute__((vector_size(4 * Width), aligned(1), may_alias));

  static constexpr int kCount = 16 / Width;   // vectors of 16 lanes

  // the i-th vector at p
  static inline Floats floats(const void* p, int i) { return static_cast<const LooseFloats*>(p)[i]; }
  static inline Ints ints(const void* p, int i) { return static_cast<const LooseInts*>(p)[i]; }
  static inline Words words(const void* p, int i) { return static_cast<const LooseWords*>(p)[i]; }
  static inline void put(void* p, int i, Floats v) { static_cast<LooseFloats*>(p)[i] = v; }
  static inline void put(void* p, int i, Words v) { static_cast<LooseWords*>(p)[i] = v; }
};

inline uint32_t load32(const uint8_t* p) {
  uint32_t value;
  std::memcpy(&value, p, 4);
  return value;
}

inline uint32_t popcount(uint32_t v) {
  v -= (v >> 1) & 0x55555555u;
  v = (v & 0x33333333u) + ((v >> 2) & 0x33333333u);
  v = (v + (v >> 4)) & 0x0f0f0f0fu;
  v += v >> 8;
  return (v + (v >> 16)) & 0x3fu;
}

// The lowest `count` <= 16 bits.
inline uint32_t low_bits(int64_t count) { return (1u << count) - 1u; }

inline int64_t at_most(int64_t value, int64_t limit) { return value < limit ? value : limit; }

// Up to 16 values of `Size` bytes; a whole vector is copied with instructions, not with a call.
template <int Size>
inline void copy_lanes(void* to, const void* from, int64_t count) {
  if (count == kLanes) {
    std::memcpy(to, from, 16 * Size);
  } else {
    std::memcpy(to, from, static_cast<size_t>(count * Size));
  }
}

inline void store_bits(uint8_t* to, uint32_t bits, int64_t count) {
  to[0] = static_cast<uint8_t>(bits);
  if (count > 8) to[1] = static_cast<uint8_t>(bits >> 8);
}

// What a quantizer does to x / scale. Both bounds are whole, so clamping first gives the same code, and what is
// converted to an integer is always small.
struct Rounding {
  float scale, low, high;
  int32_t zero;
  bool down;

  explicit Rounding(const Quantizer& q)
      : scale(q.scale),
        zero((q.doubled_zero + 1) >> 1),   // a half-integer zero point: floor(t) + z + 1/2
        down((q.doubled_zero & 1) != 0) {
    low = static_cast<float>(-zero);
    high = static_cast<float>(q.largest - zero);
  }
};

struct Lanes {
  static constexpr int kWidth = 4;   // floats of a register

  // bit i: a[i] < b[i]
  static uint32_t less(const float* a, const float* b) {
    uint32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= static_cast<uint32_t>(a[i] < b[i]) << i;
    return bits;
  }

  static uint32_t less(const int32_t* a, const int32_t* b) {
    uint32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= static_cast<uint32_t>(a[i] < b[i]) << i;
    return bits;
  }

  // -1 where a bit is set, else +1
  static void signs(uint32_t bits, float* out) {
    for (int i = 0; i < kLanes; ++i) out[i] = 1.0f - 2.0f * static_cast<float>((bits >> i) & 1u);
  }

  // code - zero, exactly, as zero is a multiple of 1/2
  static void levels(const uint8_t* codes, float zero, float* out) {
    for (int i = 0; i < kLanes; ++i) out[i] = static_cast<float>(codes[i]) - zero;
  }

  static void quantize(const float* x, const Rounding& q, uint8_t* codes) {
    // |t| < 2^22 is rounded to the nearest even number by adding 1.5 * 2^23
    const float magic = 12582912.0f;
    for (int i = 0; i < kLanes; ++i) {
      float t = x[i] / q.scale;
      t = t == t ? t : 0.0f;
      t = t < q.low ? q.low : t;
      t = t > q.high ? q.high : t;
      float rounded = (t + magic) - magic;
      if (q.down) rounded -= rounded > t ? 1.0f : 0.0f;
      codes[i] = static_cast<uint8_t>(static_cast<int32_t>(rounded) + q.zero);
    }
  }

  // bit i: bit `plane` of codes[i]
  static uint32_t plane(const uint8_t* codes, int plane) {
    uint32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= ((static_cast<uint32_t>(codes[i]) >> plane) & 1u) << i;
    return bits;
  }

  // words[i], i < count <= 16: bit c < depth is x[c * step + i] < thresholds[c] (null: 0)
  static void sign_words(const float* x, int64_t step, int64_t depth, int64_t count, const float* thresholds,
                         uint32_t* words) {
    uint32_t bits[kLanes] = {};
    for (int64_t c = 0; c < depth; ++c) {
      const float threshold = thresholds != nullptr ? thresholds[c] : 0.0f;
      float line[kLanes] = {};
      copy_lanes<4>(line, x + c * step, count);
      for (int i = 0; i < kLanes; ++i) bits[i] |= static_cast<uint32_t>(line[i] < threshold) << c;
    }
    std::memcpy(words, bits, sizeof bits);
  }

  // out[16 j + i] = in[i * step + j]
  static void transpose(const AnyInt* in, int64_t step, int32_t* out) {
    for (int i = 0; i < kLanes; ++i)
      for (int j = 0; j < kLanes; ++j) out[kLanes * j + i] = in[i * step + j];
  }

  static void transpose(const uint8_t* in, uint8_t* out) {
    for (int i = 0; i < kLanes; ++i)
      for (int j = 0; j < kLanes; ++j) out[kLanes * j + i] = in[kLanes * i + j];
  }
};

}  // namespace
}  // namespace robustlab
