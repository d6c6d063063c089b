#include "services/edge/balancer.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace mycelium::edge {
namespace {

bool Contains(absl::Span<Balanced* const> list, const Balanced* endpoint) {
  return std::find(list.begin(), list.end(), endpoint) != list.end();
}

}  // namespace

void Balancer::SetEndpoints(std::vector<Balanced*> endpoints) {
  endpoints_ = std::move(endpoints);
  ejected_ = static_cast<int>(
      std::count_if(endpoints_.begin(), endpoints_.end(),
                    [](const Balanced* e) { return e->ejected; }));
}

uint64_t Balancer::Random() {
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  return random_;
}

void Balancer::Restore(Balanced* endpoint) {
  endpoint->ejected = false;
  endpoint->consecutive_failures = 0;
  if (ejected_ > 0) --ejected_;
}

bool Balancer::IsUsable(Balanced* endpoint, int64_t now_us) {
  if (!endpoint->ejected) return true;
  if (now_us / 1000 < endpoint->ejected_until_ms) return false;
  Restore(endpoint);
  return true;
}

double Balancer::Cost(const Balanced& endpoint, BalancePolicy policy,
                      int64_t now_us) const {
  const double load = endpoint.in_flight + 1;
  if (policy == BalancePolicy::kLeastRequest) return load;
  const double age = static_cast<double>(now_us - endpoint.latency_at_us);
  const double decay =
      std::exp(-age / static_cast<double>(options_.latency_decay_us));
  return (endpoint.latency_us * decay + 1) * load;
}

Balanced* Balancer::Pick(BalancePolicy policy,
                         absl::Span<Balanced* const> tried, int64_t now_us) {
  const size_t count = endpoints_.size();
  if (count == 0) return nullptr;
  if (policy != BalancePolicy::kRoundRobin && count > 1) {
    const size_t first = Random() % count;
    size_t second = Random() % (count - 1);
    if (second >= first) ++second;
    Balanced* best = nullptr;
    for (Balanced* const candidate : {endpoints_[first], endpoints_[second]}) {
      if (!IsUsable(candidate, now_us) || Contains(tried, candidate)) continue;
      if (best == nullptr ||
          Cost(*candidate, policy, now_us) < Cost(*best, policy, now_us)) {
        best = candidate;
      }
    }
    if (best != nullptr) return best;
  }
  Balanced* ejected = nullptr;
  Balanced* again = nullptr;
  for (size_t i = 0; i < count; ++i) {
    Balanced* const candidate = endpoints_[next_++ % count];
    if (Contains(tried, candidate)) {
      if (again == nullptr) again = candidate;
    } else if (IsUsable(candidate, now_us)) {
      return candidate;
    } else if (ejected == nullptr) {
      ejected = candidate;
    }
  }
  return ejected != nullptr ? ejected : again;
}

void Balancer::OnSuccess(Balanced* endpoint, int64_t latency_us,
                         int64_t now_us) {
  endpoint->consecutive_failures = 0;
  endpoint->ejections = 0;
  if (endpoint->ejected)
    Restore(endpoint);  // It was tried as the last one left.
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

void Balancer::OnFailure(Balanced* endpoint, int64_t now_us) {
  ++endpoint->consecutive_failures;
  if (endpoint->ejected ||
      endpoint->consecutive_failures < options_.failures_to_eject)
    return;
  const auto count = static_cast<int>(endpoints_.size());
  // Never the last one, and never more than a share: when all fail, it is not
  // the endpoints that are at fault.
  if ((ejected_ + 1) * 100 > count * options_.max_ejected_percent ||
      ejected_ + 1 >= count)
    return;
  const int doublings = std::min(endpoint->ejections, 16);
  endpoint->ejected = true;
  endpoint->ejected_until_ms =
      now_us / 1000 +
      std::min(options_.ejection_ms << doublings, options_.max_ejection_ms);
  ++endpoint->ejections;
  ++ejected_;
}

}  // namespace mycelium::edge
