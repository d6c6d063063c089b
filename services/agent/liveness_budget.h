#ifndef SERVICES_AGENT_LIVENESS_BUDGET_H_
#define SERVICES_AGENT_LIVENESS_BUDGET_H_

#include <deque>
#include <map>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace mycelium::agent {

struct LivenessLimits {
  double fraction = 0.2;
  absl::Duration window = absl::Seconds(30);
};

// Bounds how many instances of an app are restarted for failing liveness
// probes, so that an overload that slows all of them down does not become an
// outage. Not thread-safe.
class LivenessBudget {
 public:
  explicit LivenessBudget(const LivenessLimits& limits) : limits_(limits) {}

  // Whether one more of the `running` instances of `app_name` may be restarted
  // at `now` (monotonic); counts it if so. At least one per window may.
  bool TryRestart(absl::string_view app_name, int running, absl::Duration now);

 private:
  const LivenessLimits limits_;
  std::map<std::string, std::deque<absl::Duration>, std::less<>> restarts_;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_LIVENESS_BUDGET_H_
