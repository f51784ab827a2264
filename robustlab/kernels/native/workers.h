// A pool of threads that wait for work: 50 microseconds awake, then asleep.
#pragma once

#include <cstdint>

namespace robustlab {

// Calls work(context) once on the calling thread and at most once on each of up to `threads` - 1 workers at the same time;
// returns when all calls have ended. `work` must not throw, and must find nothing left to do if it comes late: a worker
// that has not started when the caller is through is not waited for. One caller at a time.
void run_on_pool(int threads, void (*work)(void* context), void* context);

// In a child process after fork(): the workers are gone, the next run starts new ones.
void forget_pool();

}  // namespace robustlab
