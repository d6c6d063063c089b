#include "services/edge/metrics.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace mycelium::edge {
namespace {

using W = WorkerCounters;
using A = AppCounters;
using E = EndpointCounters;

constexpr std::array<absl::string_view, 6> kClasses = {"none", "1xx", "2xx",
                                                       "3xx",  "4xx", "5xx"};

absl::string_view TypeOf(MetricKind kind) {
  return kind == MetricKind::kCounter ? "counter" : "gauge";
}

// Writes families one after the other.
class Exposition {
 public:
  explicit Exposition(std::vector<const AppRoute*> apps)
      : apps_(std::move(apps)) {}

  void Family(absl::string_view name, absl::string_view type,
              absl::string_view help) {
    absl::StrAppend(&text_, "# HELP ", name, " ", help, "\n# TYPE ", name, " ",
                    type, "\n");
  }

  template <typename Value>
  void Sample(absl::string_view name, absl::string_view labels, Value value) {
    absl::StrAppend(&text_, name, labels, " ", value, "\n");
  }

  void PerEdge(const CounterFamily<W>& family, const PerWorker<W>& workers) {
    Family(family.name, TypeOf(family.kind), family.help);
    Sample(family.name, "", workers.Sum(family.counter));
  }

  template <typename Select>
  void PerApp(absl::string_view name, absl::string_view type,
              absl::string_view help, Select select) {
    Family(name, type, help);
    for (const AppRoute* const app : apps_) {
      Sample(name, absl::StrCat("{mycelium_app=\"", app->name, "\"}"),
             app->stats->Sum(select));
    }
  }

  void PerApp(const CounterFamily<A>& family) {
    PerApp(family.name, TypeOf(family.kind), family.help, family.counter);
  }

  void PerEndpoint(const CounterFamily<E>& family) {
    Family(family.name, TypeOf(family.kind), family.help);
    for (const AppRoute* const app : apps_) {
      for (const auto* const list : {&app->ready, &app->draining}) {
        for (const auto& endpoint : *list) {
          Sample(family.name,
                 absl::StrCat("{mycelium_app=\"", app->name, "\",instance=\"",
                              endpoint->instance_id, "\"}"),
                 endpoint->stats->Sum(family.counter));
        }
      }
    }
  }

  void PerClass(absl::string_view name, absl::string_view help) {
    Family(name, "counter", help);
    for (const AppRoute* const app : apps_) {
      for (size_t i = 0; i < kClasses.size(); ++i) {
        Sample(name,
               absl::StrCat("{mycelium_app=\"", app->name, "\",class=\"",
                            kClasses[i], "\"}"),
               app->stats->Sum([i](const A& row) -> const Counter& {
                 return row.requests.by_class[i];
               }));
      }
    }
  }

  void Durations(absl::string_view name, absl::string_view help) {
    Family(name, "histogram", help);
    for (const AppRoute* const app : apps_) {
      const std::string label =
          absl::StrCat("mycelium_app=\"", app->name, "\"");
      int64_t below = 0;
      for (size_t i = 0; i <= kExportedBoundsMicros.size(); ++i) {
        below += app->stats->Sum(
            [i](const A& row) -> const Counter& { return row.exported[i]; });
        const std::string bound =
            i == kExportedBoundsMicros.size()
                ? "+Inf"
                : absl::StrCat(static_cast<double>(kExportedBoundsMicros[i]) /
                               1e6);
        Sample(absl::StrCat(name, "_bucket"),
               absl::StrCat("{", label, ",le=\"", bound, "\"}"), below);
      }
      const int64_t micros = app->stats->Sum(
          [](const A& row) -> const Counter& { return row.micros; });
      Sample(absl::StrCat(name, "_sum"), absl::StrCat("{", label, "}"),
             static_cast<double>(micros) / 1e6);
      Sample(absl::StrCat(name, "_count"), absl::StrCat("{", label, "}"),
             below);
    }
  }

  std::string Take() { return std::move(text_); }

