#include "services/fabric/fabric_service.h"

#include <atomic>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/grpcpp.h"
#include "lib/base/error.h"
#include "lib/base/mutex.h"
#include "lib/rpc/status.h"
#include "mycelium/fabric/v1/fabric.grpc.pb.h"
#include "services/fabric/errors.h"
#include "services/fabric/validate.h"

namespace mycelium::fabric {
namespace {

using UnaryReactor = grpc::ServerUnaryReactor;
using Context = grpc::CallbackServerContext;

// Answers a call when `method` calls back.
template <typename Registry, typename Request, typename Response>
UnaryReactor* Later(Context* context, Registry& registry,
                    void (Registry::*method)(const Request&, Done<Response>),
                    const Request* request, Response* response) {
  UnaryReactor* reactor = context->DefaultReactor();
  (registry.*method)(*request,
                     [reactor, response](absl::StatusOr<Response> result) {
                       const absl::Status status = result.status();
                       if (status.ok()) *response = *std::move(result);
                       reactor->Finish(rpc::ToGrpcStatus(status));
                     });
  return reactor;
}

// Answers a call at once.
template <typename Response>
UnaryReactor* Now(Context* context, absl::StatusOr<Response> result,
                  Response* response) {
  UnaryReactor* reactor = context->DefaultReactor();
  const absl::Status status = result.status();
  if (status.ok()) *response = *std::move(result);
  reactor->Finish(rpc::ToGrpcStatus(status));
  return reactor;
}

// A buffer over the bytes of a record, which lives as long as the buffer does.
grpc::ByteBuffer Share(const Record& record) {
  const grpc::Slice slice(
      const_cast<char*>(record->data()), record->size(),
      [](void* holder) { delete static_cast<Record*>(holder); },
      new Record(record));
  return grpc::ByteBuffer(&slice, 1);
}

// One watch of one client: asks its Watcher for the next message whenever the
// last one is sent, and rests when there is none.
class WatchStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                          public std::enable_shared_from_this<WatchStream> {
 public:
  static WatchStream* Start(WatchHub& hub, const std::string& app,
                            const std::string& epoch, int64_t after_revision) {
    auto stream = std::make_shared<WatchStream>();
    stream->self_ = stream;
    stream->Open(hub, app, epoch, after_revision);
    return stream.get();
  }

  static WatchStream* Refuse(const absl::Status& status) {
    auto stream = std::make_shared<WatchStream>();
    stream->self_ = stream;
    MutexLock lock(stream->mutex_);
    stream->FinishOnce(rpc::ToGrpcStatus(status));
    return stream.get();
  }

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(mutex_);
      writing_ = false;
      if (!ok || cancelled_) {
        FinishOnce(grpc::Status(grpc::StatusCode::CANCELLED, "cancelled"));
      }
    }
    Pump();
  }

  void OnCancel() override {
    MutexLock lock(mutex_);
    cancelled_ = true;
    if (!writing_) {
      FinishOnce(grpc::Status(grpc::StatusCode::CANCELLED, "cancelled"));
    }
  }

  void OnDone() override {
    std::shared_ptr<Watcher> watcher;
    {
      MutexLock lock(mutex_);
      watcher = std::move(watcher_);
    }
    if (watcher != nullptr) watcher->Cancel();
    watcher.reset();
    // The hub may hold the stream for the length of one call of Pump().
    const std::shared_ptr<WatchStream> self = std::move(self_);
  }

 private:
  void Open(WatchHub& hub, const std::string& app, const std::string& epoch,
            int64_t after_revision) {
    absl::StatusOr<std::shared_ptr<Watcher>> watcher = hub.Watch(
        app, epoch, after_revision, [weak = std::weak_ptr<WatchStream>(self_)] {
          if (const auto stream = weak.lock()) stream->Pump();
        });
    {
      MutexLock lock(mutex_);
      if (watcher.ok()) {
        watcher_ = *std::move(watcher);
      } else {
        FinishOnce(rpc::ToGrpcStatus(watcher.status()));
      }
    }
    Pump();
  }

  void Pump() {
    MutexLock lock(mutex_);
    if (finished_ || writing_ || watcher_ == nullptr) return;
    const absl::StatusOr<Record> next = watcher_->Next();
    if (!next.ok()) {
      FinishOnce(rpc::ToGrpcStatus(next.status()));
      return;
    }
    if (*next == nullptr) return;
    buffer_ = Share(*next);
    writing_ = true;
    // gRPC calls none of our methods from within, so the lock can be held.
    StartWrite(&buffer_);
  }

