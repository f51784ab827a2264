#include "workers.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace robustlab {
namespace {

constexpr auto kAwake = std::chrono::microseconds(50);
constexpr int kMostWorkers = 255;

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether `ready` came true within kAwake.
template <class Ready>
bool await(const Ready& ready) {
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
      pause();
    }
    if (std::chrono::steady_clock::now() - start > kAwake) return false;
  }
}

struct Worker {
  std::atomic<bool> asleep{false};
  std::mutex mutex;
  std::condition_variable wake;
};

class Pool {
 public:
  Pool() { workers_.reserve(static_cast<size_t>(kMostWorkers)); }

  void run(int threads, void (*work)(void*), void* context) {
    const size_t limit = static_cast<size_t>(std::min(threads - 1, kMostWorkers));
    grow(limit);
    work_ = work;
    context_ = context;
    limit_.store(limit, std::memory_order_relaxed);
    state_.fetch_add(kOpen, std::memory_order_seq_cst);
    // One that is about to sleep and is not seen here looks at state_ again after it has said so.
    for (size_t i = 0; i < std::min(limit, workers_.size()); ++i) {
      if (!workers_[i]->asleep.load(std::memory_order_seq_cst)) continue;
      { const std::lock_guard<std::mutex> lock(workers_[i]->mutex); }
      workers_[i]->wake.notify_one();
    }
    work(context);
    // Closed, nobody can enter any more; then the run belongs to this thread alone again.
    state_.fetch_add(kOpen, std::memory_order_acq_rel);
    const auto empty = [&] { return (state_.load(std::memory_order_acquire) & kInside) == 0; };
    while (!await(empty)) std::this_thread::yield();
  }

 private:
  // state_: workers inside the run in the low bits, above them a count of openings and closings; odd is open.
  static constexpr uint64_t kInside = 0xffff, kOpen = 0x10000;
  static bool open(uint64_t state) { return (state & kOpen) != 0; }
  static uint64_t turn(uint64_t state) { return state & ~kInside; }

  void grow(size_t count) {
    while (workers_.size() < count) {
      auto worker = std::make_unique<Worker>();
      try {
        std::thread(&Pool::serve, this, workers_.size(), worker.get()).detach();
      } catch (const std::system_error&) {
        return;  // no more threads to be had; those there are take all tasks
      }
      workers_.push_back(std::move(worker));  // there is room: this cannot throw
    }
  }

  void serve(size_t number, Worker* self) {
    uint64_t seen = 0, state = 0;
    const auto changed = [&](uint64_t from) {
      state = state_.load(std::memory_order_seq_cst);
      return turn(state) != from && number < limit_.load(std::memory_order_relaxed);
    };
    for (;;) {
      if (!await([&] { return changed(seen) && open(state); })) {
        const uint64_t last = turn(state);
        std::unique_lock<std::mutex> lock(self->mutex);
        self->asleep.store(true, std::memory_order_seq_cst);
        // Also ends for a run that is over by now: where there was one, the next is likely to follow soon.
        self->wake.wait(lock, [&] { return changed(last); });
        self->asleep.store(false, std::memory_order_relaxed);
        continue;
      }
      // Fails if another worker comes in at the same moment (then again) or the run has been closed since.
      if (!state_.compare_exchange_strong(state, state + 1, std::memory_order_acq_rel)) continue;
      seen = turn(state);
      work_(context_);
      state_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  alignas(64) std::atomic<uint64_t> state_{0};
  void (*work_)(void*) = nullptr;  // these three are written while nobody is inside and the run is closed
  void* context_ = nullptr;
  std::atomic<size_t> limit_{0};   // workers that may enter: those with smaller numbers
  std::vector<std::unique_ptr<Worker>> workers_;
};

// Never destroyed: workers sleep in it until the process ends.
Pool* pool = nullptr;

}  // namespace

void run_on_pool(int threads, void (*work)(void* context), void* context) {
  if (pool == nullptr) pool = new Pool;
  pool->run(threads, work, context);
}

void forget_pool() { pool = nullptr; }

}  // namespace robustlab
