// Packing of floats and unpacking of weights, one value at a time.
#include "harness.h"

namespace check {
namespace {

// Float images: planes of pixels, or the neighbouring channels of one pixel.
struct Planes {
  int64_t channels, pixels, step;

  explicit Planes(Random& random) : channels(channel_count(random)) {
    pixels = random.one_in(3) ? 1 : random.pick<int64_t>({2, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 49, 100});
    step = pixels + (random.one_in(3) ? random.range(1, 9) : 0);
  }
  int64_t floats() const { return (channels - 1) * step + pixels; }
};

void fill(Random& random, const Input& x) {
  for (int64_t i = 0; i < x.size(); i += 4) put(x.data() + i, random.number());
}

}  // namespace

void check_pack_signs(const KernelTable& table, Random& random, Case& c) {
  const Planes planes(random);
  const int64_t bytes = (planes.channels + 7) / 8, pixel = bytes + random.range(0, 3);
  const bool thresholds = random.one_in(2);
  c.describe("%lld channels, %lld pixels, %s thresholds", static_cast<long long>(planes.channels),
             static_cast<long long>(planes.pixels), thresholds ? "with" : "without");
  // one byte more than whole floats shifts all of them away from their natural address
  const int64_t shift = random.range(0, 3);
  Input x(random, 4 * planes.floats());
  fill(random, x);
  Vector<float> threshold(random, planes.channels);
  for (int64_t i = 0; i < planes.channels; ++i) threshold[i] = random.one_in(4) ? random.number() : random.plain();
  Output out(random, (planes.pixels - 1) * pixel + bytes + shift);
  std::vector<uint8_t> expected = out.copy();
  for (int64_t p = 0; p < planes.pixels; ++p) {
    uint8_t* to = &expected[static_cast<size_t>(p * pixel + shift)];
    std::memset(to, 0, static_cast<size_t>(bytes));
    for (int64_t i = 0; i < planes.channels; ++i)
      set_bit(to, i, x.as<float>()[i * planes.step + p] < (thresholds ? threshold[i] : 0.0f));
  }
  table.pack_signs({x.as<float>(), planes.step, planes.channels, planes.pixels,
                    thresholds ? threshold.as<float>() : nullptr, out.data() + shift, pixel});
  c.equal(out, expected, "another bit");
}

void check_pack_codes(const KernelTable& table, Random& random, Case& c) {
  const Planes planes(random);
  const Quantizer q = random_quantizer(random);
  int bits = 0;
  while (q.largest >> bits > 0) ++bits;
  const int bit_planes = random.one_in(2) ? bits : 0;
  const int64_t bytes = bit_planes > 0 ? (planes.channels + 7) / 8 : planes.channels;
  const int64_t pixel = bytes + random.range(0, 3);
  const int64_t area = (planes.pixels - 1) * pixel + bytes, plane = area + random.range(0, 9);
  const bool subtract = random.one_in(2), divide = random.one_in(2);
  c.describe("%lld channels, %lld pixels, %d planes, zero %d/2, largest %d, sub %d, div %d",
             static_cast<long long>(planes.channels), static_cast<long long>(planes.pixels), bit_planes, q.doubled_zero,
             q.largest, subtract, divide);
  Input x(random, 4 * planes.floats());
  fill(random, x);
  Vector<float> sub(random, planes.channels), div(random, planes.channels);
  for (int64_t i = 0; i < planes.channels; ++i) {
    sub[i] = random.plain();
    div[i] = random.plain();
  }
  Output out(random, bit_planes > 0 ? (bit_planes - 1) * plane + area : area);
  std::vector<uint8_t> expected = out.copy();
  for (int64_t p = 0; p < planes.pixels; ++p) {
    uint8_t* to = &expected[static_cast<size_t>(p * pixel)];
    for (int b = 0; b < bit_planes; ++b) std::memset(to + b * plane, 0, static_cast<size_t>(bytes));
    for (int64_t i = 0; i < planes.channels; ++i) {
      float v = x.as<float>()[i * planes.step + p];
      if (subtract) v = v - sub[i];
      if (divide) v = v / div[i];
      const int code = reference_code(v, q);
      if (bit_planes == 0) to[i] = static_cast<uint8_t>(code);
      for (int b = 0; b < bit_planes; ++b) set_bit(to + b * plane, i, (code >> b) & 1);
    }
  }
  table.pack_codes({x.as<float>(), planes.step, planes.channels, planes.pixels, subtract ? sub.as<float>() : nullptr,
                    divide ? div.as<float>() : nullptr, q, out.data(), pixel, bit_planes, plane});
  c.equal(out, expected, "another code");
}

void check_unpack_codes(const KernelTable& table, Random& random, Case& c) {
  const int bits = static_cast<int>(random.range(1, 8));
  const int64_t steps = random.range(0, 40);
  int factor = random.pick<int>({1, 1, 2, -2, -1}), offset = static_cast<int>(random.range(-3, 3));
  if (bits > 6) {   // what comes out has to fit a byte
    factor = 1;
    offset = 0;
  }
  c.describe("%d bits, %lld steps, factor %d, offset %d", bits, static_cast<long long>(steps), factor, offset);
  Input packed(random, steps * bits * 8);
  Output out(random, steps * kPanelWordBytes);
  std::vector<uint8_t> expected = out.copy();
  for (int64_t i = 0; i < steps * 64; ++i) {
    int q = 0;
    for (int b = 0; b < bits; ++b) {
      const int set = bit(packed.data() + 8 * (i / 64 * bits + b), i % 64);
      q += (b == bits - 1 ? -set : set) * (1 << b);
    }
    expected[static_cast<size_t>(i)] = static_cast<uint8_t>(factor * q + offset);
  }
  table.unpack_codes(packed.data(), bits, steps, factor, offset, out.data());
  c.equal(out, expected, "another code");
}

}  // namespace check
