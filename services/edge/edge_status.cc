#include "services/edge/edge_status.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "lib/base/error.h"
#include "lib/base/ids.h"
#include "services/edge/latency_proto.h"

namespace mycelium::edge {
namespace {

constexpr absl::string_view kErrorDomain = "edge.mycelium";
constexpr absl::string_view kTokenPrefix = "after:";
constexpr int kDefaultPageSize = 100;
constexpr int kMaxPageSize = 1000;

void CheckApp(const std::string& app_name, FieldViolations* violations) {
  if (!app_name.empty() && !IsAppName(app_name)) {
    violations->Add("appName",
                    absl::StrCat(Quoted(app_name), " ", kAppNameRule));
  }
}

void CheckView(v1::StatsView view, FieldViolations* violations) {
  if (!v1::StatsView_IsValid(view)) {
    violations->Add("view",
                    absl::StrCat(static_cast<int>(view), " is no StatsView"));
  }
}

void SetTimestamp(absl::Time time, google::protobuf::Timestamp* out) {
  const int64_t nanos = absl::ToUnixNanos(time);
  out->set_seconds(nanos / 1'000'000'000);
  out->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
}

int64_t InFlight(const EndpointStats& stats) {
  return stats.Sum([](const EndpointCounters& row) -> const Counter& {
    return row.in_flight;
  });
}

v1::RouteEndpoint::State StateOf(const Endpoint& endpoint, bool accepts) {
  switch (endpoint.status) {
    case EndpointStatus::kDraining:
      return v1::RouteEndpoint::STATE_DRAINING;
    case EndpointStatus::kUnready:
      return v1::RouteEndpoint::STATE_UNREADY;
    case EndpointStatus::kSuspect:
      if (!accepts) return v1::RouteEndpoint::STATE_SUSPECT;
      break;
    case EndpointStatus::kReady:
      break;
  }
  const int64_t ejecting =
      endpoint.stats->Sum([](const EndpointCounters& row) -> const Counter& {
        return row.ejected;
      });
  // Each worker judges by what it saw itself.
  return ejecting == static_cast<int64_t>(endpoint.stats->rows().size())
             ? v1::RouteEndpoint::STATE_EJECTED
             : v1::RouteEndpoint::STATE_READY;
}

v1::Route ToRoute(const AppRoute& app) {
  v1::Route route;
  route.set_app_name(app.name);
  const auto add = [&route](const std::shared_ptr<const Endpoint>& endpoint,
                            bool accepts) {
    v1::RouteEndpoint* const out = route.add_endpoints();
    out->set_instance_id(endpoint->instance_id);
    out->set_url(endpoint->url);
    out->set_node_id(endpoint->node_id);
    out->set_state(StateOf(*endpoint, accepts));
    out->set_in_flight(InFlight(*endpoint->stats));
  };
  for (const auto& endpoint : app.ready) add(endpoint, true);
  for (const auto& endpoint : app.draining) add(endpoint, false);
  return route;
}

void AddReasons(const std::array<int64_t, kReasons.size()>& counts,
                v1::RequestStats* out) {
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0) {
      (*out->mutable_failures_by_reason())[std::string(kReasons[i])] =
          counts[i];
    }
  }
}

// Adds what `rows` counted, each row's RequestCounters found by `select`.
template <typename Rows, typename Select>
void AddRequests(const Rows& rows, Select select, v1::RequestStats* out) {
  const auto sum = [&](auto pick) {
    int64_t total = 0;
    for (const auto& row : rows) total += pick(select(row)).value();
    return total;
  };
  using R = RequestCounters;
  int64_t requests = 0;
  for (size_t i = 0; i < 6; ++i) {
    const int64_t count =
        sum([i](const R& r) -> const Counter& { return r.by_class[i]; });
    requests += count;
    if (i > 0) out->add_responses_by_class(count);
  }
  out->set_requests(requests);
  std::array<int64_t, kReasons.size()> reasons{};
  for (size_t i = 0; i < reasons.size(); ++i) {
    reasons[i] =
        sum([i](const R& r) -> const Counter& { return r.by_reason[i]; });
  }
  AddReasons(reasons, out);
  out->set_received_bytes(
      sum([](const R& r) -> const Counter& { return r.bytes_in; }));
  out->set_sent_bytes(
      sum([](const R& r) -> const Counter& { return r.bytes_out; }));
}

// What all workers counted of an instance.
void SetEndpointStats(const Endpoint& endpoint, bool buckets,
                      v1::EndpointStats* out) {
  using E = EndpointCounters;
  const EndpointStats& stats = *endpoint.stats;
  out->set_instance_id(endpoint.instance_id);
  out->set_digest(endpoint.digest);
  v1::RequestStats* const requests = out->mutable_requests();
  requests->set_requests(stats.Sum(&E::requests));
  requests->set_in_flight(stats.Sum(&E::in_flight));
  for (size_t i = 1; i < kStatusClasses.size(); ++i) {
    requests->add_responses_by_class(stats.Sum(
        [i](const E& row) -> const Counter& { return row.by_class[i]; }));
  }
  std::array<int64_t, kReasons.size()> reasons{};
  for (size_t i = 0; i < reasons.size(); ++i) {
    reasons[i] = stats.Sum(
        [i](const E& row) -> const Counter& { return row.by_reason[i]; });
  }
  AddReasons(reasons, requests);
  requests->set_received_bytes(stats.Sum(&E::bytes_in));
  requests->set_sent_bytes(stats.Sum(&E::bytes_out));
  requests->set_connect_failures(stats.Sum(&E::connect_failures));
  requests->set_ejections(stats.Sum(&E::ejections));
  LatencySummary latency;
  for (const E& row : stats.rows()) row.latency.MergeInto(&latency);
  SetLatency(latency, buckets, requests->mutable_latency());
}

}  // namespace

