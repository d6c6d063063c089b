#include "services/edge/edge_service.h"

#include <chrono>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "grpcpp/alarm.h"
#include "lib/base/mutex.h"
#include "lib/rpc/status.h"

namespace mycelium::edge {
namespace {

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                 const absl::Status& status) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(rpc::ToGrpcStatus(status));
  return reactor;
}

}  // namespace

// One WatchStats call: writes, waits, writes. Deletes itself when done.
class EdgeService::StatsStream final
    : public grpc::ServerWriteReactor<v1::WatchStatsResponse> {
 public:
  StatsStream(const EdgeStatus* status, const v1::WatchStatsRequest& request)
      : status_(*status), app_name_(request.app_name()), view_(request.view()) {
    if (request.has_interval()) {
      interval_ = std::chrono::seconds(request.interval().seconds()) +
                  std::chrono::nanoseconds(request.interval().nanos());
    }
    const absl::Status valid = status_.CheckWatch(request);
    if (valid.ok()) {
      Send();
    } else {
      MutexLock lock(mutex_);
      finished_ = true;
      Finish(rpc::ToGrpcStatus(valid));
    }
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(mutex_);
    if (finished_) return;
    if (!ok || cancelled_) return End();
    waiting_ = true;
    alarm_.Set(std::chrono::system_clock::now() + interval_,
               [this](bool) { OnAlarm(); });
  }

  void OnCancel() override {
    MutexLock lock(mutex_);
    cancelled_ = true;
    // The alarm's callback runs either way, and ends the call.
    if (waiting_) alarm_.Cancel();
  }

  void OnDone() override { delete this; }

 private:
  void OnAlarm() {
    {
      MutexLock lock(mutex_);
      waiting_ = false;
      if (cancelled_) return End();
    }
    Send();
  }

  void Send() {
    response_.Clear();
    *response_.mutable_stats() = status_.Stats(app_name_, view_);
    StartWrite(&response_);
  }

  void End() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    finished_ = true;
    Finish(grpc::Status::CANCELLED);
  }

  const EdgeStatus& status_;
  const std::string app_name_;
  const v1::StatsView view_;
  std::chrono::nanoseconds interval_ = std::chrono::seconds(1);
  v1::WatchStatsResponse response_;

  Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Alarm alarm_;
};

grpc::ServerUnaryReactor* EdgeService::ListRoutes(
    grpc::CallbackServerContext* context, const v1::ListRoutesRequest* request,
    v1::ListRoutesResponse* response) {
  absl::StatusOr<v1::ListRoutesResponse> routes = status_.ListRoutes(*request);
  if (!routes.ok()) return Answer(context, routes.status());
  *response = *std::move(routes);
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* EdgeService::GetStats(
    grpc::CallbackServerContext* context, const v1::GetStatsRequest* request,
    v1::GetStatsResponse* response) {
  absl::StatusOr<v1::EdgeStats> stats = status_.GetStats(*request);
  if (!stats.ok()) return Answer(context, stats.status());
  *response->mutable_stats() = *std::move(stats);
  return Answer(context, absl::OkStatus());
}

grpc::ServerWriteReactor<v1::WatchStatsResponse>* EdgeService::WatchStats(
    grpc::CallbackServerContext* /*context*/,
    const v1::WatchStatsRequest* request) {
  return new StatsStream(&status_, *request);
}

}  // namespace mycelium::edge
