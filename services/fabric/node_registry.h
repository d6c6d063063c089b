#ifndef SERVICES_FABRIC_NODE_REGISTRY_H_
#define SERVICES_FABRIC_NODE_REGISTRY_H_

#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/base/mutex.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "services/fabric/change_feed.h"
#include "services/fabric/event_log.h"
#include "services/fabric/node_ledger.h"
#include "services/fabric/operation_scope.h"
#include "services/fabric/store/store.h"
#include "services/fabric/store_txn.h"

namespace mycelium::fabric {

// Nodes, their leases and whether they are there. Answers requests as the API
// says. Thread-safe.
//
// A node's record is durable; that it is alive is a key bound to its lease. So
// when the lease lapses, the node is LOST in the revision that takes its claims
// and endpoints, whether or not this class runs.
class NodeRegistry final : public ChangeConsumer {
 public:
  // A node without a heartbeat for so long, or half of a shorter lease, is
  // SUSPECT.
  static constexpr absl::Duration kSuspectAfter = absl::Seconds(3);
  static constexpr absl::Duration kHeartbeatInterval = absl::Seconds(1);

  // All must outlive the registry.
  NodeRegistry(Store* store, Clock* clock, EventLog* events, NodeLedger* ledger)
      : store_(*store), clock_(*clock), events_(*events), ledger_(*ledger) {}

  void Join(const v1::JoinNodeRequest& request,
            Done<v1::JoinNodeResponse> done);
  // Touches memory only, unless the node was SUSPECT.
  absl::StatusOr<v1::HeartbeatResponse> Heartbeat(
      const v1::HeartbeatRequest& request);
  void Leave(const v1::LeaveNodeRequest& request,
             Done<v1::LeaveNodeResponse> done);
  absl::StatusOr<v1::ListNodesResponse> List(
      const v1::ListNodesRequest& request);
  void Drain(const v1::DrainNodeRequest& request,
             Done<v1::DrainNodeResponse> done);
  void Cordon(const v1::CordonNodeRequest& request,
              Done<v1::CordonNodeResponse> done);
  void Undrain(const v1::UndrainNodeRequest& request,
               Done<v1::UndrainNodeResponse> done);
  void Delete(const v1::DeleteNodeRequest& request,
              Done<v1::DeleteNodeResponse> done);

  // Marks nodes SUSPECT that have been silent, and writes down when nodes were
  // lost. Called several times a second; waits for nothing.
  void Tick();

  void Reset(const StoreSnapshot& snapshot) override;
  void Apply(const Batch& batch) override;

 private:
  struct Holder {
    LeaseId lease = kNoLease;
    absl::Duration last_heartbeat;  // On the clock's monotonic scale.
    absl::Duration ttl;
    bool suspect = false;
  };

  void JoinNew(const v1::JoinNodeRequest& request,
               Done<v1::JoinNodeResponse> done);
  absl::StatusOr<Draft<v1::JoinNodeResponse>> DraftJoin(
      const v1::JoinNodeRequest& request, LeaseId lease, absl::Duration ttl,
      bool resumed);
  // Writes whether a node is SUSPECT, if `lease` still holds it.
  void SetSuspect(const std::string& node, LeaseId lease, bool suspect);
  void RecordLoss(const std::string& node);
  void Track(const std::string& node, const EntryPtr& alive)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  template <typename Response>
  void SetScheduling(const std::string& node, v1::Node::Scheduling scheduling,
                     absl::string_view type, Done<Response> done);

  Store& store_;
  Clock& clock_;
  EventLog& events_;
  NodeLedger& ledger_;

  Mutex mutex_;
  absl::flat_hash_map<std::string, Holder> holders_ ABSL_GUARDED_BY(mutex_);
  // Nodes that are no longer alive and whose record does not say so yet.
  absl::flat_hash_set<std::string> lost_ ABSL_GUARDED_BY(mutex_);

  OperationScope scope_;
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_NODE_REGISTRY_H_
