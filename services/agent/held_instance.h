#ifndef SERVICES_AGENT_HELD_INSTANCE_H_
#define SERVICES_AGENT_HELD_INSTANCE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mycelium/agent/v1/agent.pb.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "services/agent/instance_machine.h"
#include "services/agent/spore_cache.h"

namespace mycelium::agent {

// What the agent knows of one instance that it has. A value of the supervisor.
struct HeldInstance {
  // How the slot's claim stands.
  enum class Claim {
    kClaiming,  // The first claim is under way; nothing has begun.
    kHeld,
    kLapsed,  // The lease ended; it is claimed again.
    kLost,    // The slot is another's, or gone.
  };

  // Waits for a stop or a restart that was asked for.
  struct Waiter {
    // Done when more processes than this were started; -1: when it has stopped.
    int64_t after_run = -1;
    std::function<void(absl::StatusOr<v1::Instance>)> done;
  };

  HeldInstance(std::string instance_id, std::string slot_key,
               fabric::v1::Slot wanted, InstanceMachine life)
      : id(std::move(instance_id)),
        key(std::move(slot_key)),
        slot(std::move(wanted)),
        machine(std::move(life)) {}

  std::string id;
  std::string key;
  fabric::v1::Slot slot;
  InstanceMachine machine;

  // --- Its process. ---
  bool pulling = false;
  std::optional<CachedSpore> spore;
  int64_t run = 0;
  int32_t port = 0;
  std::string url;
  std::vector<v1::IsolationLayer> layers;
  std::vector<Waiter> waiters;
  // What events were last recorded about.
  v1::Instance::State seen_state = v1::Instance::STATE_UNSPECIFIED;
  std::string seen_reason;

  // --- What the fabric knows of it. ---
  Claim claim = Claim::kClaiming;
  int64_t claim_revision = 0;
  std::string claim_epoch;
  // One call at a time for each instance, so that they arrive in order.
  bool calling = false;
  absl::Duration next_call = absl::ZeroDuration();
  int failed_calls = 0;
  bool endpoint_known = false;
  fabric::v1::Endpoint::State endpoint_state =
      fabric::v1::Endpoint::STATE_UNSPECIFIED;
  std::string endpoint_url;
  bool slot_reported = false;
  fabric::v1::Slot::State reported_state = fabric::v1::Slot::STATE_UNSPECIFIED;
  std::string reported_reason;
  std::string reported_message;
  int64_t reported_restarts = 0;
  absl::Duration reported_at = absl::ZeroDuration();
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_HELD_INSTANCE_H_