 private:
  const std::vector<const AppRoute*> apps_;
  std::string text_;
};

std::vector<const AppRoute*> SortedApps(const RouteSnapshot* routes) {
  std::vector<const AppRoute*> apps;
  if (routes == nullptr) return apps;
  for (const auto& [name, app] : routes->apps) apps.push_back(app.get());
  std::sort(apps.begin(), apps.end(), [](const AppRoute* a, const AppRoute* b) {
    return a->name < b->name;
  });
  return apps;
}

}  // namespace

std::string FormatMetrics(const PerWorker<WorkerCounters>& workers,
                          const RouteSnapshot* routes,
                          const FabricState& fabric,
                          const CertificateStore* certificates) {
  Exposition out(SortedApps(routes));
  for (const auto& family : kWorkerFamilies) out.PerEdge(family, workers);
  out.Family("mycelium_edge_requests_total", "counter",
             "Requests that ended, by class of status; none: without one.");
  for (size_t i = 0; i < kClasses.size(); ++i) {
    out.Sample("mycelium_edge_requests_total",
               absl::StrCat("{class=\"", kClasses[i], "\"}"),
               workers.Sum([i](const W& row) -> const Counter& {
                 return row.requests.by_class[i];
               }));
  }
  out.Family("mycelium_edge_rejected_total", "counter",
             "Requests that the edge itself answered, by reason.");
  for (size_t i = 0; i < kReasons.size(); ++i) {
    out.Sample("mycelium_edge_rejected_total",
               absl::StrCat("{reason=\"", kReasons[i], "\"}"),
               workers.Sum([i](const W& row) -> const Counter& {
                 return row.requests.by_reason[i];
               }));
  }
  out.Family("mycelium_edge_tls_failures_total", "counter",
             "TLS handshakes that failed, by reason.");
  for (size_t i = 0; i < kTlsFailures.size(); ++i) {
    out.Sample("mycelium_edge_tls_failures_total",
               absl::StrCat("{reason=\"", kTlsFailures[i], "\"}"),
               workers.Sum([i](const W& row) -> const Counter& {
                 return row.tls_failures[i];
               }));
  }
  if (certificates != nullptr) {
    out.Family("mycelium_edge_tls_reloads_total", "counter",
               "Times that changed certificates were loaded, by result.");
    out.Sample("mycelium_edge_tls_reloads_total", "{result=\"ok\"}",
               certificates->reloads());
    out.Sample("mycelium_edge_tls_reloads_total", "{result=\"failed\"}",
               certificates->failed_reloads());
    out.Family("mycelium_edge_tls_certificate_expiry_timestamp_seconds",
               "gauge", "When a certificate expires, of the Unix epoch.");
    for (const auto& certificate : certificates->Current()->Certificates()) {
      out.Sample("mycelium_edge_tls_certificate_expiry_timestamp_seconds",
                 absl::StrCat("{certificate=\"",
                              absl::CEscape(certificate.name), "\"}"),
                 certificate.not_after_s);
    }
  }
  if (fabric.used) {
    out.Family("mycelium_edge_config_revision", "gauge",
               "Revision of the fabric that is routed by.");
    out.Sample("mycelium_edge_config_revision", "", fabric.revision);
    out.Family("mycelium_edge_config_staleness_seconds", "gauge",
               "Time for which the fabric has not been heard from.");
    out.Sample("mycelium_edge_config_staleness_seconds", "",
               absl::ToDoubleSeconds(fabric.staleness));
  }

  out.PerClass("mycelium_edge_responses_total",
               "Requests by app and class of status; none: without one.");
  out.Durations(
      "http_server_request_duration_seconds",
      "Time from the first byte of a request to the end of its response.");
  for (const auto& family : kAppFamilies) out.PerApp(family);
  out.PerApp(
      "mycelium_edge_received_bytes_total", "counter", "Bytes of requests.",
      [](const A& row) -> const Counter& { return row.requests.bytes_in; });
  out.PerApp(
      "mycelium_edge_sent_bytes_total", "counter", "Bytes of responses.",
      [](const A& row) -> const Counter& { return row.requests.bytes_out; });
  for (const auto& family : kEndpointFamilies) out.PerEndpoint(family);
  return out.Take();
}

}  // namespace mycelium::edge
