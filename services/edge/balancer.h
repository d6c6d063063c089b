// Who of several endpoints gets a request.
//
// Power of two choices: Mitzenmacher, "The Power of Two Choices in Randomized
// Load Balancing", IEEE TPDS 12(10), 2001. Peak EWMA: Twitter's Finagle
// (com.twitter.finagle.loadbalancer.PeakEwma), which Linkerd uses as well; a
// latency above the average replaces it at once, one below it counts by the
// time that has passed. Ejection, panic and slow start follow Envoy's outlier
// detection, panic threshold and slow start mode.

#ifndef SERVICES_EDGE_BALANCER_H_
#define SERVICES_EDGE_BALANCER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
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

// Ready since before anything that matters. Ages computed from it do not
// overflow.
inline constexpr int64_t kReadyForEverUs =
    std::numeric_limits<int64_t>::min() / 4;

// What a balancer knows of one endpoint. Part of the object that stands for it.
struct Balanced {
  // Kept by the owner: requests of this thread that are under way, and the
  // moment since when it may get any, on the clock of the calls below.
  int in_flight = 0;
  // The same over all threads, for the limit; nullptr: this thread is the only
  // one.
  const std::atomic<int32_t>* total_in_flight = nullptr;
  int64_t ready_since_us = kReadyForEverUs;

  // The rest is the balancer's own.
  enum class Trial : uint8_t { kNone, kOffered, kProbe };

  bool ejected = false;
  Trial trial = Trial::kNone;  // While ejected: what the last request was.
  int index = -1;              // Among the endpoints; -1 if it is none of them.
  int consecutive_failures = 0;
  int ejections = 0;             // Each doubles the next one's time.
  int64_t forgive_at_us = 0;     // When one of them is forgotten.
  int64_t ejected_until_us = 0;  // Then it is probed.
  int64_t ramp_since_us = kReadyForEverUs;
  double credit = 0;  // Turns of a round-robin that it has saved up.
  double latency_us = 0;
  int64_t latency_at_us = 0;  // 0: none is known.
};

// Chooses endpoints of one app and takes those that fail out of the choice for
// a while. A state machine over the times it is given: no clock, no I/O, no
// allocation but in SetEndpoints. A choice takes constant time, but where most
// endpoints are full or were tried. One per thread; not thread-safe.
//
// An endpoint that has failed a number of times in a row is ejected. When its
// time is over it is probed: it gets one request, and no other for as long as
// the first ejection takes. A success brings it back, a failure ejects it for
// twice as long. At most a share of the endpoints is ejected, and never the
// last one. When every endpoint fails, ejected or not, it is not the endpoints
// that are at fault: until one succeeds, all get requests (panic).
class Balancer {
 public:
  struct Options {
    int failures_to_eject = 5;
    int64_t ejection_ms = 10'000;
    int64_t max_ejection_ms = 300'000;
    int max_ejected_percent = 50;
    int64_t latency_decay_us = 10'000'000;
  };

  // How an app's endpoints are chosen.
  struct Rules {
    BalancePolicy policy = BalancePolicy::kRoundRobin;
    // How long the share of an endpoint grows from a tenth to the whole of
    // what others get, after it became ready or came back from ejection. Only
    // the ratio counts: endpoints that are equally new share equally. 0: none.
    int64_t slow_start_us = 0;
    // An endpoint with so many requests in flight, over all threads, is full.
    // 0: no limit.
    int max_in_flight = 0;
  };

  Balancer(const Options& options, uint64_t seed);

  // Holds from the next choice on; what is known of the endpoints stays.
  void SetRules(const Rules& rules);
  const Rules& rules() const { return rules_; }

  // The endpoints to choose from; they must stay valid until they are replaced.
  // What is known of those that stay, stays.
  void SetEndpoints(const std::vector<Balanced*>& endpoints);

  // The next one; nullptr if there is none, or each is full. Never one that is
  // ejected or in `tried` while there is another one that is not, but for the
  // probe of an ejected one; rather an ejected one than one of `tried`.
  Balanced* Pick(absl::Span<Balanced* const> tried, int64_t now_us);

  // `latency_us` is the time from the choice to the head of the response.
  // `endpoint` need not be among the endpoints any more.
  void OnSuccess(Balanced* endpoint, int64_t latency_us, int64_t now_us);
  // A connection that failed, no valid response, or a 5xx. True if `endpoint`
  // is ejected for it. It need not be among the endpoints any more.
  bool OnFailure(Balanced* endpoint, int64_t now_us);

  size_t size() const { return endpoints_.size(); }
  int ejected() const { return static_cast<int>(endpoints_.size() - usable_); }
  bool panicking() const {
    return endpoints_.size() > 1 &&
           failing_ == static_cast<int>(endpoints_.size());
  }

 private:
  size_t Below(size_t bound);
  double Unit();
  bool IsFull(const Balanced& endpoint) const;
  bool IsFree(const Balanced& endpoint,
              absl::Span<Balanced* const> tried) const;
  double Weight(const Balanced& endpoint, int64_t now_us) const;
  double Cost(const Balanced& endpoint, int64_t now_us) const;
  Balanced* Probe(int64_t now_us);
  Balanced* InTurn(size_t count, int64_t now_us);
  size_t Draw(size_t count, int64_t now_us);
  Balanced* BestOfTwo(size_t count, absl::Span<Balanced* const> tried,
                      int64_t now_us);
  Balanced* AnyOther(absl::Span<Balanced* const> tried);
  int MaxEjected() const;
  void MoveTo(Balanced* endpoint, size_t index);
  void Eject(Balanced* endpoint, int64_t now_us);
  void Restore(Balanced* endpoint, int64_t now_us);
  bool ramping(int64_t now_us) const { return now_us < ramp_end_us_; }
  void UpdateRamp();
  void UpdateProbe();

  const Options options_;
  Rules rules_;
  uint64_t random_;
  // Those that are not ejected come first.
  std::vector<Balanced*> endpoints_;
  size_t usable_ = 0;
  int failing_ = 0;  // Those that have failed often enough to be ejected.
  size_t next_ = 0;  // In the round-robin.
  int64_t probe_at_us_ = std::numeric_limits<int64_t>::max();
  // Before this some weigh less than others.
  int64_t ramp_end_us_ = std::numeric_limits<int64_t>::min();
  int64_t oldest_ramp_us_ = kReadyForEverUs;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_BALANCER_H_
