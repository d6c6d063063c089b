#include "services/edge/balancer.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace mycelium::edge {
namespace {

constexpr double kFirstWeight = 0.1;
// With weights from a tenth to one, each visit earns at least that much.
constexpr size_t kVisitsPerTurn = 11;
constexpr double kMaxCredit = 2;
constexpr int kMaxRedraws = 32;
// Pairs that are drawn before an endpoint is looked for one by one.
constexpr int kMaxPairs = 3;
// A failure counts as a latency of twice the average, so that an endpoint that
// refuses quickly does not look like a fast one; within these bounds.
constexpr double kMinFailureLatencyUs = 1'000;
constexpr double kMaxFailureLatencyUs = 60e6;
// Finagle's: one that has not answered yet gets no second request while others
// answer.
constexpr double kUnknownLatencyCost = 1e12;

bool Contains(absl::Span<Balanced* const> list, const Balanced* endpoint) {
  return std::find(list.begin(), list.end(), endpoint) != list.end();
}

}  // namespace

Balancer::Balancer(const Options& options, uint64_t seed)
    : options_(options), random_(seed | 1) {
  // Small seeds have few bits; and no two balancers should begin with the same
  // endpoint.
  for (int i = 0; i < 8; ++i) Below(2);
  next_ = Below(size_t{1} << 20);
}

void Balancer::SetRules(const Rules& rules) {
  rules_ = rules;
  UpdateRamp();
}

void Balancer::SetEndpoints(const std::vector<Balanced*>& endpoints) {
  std::vector<Balanced*> before = std::move(endpoints_);
  for (Balanced* const endpoint : before) endpoint->index = -2;
  endpoints_ = endpoints;
  for (Balanced* const endpoint : endpoints_) {
    if (endpoint->index == -1) endpoint->credit = Unit();
    // Ready again after it was not: it begins anew.
    endpoint->ramp_since_us =
        std::max(endpoint->ramp_since_us, endpoint->ready_since_us);
    endpoint->index = 0;
  }
  for (Balanced* const endpoint : before) {
    if (endpoint->index == -2) endpoint->index = -1;
  }
  const auto first_ejected =
      std::stable_partition(endpoints_.begin(), endpoints_.end(),
                            [](const Balanced* e) { return !e->ejected; });
  usable_ = static_cast<size_t>(first_ejected - endpoints_.begin());
  if (ejected() > MaxEjected()) {
    // Fewer are left than when they were ejected. Those whose time is over
    // soonest come back.
    std::sort(first_ejected, endpoints_.end(),
              [](const Balanced* a, const Balanced* b) {
                return a->ejected_until_us < b->ejected_until_us;
              });
    while (ejected() > MaxEjected()) {
      endpoints_[usable_]->ejected = false;
      endpoints_[usable_]->trial = Balanced::Trial::kNone;
      ++usable_;
    }
  }
  failing_ = 0;
  for (size_t i = 0; i < endpoints_.size(); ++i) {
    endpoints_[i]->index = static_cast<int>(i);
    if (endpoints_[i]->consecutive_failures >= options_.failures_to_eject)
      ++failing_;
  }
  UpdateProbe();
  UpdateRamp();
}

size_t Balancer::Below(size_t bound) {
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  return static_cast<size_t>((random_ >> 32) * bound >> 32);
}

double Balancer::Unit() {
  return static_cast<double>(Below(size_t{1} << 30)) /
         static_cast<double>(size_t{1} << 30);
}

bool Balancer::IsFull(const Balanced& endpoint) const {
  if (rules_.max_in_flight == 0) return false;
  const int in_flight =
      endpoint.total_in_flight == nullptr
          ? endpoint.in_flight
          : endpoint.total_in_flight->load(std::memory_order_relaxed);
  return in_flight >= rules_.max_in_flight;
}

bool Balancer::IsFree(const Balanced& endpoint,
                      absl::Span<Balanced* const> tried) const {
  return !IsFull(endpoint) && !Contains(tried, &endpoint);
}

// Relative to the endpoint that has been ready for longest.
double Balancer::Weight(const Balanced& endpoint, int64_t now_us) const {
  const auto share = [&](int64_t since_us) {
    if (now_us - since_us >= rules_.slow_start_us) return 1.0;
    const double age =
        static_cast<double>(std::max<int64_t>(0, now_us - since_us));
    return kFirstWeight +
           (1 - kFirstWeight) * age / static_cast<double>(rules_.slow_start_us);
  };
  return share(endpoint.ramp_since_us) / share(oldest_ramp_us_);
}

