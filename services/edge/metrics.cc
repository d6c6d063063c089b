#include "services/edge/metrics.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"

namespace mycelium::edge {
namespace {

void Family(absl::string_view name, absl::string_view type,
            absl::string_view help, std::string* out) {
  absl::StrAppend(out, "# HELP ", name, " ", help, "\n# TYPE ", name, " ", type,
                  "\n");
}

void Sample(absl::string_view name, absl::string_view labels, int64_t value,
            std::string* out) {
  absl::StrAppend(out, name, labels, " ", value, "\n");
}

template <typename Select>
void WorkerFamily(absl::string_view name, absl::string_view type,
                  absl::string_view help,
                  const PerWorker<WorkerCounters>& workers, Select select,
                  std::string* out) {
  Family(name, type, help, out);
  Sample(name, "", workers.Sum(select), out);
}

std::vector<const AppRoute*> SortedApps(const RouteSnapshot& routes) {
  std::vector<const AppRoute*> apps;
  for (const auto& [name, app] : routes.apps) apps.push_back(app.get());
  std::sort(apps.begin(), apps.end(), [](const AppRoute* a, const AppRoute* b) {
    return a->name < b->name;
  });
  return apps;
}

template <typename Select>
void AppFamily(absl::string_view name, absl::string_view type,
               absl::string_view help, const std::vector<const AppRoute*>& apps,
               Select select, std::string* out) {
  Family(name, type, help, out);
  for (const AppRoute* const app : apps) {
    Sample(name, absl::StrCat("{mycelium_app=\"", app->name, "\"}"),
           app->stats->Sum(select), out);
  }
}

void DurationFamily(const std::vector<const AppRoute*>& apps,
                    std::string* out) {
  constexpr absl::string_view kName = "http_server_request_duration_seconds";
  Family(kName, "histogram",
         "Time from the first byte of a request to the end of its response.",
         out);
  for (const AppRoute* const app : apps) {
    const std::string label = absl::StrCat("mycelium_app=\"", app->name, "\"");
    int64_t below = 0;
    for (size_t i = 0; i <= kExportedBoundsMicros.size(); ++i) {
      below += app->stats->Sum([i](const AppCounters& row) -> const Counter& {
        return row.exported[i];
      });
      const std::string bound =
          i == kExportedBoundsMicros.size()
              ? "+Inf"
              : absl::StrCat(static_cast<double>(kExportedBoundsMicros[i]) /
                             1e6);
      Sample(absl::StrCat(kName, "_bucket"),
             absl::StrCat("{", label, ",le=\"", bound, "\"}"), below, out);
    }
    const int64_t micros = app->stats->Sum(
        [](const AppCounters& row) -> const Counter& { return row.micros; });
    absl::StrAppend(out, kName, "_sum{", label, "} ",
                    static_cast<double>(micros) / 1e6, "\n", kName, "_count{",
                    label, "} ", below, "\n");
  }
}

template <typename Select>
void EndpointFamily(absl::string_view name, absl::string_view type,
                    absl::string_view help,
                    const std::vector<const AppRoute*>& apps, Select select,
                    std::string* out) {
  Family(name, type, help, out);
  for (const AppRoute* const app : apps) {
    for (const auto* const list : {&app->ready, &app->draining}) {
      for (const auto& endpoint : *list) {
        Sample(name,
               absl::StrCat("{mycelium_app=\"", app->name, "\",instance=\"",
                            endpoint->instance_id, "\"}"),
               endpoint->stats->Sum(select), out);
      }
    }
  }
}

}  // namespace

std::string FormatMetrics(const PerWorker<WorkerCounters>& workers,
                          const RouteSnapshot* routes) {
  std::string out;
  using W = WorkerCounters;
  using A = AppCounters;
  using E = EndpointCounters;
  WorkerFamily(
      "mycelium_edge_accepted_connections_total", "counter",
      "Client connections accepted.", workers,
      [](const W& row) -> const Counter& { return row.accepted; }, &out);
  WorkerFamily(
      "mycelium_edge_client_connections", "gauge", "Client connections open.",
      workers,
      [](const W& row) -> const Counter& { return row.client_connections; },
      &out);
  WorkerFamily(
      "mycelium_edge_upstream_connections", "gauge",
      "Connections to endpoints open.", workers,
      [](const W& row) -> const Counter& { return row.upstream_connections; },
      &out);
  WorkerFamily(
      "mycelium_edge_requests_total", "counter",
      "Requests that ended, however.", workers,
      [](const W& row) -> const Counter& { return row.requests; }, &out);
  WorkerFamily(
      "mycelium_edge_refused_requests_total", "counter",
      "Messages from clients that are not valid HTTP.", workers,
      [](const W& row) -> const Counter& { return row.refused_requests; },
      &out);
  WorkerFamily(
      "mycelium_edge_unknown_app_total", "counter",
      "Requests for an app that is unknown.", workers,
      [](const W& row) -> const Counter& { return row.unknown_app; }, &out);
  WorkerFamily(
      "mycelium_edge_accept_pauses_total", "counter",
      "Times that accepting paused for want of descriptors.", workers,
      [](const W& row) -> const Counter& { return row.accept_pauses; }, &out);
  WorkerFamily(
      "mycelium_edge_log_drops_total", "counter",
      "Access log lines dropped because the log was too slow.", workers,
      [](const W& row) -> const Counter& { return row.log_drops; }, &out);
  if (routes == nullptr) return out;

  const std::vector<const AppRoute*> apps = SortedApps(*routes);
  Family("mycelium_edge_responses_total", "counter",
         "Requests by app and class of status; none: ended without one.", &out);
  constexpr absl::string_view kClasses[] = {"none", "1xx", "2xx",
                                            "3xx",  "4xx", "5xx"};
  for (const AppRoute* const app : apps) {
    for (size_t i = 0; i < 6; ++i) {
      Sample("mycelium_edge_responses_total",
             absl::StrCat("{mycelium_app=\"", app->name, "\",class=\"",
                          kClasses[i], "\"}"),
             app->stats->Sum([i](const A& row) -> const Counter& {
               return row.by_class[i];
             }),
             &out);
    }
  }
  DurationFamily(apps, &out);
  AppFamily(
      "http_server_active_requests", "gauge", "Requests under way.", apps,
      [](const A& row) -> const Counter& { return row.active; }, &out);
  AppFamily(
      "mycelium_edge_retries_total", "counter", "Attempts after the first.",
      apps, [](const A& row) -> const Counter& { return row.retries; }, &out);
  AppFamily(
      "mycelium_edge_no_endpoint_total", "counter",
      "Requests for an app with no endpoint.", apps,
      [](const A& row) -> const Counter& { return row.no_endpoint; }, &out);
  AppFamily(
      "mycelium_edge_received_bytes_total", "counter", "Bytes of requests.",
      apps, [](const A& row) -> const Counter& { return row.bytes_in; }, &out);
  AppFamily(
      "mycelium_edge_sent_bytes_total", "counter", "Bytes of responses.", apps,
      [](const A& row) -> const Counter& { return row.bytes_out; }, &out);
  EndpointFamily(
      "mycelium_edge_endpoint_requests_total", "counter",
      "Attempts at an instance.", apps,
      [](const E& row) -> const Counter& { return row.requests; }, &out);
  EndpointFamily(
      "mycelium_edge_endpoint_failures_total", "counter",
      "Attempts that brought no response, or a 5xx.", apps,
      [](const E& row) -> const Counter& { return row.failures; }, &out);
  EndpointFamily(
      "mycelium_edge_endpoint_in_flight", "gauge",
      "Requests under way at an instance.", apps,
      [](const E& row) -> const Counter& { return row.in_flight; }, &out);
  EndpointFamily(
      "mycelium_edge_endpoint_ejected", "gauge",
      "Workers that send no requests to an instance because it fails.", apps,
      [](const E& row) -> const Counter& { return row.ejected; }, &out);
  return out;
}

}  // namespace mycelium::edge
