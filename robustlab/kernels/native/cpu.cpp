#include "cpu.h"

#include <algorithm>

namespace robustlab {
namespace {

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
// __builtin_cpu_supports also asks the operating system (XGETBV) whether it saves the wide registers.
#define ROBUSTLAB_FLAG(name)               \
  if (__builtin_cpu_supports(name)) {      \
    flags.push_back(name);                 \
  }
std::vector<std::string> detect() {
  __builtin_cpu_init();
  std::vector<std::string> flags;
  ROBUSTLAB_FLAG("popcnt")
  ROBUSTLAB_FLAG("avx2")
  ROBUSTLAB_FLAG("avx512f")
  ROBUSTLAB_FLAG("avx512bw")
  ROBUSTLAB_FLAG("avx512dq")
  ROBUSTLAB_FLAG("avx512vl")
  ROBUSTLAB_FLAG("avx512vnni")
  ROBUSTLAB_FLAG("avx512vpopcntdq")
  ROBUSTLAB_FLAG("avx512vbmi")
  ROBUSTLAB_FLAG("gfni")
  return flags;
}
#undef ROBUSTLAB_FLAG
#elif defined(__aarch64__)
std::vector<std::string> detect() { return {"neon"}; }   // part of the architecture
#else
std::vector<std::string> detect() { return {}; }
#endif

}  // namespace

std::vector<std::string> cpu_flags() { return detect(); }

std::vector<const KernelTable*> available_kernels() {
  std::vector<const KernelTable*> tables = {&scalar_kernels()};
  const std::vector<std::string> flags = detect();
  [[maybe_unused]] const auto has = [&](std::initializer_list<const char*> names) {
    return std::all_of(names.begin(), names.end(), [&](const char* name) {
      return std::find(flags.begin(), flags.end(), name) != flags.end();
    });
  };
#ifdef ROBUSTLAB_NEON
  tables.push_back(&neon_kernels());
#endif
#ifdef ROBUSTLAB_AVX2
  if (has({"avx2", "popcnt"})) tables.push_back(&avx2_kernels());
#endif
#ifdef ROBUSTLAB_AVX512
  if (has({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx512vpopcntdq", "avx512vbmi", "gfni"}))
    tables.push_back(&avx512_kernels());
#endif
  return tables;
}

}  // namespace robustlab
