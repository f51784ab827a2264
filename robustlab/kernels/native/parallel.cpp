#include "parallel.h"

#include <atomic>
#include <exception>

#include "workers.h"
#include "team.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace robustlab {
namespace {

std::atomic<bool> busy{false};
thread_local bool inside = false;

// fork() copies the calling thread alone, and an OpenMP runtime that had workers before then waits for them forever. So
// a forked process has a pool of its own. If the fork came before this library, nobody knows what the runtime did.
std::atomic<bool> forked{is_forked_copy()};

#if defined(__unix__) || defined(__APPLE__)
void after_fork() {
  forked.store(true, std::memory_order_relaxed);
  busy.store(false, std::memory_order_relaxed);
  forget_pool();
}

[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, after_fork);
#endif

// torch's workers spin for milliseconds after each of its operations, which is longer than most runs here last. Workers
// of ours would have to share the cores with them; so the tasks run on torch's.
ParallelRegion team() {
  static const ParallelRegion found = find_torch_team();
  return forked.load(std::memory_order_relaxed) ? nullptr : found;
}

struct Release {
  ~Release() { busy.store(false, std::memory_order_release); }
};

struct Run {
  const Tasks& tasks;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error{};
};

void work(void* context) {
  Run& run = *static_cast<Run*>(context);
  const bool outer = inside;
  inside = true;
  for (;;) {
    const int64_t index = run.next.fetch_add(1, std::memory_order_relaxed);
    if (index >= run.tasks.count) break;
    try {
      run.tasks.run(run.tasks.context, index);
    } catch (...) {
      if (!run.failed.exchange(true)) run.error = std::current_exception();
      run.next.store(run.tasks.count, std::memory_order_relaxed);
    }
  }
  inside = outer;
}

}  // namespace

void run_parallel(int threads, const Tasks& tasks) {
  const bool alone = threads < 2 || tasks.count < 2 || inside;
  if (alone || busy.exchange(true, std::memory_order_acquire)) {
    for (int64_t index = 0; index < tasks.count; ++index) tasks.run(tasks.context, index);
    return;
  }
  Run run{tasks};
  {
    const Release at_the_end;
    if (const ParallelRegion region = team()) {
      region(work, &run, static_cast<unsigned>(threads), 0);
    } else {
      run_on_pool(threads, work, &run);
    }
  }
  if (run.error) std::rethrow_exception(run.error);
}

const char* parallel_runtime() { return team() != nullptr ? "openmp" : "own"; }

}  // namespace robustlab
