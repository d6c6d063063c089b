#include "lib/fabric_client/watch.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/random/random.h"
#include "absl/time/clock.h"
#include "glog/logging.h"
#include "grpcpp/grpcpp.h"
#include "lib/base/mutex.h"
#include "mycelium/fabric/v1/fabric.grpc.pb.h"

namespace mycelium::fabric_client {
namespace {

namespace v1 = fabric::v1;

constexpr absl::Duration kFirstBackoff = absl::Milliseconds(50);
constexpr absl::Duration kMaxBackoff = absl::Seconds(2);

// Names the types of one kind of watch, and its method.
struct Plans {
  using Resource = v1::Plan;
  using Request = v1::WatchPlansRequest;
  using Response = v1::WatchPlansResponse;
  static auto Open(v1::Fabric::Stub& stub, grpc::ClientContext* context,
                   const Request& request) {
    return stub.WatchPlans(context, request);
  }
};

struct Endpoints {
  using Resource = v1::Endpoint;
  using Request = v1::WatchEndpointsRequest;
  using Response = v1::WatchEndpointsResponse;
  static auto Open(v1::Fabric::Stub& stub, grpc::ClientContext* context,
                   const Request& request) {
    return stub.WatchEndpoints(context, request);
  }
};

struct Slots {
  using Resource = v1::Slot;
  using Request = v1::WatchSlotsRequest;
  using Response = v1::WatchSlotsResponse;
  static auto Open(v1::Fabric::Stub& stub, grpc::ClientContext* context,
                   const Request& request) {
    return stub.WatchSlots(context, request);
  }
};

struct Nodes {
  using Resource = v1::Node;
  using Request = v1::WatchNodesRequest;
  using Response = v1::WatchNodesResponse;
  static auto Open(v1::Fabric::Stub& stub, grpc::ClientContext* context,
                   const Request& request) {
    return stub.WatchNodes(context, request);
  }
};

struct Events {
  using Resource = v1::Event;
  using Request = v1::WatchEventsRequest;
  using Response = v1::WatchEventsResponse;
  static auto Open(v1::Fabric::Stub& stub, grpc::ClientContext* context,
                   const Request& request) {
    return stub.WatchEvents(context, request);
  }
};

void SetApp(v1::WatchNodesRequest&, const std::string&) {}
template <typename Request>
void SetApp(Request& request, const std::string& app_name) {
  request.set_app_name(app_name);
}

template <typename Kind>
class WatchImpl final : public Watch {
 public:
  using Resource = typename Kind::Resource;

  WatchImpl(const std::shared_ptr<grpc::ChannelInterface>& channel,
            std::string app_name, WatchCallback<Resource> callback)
      : stub_(v1::Fabric::NewStub(channel)),
        app_name_(std::move(app_name)),
        callback_(std::move(callback)),
        thread_([this] { Run(); }) {}

  ~WatchImpl() override {
    {
      MutexLock lock(mutex_);
      stopping_ = true;
      if (context_ != nullptr) context_->TryCancel();
      stop_.NotifyAll();
    }
    thread_.join();
  }

  absl::Duration Staleness() const override {
    MutexLock lock(mutex_);
    return connected_ ? absl::ZeroDuration() : absl::Now() - last_heard_;
  }

  bool synced() const override {
    MutexLock lock(mutex_);
    return synced_;
  }

 private:
  void Run() {
    absl::BitGen random;
    absl::Duration backoff = kFirstBackoff;
    while (true) {
      grpc::ClientContext context;
      {
        MutexLock lock(mutex_);
        if (stopping_) return;
        context_ = &context;
      }
      const bool heard = Follow(context);
      MutexLock lock(mutex_);
      context_ = nullptr;
      if (connected_) last_heard_ = absl::Now();
      connected_ = false;
      backoff = heard ? kFirstBackoff : std::min(backoff * 2, kMaxBackoff);
      if (!stopping_) {
        stop_.WaitFor(mutex_, backoff * absl::Uniform(random, 0.75, 1.25));
      }
    }
  }

