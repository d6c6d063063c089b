#ifndef LIB_TELEMETRY_COUNTER_H_
#define LIB_TELEMETRY_COUNTER_H_

#include <atomic>
#include <cstdint>

namespace mycelium::telemetry {

// A number that one thread writes and any thread reads.
class Counter {
 public:
  void Add(int64_t by) {
    value_.store(value_.load(std::memory_order_relaxed) + by,
                 std::memory_order_relaxed);
  }
  void Set(int64_t value) { value_.store(value, std::memory_order_relaxed); }
  int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

}  // namespace mycelium::telemetry

#endif  // LIB_TELEMETRY_COUNTER_H_