  void FinishOnce(const grpc::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (std::exchange(finished_, true)) return;
    Finish(status);
  }

  std::shared_ptr<WatchStream> self_;

  Mutex mutex_;
  std::shared_ptr<Watcher> watcher_ ABSL_GUARDED_BY(mutex_);
  grpc::ByteBuffer buffer_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

std::string AppFilterOf(const v1::WatchNodesRequest& /*request*/) { return ""; }
template <typename Request>
std::string AppFilterOf(const Request& request) {
  return request.app_name();
}

template <typename Request>
WatchStream* StartWatch(WatchHub& hub, const grpc::ByteBuffer* bytes) {
  Request request;
  grpc::ByteBuffer copy = *bytes;
  if (!grpc::SerializationTraits<Request>::Deserialize(&copy, &request).ok()) {
    return WatchStream::Refuse(
        FabricError(absl::StatusCode::kInvalidArgument, "REQUEST_INVALID",
                    "the request is no message of its type"));
  }
  const std::string app = AppFilterOf(request);
  FieldViolations violations;
  CheckAppFilter("appName", app, &violations);
  CheckText("epoch", request.epoch(), 64, &violations);
  CheckRange("afterRevision", request.after_revision(), 0, INT64_MAX,
             &violations);
  const absl::Status valid =
      violations.ToStatus(kErrorDomain, "REQUEST_INVALID");
  if (!valid.ok()) return WatchStream::Refuse(valid);
  return WatchStream::Start(hub, app, request.epoch(),
                            request.after_revision());
}

// Heartbeats of one agent: each request is answered.
class HeartbeatStream final
    : public grpc::ServerBidiReactor<v1::HeartbeatRequest,
                                     v1::HeartbeatResponse> {
 public:
  explicit HeartbeatStream(NodeRegistry* nodes) : nodes_(*nodes) {
    StartRead(&request_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      Finish(grpc::Status::OK);
      return;
    }
    absl::StatusOr<v1::HeartbeatResponse> response = nodes_.Heartbeat(request_);
    if (!response.ok()) {
      Finish(rpc::ToGrpcStatus(response.status()));
      return;
    }
    response_ = *std::move(response);
    StartWrite(&response_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) {
      Finish(grpc::Status(grpc::StatusCode::CANCELLED, "cancelled"));
      return;
    }
    StartRead(&request_);
  }

  void OnDone() override { delete this; }

 private:
  NodeRegistry& nodes_;
  v1::HeartbeatRequest request_;
  v1::HeartbeatResponse response_;
};

// Reports of one edge.
class EdgeStream final : public grpc::ServerReadReactor<v1::ReportEdgeRequest> {
 public:
  explicit EdgeStream(EdgeRegistry* edges) : edges_(*edges) {
    StartRead(&request_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      ended_ = true;
      Finish(grpc::Status::OK);
      return;
    }
    if (lease_ == kNoLease) {
      edge_id_ = request_.edge().edge_id();
      edges_.Open(request_, [this](absl::StatusOr<LeaseId> lease) {
        if (lease.ok()) lease_ = *lease;
        Continue(lease.status());
      });
      return;
    }
    Continue(edges_.Report(edge_id_, lease_, request_));
  }

  void OnCancel() override { cancelled_ = true; }

  void OnDone() override {
    // An edge that said goodbye is gone at once. One whose connection broke may
    // come back, and is waited for until its lease ends.
    if (ended_ && !cancelled_ && lease_ != kNoLease) {
      edges_.Close(edge_id_, lease_);
    }
    delete this;
  }

 private:
  void Continue(const absl::Status& status) {
    if (status.ok()) {
      request_.Clear();
      StartRead(&request_);
    } else {
      Finish(rpc::ToGrpcStatus(status));
    }
  }

  EdgeRegistry& edges_;
  std::atomic<bool> cancelled_ = false;
  bool ended_ = false;
  std::string edge_id_;
  LeaseId lease_ = kNoLease;
  v1::ReportEdgeRequest request_;
};

// The watches take and send bytes.
using WatchBase = v1::Fabric::WithRawCallbackMethod_WatchPlans<
    v1::Fabric::WithRawCallbackMethod_WatchEndpoints<
        v1::Fabric::WithRawCallbackMethod_WatchNodes<
            v1::Fabric::WithRawCallbackMethod_WatchSlots<
                v1::Fabric::WithRawCallbackMethod_WatchEvents<
                    v1::Fabric::CallbackService>>>>>;
using WatchReactor = grpc::ServerWriteReactor<grpc::ByteBuffer>;

class FabricService final : public WatchBase {
 public:
  explicit FabricService(FabricCore* fabric) : fabric_(*fabric) {}

