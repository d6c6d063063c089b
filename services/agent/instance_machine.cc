#include "services/agent/instance_machine.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace mycelium::agent {

InstanceMachine::InstanceMachine(const InstanceOptions& options, Clock* clock,
                                 std::function<double()> random)
    : options_(options),
      clock_(*clock),
      policy_(options.restart, std::move(random)),
      since_(clock->Now()),
      until_(clock->Monotonic()) {
  stop_.stop_timeout = options.stop_timeout;
}

void InstanceMachine::OnPullBegun() {
  if (phase_ != Phase::kPullWait) return;
  // The reason of the try before stays until this one is decided.
  phase_ = Phase::kPulling;
  until_ = absl::InfiniteDuration();
}

void InstanceMachine::OnPulled() {
  if (phase_ != Phase::kPulling) return;
  pull_failures_ = 0;
  Enter(Phase::kLaunchWait, "START_QUEUED", "waits for its turn to start");
}

void InstanceMachine::OnPullFailed(absl::string_view reason,
                                   const absl::Status& status) {
  if (phase_ != Phase::kPulling) return;
  absl::Duration delay = options_.first_pull_delay;
  for (int i = 0; i < pull_failures_ && delay < options_.max_pull_delay; ++i) {
    delay *= 2;
  }
  ++pull_failures_;
  EnterUntil(Phase::kPullWait, std::min(delay, options_.max_pull_delay), reason,
             status.message());
}

void InstanceMachine::OnRefused(absl::string_view reason,
                                absl::string_view message) {
  if (phase_ != Phase::kPulling && phase_ != Phase::kLaunchWait) return;
  Enter(Phase::kRefused, reason, message);
}

void InstanceMachine::OnLaunched(int64_t pid) {
  if (phase_ != Phase::kLaunchWait) return;
  pid_ = pid;
  start_time_ = clock_.Now();
  if (launched_before_) ++restarts_;
  launched_before_ = true;
  had_endpoint_ = false;
  healthy_since_.reset();
  last_probe_ = "not probed yet";
  health_.emplace(options_.health, clock_.Monotonic());
  EnterUntil(Phase::kStarting, options_.start_deadline, "HEALTH_PENDING",
             "waits for its first healthy answer");
}

void InstanceMachine::OnLaunchFailed(absl::string_view reason,
                                     const absl::Status& status) {
  if (phase_ != Phase::kLaunchWait) return;
  Fail(reason, status.message());
}

void InstanceMachine::OnProbe(ProbeKind kind, bool success,
                              absl::string_view detail) {
  if (!health_.has_value()) return;
  const absl::Duration now = clock_.Monotonic();
  health_->OnResult(kind, success, now);
  last_probe_ = std::string(detail);

  if (phase_ != Phase::kStarting && phase_ != Phase::kReady &&
      phase_ != Phase::kUnhealthy) {
    return;
  }
  if (health_->ready()) {
    if (phase_ == Phase::kReady) return;
    healthy_since_ = now;
    had_endpoint_ = true;
    Enter(Phase::kReady, "", "");
  } else if (phase_ == Phase::kReady) {
    healthy_since_.reset();
    Enter(Phase::kUnhealthy, "UNHEALTHY",
          absl::StrCat("fails its health check: ", last_probe_));
  } else if (phase_ == Phase::kStarting) {
    message_ =
        absl::StrCat("waits for its first healthy answer; last: ", last_probe_);
  }
}

void InstanceMachine::OnExited(const v1::ExitStatus& exit) {
  if (pid_ == 0) return;
  last_exit_ = exit;
  const bool asked = phase_ == Phase::kDraining ||
                     phase_ == Phase::kTerminating || phase_ == Phase::kKilling;
  if (asked) {
    AfterProcess();
    return;
  }
  const absl::string_view reason = exit.out_of_memory() ? "OOM"
                                   : exit.has_signal()  ? "SIGNALED"
                                                        : "EXITED";
  Fail(reason, DescribeExit(exit));
}

void InstanceMachine::OnDrained() {
  if (phase_ == Phase::kDraining) Terminate(reason_, message_);
}

