#ifndef SERVICES_EDGE_FABRIC_LINK_H_
#define SERVICES_EDGE_FABRIC_LINK_H_

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"
#include "lib/base/mutex.h"
#include "lib/fabric_client/watch.h"
#include "services/edge/edge.h"
#include "services/edge/edge_reporter.h"
#include "services/edge/fabric_routes.h"
#include "services/edge/metrics.h"
#include "services/edge/route_table.h"

namespace mycelium::edge {

// Ties an edge to a fabric: follows it, keeps the route table, and reports what
// is applied. Goes on with the last known routes while the fabric is away.
// Thread-safe.
class FabricLink {
 public:
  // `clock` and `table` must outlive the link.
  FabricLink(const std::shared_ptr<grpc::ChannelInterface>& channel,
             const FabricRoutes::Options& options, Clock* clock,
             RouteTable* table);
  ~FabricLink();

  // Follows the fabric and registers as `edge_id`, with gRPC at `address`.
  // Called once. `edge` must live until Stop.
  //
  // If `name_free` is valid, another process still reports under that id, so
  // that this one takes a name of its own beside it, until `name_free` is at
  // its end. It then takes routes only once the fabric waits for its reports
  // too: whatever it routes to, no drain is complete without it.
  void Start(const std::string& edge_id, const std::string& address, Edge* edge,
             UniqueFd name_free);

  // A descriptor that is at its end once the process which is known by the
  // edge's id is gone, for a successor. The names stay as they are until
  // ReclaimName. Invalid if there are no descriptors.
  UniqueFd LendName();
  void ReclaimName();

  // Ends the registration and the watches.
  void Stop();

  FabricState state() const;

 private:
  // Tells who has to know that routes or their revision moved.
  void OnChange();
  std::unique_ptr<EdgeReporter> MakeReporter(const std::string& edge_id);
  void StartWatches();
  // Whether the fabric knows an edge of this id.
  bool IsRegistered(const std::string& edge_id);
  void MakeNamePipe() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes the edge's own id when it is free; called once a second.
  void SettleName();
  fabric::v1::ReportEdgeRequest MakeReport();
  void RunTicks();

  const std::shared_ptr<grpc::ChannelInterface> channel_;
  Clock& clock_;
  mutable FabricRoutes routes_;

  mutable Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  Edge* edge_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::unique_ptr<EdgeReporter> reporter_ ABSL_GUARDED_BY(mutex_);
  // Under the edge's own id, while that is about to be taken.
  std::unique_ptr<EdgeReporter> next_reporter_ ABSL_GUARDED_BY(mutex_);
  // The edge's own id is ours, or lent: nobody takes it then.
  bool name_settled_ ABSL_GUARDED_BY(mutex_) = false;
  bool name_lent_ ABSL_GUARDED_BY(mutex_) = false;
  UniqueFd name_free_ ABSL_GUARDED_BY(mutex_);
  UniqueFd name_held_ ABSL_GUARDED_BY(mutex_);  // Its end, if the id is ours.

  fabric::v1::EdgeInfo info_;  // Set by Start.
  std::string beside_id_;      // Until the id is free; empty if it is.

  std::unique_ptr<fabric_client::Watch> plans_;
  std::unique_ptr<fabric_client::Watch> endpoints_;
  std::unique_ptr<fabric_client::Watch> nodes_;
  std::atomic<bool> watching_{false};
  std::thread ticker_;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_FABRIC_LINK_H_