double Balancer::Cost(const Balanced& endpoint, int64_t now_us) const {
  const double load = endpoint.in_flight + 1;
  if (rules_.policy != BalancePolicy::kPeakEwma) return load;
  if (endpoint.latency_at_us == 0)
    return endpoint.in_flight == 0 ? 0 : kUnknownLatencyCost * load;
  const double age = static_cast<double>(now_us - endpoint.latency_at_us);
  const double decay =
      std::exp(-age / static_cast<double>(options_.latency_decay_us));
  return (endpoint.latency_us * decay + 1) * load;
}

Balanced* Balancer::Pick(absl::Span<Balanced* const> tried, int64_t now_us) {
  if (endpoints_.empty()) return nullptr;
  const bool panic = panicking();
  // A request that has failed once already is not risked on a probe.
  if (now_us >= probe_at_us_ && tried.empty() && !panic) {
    if (Balanced* const probe = Probe(now_us)) return probe;
  }
  const size_t count = panic ? endpoints_.size() : usable_;
  Balanced* choice = nullptr;
  if (rules_.policy != BalancePolicy::kRoundRobin) {
    if (count > 0) choice = BestOfTwo(count, tried, now_us);
  } else if (count > 0 && tried.empty()) {
    // Another attempt is nobody's turn: with two endpoints, the first attempt
    // of each request would go to the same one.
    choice = InTurn(count, now_us);
  }
  if (choice == nullptr) choice = AnyOther(tried);
  if (choice != nullptr && choice->ejected &&
      choice->trial == Balanced::Trial::kNone)
    choice->trial = Balanced::Trial::kOffered;
  return choice;
}

Balanced* Balancer::Probe(int64_t now_us) {
  Balanced* probe = nullptr;
  for (size_t i = usable_; i < endpoints_.size(); ++i) {
    Balanced* const endpoint = endpoints_[i];
    if (endpoint->ejected_until_us > now_us) continue;
    // What becomes of the probe is not always learned: the client may go away.
    // So it is not waited for, but neither is there soon another one.
    if (IsFull(*endpoint)) {
      endpoint->ejected_until_us = now_us + 1'000'000;
    } else if (probe == nullptr) {
      endpoint->ejected_until_us = now_us + options_.ejection_ms * 1000;
      endpoint->trial = Balanced::Trial::kProbe;
      probe = endpoint;
    }
  }
  UpdateProbe();
  return probe;
}

Balanced* Balancer::InTurn(size_t count, int64_t now_us) {
  const bool weighted = ramping(now_us);
  const size_t visits = weighted ? count * kVisitsPerTurn : count;
  if (next_ >= count) next_ %= count;
  for (size_t i = 0; i < visits; ++i) {
    Balanced* const candidate = endpoints_[next_];
    if (++next_ == count) next_ = 0;
    if (weighted) {
      candidate->credit =
          std::min(candidate->credit + Weight(*candidate, now_us), kMaxCredit);
      if (candidate->credit < 1) continue;
    }
    if (IsFull(*candidate)) continue;
    if (weighted) candidate->credit -= 1;
    return candidate;
  }
  return nullptr;
}

size_t Balancer::Draw(size_t count, int64_t now_us) {
  size_t drawn = Below(count);
  for (int i = 0; i < kMaxRedraws; ++i) {
    const double weight = Weight(*endpoints_[drawn], now_us);
    if (weight >= 1 || Unit() < weight) break;
    drawn = Below(count);
  }
  return drawn;
}

Balanced* Balancer::BestOfTwo(size_t count, absl::Span<Balanced* const> tried,
                              int64_t now_us) {
  if (count == 1)
    return IsFree(*endpoints_[0], tried) ? endpoints_[0] : nullptr;
  const bool weighted = ramping(now_us);
  for (int i = 0; i < kMaxPairs; ++i) {
    size_t first = 0;
    size_t second = 0;
    if (weighted) {
      // The two may be the same: with few endpoints, a pair of different ones
      // would nearly always have the new one in it, and it has nothing to do.
      first = Draw(count, now_us);
      second = Draw(count, now_us);
    } else {
      first = Below(count);
      second = Below(count - 1);
      if (second >= first) ++second;
    }
    Balanced* best = nullptr;
    for (Balanced* const candidate : {endpoints_[first], endpoints_[second]}) {
      if (!IsFree(*candidate, tried)) continue;
      if (best == nullptr || Cost(*candidate, now_us) < Cost(*best, now_us))
        best = candidate;
    }
    if (best != nullptr) return best;
  }
  return nullptr;
}

Balanced* Balancer::AnyOther(absl::Span<Balanced* const> tried) {
  Balanced* ejected = nullptr;
  Balanced* again = nullptr;
  const size_t count = endpoints_.size();
  const size_t begin = Below(count);
  for (size_t i = 0; i < count; ++i) {
    const size_t at = begin + i;
    Balanced* const candidate = endpoints_[at < count ? at : at - count];
    if (IsFull(*candidate)) continue;
    if (Contains(tried, candidate)) {
      if (again == nullptr || (again->ejected && !candidate->ejected))
        again = candidate;
    } else if (!candidate->ejected) {
      return candidate;
    } else if (ejected == nullptr) {
      ejected = candidate;
    }
  }
  return ejected != nullptr ? ejected : again;
}

