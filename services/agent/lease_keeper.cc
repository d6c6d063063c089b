#include "services/agent/lease_keeper.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "glog/logging.h"
#include "lib/base/error.h"
#include "lib/base/file.h"

namespace mycelium::agent {
namespace {

constexpr absl::Duration kFirstRetry = absl::Milliseconds(100);
constexpr absl::Duration kMaxRetry = absl::Seconds(1);
constexpr int64_t kMaxLeaseBytes = 256;

}  // namespace

LeaseKeeper::LeaseKeeper(Options options, FabricApi* fabric,
                         Callbacks callbacks)
    : options_(std::move(options)),
      fabric_(*fabric),
      callbacks_(std::move(callbacks)) {
  const absl::StatusOr<std::string> text =
      ReadFile(options_.lease_file, kMaxLeaseBytes);
  if (text.ok()) lease_id_ = std::string(absl::StripAsciiWhitespace(*text));
  thread_ = std::thread([this] { Run(); });
}

LeaseKeeper::~LeaseKeeper() { Stop(); }

void LeaseKeeper::OnLeaseNotFound(absl::string_view lease_id) {
  MutexLock lock(mutex_);
  lost_lease_ = std::string(lease_id);
  changed_.NotifyAll();
}

void LeaseKeeper::OnLeaving() {
  MutexLock lock(mutex_);
  stopping_ = true;
  changed_.NotifyAll();
}

void LeaseKeeper::Stop() {
  OnLeaving();
  if (thread_.joinable()) thread_.join();
}

void LeaseKeeper::Run() {
  while (Join()) {
    if (!Keep()) return;
    LOG(WARNING) << "the node's lease has lapsed; joining again";
    callbacks_.lost();
  }
}

bool LeaseKeeper::Join() {
  fabric::v1::JoinNodeRequest request;
  *request.mutable_node() = options_.node;
  request.mutable_lease_ttl()->set_seconds(
      absl::ToInt64Seconds(options_.lease_ttl));
  request.set_previous_lease_id(lease_id_);
  absl::Duration retry = kFirstRetry;
  std::string said;
  while (true) {
    const absl::StatusOr<fabric::v1::JoinNodeResponse> response =
        fabric_.JoinNode(request);
    if (response.ok()) {
      lease_id_ = response->lease_id();
      if (response->has_heartbeat_interval()) {
        interval_ = std::clamp(
            absl::Seconds(response->heartbeat_interval().seconds()) +
                absl::Nanoseconds(response->heartbeat_interval().nanos()),
            absl::Milliseconds(50), absl::Seconds(60));
      }
      StoreLease();
      LOG(INFO) << "joined as node " << options_.node.node_id()
                << (response->resumed() ? ", with the lease from before" : "");
      {
        // The lease may be the same one, resumed.
        MutexLock lock(mutex_);
        lost_lease_.clear();
      }
      callbacks_.joined(*response);
      return true;
    }
    // Once for each cause: this goes on for as long as the fabric is away.
    if (said != response.status().message()) {
      said = std::string(response.status().message());
      LOG(WARNING) << "cannot join the mesh yet: " << response.status();
    }
    if (!Pause(retry, /*until_lost=*/false)) return false;
    retry = std::min(retry * 2, kMaxRetry);
  }
}

bool LeaseKeeper::Keep() {
  fabric::v1::HeartbeatRequest request;
  request.set_node_id(options_.node.node_id());
  request.set_lease_id(lease_id_);
  absl::Duration retry = kFirstRetry;
  bool away = false;
  std::unique_ptr<FabricApi::Heartbeats> heartbeats;
  while (true) {
    {
      MutexLock lock(mutex_);
      if (stopping_) return false;
      if (lost_lease_ == lease_id_) return true;
    }
    if (heartbeats == nullptr) heartbeats = fabric_.OpenHeartbeats();
    const absl::StatusOr<fabric::v1::HeartbeatResponse> response =
        heartbeats->Beat(request);
    if (response.ok()) {
      if (away) LOG(INFO) << "the fabric answers again";
      away = false;
      retry = kFirstRetry;
      Pause(interval_, /*until_lost=*/true);
      continue;
    }
    heartbeats = nullptr;
    if (ReasonOf(response.status()) == "LEASE_NOT_FOUND") {
      MutexLock lock(mutex_);
      return !stopping_;
    }
    if (!away) {
      away = true;
      LOG(WARNING) << "the fabric is away, instances run on: "
                   << response.status();
    }
    Pause(retry, /*until_lost=*/true);
    retry = std::min(retry * 2, kMaxRetry);
  }
}

bool LeaseKeeper::Pause(absl::Duration time, bool until_lost) {
  const absl::Time until = absl::Now() + time;
  MutexLock lock(mutex_);
  while (!stopping_ &&
         !(until_lost && !lost_lease_.empty() && lost_lease_ == lease_id_)) {
    const absl::Duration left = until - absl::Now();
    if (left <= absl::ZeroDuration()) return true;
    changed_.WaitFor(mutex_, left);
  }
  return !stopping_;
}

void LeaseKeeper::StoreLease() {
  const absl::Status status = WriteFileAtomically(
      options_.lease_file, absl::StrCat(lease_id_, "\n"), 0600);
  if (!status.ok()) {
    LOG(WARNING) << "cannot keep the lease for the next start: " << status;
  }
}

}  // namespace mycelium::agent
