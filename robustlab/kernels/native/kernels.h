// The inner loops of one instruction set behind a table of plain functions. Everything else (shapes, halos, threads,
// buffers) is portable code that calls them; a new instruction set is one more file that fills one more table.
//
// Activations lie in *images*: channels last, with a halo of padding around every image, bits or bytes of one pixel next
// to each other. Weights lie in *panels* of 16 output channels. A product reads, for every output pixel (a *row*), a
// few *runs* of consecutive 32-bit words straight from the image, so nothing is gathered.
#pragma once

#include <cstdint>

namespace robustlab {

constexpr int64_t kLanes = 16;              // output channels of a panel
constexpr int64_t kPanelWordBytes = 64;     // one 32-bit word for each of them
constexpr int64_t kSlack = 64;              // bytes behind every buffer that may be read, and their value does not matter
constexpr int64_t kBlockRows = 112;         // most rows of a Block

// The inputs of `count` output pixels. Row r reads run s at image + starts[r] + offsets[s]; a run is `words` 32-bit words,
// each with 32 sign bits or 4 codes. Nothing is aligned.
struct Windows {
  const uint8_t* image;
  const int64_t* starts;    // [count]
  int64_t count;
  const int64_t* offsets;   // [runs]
  int64_t runs;
  int64_t words;            // of a run
  uint32_t tail;            // bits of a run's last word that belong to it (bits only; codes meet zero weights there)
  int64_t plane;            // bytes from one bit plane of the image to the next (bit-serial products only)
};

// Weights of `count` panels:
//   bits   [panel][plane][run][word][lane] uint32, unused bits zero
//   codes  [panel][run][word][lane][4] int8
struct Panels {
  const uint8_t* data;
  int64_t count;
  int64_t bytes;            // of one panel
  int planes;               // bit planes of the weights (bits only)
  int activation_planes;    // bit planes of the activations (bits only)
};

// out[row * step + panel * 16 + lane]; step is a multiple of 16. All sums are modulo 2^32.
//   bits   one weight plane:   sum over j of 2^j popcount(a_j ^ w)
//          more weight planes: sum over i, j of 2^(i+j) popcount(a_j & w_i), negative where i is the top plane
//   codes  sum of u8 activation times s8 weight
using Product = void (*)(const Windows& windows, const Panels& panels, int32_t* out, int64_t step);

// Bits straight from a one-plane product: bit c of row r = (popcount > limits[pattern[r]][c]) ^ flip[c].
struct BitThreshold {
  const int32_t* limits;    // [pattern][limit_step]
  int64_t limit_step;
  const int32_t* pattern;   // [rows], or null: pattern 0
  const uint16_t* flip;     // [panel]
  uint8_t* out;             // row r goes to out + at[r], whole bytes, unused bits zero
  const int64_t* at;        // [rows]
  int64_t channels;         // > 16 * (panels - 1)
};

// A depthwise product, one channel per lane: row r reads tap t of channel c at image + starts[r] + offsets[t], byte c or
// bit c. weights: int8 [tap][width] or bits [tap][width / 8 bytes], width a multiple of 64. out[r * step + c].
struct Depthwise {
  const uint8_t* image;
  const int64_t* starts;
  int64_t count;
  const int64_t* offsets;
  int64_t taps;
  const uint8_t* weights;
  int64_t width;            // of the weights
  int64_t channels;         // c < channels is needed; up to the next multiple of 16 may be written
};

// Integer zero point z:       code = clamp(rint(x / scale) + z, 0, largest)
// half-integer zero point z:  code = clamp(floor(x / scale) + z + 1/2, 0, largest)
// with one true float32 division; NaN counts as x = 0. What a code is worth is (code - z) steps, the nearest level.
struct Quantizer {
  float scale;
  int32_t doubled_zero;     // 2 z
  int32_t largest;          // 2^bits - 1
};

enum class Kind : uint8_t { kFloat, kSigns, kCodes };

enum class Op : uint8_t {
  // what a block of values starts as; the first step, exactly one of them
  kAccumulate,   // v = base[pattern[r]][c] + v * factor (+ sums[r] * sum_factor[c]), int32 modulo 2^32
  kLoad,         // v = image value: float, -1/+1 of signs, code - zero (exact float) of codes
  kLoadPlanar,   // v = float at image + at[r] + c * plane (channels first)
  // only after kAccumulate, v still int32
  kStoreInt,     // int32 to image + at[r] + 4 c, or + c * plane if plane > 0
  kStoreBelow,   // bit c = (v < threshold[c]) ^ flip[c], to image + at[r]
  kScale,        // v = fl(float(v) * a[c]); from here on v is float
  // float to float, every one rounded once
  kMul, kAdd, kSub, kDiv,                    // v = v op a[c]
  kMulAll, kAddAll, kDivAll,                 // v = v op low
  kMulRow,       // v = v * row[r]
  kAddImage,     // v = v + image value (as kLoad); channels outside [first, first + size) add nothing
  kMaxImage,     // v = max(v, image value), NaN if either is NaN
  kPrelu,        // v = v > 0 ? v : fl(a[c] * v)
  kRelu,         // v = max(v, 0), NaN stays
  kClamp,        // v = min(max(v, low), high), NaN stays
  // stores; v stays as it is
  kStore,        // float to image + at[r] + 4 c
  kStorePlanar,  // float to image + at[r] + c * plane; at[r + 1] == at[r] + 4 within a block
  kStoreSigns,   // bit c = v < 0
  kStoreCodes,   // code c as a byte
  kStorePlanes,  // bit planes of code c; plane p at image + at[r] + p * plane
};

// One step of what follows a product, applied to a whole block. Vectors of channels start at channel 0 of the layer (and
// are padded to a multiple of 16); `at` starts at the first row of the block. Images of bits and bytes: channel c is
// bit or byte `shift + c` of the pixel that starts at image + at[r]; for bits shift is a multiple of 8 and the whole
// bytes of the block's channels are written, bits of channels >= Block.channels zero.
struct Step {
  Op op;
  Kind kind;                  // of the image of kLoad, kAddImage, kMaxImage
  const float* a;             // [channels]
  const int32_t* threshold;   // [channels]
  const uint8_t* flip;        // [channels] 0 or 1
  float low, high;
  const float* row;           // [rows of the block]
  uint8_t* image;
  const int64_t* at;          // [rows of the block]
  int64_t plane;
  int64_t shift;              // channels of the image in front of channel 0
  int64_t first, size;        // kAddImage: channels that have an image value; size < 0 means all
  Quantizer quantizer;        // of codes that are loaded or stored
  // kAccumulate
  const int32_t* base;        // [pattern][base_step]
  int64_t base_step;
  const int32_t* pattern;     // [rows of the block], or null: pattern 0
  int32_t factor;             // -2, 1, 2 or 4
  const int32_t* sums;        // [rows of the block], or null
  const int32_t* sum_factor;  // [channels]
};

struct Block {
  int32_t* values;            // [rows][step], int32 or float bits; 64-byte aligned
  int64_t rows;               // <= kBlockRows
  int64_t step;               // a multiple of 16
  int64_t channel;            // of the layer that lane 0 is, a multiple of 16
  int64_t width;              // channels of this block, <= step
  int64_t channels;           // of the layer
};

// Panels of codes whose weights are still in bit planes, as unpack_codes() takes them.
struct PackedPanels {
  const uint8_t* data;
  int bits, factor, offset;
  uint8_t* room;            // of four unpacked panels
};

// Products that end in memory, with no block of sums in between: `lines` lines of windows.count output pixels, whole pairs
// of panels. Pixel x of line l reads its windows at image + l * in + x * step (Windows::starts is not used), and stores
// l * out bytes further than the same pixel of the first line.
struct Direct {
  int64_t lines, in, out, step;
  Op store;                 // kStoreBelow; or after kScale and kAdd: kStore, kStorePlanar, kStoreCodes or kStorePlanes
  // As in kAccumulate, or the limits of a BitThreshold for kStoreBelow; those of pixel x start at base + base_at[x], in all
  // lines. Where signs become numbers these are floats, since everything about them is below 2^24 and so exact.
  const void* base;
  const int64_t* base_at;   // [windows.count]
  const uint16_t* flip;     // [panel], kStoreBelow only
  int32_t factor;           // as in kAccumulate; -2 for signs
  const float* scale;       // [16 * panels]
  const float* bias;        // [16 * panels]; -0 where nothing is added
  Quantizer quantizer;      // kStoreCodes and kStorePlanes only
  uint8_t* image;           // where channel 0 of panel 0 goes, see Step
  const int64_t* at;        // [windows.count]
  int64_t plane;            // kStorePlanar and kStorePlanes only
  const PackedPanels* packed;   // instead of Panels::data: every pair is unpacked while the pair in front of it is met; or null

