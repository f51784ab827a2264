#include "harness.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <limits>

namespace check {
namespace {

constexpr size_t kRegion = 16u << 20;   // usable bytes of one mapping
constexpr int64_t kFront = 256;        // bytes in front of a buffer that are checked
constexpr uint8_t kFrontByte = 0xa5;

struct Region {
  uint8_t* begin;
  bool used;
};
std::vector<Region> regions;

char description[1024];
int64_t failure_count = 0;

size_t take_region(int64_t needed) {
  if (needed + kFront > static_cast<int64_t>(kRegion)) {
    std::fprintf(stderr, "%s: asks for too much memory\n", description);
    std::exit(2);
  }
  for (size_t i = 0; i < regions.size(); ++i) {
    if (!regions[i].used) {
      regions[i].used = true;
      return i;
    }
  }
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* p = mmap(nullptr, kRegion + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED || mprotect(static_cast<uint8_t*>(p) + kRegion, page, PROT_NONE) != 0) {
    std::perror("guard page");
    std::exit(2);
  }
  regions.push_back({static_cast<uint8_t*>(p), true});
  return regions.size() - 1;
}

void crashed(int) {
  static const char text[] = "crashed in: ";
  if (write(2, text, sizeof text - 1) < 0 || write(2, description, std::strlen(description)) < 0) _exit(1);
  if (write(2, "\n", 1) < 0) _exit(1);
  _exit(1);
}

struct Handler {
  Handler() {
#if !defined(__SANITIZE_ADDRESS__)
    signal(SIGSEGV, crashed);
    signal(SIGBUS, crashed);
#endif
    signal(SIGILL, crashed);
  }
} handler;

}  // namespace

void Random::fill(void* to, int64_t bytes) {
  uint8_t* p = static_cast<uint8_t*>(to);
  for (int64_t i = 0; i < bytes; i += 8) {
    const uint64_t value = next();
    std::memcpy(p + i, &value, static_cast<size_t>(bytes - i < 8 ? bytes - i : 8));
  }
}

float Random::plain() { return static_cast<float>(range(1, 4000)) / 1000.0f * (one_in(2) ? 1.0f : -1.0f); }

float Random::number() {
  switch (range(0, 39)) {
    case 0: return 0.0f;
    case 1: return -0.0f;
    case 2: return std::numeric_limits<float>::quiet_NaN();
    case 3: return std::numeric_limits<float>::infinity();
    case 4: return -std::numeric_limits<float>::infinity();
    case 5: return one_in(2) ? 3e38f : -3e38f;
    case 6: return one_in(2) ? 1e-42f : -1e-42f;
    case 7: case 8: case 9: case 10: return static_cast<float>(range(-600, 600)) / 2.0f;
    case 11: case 12: return static_cast<float>(range(-2000000000, 2000000000));
    default: return plain();
  }
}

int64_t channel_count(Random& random) {
  return random.pick<int64_t>({1, 3, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 257});
}

int64_t row_count(Random& random) {
  return random.one_in(2) ? random.pick<int64_t>({1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 111, 112})
                          : random.range(1, kBlockRows);
}

Guarded::Guarded(Random& random, int64_t bytes, int64_t slack) : region_(take_region(bytes + slack)), bytes_(bytes) {
  data_ = regions[region_].begin + kRegion - static_cast<size_t>(bytes + slack);
  std::memset(data_ - kFront, kFrontByte, kFront);
  random.fill(data_, bytes + slack);
}

Guarded::~Guarded() { regions[region_].used = false; }

bool Guarded::front_untouched() const {
  for (int64_t i = 1; i <= kFront; ++i)
    if (data_[-i] != kFrontByte) return false;
  return true;
}

Case::Case(const char* table, const char* what, uint64_t number) {
  std::snprintf(description, sizeof description, "%s %s, case %llu: ", table, what,
                static_cast<unsigned long long>(number));
}

void Case::describe(const char* format, ...) {
  const size_t length = std::strlen(description);
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(description + length, sizeof description - length, format, arguments);
  va_end(arguments);
}

void Case::fail(const char* reason, int64_t at) {
  if (++failure_count <= 20)
    std::fprintf(stderr, "%s: %s at %lld\n", description, reason, static_cast<long long>(at));
}

void Case::equal(const Output& actual, const std::vector<uint8_t>& expected, const char* part) {
  if (!actual.front_untouched()) return fail("wrote in front of", 0);
  for (size_t i = 0; i < expected.size(); ++i)
    if (actual.data()[i] != expected[i]) return fail(part, static_cast<int64_t>(i));
}

int64_t Case::failures() { return failure_count; }

const std::vector<const KernelTable*>& tables() {
  static const std::vector<const KernelTable*> found = [] {
    std::vector<const KernelTable*> list = {&scalar_kernels()};
#if defined(ROBUSTLAB_AVX2)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt")) list.push_back(&avx2_kernels());
#endif
#if defined(ROBUSTLAB_AVX512)
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vpopcntdq") &&
        __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("gfni"))
      list.push_back(&avx512_kernels());
#endif
#if defined(ROBUSTLAB_NEON)
    list.push_back(&neon_kernels());
#endif
    return list;
  }();
  return found;
}

Quantizer random_quantizer(Random& random) {
  const int32_t largest = (1 << random.range(1, 8)) - 1;
  const float scale = random.one_in(3) ? 0.5f : static_cast<float>(random.range(1, 900)) / 128.0f / static_cast<float>(largest);
  return {scale, static_cast<int32_t>(random.range(0, 2 * largest)), largest};
}

int reference_code(float x, const Quantizer& q) {
  const float t = x / q.scale;
  const double steps = std::isnan(t) ? 0.0 : static_cast<double>(t);
  const double code = q.doubled_zero % 2 == 0 ? std::nearbyint(steps) + q.doubled_zero / 2
                                              : std::floor(steps) + (q.doubled_zero + 1) / 2;
  return static_cast<int>(code < 0 ? 0 : code > q.largest ? q.largest : code);
}

}  // namespace check
