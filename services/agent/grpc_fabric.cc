#include "services/agent/grpc_fabric.h"

#include <algorithm>
#include <thread>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/sync_stream.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/status.h"
#include "mycelium/fabric/v1/fabric.grpc.pb.h"

namespace mycelium::agent {
namespace {

namespace v1 = fabric::v1;

constexpr absl::Duration kCallTimeout = absl::Seconds(5);
// Below the 3 s after which the fabric suspects a silent node.
constexpr absl::Duration kBeatTimeout = absl::Seconds(2);

}  // namespace

class GrpcFabric::Stub {
 public:
  explicit Stub(const std::shared_ptr<grpc::ChannelInterface>& channel)
      : stub(v1::Fabric::NewStub(channel)) {}

  const std::unique_ptr<v1::Fabric::Stub> stub;
};

// A call that Cancel can reach.
class GrpcFabric::CallScope {
 public:
  explicit CallScope(GrpcFabric* fabric) : fabric_(*fabric) {
    MutexLock lock(fabric_.mutex_);
    if (fabric_.cancelled_) context_.TryCancel();
    fabric_.calls_.insert(&context_);
  }
  ~CallScope() {
    MutexLock lock(fabric_.mutex_);
    fabric_.calls_.erase(&context_);
  }

  // A unary call.
  template <typename Request, typename Response>
  absl::Status Run(grpc::Status (v1::Fabric::Stub::*method)(
                       grpc::ClientContext*, const Request&, Response*),
                   const Request& request, Response* response) {
    rpc::SetDeadline(context_, kCallTimeout);
    return rpc::ToAbslStatus(
        (*fabric_.stub_->stub.*method)(&context_, request, response));
  }

  grpc::ClientContext* context() { return &context_; }

 private:
  GrpcFabric& fabric_;
  grpc::ClientContext context_;
};

// One thread beats, and another cancels the stream when no answer comes, since
// a stream has no deadline for each of its messages.
class GrpcFabric::GrpcHeartbeats final : public FabricApi::Heartbeats {
 public:
  explicit GrpcHeartbeats(GrpcFabric* fabric)
      : call_(fabric),
        stream_(fabric->stub_->stub->Heartbeat(call_.context())) {
    watchdog_ = std::thread([this] { Watch(); });
  }

  ~GrpcHeartbeats() override {
    {
      MutexLock lock(mutex_);
      stopping_ = true;
      changed_.NotifyAll();
    }
    call_.context()->TryCancel();
    watchdog_.join();
    if (!finished_) stream_->Finish();
  }

  absl::StatusOr<v1::HeartbeatResponse> Beat(
      const v1::HeartbeatRequest& request) override {
    SetDeadlineOfBeat(absl::Now() + kBeatTimeout);
    v1::HeartbeatResponse response;
    const bool ok = stream_->Write(request) && stream_->Read(&response);
    SetDeadlineOfBeat(absl::InfiniteFuture());
    if (ok) return response;
    finished_ = true;
    const absl::Status status = rpc::ToAbslStatus(stream_->Finish());
    if (!status.ok()) return status;
    return absl::UnavailableError("the fabric ended the heartbeats");
  }

 private:
  void SetDeadlineOfBeat(absl::Time deadline) {
    MutexLock lock(mutex_);
    deadline_ = deadline;
    changed_.NotifyAll();
  }

  void Watch() {
    MutexLock lock(mutex_);
    while (!stopping_) {
      const absl::Duration left = deadline_ - absl::Now();
      if (left <= absl::ZeroDuration()) {
        call_.context()->TryCancel();
        return;
      }
      changed_.WaitFor(mutex_, std::min(left, absl::Hours(1)));
    }
  }

  CallScope call_;
  const std::unique_ptr<
      grpc::ClientReaderWriter<v1::HeartbeatRequest, v1::HeartbeatResponse>>
      stream_;
  bool finished_ = false;

  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time deadline_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();

  std::thread watchdog_;
};

GrpcFabric::GrpcFabric(const std::shared_ptr<grpc::ChannelInterface>& channel)
    : stub_(std::make_unique<Stub>(channel)) {}

GrpcFabric::~GrpcFabric() = default;

std::unique_ptr<FabricApi::Heartbeats> GrpcFabric::OpenHeartbeats() {
  return std::make_unique<GrpcHeartbeats>(this);
}

absl::StatusOr<v1::JoinNodeResponse> GrpcFabric::JoinNode(
    const v1::JoinNodeRequest& request) {
  v1::JoinNodeResponse response;
  const absl::Status status =
      CallScope(this).Run(&v1::Fabric::Stub::JoinNode, request, &response);
  if (!status.ok()) return status;
  return response;
}

absl::Status GrpcFabric::LeaveNode(const v1::LeaveNodeRequest& request) {
  v1::LeaveNodeResponse response;
  return CallScope(this).Run(&v1::Fabric::Stub::LeaveNode, request, &response);
}

absl::StatusOr<v1::ClaimSlotResponse> GrpcFabric::ClaimSlot(
    const v1::ClaimSlotRequest& request) {
  v1::ClaimSlotResponse response;
  const absl::Status status =
      CallScope(this).Run(&v1::Fabric::Stub::ClaimSlot, request, &response);
  if (!status.ok()) return status;
  return response;
}

absl::Status GrpcFabric::UpdateSlot(const v1::UpdateSlotRequest& request) {
  v1::UpdateSlotResponse response;
  return CallScope(this).Run(&v1::Fabric::Stub::UpdateSlot, request, &response);
}

absl::Status GrpcFabric::ReleaseSlot(const v1::ReleaseSlotRequest& request) {
  v1::ReleaseSlotResponse response;
  return CallScope(this).Run(&v1::Fabric::Stub::ReleaseSlot, request,
                             &response);
}

absl::Status GrpcFabric::RegisterEndpoint(
    const v1::RegisterEndpointRequest& request) {
  v1::RegisterEndpointResponse response;
  return CallScope(this).Run(&v1::Fabric::Stub::RegisterEndpoint, request,
                             &response);
}

absl::Status GrpcFabric::UpdateEndpoint(
    const v1::UpdateEndpointRequest& request) {
  v1::UpdateEndpointResponse response;
  return CallScope(this).Run(&v1::Fabric::Stub::UpdateEndpoint, request,
                             &response);
}

absl::Status GrpcFabric::DeregisterEndpoint(
    const v1::DeregisterEndpointRequest& request) {
  v1::DeregisterEndpointResponse response;
  return CallScope(this).Run(&v1::Fabric::Stub::DeregisterEndpoint, request,
                             &response);
}

absl::StatusOr<v1::ListEndpointsResponse> GrpcFabric::ListEndpoints(
    const v1::ListEndpointsRequest& request) {
  v1::ListEndpointsResponse response;
  const absl::Status status =
      CallScope(this).Run(&v1::Fabric::Stub::ListEndpoints, request, &response);
  if (!status.ok()) return status;
  return response;
}

absl::Status GrpcFabric::RecordEvents(const v1::RecordEventsRequest& request) {
  v1::RecordEventsResponse response;
  return CallScope(this).Run(&v1::Fabric::Stub::RecordEvents, request,
                             &response);
}

void GrpcFabric::Cancel() {
  MutexLock lock(mutex_);
  cancelled_ = true;
  for (grpc::ClientContext* const call : calls_) call->TryCancel();
}

}  // namespace mycelium::agent
