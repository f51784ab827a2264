// Independent tasks on several threads: on torch's own OpenMP team where torch has one, else on a pool of ours.
#pragma once

#include <cstdint>

namespace robustlab {

struct Tasks {
  void (*run)(void* context, int64_t index);  // may throw
  void* context;
  int64_t count;
};

// Runs every index in [0, count) exactly once, on at most `threads` threads, the calling one among them, and returns
// when all have ended. Which thread runs which index, and in what order, is open. Once a task has thrown, tasks that
// have not started are dropped, and the first exception is rethrown here.
//
// Everything runs on the calling thread if threads < 2, inside a task, and while another thread's tasks hold the
// workers. A process that was forked may call this like any other.
//
// `threads` should be 1 or what the caller of the library asked for, never something in between that fits the tasks:
// OpenMP runtimes end and start threads when the sizes of successive teams differ, which takes milliseconds.
void run_parallel(int threads, const Tasks& tasks);

// Where the tasks of this process run: "openmp" (the team of the runtime that torch links to) or "own".
const char* parallel_runtime();

}  // namespace robustlab
