#ifndef SERVICES_AGENT_HEALTH_TRACKER_H_
#define SERVICES_AGENT_HEALTH_TRACKER_H_

#include <vector>

#include "absl/time/time.h"

namespace mycelium::agent {

struct HealthOptions {
  // Probes until the first success: the pause grows by half each time.
  absl::Duration started_first_interval = absl::Milliseconds(20);
  absl::Duration started_max_interval = absl::Seconds(1);
  absl::Duration started_timeout = absl::Seconds(1);
  // Probes that decide about traffic.
  absl::Duration ready_interval = absl::Seconds(2);
  absl::Duration ready_timeout = absl::Seconds(1);
  int ready_failures = 2;
  // Probes that decide about a restart.
  absl::Duration live_interval = absl::Seconds(5);
  absl::Duration live_timeout = absl::Seconds(2);
  int live_failures = 3;
};

// What a probe is for.
enum class ProbeKind { kStarted, kReady, kLive };

// Says when to probe one process, and what the results mean. Made anew for each
// process. Not thread-safe.
class HealthTracker {
 public:
  struct Probe {
    ProbeKind kind;
    absl::Duration timeout;
  };

  // `now` (monotonic, like all times here) is when the process was started.
  HealthTracker(const HealthOptions& options, absl::Duration now);

  // The probes that are due at `now`. Each counts as under way, and is not due
  // again, until its result is reported.
  std::vector<Probe> TakeDue(absl::Duration now);

  // When the next probe is due; infinite while all are under way.
  absl::Duration next_due() const;

  // Takes the result of a probe. Results of a kind that is not under way are
  // ignored, such as one that arrives after the process has been replaced.
  void OnResult(ProbeKind kind, bool success, absl::Duration now);

  // Whether any probe has succeeded.
  bool started() const { return started_; }
  // Whether it should have traffic.
  bool ready() const { return ready_; }
  // Whether it should be restarted. A success takes that back.
  bool dead() const { return live_.failures >= options_.live_failures; }

 private:
  struct Series {
    absl::Duration due = absl::InfiniteDuration();
    bool under_way = false;
    int failures = 0;
  };

  Series& SeriesOf(ProbeKind kind);

  const HealthOptions options_;
  absl::Duration started_interval_;
  Series started_probes_;
  Series ready_probes_;
  Series live_;
  bool started_ = false;
  bool ready_ = false;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_HEALTH_TRACKER_H_