  // Reads one stream to its end. Returns whether anything came.
  bool Follow(grpc::ClientContext& context) {
    typename Kind::Request request;
    request.set_epoch(epoch_);
    request.set_after_revision(revision_);
    SetApp(request, app_name_);
    const auto stream = Kind::Open(*stub_, &context, request);
    bool heard = false;
    // A snapshot that breaks off is begun anew, so it is kept apart until its
    // end.
    WatchUpdate<Resource> update;
    typename Kind::Response response;
    while (stream->Read(&response)) {
      heard = true;
      {
        MutexLock lock(mutex_);
        connected_ = true;
      }
      Take(response, update);
    }
    const grpc::Status status = stream->Finish();
    if (heard && !status.ok() &&
        status.error_code() != grpc::StatusCode::CANCELLED) {
      LOG(WARNING) << "watch of " << Resource::descriptor()->name()
                   << " ended: " << status.error_message() << "; trying again";
    }
    return heard;
  }

  void Take(typename Kind::Response& response, WatchUpdate<Resource>& update) {
    for (auto& change : *response.mutable_changes()) {
      if (change.has_put()) {
        update.puts.push_back(std::move(*change.mutable_put()));
      } else if (change.has_delete_()) {
        update.deletes.push_back(
            std::move(*change.mutable_delete_()->mutable_key()));
      }
    }
    switch (response.kind()) {
      case v1::WATCH_KIND_RESYNC:
        epoch_.clear();
        revision_ = 0;
        update = {};
        return;
      case v1::WATCH_KIND_SNAPSHOT:
        return;
      case v1::WATCH_KIND_SNAPSHOT_END:
        update.reset = true;
        break;
      case v1::WATCH_KIND_CHANGE:
      case v1::WATCH_KIND_BOOKMARK:
        break;
      default:
        return;  // Of a later version, and of no meaning to this one.
    }
    epoch_ = response.epoch();
    revision_ = response.revision();
    update.epoch = epoch_;
    update.revision = revision_;
    const bool reset = update.reset;
    callback_(std::exchange(update, {}));
    if (reset) {
      MutexLock lock(mutex_);
      synced_ = true;
    }
  }

  const std::unique_ptr<v1::Fabric::Stub> stub_;
  const std::string app_name_;
  const WatchCallback<Resource> callback_;

  // Where to resume; known to the thread alone.
  std::string epoch_;
  int64_t revision_ = 0;

  mutable Mutex mutex_;
  CondVar stop_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool connected_ ABSL_GUARDED_BY(mutex_) = false;
  bool synced_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time last_heard_ ABSL_GUARDED_BY(mutex_) = absl::Now();
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;

  std::thread thread_;  // Last, so that it sees everything else made.
};

}  // namespace

std::unique_ptr<Watch> WatchPlans(
    const std::shared_ptr<grpc::ChannelInterface>& channel,
    std::string app_name, WatchCallback<v1::Plan> callback) {
  return std::make_unique<WatchImpl<Plans>>(channel, std::move(app_name),
                                            std::move(callback));
}

std::unique_ptr<Watch> WatchEndpoints(
    const std::shared_ptr<grpc::ChannelInterface>& channel,
    std::string app_name, WatchCallback<v1::Endpoint> callback) {
  return std::make_unique<WatchImpl<Endpoints>>(channel, std::move(app_name),
                                                std::move(callback));
}

std::unique_ptr<Watch> WatchSlots(
    const std::shared_ptr<grpc::ChannelInterface>& channel,
    std::string app_name, WatchCallback<v1::Slot> callback) {
  return std::make_unique<WatchImpl<Slots>>(channel, std::move(app_name),
                                            std::move(callback));
}

std::unique_ptr<Watch> WatchNodes(
    const std::shared_ptr<grpc::ChannelInterface>& channel,
    WatchCallback<v1::Node> callback) {
  return std::make_unique<WatchImpl<Nodes>>(channel, "", std::move(callback));
}

std::unique_ptr<Watch> WatchEvents(
    const std::shared_ptr<grpc::ChannelInterface>& channel,
    std::string app_name, WatchCallback<v1::Event> callback) {
  return std::make_unique<WatchImpl<Events>>(channel, std::move(app_name),
                                             std::move(callback));
}

}  // namespace mycelium::fabric_client
