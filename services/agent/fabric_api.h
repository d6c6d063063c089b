#ifndef SERVICES_AGENT_FABRIC_API_H_
#define SERVICES_AGENT_FABRIC_API_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mycelium/fabric/v1/fabric.pb.h"

namespace mycelium::agent {

// The calls of the fabric that an agent makes. They block, each for a few
// seconds at most. Errors are those of fabric.proto. Thread-safe.
class FabricApi {
 public:
  // A stream of heartbeats. Not thread-safe.
  class Heartbeats {
   public:
    virtual ~Heartbeats() = default;

    // Sends one and waits for its answer. After an error the stream is of no
    // more use.
    virtual absl::StatusOr<fabric::v1::HeartbeatResponse> Beat(
        const fabric::v1::HeartbeatRequest& request) = 0;
  };

  virtual ~FabricApi() = default;

  virtual absl::StatusOr<fabric::v1::JoinNodeResponse> JoinNode(
      const fabric::v1::JoinNodeRequest& request) = 0;
  virtual absl::Status LeaveNode(
      const fabric::v1::LeaveNodeRequest& request) = 0;
  virtual std::unique_ptr<Heartbeats> OpenHeartbeats() = 0;

  virtual absl::StatusOr<fabric::v1::ClaimSlotResponse> ClaimSlot(
      const fabric::v1::ClaimSlotRequest& request) = 0;
  virtual absl::Status UpdateSlot(
      const fabric::v1::UpdateSlotRequest& request) = 0;
  virtual absl::Status ReleaseSlot(
      const fabric::v1::ReleaseSlotRequest& request) = 0;

  virtual absl::Status RegisterEndpoint(
      const fabric::v1::RegisterEndpointRequest& request) = 0;
  virtual absl::Status UpdateEndpoint(
      const fabric::v1::UpdateEndpointRequest& request) = 0;
  virtual absl::Status DeregisterEndpoint(
      const fabric::v1::DeregisterEndpointRequest& request) = 0;
  virtual absl::StatusOr<fabric::v1::ListEndpointsResponse> ListEndpoints(
      const fabric::v1::ListEndpointsRequest& request) = 0;

  virtual absl::Status RecordEvents(
      const fabric::v1::RecordEventsRequest& request) = 0;

  // Ends the calls that are under way, and all later ones, with Cancelled.
  virtual void Cancel() = 0;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_FABRIC_API_H_
