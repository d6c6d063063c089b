#ifndef SERVICES_EDGE_FABRIC_LINK_H_
#define SERVICES_EDGE_FABRIC_LINK_H_

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "lib/base/clock.h"
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
  void Start(const std::string& edge_id, const std::string& address,
             Edge* edge);

  // Ends the registration and the watches.
  void Stop();

  FabricState state() const;

 private:
  // Tells who has to know that routes or their revision moved.
  void OnChange();
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

  std::unique_ptr<fabric_client::Watch> plans_;
  std::unique_ptr<fabric_client::Watch> endpoints_;
  std::unique_ptr<fabric_client::Watch> nodes_;
  std::atomic<bool> watching_{false};
  std::thread ticker_;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_FABRIC_LINK_H_
