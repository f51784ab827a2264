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
  ROBUSTLAB_FLAG("avx2")
  ROBUSTLAB_FLAG("avx512f")
  ROBUSTLAB_FLAG("avx512bw")
  ROBUSTLAB_FLAG("avx512vl")
  ROBUSTLAB_FLAG("avx512vnni")
  ROBUSTLAB_FLAG("avx512vpopcntdq")
  return flags;
}
#undef ROBUSTLAB_FLAG
#else
std::vector<std::string> detect() { return {}; }
#endif

}  // namespace

std::vector<std::string> cpu_flags() { return detect(); }

std::vector<const KernelTable*> available_kernels() {
  std::vector<const KernelTable*> tables = {&scalar_kernels()};
#ifdef ROBUSTLAB_AVX512
  const std::vector<std::string> flags = detect();
  const auto has = [&](const char* name) { return std::find(flags.begin(), flags.end(), name) != flags.end(); };
  if (has("avx512f") && has("avx512bw") && has("avx512vl") && has("avx512vnni") && has("avx512vpopcntdq"))
    tables.push_back(&avx512_kernels());
#endif
  return tables;
}

}  // namespace robustlab
