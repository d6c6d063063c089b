#ifndef SERVICES_EDGE_METRICS_H_
#define SERVICES_EDGE_METRICS_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "lib/telemetry/exposition.h"
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

// What a scrape of the data plane shows. Borrows all that it points to.
struct MetricsSource {
  const PerWorker<WorkerCounters>* workers = nullptr;
  const RouteSnapshot* routes = nullptr;  // nullptr: there is none yet.
  uint64_t applied_version = 0;           // Of the routes, by all workers.
  FabricState fabric;
  const CertificateStore* certificates = nullptr;  // nullptr: no TLS.
  int64_t log_write_errors = 0;
};

// Families with one series per instance name this many; those of further ones
// are summed, by app, as instance `_other`.
inline constexpr int kMaxMetricInstances = 1000;

// The page `/_mesh/metrics`. There are as many series as apps, instances (up to
// the limit above) and kinds of outcomes make; nothing that a client sends
// makes one.
std::string FormatMetrics(const MetricsSource& source,
                          telemetry::ExpositionFormat format);

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_METRICS_H_
