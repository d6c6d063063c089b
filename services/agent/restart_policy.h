#ifndef SERVICES_AGENT_RESTART_POLICY_H_
#define SERVICES_AGENT_RESTART_POLICY_H_

#include <deque>
#include <functional>

#include "absl/time/time.h"

namespace mycelium::agent {

struct RestartOptions {
  // A first failure after being healthy for this long is restarted at once.
  absl::Duration instant_after = absl::Seconds(10);
  // Other delays start here, double, and stop growing at `max_delay`.
  absl::Duration first_delay = absl::Milliseconds(250);
  absl::Duration max_delay = absl::Seconds(30);
  // Each delay is spread over this fraction of it to either side, so that
  // instances that failed together do not return together.
  double jitter = 0.25;
  // Being healthy for this long makes everything before forgotten.
  absl::Duration reset_after = absl::Seconds(60);
  // So many failures within `crash_loop_window` are a crash loop, which lasts
  // until the reset.
  int crash_loop_failures = 5;
  absl::Duration crash_loop_window = absl::Seconds(60);
};

// When to start a failed process again. Never gives up. Not thread-safe.
class RestartPolicy {
 public:
  // What to do about one failure.
  struct Decision {
    absl::Duration delay;
    bool crash_loop = false;
  };

  // `random` returns uniform numbers in [0, 1).
  RestartPolicy(const RestartOptions& options, std::function<double()> random);

  // Decides about a failure at `now` (monotonic) of a process that had been
  // healthy for `healthy_for` until then; zero if it was not.
  Decision OnFailure(absl::Duration now, absl::Duration healthy_for);

 private:
  const RestartOptions options_;
  const std::function<double()> random_;

  // Failures since the reset, those that were restarted at once left out.
  int delays_ = 0;
  bool instant_used_ = false;
  bool crash_loop_ = false;
  std::deque<absl::Duration> failures_;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_RESTART_POLICY_H_
