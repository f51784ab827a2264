// The inner loops of one instruction set behind a table of plain functions.
//
// Activations and weights share one shape of data. A *row* is the input of one output pixel: `words` 32-bit words, each
// with 32 sign bits or 4 codes, unused bits zero. A *panel* is 16 output channels: [word][lane] 32-bit words. A product
// of rows and panels gives raw int32 sums [row][panel][lane], which the epilogue turns into outputs.
#pragma once

#include <cstdint>

namespace robustlab {

constexpr int64_t kLanes = 16;
constexpr int64_t kPanelWordBytes = 4 * kLanes;

struct Epilogue {
  const int32_t* raw;       // [rows][width], width a multiple of 16
  const int32_t* base;      // [pattern][width]
  const int32_t* pattern;   // [rows]
  int64_t rows;
  int64_t width;
  int64_t channels;         // <= width
  bool binary;              // acc = base - 2 raw for bits, base + raw for codes
  const float* scale;       // [channels], or null: the output is the int32 acc
  const float* bias;        // [channels], or null
  void* out;                // float or int32, element (row, channel) at row * row_step + channel * channel_step
  int64_t row_step;         // row_step or channel_step is 1
  int64_t channel_step;
};

struct Quantizer {
  float scale;
  int32_t zero_point;
  int32_t largest;  // 2^bits - 1
};

using Product = void (*)(const uint8_t* rows, int64_t row_bytes, int64_t count, int64_t words, const uint8_t* panels,
                         int64_t panel_count, int32_t* raw);

struct KernelTable {
  const char* name;
  // Time of one (row, panel, word) step in nanoseconds, roughly; it only decides when threads are worth their start.
  double bits_step;
  double codes_step;
  // x: [channels][pixels]. Signs (x < 0) go to out[pixel * stride], little-endian, ceil(channels / 8) bytes, or whole
  // words if `whole_words`.
  void (*pack_signs)(const float* x, int64_t channels, int64_t pixels, uint8_t* out, int64_t stride, bool whole_words);
  // x: [channels][pixels]. Codes go to out[pixel * stride + channel].
  void (*quantize)(const float* x, int64_t channels, int64_t pixels, Quantizer quantizer, uint8_t* out, int64_t stride);
  // Prepacked weights -> panels of int8 codes.
  void (*unpack_codes)(const uint8_t* packed, int bits, int64_t words, int64_t panels, uint8_t* out);
  Product bits_product;   // raw = number of differing bits
  Product codes_product;  // raw = sum of u8 * s8, modulo 2^32
  void (*epilogue)(const Epilogue& e);
};

const KernelTable& scalar_kernels();
#ifdef ROBUSTLAB_AVX512
const KernelTable& avx512_kernels();
#endif

}  // namespace robustlab
