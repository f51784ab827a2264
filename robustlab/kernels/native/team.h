// Threads that torch's own OpenMP runtime keeps.
#pragma once

namespace robustlab {

// The entry of a parallel region: calls body(context) on `threads` threads, the calling one among them, and returns when
// all have ended. Flags are 0. The same in libgomp, libiomp5 and LLVM's libomp on Linux.
using ParallelRegion = void (*)(void (*body)(void*), void* context, unsigned threads, unsigned flags);

// Null if torch is not loaded, has no such runtime, or this is no Linux.
ParallelRegion find_torch_team();

// Whether this process is a fork that has not started another program since (false where that cannot be told).
bool is_forked_copy();

}  // namespace robustlab
