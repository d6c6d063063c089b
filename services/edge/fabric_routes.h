#ifndef SERVICES_EDGE_FABRIC_ROUTES_H_
#define SERVICES_EDGE_FABRIC_ROUTES_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/base/mutex.h"
#include "lib/fabric_client/watch.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "services/edge/route_table.h"
#include "services/edge/traffic_policy.h"

namespace mycelium::edge {

// Turns what a fabric says into routes: an app is known while it has a plan;
// its READY endpoints get requests, those on nodes that are SUSPECT only when
// there are no others. Thread-safe; the three On... methods are each called
// by one thread at a time.
//
// Nothing is published before plans, endpoints and nodes were heard of once.
// When a fabric comes back under another epoch (it lost its store, say), what
// it no longer names is held for a while, so that agents can register again.
class FabricRoutes {
 public:
  struct Options {
    int workers = 1;
    // Of apps whose plans do not say.
    BalancePolicy balancing = BalancePolicy::kRoundRobin;
    absl::Duration hold_after_epoch_change = absl::Seconds(15);
  };

  // A point in the history of the fabric.
  struct Position {
    std::string epoch;
    int64_t revision = 0;
  };

  // `clock` and `table` must outlive the object. `changed` is called after
  // each publication and each move of the revision, under no lock.
  FabricRoutes(const Options& options, Clock* clock, RouteTable* table,
               std::function<void()> changed);

  void OnPlans(const fabric_client::WatchUpdate<fabric::v1::Plan>& update);
  void OnEndpoints(fabric_client::WatchUpdate<fabric::v1::Endpoint> update);
  void OnNodes(const fabric_client::WatchUpdate<fabric::v1::Node>& update);

  // Lets go of what was held for too long. Called about once a second.
  void Tick();

  // Up to where all changes of endpoints are in the table's `version`. Versions
  // may not decrease from call to call.
  Position AppliedAt(uint64_t version);

  // Requests and tunnels on each endpoint that is draining.
  std::vector<fabric::v1::EndpointLoad> DrainingLoads() const;

 private:
  struct Known {
    fabric::v1::Endpoint endpoint;
    std::shared_ptr<EndpointStats> stats;  // The identity of the instance.
    int64_t ready_since_us = kReadyForEverUs;
    // What routes have of it; nullptr if it changed or cannot be routed to.
    std::shared_ptr<const Endpoint> routed;
    std::shared_ptr<SlotCounter> slots;
    absl::Duration held_until = absl::InfiniteDuration();
  };
  struct KnownPlan {
    TrafficPolicy traffic;
    // Until when it is held although it is gone.
    absl::Duration held_until = absl::InfiniteDuration();
  };
  // What workers share of an app for as long as it has a plan.
  struct Shared {
    std::shared_ptr<AppStats> stats;
    std::shared_ptr<AppLimiter> limiter;
  };
  struct Mark {
    uint64_t version;
    Position position;
  };

  // What is not in a reset of another epoch; forgets the rest.
  bool Holds(absl::string_view old_epoch, absl::string_view new_epoch) const;
  void PutPlan(const fabric::v1::Plan& plan)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // `live`: it has just changed, rather than that it is heard of now.
  void PutEndpoint(fabric::v1::Endpoint endpoint, bool live)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<const AppRoute> BuildRoute(const std::string& app)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes `known->routed` what it should be. Nothing is done for an endpoint
  // that has not changed: an app may have a thousand.
  void RouteEndpoint(Known* known) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Publishes what has changed, if there is enough to publish.
  void Publish() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  Clock& clock_;
  RouteTable& table_;
  const std::function<void()> changed_;

  mutable Mutex mutex_;
  absl::flat_hash_map<std::string, KnownPlan> plans_
      ABSL_GUARDED_BY(mutex_);  // By app.
  // By app, then instance.
  absl::flat_hash_map<std::string, absl::btree_map<std::string, Known>>
      endpoints_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<std::string> suspect_nodes_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, Shared> shared_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<std::string> dirty_ ABSL_GUARDED_BY(mutex_);
  bool plans_known_ ABSL_GUARDED_BY(mutex_) = false;
  bool endpoints_known_ ABSL_GUARDED_BY(mutex_) = false;
  bool nodes_known_ ABSL_GUARDED_BY(mutex_) = false;
  std::string plans_epoch_ ABSL_GUARDED_BY(mutex_);
  Position position_ ABSL_GUARDED_BY(mutex_);
  std::deque<Mark> marks_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_FABRIC_ROUTES_H_
