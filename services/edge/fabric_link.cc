#include "services/edge/fabric_link.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/channel.h"
#include "lib/base/version.h"

namespace mycelium::edge {

FabricLink::FabricLink(const std::shared_ptr<grpc::ChannelInterface>& channel,
                       const FabricRoutes::Options& options, Clock* clock,
                       RouteTable* table)
    : channel_(channel),
      clock_(*clock),
      routes_(options, clock, table, [this] { OnChange(); }) {}

FabricLink::~FabricLink() { Stop(); }

void FabricLink::Start(const std::string& edge_id, const std::string& address,
                       Edge* edge) {
  fabric::v1::EdgeInfo info;
  info.set_edge_id(edge_id);
  info.set_url(absl::StrCat("http://", edge->address()));
  info.set_address(address);
  info.set_edge_version(kVersion);
  {
    MutexLock lock(mutex_);
    edge_ = edge;
    reporter_ = std::make_unique<EdgeReporter>(channel_, std::move(info),
                                               [this] { return MakeReport(); });
  }
  plans_ = fabric_client::WatchPlans(
      channel_, "", [this](const auto& update) { routes_.OnPlans(update); });
  endpoints_ = fabric_client::WatchEndpoints(channel_, "", [this](auto update) {
    routes_.OnEndpoints(std::move(update));
  });
  nodes_ = fabric_client::WatchNodes(
      channel_, [this](const auto& update) { routes_.OnNodes(update); });
  watching_.store(true, std::memory_order_release);
  ticker_ = std::thread([this] { RunTicks(); });
}

void FabricLink::Stop() {
  std::unique_ptr<EdgeReporter> reporter;
  {
    MutexLock lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    changed_.NotifyAll();
    reporter = std::move(reporter_);
  }
  // Outside of the lock: the reporter's thread calls MakeReport.
  reporter.reset();
  watching_.store(false, std::memory_order_release);
  if (ticker_.joinable()) ticker_.join();
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
  for (;;) {
    {
      MutexLock lock(mutex_);
      if (!stopping_) changed_.WaitFor(mutex_, absl::Seconds(1));
      if (stopping_) return;
    }
    routes_.Tick();
  }
}

}  // namespace mycelium::edge
