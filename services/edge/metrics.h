#ifndef SERVICES_EDGE_METRICS_H_
#define SERVICES_EDGE_METRICS_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "services/edge/certificate_store.h"
#include "services/edge/route_table.h"
#include "services/edge/stats.h"

namespace mycelium::edge {

// What is known of the fabric that routes come from.
struct FabricState {
  bool used = false;  // False: endpoints are static.
  std::string epoch;
  int64_t revision = 0;  // That all workers have applied.
  absl::Duration staleness;
};

// What a scrape of the data plane says, in the Prometheus text format 0.0.4.
// `routes` may be nullptr: there is no snapshot yet.
std::string FormatMetrics(const PerWorker<WorkerCounters>& workers,
                          const RouteSnapshot* routes,
                          const FabricState& fabric,
                          const CertificateStore* certificates);

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_METRICS_H_
