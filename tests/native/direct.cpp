// Direct products against sums over single bits and bytes, and a store that rounds as the steps do.
#include <algorithm>

#include "harness.h"

namespace check {
namespace {

struct Problem {
  bool codes;
  int planes, activation_planes;
  int64_t runs, words, panels, panel_bytes, width, lines, in, step, plane;
  uint32_t tail;
  std::vector<int64_t> offsets;
  const uint8_t* image;
  const uint8_t* weights;

  const uint8_t* activation(int64_t line, int64_t x, int64_t run, int at_plane) const {
    return image + line * in + x * step + offsets[static_cast<size_t>(run)] + at_plane * plane;
  }
  const uint8_t* weight(int64_t panel, int at_plane, int64_t run, int64_t word) const {
    return weights + panel * panel_bytes + ((at_plane * runs + run) * words + word) * kPanelWordBytes;
  }
};

int64_t sum_of(const Problem& p, int64_t line, int64_t x, int64_t channel) {
  const int64_t panel = channel / kLanes, lane = channel % kLanes;
  int64_t sum = 0;
  for (int i = 0; i < p.planes; ++i)
    for (int j = 0; j < p.activation_planes; ++j)
      for (int64_t run = 0; run < p.runs; ++run)
        for (int64_t k = 0; k < p.words; ++k) {
          const uint8_t* a = p.activation(line, x, run, j) + 4 * k;
          const uint8_t* w = p.weight(panel, i, run, k) + 4 * lane;
          if (p.codes) {
            for (int b = 0; b < 4; ++b) sum += int64_t{a[b]} * static_cast<int8_t>(w[b]);
            continue;
          }
          const uint32_t used = get<uint32_t>(a) & (k == p.words - 1 ? p.tail : ~0u), weight = get<uint32_t>(w);
          int64_t count = 0;
          for (uint32_t both = p.planes > 1 ? used & weight : used ^ weight; both != 0; both &= both - 1) ++count;
          count *= int64_t{1} << (i + j);
          sum += p.planes > 1 && i == p.planes - 1 ? -count : count;
        }
  return sum;
}

void shape(Problem& p, Random& random, Op store) {
  p.codes = store != Op::kStoreBelow && random.one_in(3);
  p.planes = p.activation_planes = 1;
  if (!p.codes && store != Op::kStoreBelow && random.one_in(2)) {
    p.planes = static_cast<int>(random.range(1, 3));
    p.activation_planes = static_cast<int>(random.range(1, 4));
  }
  p.runs = random.range(1, 4);
  p.words = random.range(1, 5);
  p.tail = p.codes || random.one_in(2) ? ~0u : ~0u >> random.range(1, 31);
  p.panels = 2 * random.range(1, 2);
  p.panel_bytes = p.planes * p.runs * p.words * kPanelWordBytes + (random.one_in(3) ? 64 : 0);
  p.width = random.range(1, 26);
  p.lines = random.range(1, 3);
  p.step = random.range(1, 9);
  p.in = random.range(1, 40);
  for (int64_t run = 0; run < p.runs; ++run) p.offsets.push_back(random.range(0, 50));
  p.offsets.back() = 50;
  p.plane = (p.lines - 1) * p.in + (p.width - 1) * p.step + 50 + 4 * p.words;
}

}  // namespace

void check_direct(const KernelTable& table, Random& random, Case& c) {
  const Op store = random.pick<Op>({Op::kStoreBelow, Op::kStore, Op::kStorePlanar, Op::kStoreCodes, Op::kStorePlanes});
  Problem p{};
  shape(p, random, store);
  const bool signs = !p.codes && p.planes == 1 && p.activation_planes == 1 && random.one_in(2);
  const int64_t channels = p.panels * kLanes, patterns = random.range(1, 3);
  c.describe("store %d, %s of %d x %d planes, %lld x %lld pixels, %lld channels, %lld runs of %lld words, tail %08x",
             static_cast<int>(store), p.codes ? "codes" : signs ? "signs" : "bits", p.planes, p.activation_planes,
             static_cast<long long>(p.lines), static_cast<long long>(p.width), static_cast<long long>(channels),
             static_cast<long long>(p.runs), static_cast<long long>(p.words), p.tail);
  const auto product = p.codes ? table.direct_codes : table.direct_bits;
  if (product == nullptr) return;   // its layers go through blocks, which other checks cover

  Input image(random, p.plane * p.activation_planes), weights(random, p.panels * p.panel_bytes);
  p.image = image.data();
  p.weights = weights.data();
  for (int64_t panel = 0; panel < p.panels; ++panel)
    for (int i = 0; i < p.planes; ++i)
      for (int64_t run = 0; run < p.runs; ++run)
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          uint8_t* last = const_cast<uint8_t*>(p.weight(panel, i, run, p.words - 1)) + 4 * lane;
          put(last, get<uint32_t>(last) & p.tail);
        }

