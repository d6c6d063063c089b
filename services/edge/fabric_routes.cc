#include "services/edge/fabric_routes.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "glog/logging.h"
#include "services/edge/traffic_parser.h"

namespace mycelium::edge {
namespace {

using PbEndpoint = fabric::v1::Endpoint;
using PbNode = fabric::v1::Node;

// The app and the instance of a key of a deleted endpoint.
std::pair<std::string, std::string> SplitKey(const std::string& key) {
  const size_t slash = key.find('/');
  if (slash == std::string::npos) return {key, ""};
  return {key.substr(0, slash), key.substr(slash + 1)};
}

bool IsReady(const PbEndpoint& endpoint) {
  return endpoint.state() == PbEndpoint::STATE_UNSPECIFIED ||
         endpoint.state() == PbEndpoint::STATE_READY;
}

EndpointStatus StatusOf(const PbEndpoint& endpoint, bool suspect) {
  switch (endpoint.state()) {
    case PbEndpoint::STATE_UNSPECIFIED:
    case PbEndpoint::STATE_READY:
      return suspect ? EndpointStatus::kSuspect : EndpointStatus::kReady;
    case PbEndpoint::STATE_UNREADY:
      return EndpointStatus::kUnready;
    default:
      return EndpointStatus::kDraining;
  }
}

}  // namespace

FabricRoutes::FabricRoutes(const Options& options, Clock* clock,
                           RouteTable* table, std::function<void()> changed)
    : options_(options),
      clock_(*clock),
      table_(*table),
      changed_(std::move(changed)) {}

bool FabricRoutes::Holds(absl::string_view old_epoch,
                         absl::string_view new_epoch) const {
  return !old_epoch.empty() && old_epoch != new_epoch &&
         options_.hold_after_epoch_change > absl::ZeroDuration();
}

void FabricRoutes::OnPlans(
    const fabric_client::WatchUpdate<fabric::v1::Plan>& update) {
  {
    MutexLock lock(mutex_);
    if (update.reset) {
      const absl::Duration until =
          clock_.Monotonic() + options_.hold_after_epoch_change;
      const bool hold = Holds(plans_epoch_, update.epoch);
      for (auto it = plans_.begin(); it != plans_.end();) {
        dirty_.insert(it->first);
        if (hold) {
          it->second.held_until = until;
          ++it;
        } else {
          plans_.erase(it++);
        }
      }
      plans_known_ = true;
    }
    plans_epoch_ = update.epoch;
    for (const fabric::v1::Plan& plan : update.puts) {
      PutPlan(plan);
    }
    for (const std::string& app : update.deletes) {
      dirty_.insert(app);
      plans_.erase(app);
    }
    Publish();
  }
  changed_();
}

void FabricRoutes::OnEndpoints(fabric_client::WatchUpdate<PbEndpoint> update) {
  {
    MutexLock lock(mutex_);
    if (update.reset) {
      const absl::Duration until =
          clock_.Monotonic() + options_.hold_after_epoch_change;
      const bool hold = Holds(position_.epoch, update.epoch);
      if (hold) {
        LOG(WARNING) << "the fabric has a new epoch " << update.epoch
                     << "; endpoints that it does not know are held for "
                     << options_.hold_after_epoch_change;
      }
      absl::flat_hash_set<std::string> named;
      for (const PbEndpoint& endpoint : update.puts) {
        named.insert(endpoint.app_name() + "/" + endpoint.instance_id());
      }
      for (auto& [app, instances] : endpoints_) {
        dirty_.insert(app);
        for (auto it = instances.begin(); it != instances.end();) {
          if (named.contains(app + "/" + it->first)) {
            ++it;
          } else if (hold) {
            it->second.held_until = until;
            ++it;
          } else {
            it = instances.erase(it);
          }
        }
      }
      endpoints_known_ = true;
    }
    for (PbEndpoint& endpoint : update.puts)
      PutEndpoint(std::move(endpoint), /*live=*/!update.reset);
    for (const std::string& key : update.deletes) {
      const auto [app, instance] = SplitKey(key);
      const auto found = endpoints_.find(app);
      if (found == endpoints_.end()) continue;
      found->second.erase(instance);
      if (found->second.empty()) endpoints_.erase(found);
      dirty_.insert(app);
    }
    position_ = {update.epoch, update.revision};
    Publish();
    const uint64_t version = table_.version();
    if (version > 0) {
      if (marks_.empty() || marks_.back().version != version) {
        marks_.push_back({version, position_});
      } else {
        marks_.back().position = position_;
      }
    }
  }
  changed_();
}

void FabricRoutes::OnNodes(const fabric_client::WatchUpdate<PbNode>& update) {
  {
    MutexLock lock(mutex_);
    absl::flat_hash_set<std::string> changed;
    if (update.reset) {
      changed.swap(suspect_nodes_);
      nodes_known_ = true;
    }
    for (const PbNode& node : update.puts) {
      const bool suspect = node.state() == PbNode::STATE_SUSPECT ||
                           node.state() == PbNode::STATE_LOST;
      if (suspect ? suspect_nodes_.insert(node.node_id()).second
                  : suspect_nodes_.erase(node.node_id()) > 0) {
        changed.insert(node.node_id());
      }
    }
    for (const std::string& node : update.deletes) {
      if (suspect_nodes_.erase(node) > 0) changed.insert(node);
    }
    if (!changed.empty()) {
      for (const auto& [app, instances] : endpoints_) {
        for (const auto& [id, known] : instances) {
          if (changed.contains(known.endpoint.node_id())) dirty_.insert(app);
        }
      }
    }
    Publish();
  }
  changed_();
}

void FabricRoutes::Tick() {
  const absl::Duration now = clock_.Monotonic();
  {
    MutexLock lock(mutex_);
    for (auto it = plans_.begin(); it != plans_.end();) {
      if (it->second.held_until > now) {
        ++it;
        continue;
      }
      dirty_.insert(it->first);
      plans_.erase(it++);
    }
    for (auto& [app, instances] : endpoints_) {
      for (auto it = instances.begin(); it != instances.end();) {
        if (it->second.held_until > now) {
          ++it;
          continue;
        }
        dirty_.insert(app);
        it = instances.erase(it);
      }
    }
    if (dirty_.empty()) return;
    Publish();
  }
  changed_();
}

void FabricRoutes::PutPlan(const fabric::v1::Plan& plan) {
  const std::string& app = plan.app_name();
  const auto [it, added] = plans_.try_emplace(app);
  KnownPlan& known = it->second;
  known.held_until = absl::InfiniteDuration();
  dirty_.insert(app);
  absl::StatusOr<TrafficPolicy> traffic =
      TrafficPolicyOf(plan.traffic(), options_.balancing);
  if (traffic.ok()) {
    known.traffic = *std::move(traffic);
    return;
  }
  // A fabric checks plans, so this one is of another version. The app is served
  // as before rather than not at all.
  LOG(ERROR) << "the plan of " << app << ": " << traffic.status().message()
             << "; its requests are treated "
             << (added ? "by default" : "as before");
  if (added) known.traffic.balancing = options_.balancing;
}

void FabricRoutes::PutEndpoint(PbEndpoint endpoint, bool live) {
  Known& known = endpoints_[endpoint.app_name()][endpoint.instance_id()];
  // Another claim or another address is another instance: nothing of the old
  // one, its connections above all, may be used for it.
  if (known.stats == nullptr ||
      known.endpoint.claim_revision() != endpoint.claim_revision() ||
      known.endpoint.url() != endpoint.url()) {
    known.stats = std::make_shared<EndpointStats>(options_.workers);
    known.endpoint.Clear();
    known.endpoint.set_state(PbEndpoint::STATE_UNREADY);
    known.slots = std::make_shared<SlotCounter>();
  }
  if (!IsReady(known.endpoint) && IsReady(endpoint)) {
    // A change that is seen as it happens begins now, whatever the clocks of
    // others say. One that happened before is as old as the fabric says.
    absl::Duration age = absl::ZeroDuration();
    if (!live) {
      age = std::max(age, clock_.Now() - absl::FromUnixSeconds(
                                             endpoint.state_time().seconds()));
    }
    known.ready_since_us = absl::ToInt64Microseconds(clock_.Monotonic() - age);
  }
  known.routed = nullptr;
  dirty_.insert(endpoint.app_name());
  known.held_until = absl::InfiniteDuration();
  known.endpoint = std::move(endpoint);
}

std::shared_ptr<const AppRoute> FabricRoutes::BuildRoute(
    const std::string& app) {
  auto route = std::make_shared<AppRoute>();
  route->name = app;
  if (const auto plan = plans_.find(app); plan != plans_.end())
    route->traffic = plan->second.traffic;
  Shared& shared = shared_[app];
  if (shared.stats == nullptr) {
    shared.stats = std::make_shared<AppStats>(options_.workers);
    shared.limiter = std::make_shared<AppLimiter>(options_.workers);
  }
  route->stats = shared.stats;
  route->limiter = shared.limiter;
  const auto found = endpoints_.find(app);
  if (found == endpoints_.end()) return route;
  std::vector<std::shared_ptr<const Endpoint>> suspect;
  route->ready.reserve(found->second.size());
  for (auto& [id, known] : found->second) {
    RouteEndpoint(&known);
    if (known.routed == nullptr) continue;
    switch (known.routed->status) {
      case EndpointStatus::kReady:
        route->ready.push_back(known.routed);
        break;
      case EndpointStatus::kSuspect:
        suspect.push_back(known.routed);
        break;
      default:
        route->draining.push_back(known.routed);
    }
  }
  // A node that is not heard from may still serve; better it than nothing.
  auto& place = route->ready.empty() ? route->ready : route->draining;
  place.insert(place.end(), suspect.begin(), suspect.end());
  return route;
}

void FabricRoutes::RouteEndpoint(Known* known) {
  const PbEndpoint& from = known->endpoint;
  const EndpointStatus status =
      StatusOf(from, suspect_nodes_.contains(from.node_id()));
  if (known->routed != nullptr && known->routed->status == status) return;
  absl::StatusOr<Endpoint> endpoint =
      known->routed != nullptr ? absl::StatusOr<Endpoint>(*known->routed)
                               : ParseEndpointUrl(from.url());
  if (!endpoint.ok()) {
    LOG(ERROR) << "endpoint " << from.instance_id() << " of " << from.app_name()
               << " is left out: " << endpoint.status();
    return;
  }
  endpoint->instance_id = from.instance_id();
  endpoint->node_id = from.node_id();
  endpoint->digest = from.digest();
  endpoint->status = status;
  endpoint->ready_since_us = known->ready_since_us;
  endpoint->stats = known->stats;
  endpoint->slots = known->slots;
  known->routed = std::make_shared<const Endpoint>(*std::move(endpoint));
}

void FabricRoutes::Publish() {
  if (!plans_known_ || !endpoints_known_ || !nodes_known_) return;
  const std::shared_ptr<const RouteSnapshot> current = table_.Current();
  if (dirty_.empty() && current != nullptr) return;
  RouteSnapshot next;
  if (current != nullptr) next.apps = current->apps;
  for (const std::string& app : dirty_) {
    if (plans_.contains(app)) {
      next.apps[app] = BuildRoute(app);
    } else {
      next.apps.erase(app);
      shared_.erase(app);
    }
  }
  dirty_.clear();
  table_.Publish(std::move(next));
}

FabricRoutes::Position FabricRoutes::AppliedAt(uint64_t version) {
  MutexLock lock(mutex_);
  while (marks_.size() > 1 && marks_[1].version <= version) marks_.pop_front();
  if (marks_.empty() || marks_.front().version > version) return {};
  return marks_.front().position;
}

std::vector<fabric::v1::EndpointLoad> FabricRoutes::DrainingLoads() const {
  std::vector<fabric::v1::EndpointLoad> loads;
  MutexLock lock(mutex_);
  for (const auto& [app, instances] : endpoints_) {
    for (const auto& [id, known] : instances) {
      if (known.endpoint.state() != PbEndpoint::STATE_DRAINING) continue;
      fabric::v1::EndpointLoad& load = loads.emplace_back();
      load.set_app_name(app);
      load.set_instance_id(id);
      load.set_in_flight(
          known.stats->Sum([](const EndpointCounters& row) -> const Counter& {
            return row.in_flight;
          }));
    }
  }
  return loads;
}

}  // namespace mycelium::edge
