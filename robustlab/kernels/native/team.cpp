#include "team.h"

#if defined(__linux__)

#include <dlfcn.h>
#include <link.h>

#include <cstdio>
#include <cstring>

namespace robustlab {

// Looked up through torch's own library, since other packages bring further copies of OpenMP runtimes.
ParallelRegion find_torch_team() {
  const auto visit = [](dl_phdr_info* info, size_t, void* found) {
    if (info->dlpi_name == nullptr || std::strstr(info->dlpi_name, "libtorch_cpu.") == nullptr) return 0;
    void* library = dlopen(info->dlpi_name, RTLD_NOLOAD | RTLD_LAZY);
    if (library == nullptr) return 0;
    *static_cast<void**>(found) = dlsym(library, "GOMP_parallel");
    dlclose(library);  // torch itself keeps it loaded
    return 1;
  };
  void* entry = nullptr;
  dl_iterate_phdr(visit, &entry);
  return reinterpret_cast<ParallelRegion>(entry);
}

bool is_forked_copy() {
  constexpr unsigned kForkedNoExec = 0x40;  // PF_FORKNOEXEC of the kernel
  std::FILE* file = std::fopen("/proc/self/stat", "re");
  if (file == nullptr) return false;
  char text[512];
  const size_t size = std::fread(text, 1, sizeof text - 1, file);
  std::fclose(file);
  text[size] = '\0';
  // the name in parentheses may hold anything; behind it: state, five numbers, flags
  const char* rest = std::strrchr(text, ')');
  unsigned flags = 0;
  if (rest == nullptr || std::sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %u", &flags) != 1) return false;
  return (flags & kForkedNoExec) != 0;
}

}  // namespace robustlab

#else

namespace robustlab {

ParallelRegion find_torch_team() { return nullptr; }

bool is_forked_copy() { return false; }

}  // namespace robustlab

#endif
