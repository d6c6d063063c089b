#ifndef SERVICES_FABRIC_FABRIC_CORE_H_
#define SERVICES_FABRIC_FABRIC_CORE_H_

#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/base/mutex.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "services/fabric/budget_registry.h"
#include "services/fabric/change_feed.h"
#include "services/fabric/edge_registry.h"
#include "services/fabric/endpoint_registry.h"
#include "services/fabric/event_log.h"
#include "services/fabric/node_ledger.h"
#include "services/fabric/node_registry.h"
#include "services/fabric/plan_registry.h"
#include "services/fabric/reconcile_driver.h"
#include "services/fabric/request_log.h"
#include "services/fabric/slot_registry.h"
#include "services/fabric/store/store.h"
#include "services/fabric/watch_hub.h"

namespace mycelium::fabric {

struct FabricOptions {
  // Must outlive the fabric.
  Clock* clock = Clock::Real();
  // kNone: nothing happens by itself, and Settle() makes it happen. For tests
  // and simulations.
  StoreOptions::Threads threads = StoreOptions::Threads::kOwn;
  // Null if no repo is known; must outlive the fabric.
  SporeCatalog* catalog = nullptr;
  // What Status says the store is.
  std::string store_kind = "memory";
  WatchOptions watch;
};

// A whole fabric without its sockets: the registries over one store, the
// watches, and what happens by itself. Thread-safe.
class FabricCore {
 public:
  // `store` must outlive the fabric.
  static std::unique_ptr<FabricCore> Create(Store* store,
                                            const FabricOptions& options);

  // Every watcher must be gone.
  ~FabricCore();

  PlanRegistry& plans() { return plans_; }
  BudgetRegistry& budgets() { return budgets_; }
  NodeRegistry& nodes() { return nodes_; }
  SlotRegistry& slots() { return slots_; }
  EndpointRegistry& endpoints() { return endpoints_; }
  EdgeRegistry& edges() { return edges_; }
  EventLog& events() { return events_; }

  WatchHub& plan_watch() { return plan_watch_; }
  WatchHub& endpoint_watch() { return endpoint_watch_; }
  WatchHub& node_watch() { return node_watch_; }
  WatchHub& slot_watch() { return slot_watch_; }
  WatchHub& event_watch() { return event_watch_; }

  v1::StatusResponse Status();

  // Tells all watchers that the fabric stops.
  void StopWatches();

  // With Threads::kNone: does all that is due now, until nothing is.
  void Settle();

 private:
  FabricCore(Store* store, const FabricOptions& options);

  std::vector<WatchHub*> hubs();
  std::vector<ChangeConsumer*> consumers();
  void Tick();
  void RunTicks();

  Store& store_;
  Clock& clock_;
  const FabricOptions options_;
  const absl::Time start_time_;

  NodeLedger ledger_;
  EventLog events_;
  RequestLog requests_;
  PlanRegistry plans_;
  BudgetRegistry budgets_;
  NodeRegistry nodes_;
  SlotRegistry slots_;
  EndpointRegistry endpoints_;
  EdgeRegistry edges_;
  ReconcileDriver driver_;
  WatchHub plan_watch_;
  WatchHub endpoint_watch_;
  WatchHub node_watch_;
  WatchHub slot_watch_;
  WatchHub event_watch_;
  absl::Duration last_upkeep_;

  Mutex mutex_;
  CondVar stop_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  // After all that it feeds, so that it stops first.
  std::unique_ptr<ChangeFeed> feed_;
  std::thread ticker_;
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_FABRIC_CORE_H_
