// Products against sums over single bits and bytes.
#include "harness.h"

namespace check {
namespace {

// The inputs of a product: an image, places in it, and panels of weights.
struct Problem {
  int64_t rows, runs, words, panels, panel_bytes, step;
  uint32_t tail;
  int planes, activation_planes;
  Guarded* image = nullptr;
  Guarded* weights = nullptr;
  std::vector<int64_t> starts, offsets;
  int64_t plane = 0;

  Windows windows() const {
    return {image->data(), starts.data(), rows, offsets.data(), runs, words, tail, plane};
  }
  Panels all_panels() const { return {weights->data(), panels, panel_bytes, planes, activation_planes}; }
  const uint8_t* activation(int64_t row, int64_t run, int plane_index) const {
    return image->data() + starts[static_cast<size_t>(row)] + offsets[static_cast<size_t>(run)] + plane_index * plane;
  }
  const uint8_t* weight(int64_t panel, int weight_plane, int64_t run, int64_t word) const {
    return weights->data() + panel * panel_bytes + ((weight_plane * runs + run) * words + word) * kPanelWordBytes;
  }
};

// Runs as convolutions have them: the taps of a line next to each other, or every tap on its own.
void shape(Problem& p, Random& random, int64_t values_per_word) {
  const int64_t channels = channel_count(random);
  const int64_t kernel = random.pick<int64_t>({1, 1, 2, 3, 3, 5, 7});
  int64_t values = channels;
  p.runs = kernel * kernel;
  if (random.one_in(2)) {
    values *= kernel;
    p.runs = kernel;
  }
  if (random.one_in(12)) values *= random.range(20, 60);   // many words, as in linear layers
  p.words = (values + values_per_word - 1) / values_per_word;
  const int64_t used = values - (p.words - 1) * values_per_word;
  p.tail = values_per_word == 32 ? ~0u >> (32 - used) : static_cast<uint32_t>(used);
  p.panels = (random.pick<int64_t>({1, 5, 8, 16, 17, 31, 32, 33, 64}) + kLanes - 1) / kLanes;
  while (p.panels > 1 && p.runs * p.words * p.panels > 30000) --p.panels;
  p.step = kLanes * (p.panels + random.range(0, 1));
  // naive sums cost rows * panels * words
  p.rows = row_count(random);
  const int64_t most = 60000 / (p.runs * p.words * p.panels) + 1;
  if (p.rows > most) p.rows = most;
  p.panel_bytes = p.planes * p.runs * p.words * kPanelWordBytes + (random.one_in(3) ? 64 : 0);
}

void place(Problem& p, Random& random) {
  // the last run of the last plane ends where the image does
  const int64_t span = random.range(1, 400);
  for (int64_t r = 0; r < p.rows; ++r) p.starts.push_back(random.range(0, span));
  for (int64_t r = 0; r < p.runs; ++r) p.offsets.push_back(random.range(0, span));
  p.starts[static_cast<size_t>(random.range(0, p.rows - 1))] = span;
  p.offsets[static_cast<size_t>(random.range(0, p.runs - 1))] = span;
  p.plane = 2 * span + 4 * p.words;
}

int64_t image_bytes(const Problem& p) { return p.plane * p.activation_planes; }

void describe(Case& c, const Problem& p) {
  c.describe("%lld rows, %lld runs of %lld words, tail %08x, %lld panels, planes %d x %d", static_cast<long long>(p.rows),
             static_cast<long long>(p.runs), static_cast<long long>(p.words), p.tail, static_cast<long long>(p.panels),
             p.planes, p.activation_planes);
}

void clear_tails(const Problem& p) {
  for (int64_t panel = 0; panel < p.panels; ++panel)
    for (int i = 0; i < p.planes; ++i)
      for (int64_t run = 0; run < p.runs; ++run) {
        uint8_t* word = const_cast<uint8_t*>(p.weight(panel, i, run, p.words - 1));
        for (int lane = 0; lane < kLanes; ++lane) put(word + 4 * lane, get<uint32_t>(word + 4 * lane) & p.tail);
      }
}

// Now and then all bits differ, or none, where counters are fullest.
void fill_bits(Random& random, const Guarded& image, const Guarded& weights) {
  if (!random.one_in(3)) return;
  const int x = random.pick<int>({0, 0xff});
  std::memset(image.data(), x, static_cast<size_t>(image.size()));
  std::memset(weights.data(), random.one_in(4) ? x : 0xff - x, static_cast<size_t>(weights.size()));
}

int64_t bits_sum(const Problem& p, int64_t row, int64_t panel, int lane) {
  int64_t sum = 0;
  for (int i = 0; i < p.planes; ++i) {
    for (int j = 0; j < p.activation_planes; ++j) {
      int64_t count = 0;
      for (int64_t run = 0; run < p.runs; ++run) {
        const uint8_t* a = p.activation(row, run, j);
        for (int64_t k = 0; k < p.words; ++k) {
          uint32_t x = get<uint32_t>(a + 4 * k);
          const uint32_t w = get<uint32_t>(p.weight(panel, i, run, k) + 4 * lane);
          if (k == p.words - 1) x &= p.tail;
          for (uint32_t both = p.planes > 1 ? x & w : x ^ w; both != 0; both &= both - 1) ++count;
        }
      }
      const int64_t term = count * (int64_t{1} << (i + j));
      sum += p.planes > 1 && i == p.planes - 1 ? -term : term;
    }
  }
  return sum;
}

int64_t codes_sum(const Problem& p, int64_t row, int64_t panel, int lane) {
  int64_t sum = 0;
  for (int64_t run = 0; run < p.runs; ++run)
    for (int64_t k = 0; k < p.words; ++k)
      for (int i = 0; i < 4; ++i)
        sum += int64_t{p.activation(row, run, 0)[4 * k + i]} *
               static_cast<int8_t>(p.weight(panel, 0, run, k)[4 * lane + i]);
  return sum;
}

void compare(Random& random, Case& c, const Problem& p, Product product, int64_t (*sum)(const Problem&, int64_t, int64_t, int)) {
  Output out(random, 4 * ((p.rows - 1) * p.step + p.panels * kLanes));
  std::vector<uint8_t> expected = out.copy();
  for (int64_t row = 0; row < p.rows; ++row)
    for (int64_t panel = 0; panel < p.panels; ++panel)
      for (int lane = 0; lane < kLanes; ++lane)
        put(&expected[static_cast<size_t>(4 * (row * p.step + panel * kLanes + lane))],
            static_cast<uint32_t>(sum(p, row, panel, lane)));
  product(p.windows(), p.all_panels(), out.as<int32_t>(), p.step);
  c.equal(out, expected, "another sum");
}

// Weights and activations of a small range, or all at their extremes, where sums are largest.
void fill_codes(const Problem& p, Random& random) {
  const int limit = random.pick<int>({1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128});
  const int largest = random.pick<int>({1, 3, 15, 127, 255, 255, 255});
  const bool extreme = random.one_in(2);
  uint8_t* x = p.image->data();
  for (int64_t i = 0; i < p.image->size(); ++i)
    x[i] = static_cast<uint8_t>(extreme ? largest : random.range(0, largest));
  const int sign = extreme ? random.pick<int>({-1, 1}) : 0;
  for (int64_t panel = 0; panel < p.panels; ++panel)
    for (int64_t run = 0; run < p.runs; ++run)
      for (int64_t k = 0; k < p.words; ++k) {
        uint8_t* w = const_cast<uint8_t*>(p.weight(panel, 0, run, k));
        for (int64_t i = 0; i < kPanelWordBytes; ++i) {
          const int64_t value = sign != 0 ? sign * limit : random.range(-limit, limit);
          const bool used = k < p.words - 1 || i % 4 < static_cast<int64_t>(p.tail);
          w[i] = static_cast<uint8_t>(used ? (value > 127 ? 127 : value) : 0);
        }
      }
}

}  // namespace

void check_bits_product(const KernelTable& table, Random& random, Case& c) {
  Problem p;
  p.planes = random.one_in(2) ? 1 : static_cast<int>(random.range(1, 4));
  p.activation_planes = random.one_in(2) ? 1 : static_cast<int>(random.range(1, 8));
  shape(p, random, 32);
  place(p, random);
  describe(c, p);
  Input image(random, image_bytes(p)), weights(random, p.panels * p.panel_bytes);
  p.image = &image;
  p.weights = &weights;
  fill_bits(random, image, weights);
  clear_tails(p);
  compare(random, c, p, table.bits_product, bits_sum);
}

void check_codes_product(const KernelTable& table, Random& random, Case& c) {
  Problem p;
  p.planes = p.activation_planes = 1;
  shape(p, random, 4);
  if (random.one_in(60)) {   // sums beyond 2^31
    p.runs = 2;
    p.words = random.range(8300, 9000);
    p.rows = random.range(1, 3);
    p.panels = 1;
    p.step = kLanes;
    p.panel_bytes = p.runs * p.words * kPanelWordBytes;
  }
  place(p, random);
  describe(c, p);
  Input image(random, image_bytes(p)), weights(random, p.panels * p.panel_bytes);
  p.image = &image;
  p.weights = &weights;
  fill_codes(p, random);
  compare(random, c, p, table.codes_product, codes_sum);
}

void check_bits_threshold(const KernelTable& table, Random& random, Case& c) {
  Problem p;
  p.planes = p.activation_planes = 1;
  shape(p, random, 32);
  place(p, random);
  const int64_t channels = p.panels * kLanes - random.range(0, 15);
  const int64_t patterns = random.range(1, 4), limit_step = p.panels * kLanes + random.range(0, 1) * kLanes;
  const int64_t bytes = (channels + 7) / 8, pixel = bytes + random.range(0, 3);
  const bool patterned = patterns > 1 || random.one_in(2);
  describe(c, p);
  c.describe(", %lld channels, %lld patterns", static_cast<long long>(channels), static_cast<long long>(patterns));
  Input image(random, image_bytes(p)), weights(random, p.panels * p.panel_bytes);
  p.image = &image;
  p.weights = &weights;
  fill_bits(random, image, weights);
  clear_tails(p);
  Vector<int32_t> limits(random, patterns * limit_step), pattern(random, p.rows);
  for (int64_t i = 0; i < limits.length; ++i) {
    const int64_t middle = 16 * p.words * p.runs;
    limits[i] = random.one_in(20) ? random.pick<int32_t>({INT32_MIN, INT32_MAX, -1, 0})
                                  : static_cast<int32_t>(random.range(middle - middle / 8 - 4, middle + middle / 8 + 4));
  }
  for (int64_t r = 0; r < p.rows; ++r) pattern[r] = static_cast<int32_t>(random.range(0, patterns - 1));
  Vector<uint16_t> flip(random, p.panels);
  Vector<int64_t> at(random, p.rows);
  for (int64_t r = 0; r < p.rows; ++r) at[r] = (p.rows - 1 - r) * pixel;

  Output out(random, (p.rows - 1) * pixel + bytes);
  std::vector<uint8_t> expected = out.copy();
  for (int64_t r = 0; r < p.rows; ++r) {
    uint8_t* to = &expected[static_cast<size_t>(at[r])];
    std::memset(to, 0, static_cast<size_t>(bytes));
    for (int64_t o = 0; o < channels; ++o) {
      const int64_t sum = bits_sum(p, r, o / kLanes, static_cast<int>(o % kLanes));
      const int64_t limit = limits[(patterned ? pattern[r] : 0) * limit_step + o];
      set_bit(to, o, (sum > limit) ^ ((flip[o / kLanes] >> (o % kLanes)) & 1));
    }
  }
  table.bits_threshold(p.windows(), p.all_panels(),
                       {limits.as<int32_t>(), limit_step, patterned ? pattern.as<int32_t>() : nullptr,
                        flip.as<uint16_t>(), out.data(), at.as<int64_t>(), channels});
  c.equal(out, expected, "another bit");
}

void check_depthwise(const KernelTable& table, Random& random, Case& c) {
  const bool codes = random.one_in(2);
  const int64_t channels = channel_count(random), rows = random.range(1, 40);
  const int64_t taps = random.one_in(8) ? random.range(250, 600) : random.pick<int64_t>({1, 2, 4, 9, 25, 49});
  const int64_t width = (channels + 63) / 64 * 64, lanes = (channels + 15) / 16 * 16, step = lanes + 16 * random.range(0, 1);
  c.describe("%s, %lld channels, %lld taps, %lld rows", codes ? "codes" : "bits", static_cast<long long>(channels),
             static_cast<long long>(taps), static_cast<long long>(rows));
  const int64_t span = 300, pixel = codes ? channels : (channels + 7) / 8, weight_pixel = codes ? width : width / 8;
  Input image(random, 2 * span + pixel), weights(random, taps * weight_pixel);
  if (!codes) fill_bits(random, image, weights);
  if (codes && random.one_in(3)) {
    std::memset(image.data(), 255, static_cast<size_t>(image.size()));
    std::memset(weights.data(), random.one_in(2) ? 0x80 : 0x7f, static_cast<size_t>(weights.size()));
  }
  Vector<int64_t> starts(random, rows), offsets(random, taps);
  for (int64_t r = 0; r < rows; ++r) starts[r] = r == 0 ? span : random.range(0, span);
  for (int64_t t = 0; t < taps; ++t) offsets[t] = t == 0 ? span : random.range(0, span);
  Output out(random, 4 * ((rows - 1) * step + lanes));
  std::vector<uint8_t> expected = out.copy();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < channels; ++i) {
      int64_t sum = 0;
      for (int64_t t = 0; t < taps; ++t) {
        const uint8_t* a = image.data() + starts[r] + offsets[t];
        const uint8_t* w = weights.data() + t * weight_pixel;
        sum += codes ? int64_t{a[i]} * static_cast<int8_t>(w[i]) : bit(a, i) ^ bit(w, i);
      }
      put(&expected[static_cast<size_t>(4 * (r * step + i))], static_cast<int32_t>(sum));
    }
  }
  const Depthwise d = {image.data(), starts.as<int64_t>(), rows, offsets.as<int64_t>(), taps, weights.data(), width, channels};
  (codes ? table.depthwise_codes : table.depthwise_bits)(d, out.as<int32_t>(), step);
  // lanes up to the next multiple of 16 may hold anything
  for (int64_t r = 0; r < rows; ++r)
    std::memcpy(&expected[static_cast<size_t>(4 * (r * step + channels))], out.data() + 4 * (r * step + channels),
                static_cast<size_t>(4 * (lanes - channels)));
  c.equal(out, expected, "another sum");
}

}  // namespace check
