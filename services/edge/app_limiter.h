#ifndef SERVICES_EDGE_APP_LIMITER_H_
#define SERVICES_EDGE_APP_LIMITER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "services/edge/rate_limiter.h"

namespace mycelium::edge {

// How much of a limit is taken, over all workers. Lock-free; thread-safe.
class SlotCounter {
 public:
  // Takes a slot if fewer than `limit` are taken.
  bool TryTake(int32_t limit) {
    int32_t taken = taken_.load();
    do {
      if (taken >= limit) return false;
    } while (!taken_.compare_exchange_weak(taken, taken + 1));
    return true;
  }
  // Gives one back.
  void Give() { taken_.fetch_sub(1); }

  int32_t taken() const { return taken_.load(); }
  // For those that only look.
  const std::atomic<int32_t>& cell() const { return taken_; }

 private:
  std::atomic<int32_t> taken_{0};
};

// What the workers of an edge share of one app for as long as it is known, so
// that its limits hold over all of them. Only apps with limits touch it.
// Thread-safe.
class AppLimiter {
 public:
  explicit AppLimiter(int workers) : waiting_(static_cast<size_t>(workers)) {}

  // Tells the app's clients from those of all others that there ever were.
  uint64_t number() const { return number_; }

  RateCell rate;
  SlotCounter in_flight;
  SlotCounter held;

  // `count` requests now wait on `worker`.
  void SetWaiting(int worker, int count) {
    waiting_[static_cast<size_t>(worker)].store(count);
  }

  // The worker that should have the next slot that is free: each that has
  // requests waiting in turn. -1 if none has.
  int NextWaiting() {
    if (held.taken() == 0) return -1;
    const uint32_t begin = next_.load(std::memory_order_relaxed);
    for (size_t i = 0; i < waiting_.size(); ++i) {
      const size_t worker = (begin + i) % waiting_.size();
      if (waiting_[worker].load() == 0) continue;
      next_.store(static_cast<uint32_t>(worker) + 1, std::memory_order_relaxed);
      return static_cast<int>(worker);
    }
    return -1;
  }

 private:
  static uint64_t RandomNumber() {
    std::random_device device;
    return uint64_t{device()} << 32 | device();
  }

  // An address would do but that it is used again, and the tokens with it.
  const uint64_t number_ = RandomNumber();
  std::vector<std::atomic<int32_t>> waiting_;
  std::atomic<uint32_t> next_{0};
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_APP_LIMITER_H_
