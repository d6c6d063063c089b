// The life of one instance, without the means: which state it is in, why, until
// when, and what should be done about it.
//
// The machine does nothing itself. Its owner reports what happened (On…), and
// then does what the machine wants: pull, launch, probe, SIGTERM, SIGKILL, and
// an endpoint in the state that the machine wishes. All of it can be driven by
// a fake clock.

#ifndef SERVICES_AGENT_INSTANCE_MACHINE_H_
#define SERVICES_AGENT_INSTANCE_MACHINE_H_

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "mycelium/agent/v1/agent.pb.h"
#include "services/agent/health_tracker.h"
#include "services/agent/restart_policy.h"

namespace mycelium::agent {

struct InstanceOptions {
  RestartOptions restart;
  HealthOptions health;
  absl::Duration start_deadline = absl::Seconds(30);
  // Between SIGTERM and SIGKILL when nobody says otherwise.
  absl::Duration stop_timeout = absl::Seconds(10);
  // Pauses between tries to get the spore: doubled from the first to the last.
  absl::Duration first_pull_delay = absl::Milliseconds(250);
  absl::Duration max_pull_delay = absl::Seconds(10);
};

// Why and how to stop an instance.
struct StopRequest {
  std::string reason;
  std::string message;
  // How long the edges may take to finish what they have there.
  absl::Duration drain_timeout = absl::Seconds(10);
  absl::Duration stop_timeout = absl::Seconds(10);
  // Start it again afterwards, in the same slot.
  bool restart = false;
};

// Not thread-safe.
class InstanceMachine {
 public:
  using State = v1::Instance::State;

  // What the edges should see of it.
  enum class EndpointWish { kNone, kReady, kUnready, kDraining };

  // What is to be done to its process.
  enum class Signal { kTerminate, kKill };

  // Begins in STATE_PULLING. `clock` must outlive the machine; `random` returns
  // uniform numbers in [0, 1).
  InstanceMachine(const InstanceOptions& options, Clock* clock,
                  std::function<double()> random);

  // --- What happened. ---

  // The spore was asked for, and is here, or not (and is asked for again), or
  // will never run on this node.
  void OnPullBegun();
  void OnPulled();
  void OnPullFailed(absl::string_view reason, const absl::Status& status);
  void OnRefused(absl::string_view reason, absl::string_view message);

  // The process runs; or could not be started, which is tried again.
  void OnLaunched(int64_t pid);
  void OnLaunchFailed(absl::string_view reason, const absl::Status& status);

  // A probe of the present process ended. `detail` says what failed.
  void OnProbe(ProbeKind kind, bool success, absl::string_view detail);

  // The present process and its whole tree are gone.
  void OnExited(const v1::ExitStatus& exit);

  // No edge has a request there any more.
  void OnDrained();

  // Someone wants it stopped. During a stop, the shorter timeouts win, and a
  // stop for good wins over a restart.
  void RequestStop(const StopRequest& request);

  // A restart for failed liveness probes was granted.
  void RestartForLiveness();

  // Time has passed.
  void OnTick();

  // --- What is wanted. ---

  // Whether the spore is to be fetched, or the process started, now.
  bool wants_pull() const;
  bool wants_launch() const;

  // Probes to send now; they count as under way.
  std::vector<HealthTracker::Probe> TakeProbes();

  // A signal to send now; nothing if none, or if it was taken already.
  std::optional<Signal> TakeSignal();

  // Whether liveness probes ask for a restart; see RestartForLiveness.
  bool wants_liveness_restart() const;

  EndpointWish endpoint_wish() const;
  absl::Duration drain_timeout() const { return stop_.drain_timeout; }

  // When OnTick or TakeProbes has something to do (monotonic); infinite if only
  // an event can move it.
  absl::Duration next_due() const;

  // --- What to say of it. ---

  State state() const;
  const std::string& reason() const { return reason_; }
  const std::string& message() const { return message_; }
  absl::Time since() const { return since_; }
  // Nothing if unknown.
  std::optional<absl::Time> until() const;
  int64_t restarts() const { return restarts_; }
  const std::optional<v1::ExitStatus>& last_exit() const { return last_exit_; }
  // 0 if no process runs.
  int64_t pid() const { return pid_; }
  bool has_process() const { return pid_ != 0; }
  std::optional<absl::Time> start_time() const { return start_time_; }
  bool stopped() const { return phase_ == Phase::kStopped; }
  bool refused() const { return phase_ == Phase::kRefused; }
  // Whether it is on its way to kStopped for good.
  bool stopping() const;

 private:
  enum class Phase {
    kPullWait,  // Until until_.
    kPulling,
    kLaunchWait,  // For its owner to launch it.
    kStarting,    // No probe has succeeded; until the start deadline.
    kReady,
    kUnhealthy,
    kBackoff,      // Until until_.
    kDraining,     // Until until_, then kTerminating.
    kTerminating,  // SIGTERM was sent; until until_, then kKilling.
    kKilling,
    kStopped,
    kRefused,
  };

  // What follows when the process that is being stopped is gone.
  enum class Next { kStop, kRestart, kBackoff };

  void Enter(Phase phase, absl::string_view reason, absl::string_view message);
  void EnterUntil(Phase phase, absl::Duration delay, absl::string_view reason,
                  absl::string_view message);
  void Terminate(absl::string_view reason, absl::string_view message);
  void AfterProcess();
  void Fail(absl::string_view reason, absl::string_view what);
  absl::Duration HealthyFor() const;

  const InstanceOptions options_;
  Clock& clock_;
  RestartPolicy policy_;

  Phase phase_ = Phase::kPullWait;
  Next next_ = Next::kStop;
  std::string reason_;
  std::string message_;
  absl::Time since_;
  absl::Duration until_ = absl::InfiniteDuration();
  std::optional<Signal> signal_;
  StopRequest stop_;

  std::optional<HealthTracker> health_;
  // Since when it has been ready without a break.
  std::optional<absl::Duration> healthy_since_;
  bool had_endpoint_ = false;
  std::string last_probe_;
  int pull_failures_ = 0;

  int64_t pid_ = 0;
  int64_t restarts_ = 0;
  bool launched_before_ = false;
  std::optional<absl::Time> start_time_;
  std::optional<v1::ExitStatus> last_exit_;
};

// How a process ended, in words: "exited with code 3", "killed by signal 9
// (Killed)".
std::string DescribeExit(const v1::ExitStatus& exit);

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_INSTANCE_MACHINE_H_
