#ifndef SERVICES_AGENT_START_LIMITER_H_
#define SERVICES_AGENT_START_LIMITER_H_

#include <map>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace mycelium::agent {

struct StartLimits {
  int per_node = 8;
  int per_app = 2;
  // A start that has not come to an end by then no longer counts: an app that
  // never gets healthy must not keep the others of the node from starting.
  absl::Duration longest = absl::Seconds(10);
};

// Keeps a node from starting everything at once. Not thread-safe.
class StartLimiter {
 public:
  explicit StartLimiter(const StartLimits& limits) : limits_(limits) {}

  // Whether an instance of `app_name` may be started at `now` (monotonic).
  bool MayStart(absl::string_view app_name, absl::Duration now) const;

  // Whether a start of the instance is counted at `now`.
  bool Has(absl::string_view instance_id, absl::Duration now) const;

  // Counts a start until Done(), or until it took too long. An instance counts
  // once however often it is begun.
  void Begin(absl::string_view app_name, absl::string_view instance_id,
             absl::Duration now);

  // The instance is healthy, or gone. Unknown ids are ignored.
  void Done(absl::string_view instance_id);

 private:
  struct Start {
    std::string app_name;
    absl::Duration begun;
  };

  const StartLimits limits_;
  std::map<std::string, Start, std::less<>> starts_;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_START_LIMITER_H_
