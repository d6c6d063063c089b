#ifndef SERVICES_EDGE_BALANCER_H_
#define SERVICES_EDGE_BALANCER_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace mycelium::edge {

enum class BalancePolicy : uint8_t {
  kRoundRobin,
  // Of two endpoints chosen at random, the one with fewer requests in flight.
  kLeastRequest,
  // Of two endpoints chosen at random, the one with the smaller product of
  // peak-sensitive latency average and requests in flight.
  kPeakEwma,
};

// What a balancer knows of one endpoint. Part of the object that stands for it.
struct Balanced {
  int in_flight = 0;
  int consecutive_failures = 0;
  int ejections = 0;  // In a row: each doubles the next ejection.
  bool ejected = false;
  int64_t ejected_until_ms = 0;
  double latency_us = 0;
  int64_t latency_at_us = 0;
};

// Chooses endpoints of one app and takes those that fail out of the choice for
// a while. A state machine over the times it is given: no clock, no I/O. One
// per thread; not thread-safe.
class Balancer {
 public:
  struct Options {
    int failures_to_eject = 5;
    int64_t ejection_ms = 10'000;
    int64_t max_ejection_ms = 300'000;
    int max_ejected_percent = 50;
    int64_t latency_decay_us = 10'000'000;
  };

  Balancer(const Options& options, uint64_t seed)
      : options_(options), random_(seed | 1) {}

  // The endpoints to choose from, in a fixed order; they must stay valid until
  // they are replaced.
  void SetEndpoints(std::vector<Balanced*> endpoints);
  const std::vector<Balanced*>& endpoints() const { return endpoints_; }

  // The next one; never one of `tried` while there is another. An ejected one
  // only when there is no other. nullptr if there are no endpoints.
  Balanced* Pick(BalancePolicy policy, absl::Span<Balanced* const> tried,
                 int64_t now_us);

  void OnSuccess(Balanced* endpoint, int64_t latency_us, int64_t now_us);
  // A connection that failed, no valid response, or a 5xx. `endpoint` need not
  // be among the endpoints any more.
  void OnFailure(Balanced* endpoint, int64_t now_us);

  int ejected() const { return ejected_; }

 private:
  uint64_t Random();
  bool IsUsable(Balanced* endpoint, int64_t now_us);
  double Cost(const Balanced& endpoint, BalancePolicy policy,
              int64_t now_us) const;
  void Restore(Balanced* endpoint);

  Options options_;
  uint64_t random_;
  size_t next_ = 0;
  int ejected_ = 0;
  std::vector<Balanced*> endpoints_;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_BALANCER_H_
