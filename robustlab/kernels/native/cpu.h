// Which kernels can run on this processor.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace robustlab {

// Tables that were compiled and that processor and operating system support, slowest first.
std::vector<const KernelTable*> available_kernels();

// The instruction sets the kernels know and this processor has.
std::vector<std::string> cpu_flags();

}  // namespace robustlab
