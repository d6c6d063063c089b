#include "services/agent/start_limiter.h"

namespace mycelium::agent {

bool StartLimiter::MayStart(absl::string_view app_name,
                            absl::Duration now) const {
  int all = 0;
  int same_app = 0;
  for (const auto& [id, start] : starts_) {
    if (now - start.begun >= limits_.longest) continue;
    ++all;
    if (start.app_name == app_name) ++same_app;
  }
  return all < limits_.per_node && same_app < limits_.per_app;
}

bool StartLimiter::Has(absl::string_view instance_id,
                       absl::Duration now) const {
  const auto start = starts_.find(instance_id);
  return start != starts_.end() && now - start->second.begun < limits_.longest;
}

void StartLimiter::Begin(absl::string_view app_name,
                         absl::string_view instance_id, absl::Duration now) {
  starts_.insert_or_assign(
      std::string(instance_id),
      Start{.app_name = std::string(app_name), .begun = now});
}

void StartLimiter::Done(absl::string_view instance_id) {
  const auto start = starts_.find(instance_id);
  if (start != starts_.end()) starts_.erase(start);
}

}  // namespace mycelium::agent
