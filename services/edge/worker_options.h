#ifndef SERVICES_EDGE_WORKER_OPTIONS_H_
#define SERVICES_EDGE_WORKER_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "services/edge/access_log.h"
#include "services/edge/balancer.h"
#include "services/edge/cidr.h"
#include "services/edge/http_parser.h"

namespace mycelium::edge {

// How long, how much and how often. The same for all workers of a process.
struct WorkerOptions {
  // For large bodies, of each worker; two descriptors each.
  static constexpr int kMaxPipes = 64;

  // From the first byte of a request (or from accepting the connection, if none
  // comes) to the end of its head.
  int64_t header_timeout_ms = 10'000;
  // Between requests of a connection.
  int64_t idle_timeout_ms = 60'000;
  // Without a byte of a request body, or of a response body of known length.
  int64_t body_idle_timeout_ms = 30'000;
  int64_t connect_timeout_ms = 1'000;
  // From the end of the request to the head of the final response.
  int64_t response_header_timeout_ms = 30'000;
  // Without a byte in a response of unknown length, in a tunnel, or to a client
  // that does not read.
  int64_t stream_idle_timeout_ms = 300'000;
  // Reading what a client still sends after the last response.
  int64_t linger_timeout_ms = 2'000;
  // Without progress after the client has closed its side.
  int64_t half_close_timeout_ms = 1'000;
  // Until the edge itself sends the 100 that an origin owes.
  int64_t expect_timeout_ms = 1'000;
  // Shorter than any app's own keep-alive timeout.
  int64_t upstream_idle_timeout_ms = 4'000;
  // For requests, and for tunnels of an endpoint that was removed.
  int64_t drain_timeout_ms = 10'000;
  // The same once another process has taken over the listening sockets.
  int64_t handover_drain_timeout_ms = 60'000;
  // And for idle clients to make their last request there, before they are
  // closed, the first of them after half of it.
  int64_t handover_idle_ms = 5'000;

  uint32_t max_head_bytes = kDefaultMaxHeadBytes;
  int64_t max_body_bytes = 0;  // 0: no limit.
  int64_t max_linger_bytes = int64_t{4} << 20;
  int max_connections = 100'000;  // Of clients, per worker.
  int max_idle_per_endpoint = 64;
  int max_retries = 2;  // Per request.
  // Retries under way, of one app and worker: this share of its active
  // requests, and at least the minimum.
  int retry_budget_percent = 20;
  int retry_budget_min = 3;
  int retry_after_s = 1;  // Told with 503.

  // Which requests have a line in the access log, of this worker's.
  LogSampler::Options log;
  // Requests without a valid traceparent get one; this share of them (0 to 1)
  // is marked as sampled.
  bool tracing = false;
  double trace_sample = 0.01;

  Balancer::Options balancer;
  // Peers whose X-Forwarded-* and X-Request-Id are believed.
  std::vector<Cidr> trusted_peers;
  // Peers whose connections begin with a PROXY header, and only theirs.
  std::vector<Cidr> proxy_peers;
  std::string via = "mycelium";
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_WORKER_OPTIONS_H_
