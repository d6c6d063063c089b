#ifndef LIB_BASE_CLOCK_H_
#define LIB_BASE_CLOCK_H_

#include "absl/time/time.h"

namespace mycelium {

// A source of time that tests can replace. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;

  // The time of day. It may step; use it for what people read.
  virtual absl::Time Now() = 0;

  // Time since some fixed moment, which never goes back; use it for leases,
  // timeouts and back-off.
  virtual absl::Duration Monotonic() = 0;

  // The system's clock. Never deleted.
  static Clock* Real();
};

}  // namespace mycelium

#endif  // LIB_BASE_CLOCK_H_
