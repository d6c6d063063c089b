#ifndef SERVICES_FABRIC_EDGE_REGISTRY_H_
#define SERVICES_FABRIC_EDGE_REGISTRY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/base/mutex.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "services/fabric/change_feed.h"
#include "services/fabric/event_log.h"
#include "services/fabric/operation_scope.h"
#include "services/fabric/store/store.h"
#include "services/fabric/store_txn.h"

namespace mycelium::fabric {

// Edges, and the acknowledged drain: an endpoint that is DRAINING since
// revision R turns DRAINED when every edge whose lease is alive has applied R
// and reports nothing in flight there, when there is no such edge, or at its
// drain deadline. Thread-safe.
//
// That an edge exists is a key bound to its lease; what it reports is kept in
// memory. An edge that has not reported to this process yet, because the
// process has just started, is waited for until its lease lapses.
class EdgeRegistry final : public ChangeConsumer {
 public:
  static constexpr absl::Duration kLeaseTtl = absl::Seconds(10);
  // Loads that one report may carry.
  static constexpr int kMaxLoads = 10'000;

  // All must outlive the registry.
  EdgeRegistry(Store* store, Clock* clock, EventLog* events)
      : store_(*store), clock_(*clock), events_(*events) {}

  // The first message of an edge's stream: registers it under a new lease,
  // which is the answer, in place of an older registration of the same id.
  void Open(const v1::ReportEdgeRequest& request, Done<LeaseId> done);

  // A message of an edge that Open() has registered: keeps its lease alive.
  //
  // NotFound (LEASE_NOT_FOUND): it lapsed, or another stream of the same edge
  // replaced it; open a new stream.
  absl::Status Report(const std::string& edge_id, LeaseId lease,
                      const v1::ReportEdgeRequest& request);

  // The orderly end of a stream: the edge is gone at once.
  void Close(const std::string& edge_id, LeaseId lease);

  absl::StatusOr<v1::ListEdgesResponse> List(
      const v1::ListEdgesRequest& request);

  // Ends drains whose deadline has passed. Called several times a second; waits
  // for nothing.
  void Tick() { Evaluate(); }

  void Reset(const StoreSnapshot& snapshot) override;
  void Apply(const Batch& batch) override;
  void Flush() override { Evaluate(); }

 private:
  struct Edge {
    LeaseId lease = kNoLease;     // Of the registration in the store.
    LeaseId reporter = kNoLease;  // Of the stream that reports.
    int64_t applied_revision = 0;
    absl::flat_hash_map<std::string, int64_t> in_flight;  // By endpoint name.
  };
  struct Drain {
    int64_t revision = 0;  // That turned the endpoint DRAINING.
    absl::Time deadline;
    bool writing = false;
  };

  absl::StatusOr<Draft<LeaseId>> DraftOpen(const v1::EdgeInfo& edge,
                                           LeaseId lease, LeaseId* replaced);
  void Put(const std::string& key, const EntryPtr& entry)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Why an endpoint may be called DRAINED; empty while it may not.
  std::string WhyDrained(const std::string& name, const Drain& drain)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Evaluate();
  void SetDrained(const std::string& name, int64_t revision,
                  const std::string& why);
  absl::Status Take(const std::string& edge_id, LeaseId lease,
                    const v1::ReportEdgeRequest& request);

  Store& store_;
  Clock& clock_;
  EventLog& events_;

  Mutex mutex_;
  absl::flat_hash_map<std::string, Edge> edges_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, Drain> drains_ ABSL_GUARDED_BY(mutex_);

  OperationScope scope_;
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_EDGE_REGISTRY_H_
