// Latency histograms on the wire.

#ifndef SERVICES_EDGE_LATENCY_PROTO_H_
#define SERVICES_EDGE_LATENCY_PROTO_H_

#include "absl/status/status.h"
#include "lib/telemetry/latency_histogram.h"
#include "mycelium/edge/v1/edge.pb.h"

namespace mycelium::edge {

// Sets counts and percentiles, and the buckets if `buckets`.
void SetLatency(const telemetry::LatencySummary& summary, bool buckets,
                v1::LatencyHistogram* out);

// Adds a histogram that came with its buckets, of this or another edge.
//
// InvalidArgument: its buckets are not ours; nothing is added.
absl::Status AddLatency(const v1::LatencyHistogram& histogram,
                        telemetry::LatencySummary* summary);

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_LATENCY_PROTO_H_