  // The other overloads of these, which the generated code has, are not served.
  using WatchBase::WatchEndpoints;
  using WatchBase::WatchEvents;
  using WatchBase::WatchNodes;
  using WatchBase::WatchPlans;
  using WatchBase::WatchSlots;

  WatchReactor* WatchPlans(Context*, const grpc::ByteBuffer* bytes) override {
    return StartWatch<v1::WatchPlansRequest>(fabric_.plan_watch(), bytes);
  }
  WatchReactor* WatchEndpoints(Context*,
                               const grpc::ByteBuffer* bytes) override {
    return StartWatch<v1::WatchEndpointsRequest>(fabric_.endpoint_watch(),
                                                 bytes);
  }
  WatchReactor* WatchNodes(Context*, const grpc::ByteBuffer* bytes) override {
    return StartWatch<v1::WatchNodesRequest>(fabric_.node_watch(), bytes);
  }
  WatchReactor* WatchSlots(Context*, const grpc::ByteBuffer* bytes) override {
    return StartWatch<v1::WatchSlotsRequest>(fabric_.slot_watch(), bytes);
  }
  WatchReactor* WatchEvents(Context*, const grpc::ByteBuffer* bytes) override {
    return StartWatch<v1::WatchEventsRequest>(fabric_.event_watch(), bytes);
  }

  UnaryReactor* PutPlan(Context* context, const v1::PutPlanRequest* request,
                        v1::PutPlanResponse* response) override {
    return Later(context, fabric_.plans(), &PlanRegistry::Put, request,
                 response);
  }
  UnaryReactor* GetPlan(Context* context, const v1::GetPlanRequest* request,
                        v1::GetPlanResponse* response) override {
    return Now(context, fabric_.plans().Get(*request), response);
  }
  UnaryReactor* ListPlans(Context* context, const v1::ListPlansRequest* request,
                          v1::ListPlansResponse* response) override {
    return Now(context, fabric_.plans().List(*request), response);
  }
  UnaryReactor* DeletePlan(Context* context,
                           const v1::DeletePlanRequest* request,
                           v1::DeletePlanResponse* response) override {
    return Later(context, fabric_.plans(), &PlanRegistry::Delete, request,
                 response);
  }
  UnaryReactor* ScaleApp(Context* context, const v1::ScaleAppRequest* request,
                         v1::ScaleAppResponse* response) override {
    return Later(context, fabric_.plans(), &PlanRegistry::Scale, request,
                 response);
  }

  UnaryReactor* PutBudget(Context* context, const v1::PutBudgetRequest* request,
                          v1::PutBudgetResponse* response) override {
    return Later(context, fabric_.budgets(), &BudgetRegistry::Put, request,
                 response);
  }
  UnaryReactor* GetBudget(Context* context, const v1::GetBudgetRequest* request,
                          v1::GetBudgetResponse* response) override {
    return Now(context, fabric_.budgets().Get(*request), response);
  }
  UnaryReactor* ListBudgets(Context* context,
                            const v1::ListBudgetsRequest* request,
                            v1::ListBudgetsResponse* response) override {
    return Now(context, fabric_.budgets().List(*request), response);
  }
  UnaryReactor* DeleteBudget(Context* context,
                             const v1::DeleteBudgetRequest* request,
                             v1::DeleteBudgetResponse* response) override {
    return Later(context, fabric_.budgets(), &BudgetRegistry::Delete, request,
                 response);
  }

  UnaryReactor* RegisterEndpoint(
      Context* context, const v1::RegisterEndpointRequest* request,
      v1::RegisterEndpointResponse* response) override {
    return Later(context, fabric_.endpoints(), &EndpointRegistry::Register,
                 request, response);
  }
  UnaryReactor* UpdateEndpoint(Context* context,
                               const v1::UpdateEndpointRequest* request,
                               v1::UpdateEndpointResponse* response) override {
    return Later(context, fabric_.endpoints(), &EndpointRegistry::Update,
                 request, response);
  }
  UnaryReactor* DeregisterEndpoint(
      Context* context, const v1::DeregisterEndpointRequest* request,
      v1::DeregisterEndpointResponse* response) override {
    return Later(context, fabric_.endpoints(), &EndpointRegistry::Deregister,
                 request, response);
  }
  UnaryReactor* ListEndpoints(Context* context,
                              const v1::ListEndpointsRequest* request,
                              v1::ListEndpointsResponse* response) override {
    return Now(context, fabric_.endpoints().List(*request), response);
  }

