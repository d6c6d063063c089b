#include "services/edge/edge_reporter.h"

#include <algorithm>
#include <utility>

#include "absl/random/random.h"
#include "glog/logging.h"
#include "grpcpp/grpcpp.h"
#include "mycelium/fabric/v1/fabric.grpc.pb.h"

namespace mycelium::edge {
namespace {

constexpr absl::Duration kInterval = absl::Seconds(1);
// Between two looks while an endpoint drains: its agent waits for us.
constexpr absl::Duration kBusyInterval = absl::Milliseconds(10);
constexpr absl::Duration kFirstBackoff = absl::Milliseconds(100);
constexpr absl::Duration kMaxBackoff = absl::Seconds(5);

bool SaysTheSame(const fabric::v1::ReportEdgeRequest& a,
                 const fabric::v1::ReportEdgeRequest& b) {
  if (a.epoch() != b.epoch() || a.applied_revision() != b.applied_revision() ||
      a.draining_size() != b.draining_size()) {
    return false;
  }
  // Only becoming idle is urgent.
  for (int i = 0; i < a.draining_size(); ++i) {
    if (a.draining(i).instance_id() != b.draining(i).instance_id() ||
        a.draining(i).app_name() != b.draining(i).app_name() ||
        (a.draining(i).in_flight() == 0) != (b.draining(i).in_flight() == 0)) {
      return false;
    }
  }
  return true;
}

}  // namespace

EdgeReporter::EdgeReporter(
    const std::shared_ptr<grpc::ChannelInterface>& channel,
    fabric::v1::EdgeInfo edge, Source source)
    : channel_(channel), edge_(std::move(edge)), source_(std::move(source)) {
  thread_ = std::thread([this] { Run(); });
}

EdgeReporter::~EdgeReporter() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
    const absl::Time give_up = absl::Now() + absl::Seconds(1);
    while (!ended_ && absl::Now() < give_up)
      changed_.WaitFor(mutex_, absl::Milliseconds(50));
    if (context_ != nullptr) context_->TryCancel();
  }
  thread_.join();
}

void EdgeReporter::Poke() {
  MutexLock lock(mutex_);
  poked_ = true;
  changed_.NotifyAll();
}

void EdgeReporter::Run() {
  absl::BitGen random;
  absl::Duration backoff = kFirstBackoff;
  for (;;) {
    const bool opened = Report();
    backoff = opened ? kFirstBackoff : std::min(backoff * 2, kMaxBackoff);
    MutexLock lock(mutex_);
    const absl::Time until =
        absl::Now() + backoff * absl::Uniform(random, 0.75, 1.25);
    while (!stopping_ && absl::Now() < until)
      changed_.WaitFor(mutex_, until - absl::Now());
    if (stopping_) {
      ended_ = true;
      changed_.NotifyAll();
      return;
    }
  }
}

bool EdgeReporter::Report() {
  grpc::ClientContext context;
  {
    MutexLock lock(mutex_);
    if (stopping_) return false;
    context_ = &context;
  }
  const auto stub = fabric::v1::Fabric::NewStub(channel_);
  fabric::v1::ReportEdgeResponse response;
  const auto writer = stub->ReportEdge(&context, &response);
  fabric::v1::ReportEdgeRequest sent = source_();
  *sent.mutable_edge() = edge_;
  bool open = writer->Write(sent);
  const bool opened = open;
  sent.clear_edge();
  while (open) {
    fabric::v1::ReportEdgeRequest next;
    if (!WaitForNews(sent, &next)) {
      writer->WritesDone();
      break;
    }
    open = writer->Write(next);
    sent = std::move(next);
  }
  const grpc::Status status = writer->Finish();
  {
    MutexLock lock(mutex_);
    context_ = nullptr;
    if (!status.ok() && !stopping_) {
      LOG(WARNING) << "reporting to the fabric: " << status.error_message();
    }
  }
  return opened;
}

bool EdgeReporter::WaitForNews(const fabric::v1::ReportEdgeRequest& sent,
                               fabric::v1::ReportEdgeRequest* next) {
  const absl::Time due = absl::Now() + kInterval;
  for (;;) {
    *next = source_();
    if (!SaysTheSame(*next, sent)) return true;
    MutexLock lock(mutex_);
    if (stopping_) return false;
    const absl::Time now = absl::Now();
    if (now >= due) return true;
    if (poked_) {
      // Workers apply what was published a moment later; look again soon.
      poked_ = false;
      changed_.WaitFor(mutex_, absl::Milliseconds(1));
    } else {
      changed_.WaitFor(mutex_, sent.draining_size() > 0
                                   ? std::min(kBusyInterval, due - now)
                                   : due - now);
    }
    if (stopping_) return false;
  }
}

}  // namespace mycelium::edge
