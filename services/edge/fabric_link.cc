#include "services/edge/fabric_link.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/grpcpp.h"
#include "lib/base/ids.h"
#include "lib/base/version.h"
#include "mycelium/fabric/v1/fabric.grpc.pb.h"

namespace mycelium::edge {
namespace {

constexpr absl::Duration kTick = absl::Seconds(1);
// Between two looks whether the fabric knows this edge.
constexpr absl::Duration kRegistrationPoll = absl::Milliseconds(20);
// Of the edge's id in the name beside it: ids have 63 characters at most.
constexpr size_t kMaxBesidePrefix = 54;

}  // namespace

FabricLink::FabricLink(const std::shared_ptr<grpc::ChannelInterface>& channel,
                       const FabricRoutes::Options& options, Clock* clock,
                       RouteTable* table)
    : channel_(channel),
      clock_(*clock),
      routes_(options, clock, table, [this] { OnChange(); }) {}

FabricLink::~FabricLink() { Stop(); }

void FabricLink::Start(const std::string& edge_id, const std::string& address,
                       Edge* edge, UniqueFd name_free) {
  info_.set_edge_id(edge_id);
  info_.set_url(absl::StrCat("http://", edge->address()));
  info_.set_address(address);
  info_.set_edge_version(kVersion);
  if (name_free.valid()) {
    beside_id_ =
        absl::StrCat(edge_id.substr(0, kMaxBesidePrefix), ".", RandomHex(4));
  }
  {
    MutexLock lock(mutex_);
    edge_ = edge;
    if (beside_id_.empty()) {
      name_settled_ = true;
      MakeNamePipe();
      reporter_ = MakeReporter(edge_id);
    } else {
      name_free_ = std::move(name_free);
      reporter_ = MakeReporter(beside_id_);
    }
  }
  if (beside_id_.empty()) StartWatches();
  ticker_ = std::thread([this] { RunTicks(); });
}

std::unique_ptr<EdgeReporter> FabricLink::MakeReporter(
    const std::string& edge_id) {
  fabric::v1::EdgeInfo info = info_;
  info.set_edge_id(edge_id);
  return std::make_unique<EdgeReporter>(channel_, std::move(info),
                                        [this] { return MakeReport(); });
}

void FabricLink::StartWatches() {
  plans_ = fabric_client::WatchPlans(
      channel_, "", [this](const auto& update) { routes_.OnPlans(update); });
  endpoints_ = fabric_client::WatchEndpoints(channel_, "", [this](auto update) {
    routes_.OnEndpoints(std::move(update));
  });
  nodes_ = fabric_client::WatchNodes(
      channel_, [this](const auto& update) { routes_.OnNodes(update); });
  watching_.store(true, std::memory_order_release);
}

void FabricLink::MakeNamePipe() {
  int ends[2] = {-1, -1};
  if (pipe2(ends, O_CLOEXEC) != 0) return;
  name_free_.reset(ends[0]);
  name_held_.reset(ends[1]);
}

UniqueFd FabricLink::LendName() {
  MutexLock lock(mutex_);
  name_lent_ = true;
  if (!name_free_.valid()) return UniqueFd();
  return UniqueFd(fcntl(name_free_.get(), F_DUPFD_CLOEXEC, 0));
}

void FabricLink::ReclaimName() {
  MutexLock lock(mutex_);
  name_lent_ = false;
}

bool FabricLink::IsRegistered(const std::string& edge_id) {
  const auto stub = fabric::v1::Fabric::NewStub(channel_);
  fabric::v1::ListEdgesRequest request;
  request.set_page_size(1000);
  do {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::seconds(1));
    fabric::v1::ListEdgesResponse response;
    if (!stub->ListEdges(&context, request, &response).ok()) return false;
    for (const fabric::v1::EdgeInfo& edge : response.edges()) {
      if (edge.edge_id() == edge_id) return true;
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return false;
}

void FabricLink::SettleName() {
  bool registering = false;
  {
    MutexLock lock(mutex_);
    if (name_settled_ || name_lent_) return;
    pollfd wait = {name_free_.get(), POLLIN, 0};
    if (poll(&wait, 1, 0) != 1) return;
    registering = next_reporter_ != nullptr;
    if (!registering) next_reporter_ = MakeReporter(info_.edge_id());
  }
  // Under both names until the second is known, or a drain could be complete
  // in between.
  if (!registering || !IsRegistered(info_.edge_id())) return;
  std::unique_ptr<EdgeReporter> old;
  {
    MutexLock lock(mutex_);
    if (name_lent_ || stopping_) return;
    old = std::exchange(reporter_, std::move(next_reporter_));
    name_settled_ = true;
    MakeNamePipe();
  }
  // Outside of the lock: the reporter's thread calls MakeReport.
  old.reset();
}

void FabricLink::Stop() {
  std::unique_ptr<EdgeReporter> reporter;
  std::unique_ptr<EdgeReporter> next_reporter;
  {
    MutexLock lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    changed_.NotifyAll();
    reporter = std::move(reporter_);
    next_reporter = std::move(next_reporter_);
  }
  // Outside of the lock: the reporter's thread calls MakeReport.
  reporter.reset();
  next_reporter.reset();
  if (ticker_.joinable()) ticker_.join();
  watching_.store(false, std::memory_order_release);
  plans_.reset();
  endpoints_.reset();
  nodes_.reset();
  MutexLock lock(mutex_);
  edge_ = nullptr;
}

void FabricLink::OnChange() {
  MutexLock lock(mutex_);
  if (edge_ != nullptr) edge_->RoutesChanged();
  if (reporter_ != nullptr) reporter_->Poke();
  if (next_reporter_ != nullptr) next_reporter_->Poke();
}

fabric::v1::ReportEdgeRequest FabricLink::MakeReport() {
  uint64_t version = 0;
  {
    MutexLock lock(mutex_);
    if (edge_ != nullptr) version = edge_->applied_version();
  }
  fabric::v1::ReportEdgeRequest report;
  // The position before the loads: what they count is then at least as new.
  FabricRoutes::Position position = routes_.AppliedAt(version);
  report.set_epoch(std::move(position.epoch));
  report.set_applied_revision(position.revision);
  for (fabric::v1::EndpointLoad& load : routes_.DrainingLoads()) {
    *report.add_draining() = std::move(load);
  }
  return report;
}

FabricState FabricLink::state() const {
  FabricState state;
  state.used = true;
  if (!watching_.load(std::memory_order_acquire)) return state;
  uint64_t version = 0;
  {
    MutexLock lock(mutex_);
    if (edge_ != nullptr) version = edge_->applied_version();
  }
  FabricRoutes::Position position = routes_.AppliedAt(version);
  state.epoch = std::move(position.epoch);
  state.revision = position.revision;
  state.staleness = std::max(
      {plans_->Staleness(), endpoints_->Staleness(), nodes_->Staleness()});
  return state;
}

void FabricLink::RunTicks() {
  bool watching = beside_id_.empty();
  for (;;) {
    if (!watching && IsRegistered(beside_id_)) {
      watching = true;
      StartWatches();
    }
    {
      MutexLock lock(mutex_);
      if (!stopping_)
        changed_.WaitFor(mutex_, watching ? kTick : kRegistrationPoll);
      if (stopping_) return;
    }
    if (!watching) continue;
    routes_.Tick();
    SettleName();
  }
}

}  // namespace mycelium::edge