void Balancer::OnSuccess(Balanced* endpoint, int64_t latency_us,
                         int64_t now_us) {
  if (endpoint->index >= 0 &&
      endpoint->consecutive_failures >= options_.failures_to_eject)
    --failing_;
  endpoint->consecutive_failures = 0;
  if (endpoint->ejected) {
    // What was sent before the ejection and is answered only now says nothing.
    if (endpoint->index >= 0 && endpoint->trial != Balanced::Trial::kNone)
      Restore(endpoint, now_us);
  } else if (endpoint->ejections > 0 && now_us >= endpoint->forgive_at_us) {
    --endpoint->ejections;
    endpoint->forgive_at_us = now_us + options_.ejection_ms * 1000;
  }
  const auto latency = static_cast<double>(latency_us);
  if (latency > endpoint->latency_us) {
    endpoint->latency_us = latency;  // A peak counts at once.
  } else {
    const double age = static_cast<double>(now_us - endpoint->latency_at_us);
    const double weight =
        std::exp(-age / static_cast<double>(options_.latency_decay_us));
    endpoint->latency_us =
        endpoint->latency_us * weight + latency * (1 - weight);
  }
  endpoint->latency_at_us = now_us;
}

bool Balancer::OnFailure(Balanced* endpoint, int64_t now_us) {
  ++endpoint->consecutive_failures;
  endpoint->latency_us = std::clamp(2 * endpoint->latency_us,
                                    kMinFailureLatencyUs, kMaxFailureLatencyUs);
  endpoint->latency_at_us = now_us;
  if (endpoint->index < 0) return false;
  if (endpoint->consecutive_failures == options_.failures_to_eject) ++failing_;
  if (endpoint->ejected) {
    if (endpoint->trial != Balanced::Trial::kProbe) return false;
    Eject(endpoint, now_us);
    return true;
  }
  if (endpoint->consecutive_failures < options_.failures_to_eject ||
      ejected() >= MaxEjected())
    return false;
  Eject(endpoint, now_us);
  return true;
}

int Balancer::MaxEjected() const {
  const auto count = static_cast<int>(endpoints_.size());
  return std::max(
      0, std::min(count * options_.max_ejected_percent / 100, count - 1));
}

void Balancer::MoveTo(Balanced* endpoint, size_t index) {
  Balanced* const other = endpoints_[index];
  std::swap(endpoints_[endpoint->index], endpoints_[index]);
  std::swap(endpoint->index, other->index);
}

void Balancer::Eject(Balanced* endpoint, int64_t now_us) {
  const int doublings = std::min(endpoint->ejections, 16);
  endpoint->ejected_until_us =
      now_us + 1000 * std::min(options_.ejection_ms << doublings,
                               options_.max_ejection_ms);
  ++endpoint->ejections;
  endpoint->trial = Balanced::Trial::kNone;
  if (!endpoint->ejected) {
    endpoint->ejected = true;
    MoveTo(endpoint, --usable_);
  }
  UpdateProbe();
  UpdateRamp();
}

void Balancer::Restore(Balanced* endpoint, int64_t now_us) {
  endpoint->ejected = false;
  endpoint->trial = Balanced::Trial::kNone;
  endpoint->ramp_since_us = now_us;
  endpoint->forgive_at_us = now_us + options_.ejection_ms * 1000;
  MoveTo(endpoint, usable_++);
  UpdateProbe();
  UpdateRamp();
}

void Balancer::UpdateProbe() {
  probe_at_us_ = std::numeric_limits<int64_t>::max();
  for (size_t i = usable_; i < endpoints_.size(); ++i)
    probe_at_us_ = std::min(probe_at_us_, endpoints_[i]->ejected_until_us);
}

void Balancer::UpdateRamp() {
  ramp_end_us_ = std::numeric_limits<int64_t>::min();
  oldest_ramp_us_ = std::numeric_limits<int64_t>::max();
  if (rules_.slow_start_us == 0) return;
  int64_t newest_us = kReadyForEverUs;
  for (const Balanced* const endpoint : endpoints_) {
    newest_us = std::max(newest_us, endpoint->ramp_since_us);
    if (!endpoint->ejected)
      oldest_ramp_us_ = std::min(oldest_ramp_us_, endpoint->ramp_since_us);
  }
  if (oldest_ramp_us_ < newest_us)
    ramp_end_us_ = newest_us + rules_.slow_start_us;
}

}  // namespace mycelium::edge