  // Bytes from channel 0 to channel `count`, a multiple of 8.
  int64_t channels(int64_t count) const {
    switch (store) {
      case Op::kStore: return 4 * count;
      case Op::kStorePlanar: return plane * count;
      case Op::kStoreCodes: return count;
      default: return count / 8;
    }
  }
};

// x: float, channel c and pixel p at x[c * channel_step + p]. Sign bits (x < threshold[c], threshold null: 0) go to
// out + p * pixel, little-endian, whole bytes with unused bits zero.
struct PackSigns {
  const float* x;
  int64_t channel_step;
  int64_t channels, pixels;
  const float* thresholds;
  uint8_t* out;
  int64_t pixel;
};

// The same for codes: v = x, then v - sub[c], then v / div[c] where they are given; bytes out[p * pixel + c], or, with
// planes > 0, bit plane b in whole bytes at out + p * pixel + b * plane.
struct PackCodes {
  const float* x;
  int64_t channel_step;
  int64_t channels, pixels;
  const float* sub;
  const float* div;
  Quantizer quantizer;
  uint8_t* out;
  int64_t pixel;
  int planes;
  int64_t plane;
};

// One image of FAB's step, of `values` floats each: from x, where the linearised boundary is at <normal, d> = -gap, to
// eta times the steps onto it from x and from origin, the latter with a weight of at most alpha_max, and into [0, 1].
struct BoundaryStep {
  const float* x;
  const float* origin;
  const float* normal;
  float gap;
  float* out;
  int64_t values;
  bool l2;   // or l_inf
  double alpha_max;
  float eta;
};

// One image of a step of APGD in the l_inf ball, of `values` floats each, changed in place. First x and its gradient are
// kept as the best ones (`better`), or the best ones are taken instead (`back`). Then x becomes the point `length` along
// the sign of the gradient, drawn by what is left of `momentum` towards where the last step led unless it is the first,
// in the ball of radius eps around the origin and in [0, 1]; old becomes where x was.
struct AscentStep {
  float* x;
  float* old;
  float* best;
  float* best_gradient;
  const float* origin;
  const float* gradient;
  int64_t values;
  bool better, back, first;
  float length, eps, momentum;
};

// Sums over outputs and taps of what a line of the gradient with respect to the output of a convolution is worth to the
// lines of its image that it meets: out[(b * block + k) * positions + r], for r in [0, positions), is the sum of
// rows[y][o * pitch + r + taps_x - 1 - x] * weights[(((b * outputs + o) * taps_y + y) * taps_x + x) * block + k].
struct GradientLine {
  const float* const* rows;   // [taps_y]
  int64_t outputs, taps_y, taps_x, pitch;
  int64_t positions;          // a multiple of 16
  const float* weights;
  int64_t blocks, block;      // block: 1, 2, 3, 4, 8 or 12
  float* out;
};

struct KernelTable {
  const char* name;
  // Time of one (row, panel, word) step in nanoseconds, roughly; it only decides when threads are worth their start.
  double bits_step;
  double codes_step;
  void (*pack_signs)(const PackSigns& p);
  void (*pack_codes)(const PackCodes& p);
  // `steps` times `bits` little-endian uint64 planes -> 64 int8 each: factor * q + offset, q in two's complement.
  void (*unpack_codes)(const uint8_t* packed, int bits, int64_t steps, int factor, int offset, uint8_t* out);
  Product bits_product;
  Product codes_product;
  void (*bits_threshold)(const Windows& windows, const Panels& panels, const BitThreshold& threshold);
  void (*depthwise_codes)(const Depthwise& d, int32_t* out, int64_t step);   // raw = sum of u8 * s8
  void (*depthwise_bits)(const Depthwise& d, int32_t* out, int64_t step);    // raw = number of differing bits
  void (*run_steps)(const Step* steps, int64_t count, const Block& block);
  void (*boundary_step)(const BoundaryStep& s);
  void (*ascent_step)(const AscentStep& s);
  void (*gradient_line)(const GradientLine& line);
  // Both may be null: then layers go through blocks.
  void (*direct_bits)(const Windows& windows, const Panels& panels, const Direct& direct) = nullptr;
  void (*direct_codes)(const Windows& windows, const Panels& panels, const Direct& direct) = nullptr;
};

const KernelTable& scalar_kernels();
#ifdef ROBUSTLAB_AVX512
const KernelTable& avx512_kernels();
#endif
#ifdef ROBUSTLAB_AVX2
const KernelTable& avx2_kernels();
#endif
#ifdef ROBUSTLAB_NEON
const KernelTable& neon_kernels();
#endif

}  // namespace robustlab
