#ifndef SERVICES_AGENT_CLAIMER_H_
#define SERVICES_AGENT_CLAIMER_H_

#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/nutrients/nutrients.h"
#include "services/agent/mesh_view.h"
#include "services/agent/placement.h"

namespace mycelium::agent {

// What this node knows about itself better than the fabric does.
struct OwnNode {
  std::string node_id;
  Nutrients capacity;
  // Of all instances that it has, those that are being claimed included.
  Nutrients reserved;
  std::map<std::string, std::string> labels;
  std::map<std::string, int, std::less<>> instances;  // By app.
  std::set<int32_t> ports;                            // Fixed ones in use.
};

// Decides which slots this node claims now. The best-placed node claims at once
// and the others the later the worse they are placed, so that usually one try
// is enough; the fabric's compare-and-set settles the rest. Not thread-safe.
class Claimer {
 public:
  // `clock` must outlive the claimer.
  Claimer(std::string node_id, Clock* clock)
      : node_id_(std::move(node_id)), clock_(*clock) {}

  // The slots to try now, at most `limit`, the longest waiting first. A slot is
  // returned once, and again only after OnFailed or after it was seen claimed.
  // `port_free` says whether nothing on this machine listens on a port;
  // `may_start` whether another instance of an app may be started now.
  std::vector<fabric::v1::Slot> TakeDue(
      const MeshView& view, const OwnNode& self, int limit,
      const std::function<bool(int32_t)>& port_free,
      const std::function<bool(const std::string&)>& may_start);

  // When TakeDue may have more to return if nothing else happens (monotonic).
  absl::Duration next_due() const { return next_due_; }

  // The try to claim `key` failed; it is tried again after a pause that depends
  // on `status`, if it is still pending then.
  void OnFailed(const std::string& key, const absl::Status& status);

  // This node has given `key` up: if it is pending, it is like new.
  void Forget(const std::string& key);

 private:
  struct Wait {
    absl::Duration since;  // When it was first seen pending.
    absl::Duration not_before;
    bool taken = false;
  };

  const std::string node_id_;
  Clock& clock_;
  std::map<std::string, Wait, std::less<>> waits_;
  absl::Duration next_due_ = absl::InfiniteDuration();
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_CLAIMER_H_
