#ifndef SERVICES_EDGE_METRICS_H_
#define SERVICES_EDGE_METRICS_H_

#include <string>

#include "services/edge/route_table.h"
#include "services/edge/stats.h"

namespace mycelium::edge {

// What a scrape of the data plane says, in the Prometheus text format 0.0.4.
// `routes` may be nullptr: there is no snapshot yet.
std::string FormatMetrics(const PerWorker<WorkerCounters>& workers,
                          const RouteSnapshot* routes);

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_METRICS_H_
