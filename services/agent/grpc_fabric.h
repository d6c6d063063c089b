#ifndef SERVICES_AGENT_GRPC_FABRIC_H_
#define SERVICES_AGENT_GRPC_FABRIC_H_

#include <memory>
#include <set>

#include "absl/base/thread_annotations.h"
#include "lib/base/mutex.h"
#include "services/agent/fabric_api.h"

namespace grpc {
class ChannelInterface;
class ClientContext;
}  // namespace grpc

namespace mycelium::agent {

// The fabric behind a channel. Thread-safe.
class GrpcFabric final : public FabricApi {
 public:
  explicit GrpcFabric(const std::shared_ptr<grpc::ChannelInterface>& channel);
  ~GrpcFabric() override;

  absl::StatusOr<fabric::v1::JoinNodeResponse> JoinNode(
      const fabric::v1::JoinNodeRequest& request) override;
  absl::Status LeaveNode(const fabric::v1::LeaveNodeRequest& request) override;
  std::unique_ptr<Heartbeats> OpenHeartbeats() override;
  absl::StatusOr<fabric::v1::ClaimSlotResponse> ClaimSlot(
      const fabric::v1::ClaimSlotRequest& request) override;
  absl::Status UpdateSlot(
      const fabric::v1::UpdateSlotRequest& request) override;
  absl::Status ReleaseSlot(
      const fabric::v1::ReleaseSlotRequest& request) override;
  absl::Status RegisterEndpoint(
      const fabric::v1::RegisterEndpointRequest& request) override;
  absl::Status UpdateEndpoint(
      const fabric::v1::UpdateEndpointRequest& request) override;
  absl::Status DeregisterEndpoint(
      const fabric::v1::DeregisterEndpointRequest& request) override;
  absl::StatusOr<fabric::v1::ListEndpointsResponse> ListEndpoints(
      const fabric::v1::ListEndpointsRequest& request) override;
  absl::Status RecordEvents(
      const fabric::v1::RecordEventsRequest& request) override;
  void Cancel() override;

 private:
  class Stub;
  class CallScope;
  class GrpcHeartbeats;

  const std::unique_ptr<Stub> stub_;

  Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<grpc::ClientContext*> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_GRPC_FABRIC_H_
