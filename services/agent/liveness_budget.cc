#include "services/agent/liveness_budget.h"

#include <algorithm>

namespace mycelium::agent {

bool LivenessBudget::TryRestart(absl::string_view app_name, int running,
                                absl::Duration now) {
  // Apps come and go; what is out of the window is of no use to anybody.
  for (auto app = restarts_.begin(); app != restarts_.end();) {
    std::deque<absl::Duration>& times = app->second;
    while (!times.empty() && now - times.front() >= limits_.window) {
      times.pop_front();
    }
    app = times.empty() ? restarts_.erase(app) : std::next(app);
  }

  const int allowed = std::max(1, static_cast<int>(limits_.fraction * running));
  std::deque<absl::Duration>& times = restarts_[std::string(app_name)];
  if (static_cast<int>(times.size()) >= allowed) return false;
  times.push_back(now);
  return true;
}

}  // namespace mycelium::agent
