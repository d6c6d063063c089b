#include "services/agent/restart_policy.h"

#include <algorithm>
#include <utility>

namespace mycelium::agent {

RestartPolicy::RestartPolicy(const RestartOptions& options,
                             std::function<double()> random)
    : options_(options), random_(std::move(random)) {}

RestartPolicy::Decision RestartPolicy::OnFailure(absl::Duration now,
                                                 absl::Duration healthy_for) {
  if (healthy_for >= options_.reset_after) {
    delays_ = 0;
    instant_used_ = false;
    crash_loop_ = false;
    failures_.clear();
  }

  failures_.push_back(now);
  while (now - failures_.front() > options_.crash_loop_window) {
    failures_.pop_front();
  }
  // No more are needed to know, however fast the process fails.
  while (failures_.size() > size_t{64}) failures_.pop_front();
  if (static_cast<int>(failures_.size()) >= options_.crash_loop_failures) {
    crash_loop_ = true;
  }

  if (!instant_used_ && delays_ == 0 && healthy_for >= options_.instant_after) {
    instant_used_ = true;
    return {.delay = absl::ZeroDuration(), .crash_loop = crash_loop_};
  }

  absl::Duration delay = options_.first_delay;
  for (int i = 0; i < delays_ && delay < options_.max_delay; ++i) delay *= 2;
  ++delays_;
  delay *= 1 - options_.jitter + 2 * options_.jitter * random_();
  return {.delay = std::min(delay, options_.max_delay),
          .crash_loop = crash_loop_};
}

}  // namespace mycelium::agent
