#ifndef SERVICES_AGENT_PORT_ALLOCATOR_H_
#define SERVICES_AGENT_PORT_ALLOCATOR_H_

#include <cstdint>
#include <deque>
#include <set>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"

namespace mycelium::agent {

// Finds ports for instances. A port is only looked for, not held: whoever binds
// it first has it, so that a launch must be ready to find it taken after all
// and try another one. Not thread-safe.
class PortAllocator {
 public:
  // `clock` must outlive the allocator.
  explicit PortAllocator(Clock* clock) : clock_(*clock) {}

  // A free port that is not in use here and has not been for a minute, so that
  // nobody who still knows the old instance meets the new one.
  //
  // ResourceExhausted: none was found.
  absl::StatusOr<int32_t> Allocate();

  // Marks a fixed port as used, so that Allocate leaves it alone.
  void Use(int32_t port) { in_use_.insert(port); }

  // The instance on `port` is gone.
  void Release(int32_t port);

  // Whether a server could listen on `port` of all addresses of this machine.
  static bool IsFree(int32_t port);

 private:
  Clock& clock_;
  std::set<int32_t> in_use_;
  std::deque<std::pair<absl::Duration, int32_t>> recent_;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_PORT_ALLOCATOR_H_
