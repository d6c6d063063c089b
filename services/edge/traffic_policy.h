#ifndef SERVICES_EDGE_TRAFFIC_POLICY_H_
#define SERVICES_EDGE_TRAFFIC_POLICY_H_

#include <cstdint>
#include <optional>

#include "services/edge/balancer.h"

namespace mycelium::edge {

// A token bucket in the integers of the generic cell rate algorithm: requests
// are `interval_ns` apart in the long run, and may be early by up to
// `tolerance_ns`.
struct RateLimit {
  int64_t interval_ns = 0;   // At least 1.
  int64_t tolerance_ns = 0;  // (burst - 1) * interval_ns.
};

// Requests that wait for an endpoint.
struct HoldPolicy {
  int64_t max_wait_ms = 10'000;
  int32_t max_requests = 1000;  // Of the app, over all workers.
};

// How an app's requests are treated, from its plan; defaults where it is
// silent. Each limit holds for one edge, over all of its workers.
struct TrafficPolicy {
  BalancePolicy balancing = BalancePolicy::kRoundRobin;
  int64_t slow_start_ms = 0;
  std::optional<HoldPolicy> hold;
  std::optional<RateLimit> rate_limit;
  std::optional<RateLimit> client_rate_limit;  // Of each client's address.
  int32_t max_in_flight = 0;                   // 0: no limit.
  int32_t max_in_flight_per_endpoint = 0;      // 0: no limit.
  int64_t max_request_body_bytes = 0;          // 0: no limit of the app's own.
  bool retry_server_errors = false;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_TRAFFIC_POLICY_H_
