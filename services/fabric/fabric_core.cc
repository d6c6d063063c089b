#include "services/fabric/fabric_core.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "glog/logging.h"
#include "lib/base/version.h"
#include "services/fabric/keys.h"
#include "services/fabric/validate.h"

namespace mycelium::fabric {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(100);
constexpr absl::Duration kUpkeepInterval = absl::Seconds(5);

}  // namespace

std::unique_ptr<FabricCore> FabricCore::Create(Store* store,
                                               const FabricOptions& options) {
  std::unique_ptr<FabricCore> fabric(new FabricCore(store, options));
  // A disk that is full does not keep the fabric from telling what it knows.
  const absl::Status renewed = fabric->requests_.Renew();
  if (!renewed.ok()) LOG(WARNING) << "the store cannot write: " << renewed;
  fabric->feed_ =
      std::make_unique<ChangeFeed>(store, fabric->consumers(), options.threads);
  if (options.threads == StoreOptions::Threads::kOwn) {
    fabric->driver_.Start();
    fabric->ticker_ = std::thread([f = fabric.get()] { f->RunTicks(); });
  }
  return fabric;
}

FabricCore::FabricCore(Store* store, const FabricOptions& options)
    : store_(*store),
      clock_(*options.clock),
      options_(options),
      start_time_(clock_.Now()),
      events_(store, options.clock),
      requests_(store, options.clock),
      plans_(store, options.clock, &events_, &requests_, &ledger_,
             options.catalog),
      budgets_(store, options.clock, &events_, &requests_),
      nodes_(store, options.clock, &events_, &ledger_),
      slots_(store, options.clock, &events_),
      endpoints_(store, options.clock),
      edges_(store, options.clock, &events_),
      driver_(store, options.clock, &events_, &ledger_),
      plan_watch_(PlanSchema(), store, options.clock, options.watch),
      endpoint_watch_(EndpointSchema(), store, options.clock, options.watch),
      node_watch_(NodeSchema(), store, options.clock, options.watch),
      slot_watch_(SlotSchema(), store, options.clock, options.watch),
      event_watch_(EventSchema(), store, options.clock, options.watch),
      last_upkeep_(clock_.Monotonic()) {}

FabricCore::~FabricCore() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    stop_.NotifyAll();
  }
  if (ticker_.joinable()) ticker_.join();
  driver_.Stop();
  feed_.reset();
}

std::vector<WatchHub*> FabricCore::hubs() {
  return {&plan_watch_, &endpoint_watch_, &node_watch_, &slot_watch_,
          &event_watch_};
}

std::vector<ChangeConsumer*> FabricCore::consumers() {
  // The hubs come last: waking a thousand watchers takes milliseconds, which
  // nothing else should wait for.
  std::vector<ChangeConsumer*> all = {&ledger_, &nodes_, &edges_, &driver_};
  for (WatchHub* hub : hubs()) all.push_back(hub);
  return all;
}

void FabricCore::RunTicks() {
  while (true) {
    {
      MutexLock lock(mutex_);
      if (!stopping_) stop_.WaitFor(mutex_, kTick);
      if (stopping_) return;
    }
    Tick();
  }
}

void FabricCore::Tick() {
  nodes_.Tick();
  edges_.Tick();
  for (WatchHub* hub : hubs()) hub->Tick();
  if (clock_.Monotonic() - last_upkeep_ < kUpkeepInterval) return;
  last_upkeep_ = clock_.Monotonic();
  for (const absl::Status& done : {requests_.Renew(), events_.Trim()}) {
    if (!done.ok()) LOG(WARNING) << "upkeep of the store: " << done;
  }
}

void FabricCore::Settle() {
  // Each round may cause changes that the next one reacts to; what a fabric
  // does by itself comes to rest.
  for (int64_t before = -1; before != store_.Revision();) {
    before = store_.Revision();
    feed_->Pump();
    Tick();
    driver_.RunDue(clock_.Monotonic() + ReconcileDriver::kDebounce);
  }
}

void FabricCore::StopWatches() {
  for (WatchHub* hub : hubs()) hub->Stop();
}

v1::StatusResponse FabricCore::Status() {
  v1::StatusResponse response;
  response.set_epoch(store_.Epoch());
  response.set_revision(store_.Revision());
  response.set_version(kVersion);
  *response.mutable_start_time() = FromTime(start_time_);
  response.set_store(options_.store_kind);
  int64_t watchers = 0;
  for (WatchHub* hub : hubs()) {
    watchers += static_cast<int64_t>(hub->watcher_count());
  }
  response.set_watchers(watchers);
  response.set_plans(static_cast<int64_t>(plan_watch_.size()));
  const auto nodes = ledger_.Nodes();
  response.set_nodes(
      std::count_if(nodes->begin(), nodes->end(),
                    [](const NodeInput& node) { return node.ready; }));
  response.set_slots(static_cast<int64_t>(slot_watch_.size()));
  response.set_endpoints(static_cast<int64_t>(endpoint_watch_.size()));
  const absl::StatusOr<RangeResponse> edges =
      store_.Range(RangeRequest::Prefix(kEdges));
  if (edges.ok()) {
    response.set_edges(static_cast<int64_t>(edges->entries.size()));
  }
  return response;
}

}  // namespace mycelium::fabric
