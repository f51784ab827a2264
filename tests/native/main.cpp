// Runs seeded random cases of every function of every table this machine can run. Arguments: cases for each table
// (default 1500), seed (default 1), and the number of the only case to run.
#include <cinttypes>

#include "harness.h"

namespace {

struct Named {
  const char* name;
  check::Check check;
};

const Named kChecks[] = {
    {"bits_product", check::check_bits_product},     {"codes_product", check::check_codes_product},
    {"bits_threshold", check::check_bits_threshold}, {"depthwise", check::check_depthwise},
    {"pack_signs", check::check_pack_signs},         {"pack_codes", check::check_pack_codes},
    {"unpack_codes", check::check_unpack_codes},     {"run_steps", check::check_steps},
    {"run_steps", check::check_steps},               {"convolution", check::check_conv},              {"direct", check::check_direct},
    {"convolution", check::check_conv},              {"boundary_step", check::check_boundary_step},
    {"image_gradient", check::check_image_gradient}, {"ascent_step", check::check_ascent_step},
    {"paint_square", check::check_paint_square},
};

}  // namespace

int main(int argc, char** argv) {
  const uint64_t cases = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1500;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  const uint64_t first = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 0;
  const uint64_t end = argc > 3 ? first + 1 : cases;
  constexpr uint64_t kinds = sizeof kChecks / sizeof kChecks[0];
  std::string names;
  for (const robustlab::KernelTable* table : check::tables()) {
    for (uint64_t number = first; number < end; ++number) {
      // every table gets the same cases
      check::Random random(seed * 1000003 + number);
      const Named& kind = kChecks[number % kinds];
      check::Case c(table->name, kind.name, number);
      kind.check(*table, random, c);
    }
    names += std::string(names.empty() ? "" : ", ") + table->name;
  }
  const int64_t failures = check::Case::failures();
  std::printf("native kernels: %s, %" PRIu64 " cases of each (seed %" PRIu64 "), %lld failed\n", names.c_str(), end - first,
              seed, static_cast<long long>(failures));
  return failures == 0 ? 0 : 1;
}