EdgeStatus::EdgeStatus(std::string edge_id, const Edge* edge,
                       const RouteTable* routes, Clock* clock)
    : edge_id_(std::move(edge_id)),
      edge_(*edge),
      routes_(*routes),
      clock_(*clock),
      start_(clock->Now()) {}

absl::StatusOr<v1::ListRoutesResponse> EdgeStatus::ListRoutes(
    const v1::ListRoutesRequest& request) const {
  FieldViolations violations;
  CheckApp(request.app_name(), &violations);
  if (request.page_size() < 0) {
    violations.Add("pageSize",
                   absl::StrCat(request.page_size(), " is negative; want 0 to ",
                                kMaxPageSize, ", 0 for ", kDefaultPageSize));
  }
  if (!violations.empty())
    return violations.ToStatus(kErrorDomain, "REQUEST_INVALID");
  absl::string_view after = request.page_token();
  if (!after.empty() &&
      (!absl::ConsumePrefix(&after, kTokenPrefix) || !IsAppName(after))) {
    violations.Add("pageToken", absl::StrCat(Quoted(request.page_token()),
                                             " is no token of this edge"));
    return violations.ToStatus(kErrorDomain, "PAGE_TOKEN_INVALID");
  }
  const int page_size = request.page_size() == 0
                            ? kDefaultPageSize
                            : std::min(request.page_size(), kMaxPageSize);

  v1::ListRoutesResponse response;
  const std::shared_ptr<const RouteSnapshot> snapshot = routes_.Current();
  if (snapshot != nullptr) {
    std::vector<const AppRoute*> apps;
    for (const auto& [name, app] : snapshot->apps) {
      if (!request.app_name().empty() && name != request.app_name()) continue;
      if (absl::string_view(name) > after) apps.push_back(app.get());
    }
    std::sort(
        apps.begin(), apps.end(),
        [](const AppRoute* a, const AppRoute* b) { return a->name < b->name; });
    for (const AppRoute* const app : apps) {
      if (response.routes_size() == page_size) {
        response.set_next_page_token(absl::StrCat(
            kTokenPrefix, response.routes(page_size - 1).app_name()));
        break;
      }
      *response.add_routes() = ToRoute(*app);
    }
  }
  const FabricState fabric = edge_.fabric_state();
  response.set_revision(fabric.revision);
  response.set_epoch(fabric.epoch);
  if (fabric.staleness > absl::ZeroDuration()) {
    const int64_t nanos = absl::ToInt64Nanoseconds(fabric.staleness);
    response.mutable_staleness()->set_seconds(nanos / 1'000'000'000);
    response.mutable_staleness()->set_nanos(
        static_cast<int32_t>(nanos % 1'000'000'000));
  }
  return response;
}

absl::StatusOr<v1::EdgeStats> EdgeStatus::GetStats(
    const v1::GetStatsRequest& request) const {
  FieldViolations violations;
  CheckApp(request.app_name(), &violations);
  CheckView(request.view(), &violations);
  if (!violations.empty())
    return violations.ToStatus(kErrorDomain, "REQUEST_INVALID");
  v1::EdgeStats stats = Stats(request.app_name(), request.view());
  if (!request.app_name().empty() && stats.apps().empty()) {
    return MakeError(
        absl::StatusCode::kNotFound, kErrorDomain, "APP_NOT_FOUND",
        absl::StrCat("app ", Quoted(request.app_name()), " is not known here"),
        {{"app_name", request.app_name()}});
  }
  return stats;
}

absl::Status EdgeStatus::CheckWatch(
    const v1::WatchStatsRequest& request) const {
  FieldViolations violations;
  CheckApp(request.app_name(), &violations);
  CheckView(request.view(), &violations);
  if (request.has_interval()) {
    const google::protobuf::Duration& interval = request.interval();
    const int64_t seconds = interval.seconds();
    const bool valid =
        interval.nanos() >= 0 && interval.nanos() < 1'000'000'000 &&
        seconds >= 0 && (seconds > 0 || interval.nanos() >= 100'000'000) &&
        (seconds < 3600 || (seconds == 3600 && interval.nanos() == 0));
    if (!valid) {
      violations.Add("interval",
                     absl::StrCat(seconds, " s and ", interval.nanos(),
                                  " ns is not within 100 ms and 1 h"));
    }
  }
  if (violations.empty()) return absl::OkStatus();
  return violations.ToStatus(kErrorDomain, "REQUEST_INVALID");
}

v1::EdgeStats EdgeStatus::Stats(const std::string& app_name,
                                v1::StatsView view) const {
  const bool buckets = view != v1::STATS_VIEW_BASIC;
  const bool endpoint_buckets = view == v1::STATS_VIEW_FULL;
  v1::EdgeStats stats;
  stats.set_edge_id(edge_id_);
  SetTimestamp(clock_.Now(), stats.mutable_time());
  SetTimestamp(start_, stats.mutable_start_time());
  const PerWorker<WorkerCounters>& workers = edge_.counters();
  using W = WorkerCounters;
  v1::RequestStats* const total = stats.mutable_total();
  AddRequests(
      workers.rows(),
      [](const W& row) -> const RequestCounters& { return row.requests; },
      total);
  total->set_retries(workers.Sum(&W::retries));
  LatencySummary all;
  for (const W& row : workers.rows()) row.latency.MergeInto(&all);
  SetLatency(all, buckets, total->mutable_latency());
  stats.set_client_connections(workers.Sum(&W::client_connections));
  stats.set_accepted_connections(workers.Sum(&W::accepted));
  stats.set_endpoint_connections(workers.Sum(&W::upstream_connections));
  stats.set_dropped_log_lines(workers.Sum(&W::log_drops) +
                              edge_.log_write_errors());
  stats.set_skipped_log_lines(workers.Sum(&W::log_skips));
  stats.set_draining(edge_.draining());

  const std::shared_ptr<const RouteSnapshot> snapshot = routes_.Current();
  if (snapshot == nullptr) return stats;
  int64_t all_active = 0;
  std::vector<const AppRoute*> apps;
  for (const auto& [name, app] : snapshot->apps) apps.push_back(app.get());
  std::sort(apps.begin(), apps.end(), [](const AppRoute* a, const AppRoute* b) {
    return a->name < b->name;
  });
  for (const AppRoute* const app : apps) {
    using A = AppCounters;
    const int64_t active = app->stats->Sum(&A::active);
    all_active += active;
    if (!app_name.empty() && app->name != app_name) continue;

    v1::AppStats* const out = stats.add_apps();
    out->set_app_name(app->name);
    v1::RequestStats* const requests = out->mutable_requests();
    AddRequests(
        app->stats->rows(),
        [](const A& row) -> const RequestCounters& { return row.requests; },
        requests);
    requests->set_in_flight(active);
    requests->set_retries(app->stats->Sum(&A::retries));
    LatencySummary latency;
    for (const A& row : app->stats->rows()) row.latency.MergeInto(&latency);
    SetLatency(latency, buckets, requests->mutable_latency());
    for (const auto* const list : {&app->ready, &app->draining}) {
      for (const auto& endpoint : *list)
        SetEndpointStats(*endpoint, endpoint_buckets, out->add_endpoints());
    }
  }
  total->set_in_flight(all_active);
  return stats;
}

}  // namespace mycelium::edge