void InstanceMachine::RequestStop(const StopRequest& request) {
  const absl::Duration now = clock_.Monotonic();
  switch (phase_) {
    case Phase::kStopped:
      return;

    case Phase::kPullWait:
    case Phase::kPulling:
    case Phase::kLaunchWait:
      // A restart of what has not started yet changes nothing.
      if (!request.restart) {
        Enter(Phase::kStopped, request.reason, request.message);
      }
      return;

    case Phase::kBackoff:
      if (request.restart) {
        Enter(Phase::kLaunchWait, request.reason, request.message);
      } else {
        Enter(Phase::kStopped, request.reason, request.message);
      }
      return;

    case Phase::kRefused:
      if (request.restart) {
        EnterUntil(Phase::kPullWait, absl::ZeroDuration(), request.reason,
                   request.message);
      } else {
        Enter(Phase::kStopped, request.reason, request.message);
      }
      return;

    case Phase::kStarting:
    case Phase::kReady:
    case Phase::kUnhealthy:
      stop_ = request;
      next_ = request.restart ? Next::kRestart : Next::kStop;
      if (had_endpoint_) {
        EnterUntil(Phase::kDraining, request.drain_timeout, request.reason,
                   request.message);
      } else {
        Terminate(request.reason, request.message);
      }
      return;

    case Phase::kDraining:
    case Phase::kTerminating:
    case Phase::kKilling:
      if (!request.restart && next_ != Next::kStop) {
        next_ = Next::kStop;
        reason_ = request.reason;
        message_ = request.message;
      }
      stop_.drain_timeout =
          std::min(stop_.drain_timeout, request.drain_timeout);
      stop_.stop_timeout = std::min(stop_.stop_timeout, request.stop_timeout);
      if (phase_ == Phase::kDraining) {
        until_ = std::min(until_, now + request.drain_timeout);
      } else if (phase_ == Phase::kTerminating) {
        until_ = std::min(until_, now + request.stop_timeout);
      }
      return;
  }
}

void InstanceMachine::RestartForLiveness() {
  if (!wants_liveness_restart()) return;
  next_ = Next::kBackoff;
  stop_.stop_timeout = options_.stop_timeout;
  Terminate("LIVENESS_FAILED",
            absl::StrCat("does not answer its liveness probes: ", last_probe_));
}

void InstanceMachine::OnTick() {
  if (clock_.Monotonic() < until_) return;
  switch (phase_) {
    case Phase::kStarting:
      next_ = Next::kBackoff;
      stop_.stop_timeout = options_.stop_timeout;
      Terminate("START_DEADLINE",
                absl::StrCat("not healthy within ",
                             absl::FormatDuration(options_.start_deadline),
                             "; last: ", last_probe_));
      return;
    case Phase::kBackoff:
      Enter(Phase::kLaunchWait, reason_, message_);
      return;
    case Phase::kDraining:
      Terminate(reason_, message_);
      return;
    case Phase::kTerminating:
      Enter(Phase::kKilling, reason_, message_);
      signal_ = Signal::kKill;
      return;
    case Phase::kPullWait:
    case Phase::kPulling:
    case Phase::kLaunchWait:
    case Phase::kReady:
    case Phase::kUnhealthy:
    case Phase::kKilling:
    case Phase::kStopped:
    case Phase::kRefused:
      return;
  }
}

bool InstanceMachine::wants_pull() const {
  return phase_ == Phase::kPullWait && clock_.Monotonic() >= until_;
}

bool InstanceMachine::wants_launch() const {
  return phase_ == Phase::kLaunchWait;
}

std::vector<HealthTracker::Probe> InstanceMachine::TakeProbes() {
  if (phase_ != Phase::kStarting && phase_ != Phase::kReady &&
      phase_ != Phase::kUnhealthy) {
    return {};
  }
  return health_->TakeDue(clock_.Monotonic());
}

std::optional<InstanceMachine::Signal> InstanceMachine::TakeSignal() {
  return std::exchange(signal_, std::nullopt);
}

bool InstanceMachine::wants_liveness_restart() const {
  return (phase_ == Phase::kReady || phase_ == Phase::kUnhealthy) &&
         health_->dead();
}

InstanceMachine::EndpointWish InstanceMachine::endpoint_wish() const {
  switch (phase_) {
    case Phase::kReady:
      return EndpointWish::kReady;
    case Phase::kUnhealthy:
      return EndpointWish::kUnready;
    case Phase::kDraining:
      return EndpointWish::kDraining;
    case Phase::kTerminating:
    case Phase::kKilling:
      // A drained endpoint stays until the process is gone; one that failed its
      // probes has been, or should be, out of traffic in any case.
      return had_endpoint_ ? EndpointWish::kDraining : EndpointWish::kNone;
    case Phase::kPullWait:
    case Phase::kPulling:
    case Phase::kLaunchWait:
    case Phase::kStarting:
    case Phase::kBackoff:
    case Phase::kStopped:
    case Phase::kRefused:
      break;
  }
  return EndpointWish::kNone;
}

