#ifndef LIB_BASE_FAKE_CLOCK_H_
#define LIB_BASE_FAKE_CLOCK_H_

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/base/mutex.h"

namespace mycelium {

// A clock that moves only when a test says so. Thread-safe.
class FakeClock final : public Clock {
 public:
  explicit FakeClock(absl::Time now) : now_(now) {}

  absl::Time Now() override {
    MutexLock lock(mutex_);
    return now_;
  }

  absl::Duration Monotonic() override {
    MutexLock lock(mutex_);
    return monotonic_;
  }

  // Moves both times on.
  void Advance(absl::Duration by) {
    MutexLock lock(mutex_);
    now_ += by;
    monotonic_ += by;
  }

  // Steps the time of day alone, as an operator or NTP does.
  void Step(absl::Duration by) {
    MutexLock lock(mutex_);
    now_ += by;
  }

 private:
  Mutex mutex_;
  absl::Time now_ ABSL_GUARDED_BY(mutex_);
  absl::Duration monotonic_ ABSL_GUARDED_BY(mutex_) = absl::Seconds(1000);
};

}  // namespace mycelium

#endif  // LIB_BASE_FAKE_CLOCK_H_