  Direct d{};
  d.lines = p.lines;
  d.in = p.in;
  d.step = p.step;
  d.store = store;
  d.factor = signs ? -2 : random.pick<int32_t>({1, 2, 4});
  d.quantizer = random_quantizer(random);
  if (store == Op::kStorePlanes) d.quantizer.largest = std::min(d.quantizer.largest, 15);
  d.quantizer.doubled_zero = std::min(d.quantizer.doubled_zero, 2 * d.quantizer.largest);
  Vector<int32_t> base(random, patterns * channels);
  Vector<float> float_base(random, base.length), scale(random, channels), bias(random, channels);
  for (int64_t i = 0; i < base.length; ++i) {
    const auto middle = static_cast<int32_t>(16 * p.runs * p.words);
    base[i] = static_cast<int32_t>(random.range(middle - 40, middle + 40));
    float_base[i] = static_cast<float>(base[i]);
  }
  for (int64_t o = 0; o < channels; ++o) {
    scale[o] = random.number();
    bias[o] = random.one_in(3) ? -0.0f : random.number();
  }
  Vector<uint16_t> flip(random, p.panels);
  Vector<int64_t> base_at(random, p.width), at(random, p.width);
  // pixels next to each other in planes, else in any order with gaps
  const bool planar = store == Op::kStorePlanar;
  const int64_t pixel = (store == Op::kStore ? 4 * channels : store == Op::kStoreCodes ? channels : channels / 8) +
                        random.range(0, 3);
  for (int64_t x = 0; x < p.width; ++x) {
    base_at[x] = random.range(0, patterns - 1) * channels;
    at[x] = planar ? 4 * x : (p.width - 1 - x) * pixel;
  }
  d.out = planar ? 4 * p.width : p.width * pixel;
  const int64_t area = p.lines * d.out;
  d.plane = area;
  int64_t bytes = area;
  if (planar) bytes = channels * area;
  if (store == Op::kStorePlanes)
    for (int32_t bit = 2; bit <= d.quantizer.largest; bit *= 2) bytes += area;
  Output out(random, bytes);
  std::vector<uint8_t> expected = out.copy();

  for (int64_t line = 0; line < p.lines; ++line) {
    for (int64_t x = 0; x < p.width; ++x) {
      uint8_t* to = &expected[static_cast<size_t>(line * d.out + at[x])];
      for (int64_t o = 0; o < channels; ++o) {
        const int64_t raw = sum_of(p, line, x, o);
        const int32_t start = base[base_at[x] + o];
        if (store == Op::kStoreBelow) {
          set_bit(to, o, (raw > start) ^ ((flip[o / kLanes] >> (o % kLanes)) & 1));
          continue;
        }
        const float product_of = static_cast<float>(start + d.factor * raw) * scale[o];
        const float y = product_of + bias[o];
        if (store == Op::kStore || planar) {
          put(to + (planar ? o * area : 4 * o), y);
          continue;
        }
        const int code = reference_code(y, d.quantizer);
        if (store == Op::kStoreCodes) to[o] = static_cast<uint8_t>(code);
        else for (int bit = 0; 1 << bit <= d.quantizer.largest; ++bit) set_bit(to + bit * area, o, code >> bit & 1);
      }
    }
  }

  d.base = store != Op::kStoreBelow && signs ? static_cast<const void*>(float_base.data()) : base.data();
  d.base_at = base_at.as<int64_t>();
  d.flip = flip.as<uint16_t>();
  d.scale = scale.as<float>();
  d.bias = bias.as<float>();
  d.image = out.data();
  d.at = at.as<int64_t>();
  product({image.data(), nullptr, p.width, p.offsets.data(), p.runs, p.words, p.tail, p.plane},
          {weights.data(), p.panels, p.panel_bytes, p.planes, p.activation_planes}, d);
  if (store == Op::kStore || planar) {
    // any NaN is as good as another
    for (int64_t line = 0; line < p.lines; ++line)
      for (int64_t x = 0; x < p.width; ++x)
        for (int64_t o = 0; o < channels; ++o) {
          const int64_t i = line * d.out + at[x] + (planar ? o * area : 4 * o);
          uint8_t* wanted = &expected[static_cast<size_t>(i)];
          const float found = get<float>(out.data() + i), right = get<float>(wanted);
          if (found != found && right != right) std::memcpy(wanted, out.data() + i, 4);
        }
  }
  c.equal(out, expected, "another value");
}

}  // namespace check