absl::Duration InstanceMachine::next_due() const {
  absl::Duration due = until_;
  if (phase_ == Phase::kStarting || phase_ == Phase::kReady ||
      phase_ == Phase::kUnhealthy) {
    due = std::min(due, health_->next_due());
  }
  return due;
}

InstanceMachine::State InstanceMachine::state() const {
  switch (phase_) {
    case Phase::kPullWait:
    case Phase::kPulling:
      return v1::Instance::STATE_PULLING;
    case Phase::kLaunchWait:
    case Phase::kStarting:
      return v1::Instance::STATE_STARTING;
    case Phase::kReady:
      return v1::Instance::STATE_READY;
    case Phase::kUnhealthy:
      return v1::Instance::STATE_UNHEALTHY;
    case Phase::kBackoff:
      return v1::Instance::STATE_BACKOFF;
    case Phase::kDraining:
      return v1::Instance::STATE_DRAINING;
    case Phase::kTerminating:
    case Phase::kKilling:
      return v1::Instance::STATE_STOPPING;
    case Phase::kStopped:
      return v1::Instance::STATE_STOPPED;
    case Phase::kRefused:
      return v1::Instance::STATE_REFUSED;
  }
  return v1::Instance::STATE_UNSPECIFIED;
}

std::optional<absl::Time> InstanceMachine::until() const {
  if (until_ == absl::InfiniteDuration()) return std::nullopt;
  return clock_.Now() + (until_ - clock_.Monotonic());
}

bool InstanceMachine::stopping() const {
  switch (phase_) {
    case Phase::kDraining:
    case Phase::kTerminating:
    case Phase::kKilling:
      return next_ == Next::kStop;
    default:
      return phase_ == Phase::kStopped;
  }
}

void InstanceMachine::Enter(Phase phase, absl::string_view reason,
                            absl::string_view message) {
  // `reason` and `message` may be views of what is replaced here.
  std::string new_reason(reason);
  std::string new_message(message);
  phase_ = phase;
  reason_ = std::move(new_reason);
  message_ = std::move(new_message);
  since_ = clock_.Now();
  until_ = absl::InfiniteDuration();
}

void InstanceMachine::EnterUntil(Phase phase, absl::Duration delay,
                                 absl::string_view reason,
                                 absl::string_view message) {
  Enter(phase, reason, message);
  until_ = clock_.Monotonic() + delay;
}

void InstanceMachine::Terminate(absl::string_view reason,
                                absl::string_view message) {
  EnterUntil(Phase::kTerminating, stop_.stop_timeout, reason, message);
  signal_ = Signal::kTerminate;
}

void InstanceMachine::AfterProcess() {
  switch (next_) {
    case Next::kStop:
      Enter(Phase::kStopped, reason_, message_);
      break;
    case Next::kRestart:
      Enter(Phase::kLaunchWait, reason_, message_);
      break;
    case Next::kBackoff:
      Fail(reason_, message_);
      return;
  }
  pid_ = 0;
  start_time_.reset();
  signal_.reset();
  health_.reset();
  healthy_since_.reset();
}

void InstanceMachine::Fail(absl::string_view reason, absl::string_view what) {
  const RestartPolicy::Decision decision =
      policy_.OnFailure(clock_.Monotonic(), HealthyFor());
  const std::string why(what);
  const std::string cause(reason);
  pid_ = 0;
  start_time_.reset();
  signal_.reset();
  health_.reset();
  healthy_since_.reset();
  if (decision.crash_loop) {
    EnterUntil(Phase::kBackoff, decision.delay, "CRASHLOOP",
               absl::StrCat("fails again and again; last: ", why));
  } else {
    EnterUntil(Phase::kBackoff, decision.delay, cause, why);
  }
}

absl::Duration InstanceMachine::HealthyFor() const {
  if (!healthy_since_.has_value()) return absl::ZeroDuration();
  return clock_.Monotonic() - *healthy_since_;
}

std::string DescribeExit(const v1::ExitStatus& exit) {
  std::string text;
  if (exit.has_signal()) {
    const char* name = sigdescr_np(exit.signal());
    text = absl::StrCat("killed by signal ", exit.signal(), " (",
                        name == nullptr ? "unknown" : name, ")");
  } else if (exit.has_code()) {
    text = absl::StrCat("exited with code ", exit.code());
  } else {
    text = "ended in an unknown way";
  }
  if (exit.out_of_memory()) absl::StrAppend(&text, ", out of memory");
  return text;
}

}  // namespace mycelium::agent