  UnaryReactor* JoinNode(Context* context, const v1::JoinNodeRequest* request,
                         v1::JoinNodeResponse* response) override {
    return Later(context, fabric_.nodes(), &NodeRegistry::Join, request,
                 response);
  }
  grpc::ServerBidiReactor<v1::HeartbeatRequest, v1::HeartbeatResponse>*
  Heartbeat(Context*) override {
    return new HeartbeatStream(&fabric_.nodes());
  }
  UnaryReactor* LeaveNode(Context* context, const v1::LeaveNodeRequest* request,
                          v1::LeaveNodeResponse* response) override {
    return Later(context, fabric_.nodes(), &NodeRegistry::Leave, request,
                 response);
  }
  UnaryReactor* ListNodes(Context* context, const v1::ListNodesRequest* request,
                          v1::ListNodesResponse* response) override {
    return Now(context, fabric_.nodes().List(*request), response);
  }
  UnaryReactor* DrainNode(Context* context, const v1::DrainNodeRequest* request,
                          v1::DrainNodeResponse* response) override {
    return Later(context, fabric_.nodes(), &NodeRegistry::Drain, request,
                 response);
  }
  UnaryReactor* CordonNode(Context* context,
                           const v1::CordonNodeRequest* request,
                           v1::CordonNodeResponse* response) override {
    return Later(context, fabric_.nodes(), &NodeRegistry::Cordon, request,
                 response);
  }
  UnaryReactor* UndrainNode(Context* context,
                            const v1::UndrainNodeRequest* request,
                            v1::UndrainNodeResponse* response) override {
    return Later(context, fabric_.nodes(), &NodeRegistry::Undrain, request,
                 response);
  }
  UnaryReactor* DeleteNode(Context* context,
                           const v1::DeleteNodeRequest* request,
                           v1::DeleteNodeResponse* response) override {
    return Later(context, fabric_.nodes(), &NodeRegistry::Delete, request,
                 response);
  }

  UnaryReactor* ClaimSlot(Context* context, const v1::ClaimSlotRequest* request,
                          v1::ClaimSlotResponse* response) override {
    return Later(context, fabric_.slots(), &SlotRegistry::Claim, request,
                 response);
  }
  UnaryReactor* UpdateSlot(Context* context,
                           const v1::UpdateSlotRequest* request,
                           v1::UpdateSlotResponse* response) override {
    return Later(context, fabric_.slots(), &SlotRegistry::Update, request,
                 response);
  }
  UnaryReactor* ReleaseSlot(Context* context,
                            const v1::ReleaseSlotRequest* request,
                            v1::ReleaseSlotResponse* response) override {
    return Later(context, fabric_.slots(), &SlotRegistry::Release, request,
                 response);
  }
  UnaryReactor* ListSlots(Context* context, const v1::ListSlotsRequest* request,
                          v1::ListSlotsResponse* response) override {
    return Now(context, fabric_.slots().List(*request), response);
  }

  grpc::ServerReadReactor<v1::ReportEdgeRequest>* ReportEdge(
      Context*, v1::ReportEdgeResponse*) override {
    return new EdgeStream(&fabric_.edges());
  }
  UnaryReactor* ListEdges(Context* context, const v1::ListEdgesRequest* request,
                          v1::ListEdgesResponse* response) override {
    return Now(context, fabric_.edges().List(*request), response);
  }

  UnaryReactor* RecordEvents(Context* context,
                             const v1::RecordEventsRequest* request,
                             v1::RecordEventsResponse* response) override {
    using Method = void (EventLog::*)(const v1::RecordEventsRequest&,
                                      Done<v1::RecordEventsResponse>);
    return Later(context, fabric_.events(),
                 static_cast<Method>(&EventLog::Record), request, response);
  }
  UnaryReactor* ListEvents(Context* context,
                           const v1::ListEventsRequest* request,
                           v1::ListEventsResponse* response) override {
    return Now(context, fabric_.events().List(*request), response);
  }

  UnaryReactor* Status(Context* context, const v1::StatusRequest*,
                       v1::StatusResponse* response) override {
    return Now<v1::StatusResponse>(context, fabric_.Status(), response);
  }

 private:
  FabricCore& fabric_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewFabricService(FabricCore* fabric) {
  return std::make_unique<FabricService>(fabric);
}

}  // namespace mycelium::fabric
