#include "services/edge/metrics.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "lib/base/version.h"
#include "lib/telemetry/process_stats.h"

namespace mycelium::edge {
namespace {

using telemetry::Exemplar;
using telemetry::Exposition;
using telemetry::MetricType;
using W = WorkerCounters;
using A = AppCounters;
using E = EndpointCounters;

constexpr absl::string_view kApp = "mycelium_app";
constexpr absl::string_view kMethod = "http_request_method";
constexpr absl::string_view kClass = "http_response_status_class";
constexpr size_t kSuccess = 2;  // Of kStatusClasses.

MetricType TypeOf(MetricKind kind) {
  return kind == MetricKind::kCounter ? MetricType::kCounter
                                      : MetricType::kGauge;
}

// Instances that share one series of each family: one, but beyond the limit.
struct Instances {
  absl::string_view app;
  absl::string_view id;
  absl::string_view node;
  std::vector<const Endpoint*> members;
  int ready = 0;  // So many of them may get requests.

  int64_t Sum(Counter E::*counter) const {
    int64_t sum = 0;
    for (const Endpoint* const member : members)
      sum += member->stats->Sum(counter);
    return sum;
  }
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

std::vector<Instances> GroupInstances(
    const std::vector<const AppRoute*>& apps) {
  std::vector<Instances> groups;
  int named = 0;
  for (const AppRoute* const app : apps) {
    Instances others{app->name, "_other", "", {}, 0};
    const auto add = [&](const Endpoint& endpoint, int ready) {
      if (named < kMaxMetricInstances) {
        ++named;
        groups.push_back({app->name,
                          endpoint.instance_id,
                          endpoint.node_id,
                          {&endpoint},
                          ready});
      } else {
        others.members.push_back(&endpoint);
        others.ready += ready;
      }
    };
    for (const auto& endpoint : app->ready) add(*endpoint, 1);
    for (const auto& endpoint : app->draining) add(*endpoint, 0);
    if (!others.members.empty()) groups.push_back(std::move(others));
  }
  return groups;
}

// A histogram as all workers have it.
template <size_t N>
struct Merged {
  std::array<int64_t, N> counts{};
  int64_t sum = 0;
  int64_t total = 0;
};

template <typename Row, typename Select>
auto Merge(const PerWorker<Row>& rows, Select select) {
  using Counts =
      std::remove_cvref_t<decltype(select(std::declval<const Row&>()).counts)>;
  Merged<std::tuple_size_v<Counts>> merged;
  for (const Row& row : rows.rows()) {
    const auto& histogram = select(row);
    for (size_t i = 0; i < merged.counts.size(); ++i) {
      const int64_t count = histogram.counts[i].value();
      merged.counts[i] += count;
      merged.total += count;
    }
    merged.sum += histogram.sum.value();
  }
  return merged;
}

std::array<double, kExportedBoundsMicros.size()> BoundsInSeconds() {
  std::array<double, kExportedBoundsMicros.size()> seconds{};
  for (size_t i = 0; i < seconds.size(); ++i)
    seconds[i] = static_cast<double>(kExportedBoundsMicros[i]) / 1e6;
  return seconds;
}

std::array<double, kExportedBodyBytes.size()> BoundsInBytes() {
  std::array<double, kExportedBodyBytes.size()> bytes{};
  for (size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<double>(kExportedBodyBytes[i]);
  return bytes;
}

// The newest exemplars of an app's requests of one class.
std::array<Exemplar, kExportedBoundsMicros.size() + 1> ExemplarsOf(
    const AppStats& stats, size_t status_class) {
  std::array<Exemplar, kExportedBoundsMicros.size() + 1> exemplars;
  for (size_t i = 0; i < exemplars.size(); ++i) {
    TraceExemplar::Value newest;
    for (const A& row : stats.rows()) {
      const TraceExemplar::Value value = row.exemplars[i].Get();
      if (value.status_class == static_cast<int64_t>(status_class) &&
          value.time_us > newest.time_us) {
        newest = value;
      }
    }
    if (newest.time_us == 0) continue;
    exemplars[i] = {
        absl::StrFormat("%016x%016x", newest.trace_id[0], newest.trace_id[1]),
        static_cast<double>(newest.micros) / 1e6,
        static_cast<double>(newest.time_us) / 1e6};
  }
  return exemplars;
}

// The families of one page, in the order in which they are written.
class MetricsPage {
 public:
  MetricsPage(const MetricsSource& source, telemetry::ExpositionFormat format)
      : source_(source),
        workers_(*source.workers),
        apps_(SortedApps(source.routes)),
        instances_(GroupInstances(apps_)),
        out_(format) {}

  std::string Format() {
    Process();
    Routes();
    for (const auto& family : kWorkerFamilies) {
      out_.Family(family.name, TypeOf(family.kind), family.help);
      out_.Sample({}, workers_.Sum(family.counter));
    }
    Turns();
    Tls();
    Requests();
    Rejections();
    Durations();
    Bodies();
    for (const auto& family : kAppFamilies) {
      PerApp(family.name, TypeOf(family.kind), family.help, family.counter);
    }
    PerApp("mycelium_edge_received_bytes_total", MetricType::kCounter,
           "Bytes of requests.", [](const A& row) -> const Counter& {
             return row.requests.bytes_in;
           });
    PerApp("mycelium_edge_sent_bytes_total", MetricType::kCounter,
           "Bytes of responses.", [](const A& row) -> const Counter& {
             return row.requests.bytes_out;
           });
    Connections();
    for (const auto& family : kEndpointFamilies) {
      out_.Family(family.name, TypeOf(family.kind), family.help);
      for (const Instances& each : instances_) {
        out_.Sample({{kApp, each.app}, {"instance", each.id}},
                    each.Sum(family.counter));
      }
    }
    Health();
    return out_.Finish();
  }

 private:
  void Process() {
    out_.Family("mycelium_build_info", MetricType::kGauge,
                "1; the version is a label.");
    out_.Sample({{"version", kVersion}}, int64_t{1});
    AddProcessStats(telemetry::ReadProcessStats(), &out_);
  }

  void Routes() {
    out_.Family("mycelium_edge_route_version", MetricType::kGauge,
                "Version of the routes that all workers follow.");
    out_.Sample({}, static_cast<int64_t>(source_.applied_version));
    out_.Family("mycelium_edge_log_write_errors_total", MetricType::kCounter,
                "Access log lines lost because they could not be written.");
    out_.Sample({}, source_.log_write_errors);
    if (!source_.fabric.used) return;
    out_.Family("mycelium_edge_config_revision", MetricType::kGauge,
                "Revision of the fabric that is routed by.");
    out_.Sample({}, source_.fabric.revision);
    out_.Family("mycelium_edge_config_staleness_seconds", MetricType::kGauge,
                "Time for which the fabric has not been heard from.");
    out_.Sample({}, absl::ToDoubleSeconds(source_.fabric.staleness));
  }

  void Turns() {
    out_.Family("mycelium_edge_loop_lag_seconds", MetricType::kHistogram,
                "Time that a worker was busy between two looks for events: how "
                "late it may notice one. The sum is its busy time.");
    const auto turns = Merge(
        workers_, [](const W& row) -> const auto& { return row.turns; });
    out_.Histogram({}, seconds_, turns.counts,
                   static_cast<double>(turns.sum) / 1e6);
  }

  void Tls() {
    out_.Family("mycelium_edge_tls_failures_total", MetricType::kCounter,
                "TLS handshakes that failed, by reason.");
    for (size_t i = 0; i < kTlsFailures.size(); ++i) {
      out_.Sample({{"reason", kTlsFailures[i]}},
                  workers_.Sum([i](const W& row) -> const Counter& {
                    return row.tls_failures[i];
                  }));
    }
    const CertificateStore* const certificates = source_.certificates;
    if (certificates == nullptr) return;
    out_.Family("mycelium_edge_tls_reloads_total", MetricType::kCounter,
                "Times that changed certificates were loaded, by result.");
    out_.Sample({{"result", "ok"}}, int64_t{certificates->reloads()});
    out_.Sample({{"result", "failed"}},
                int64_t{certificates->failed_reloads()});
    out_.Family("mycelium_edge_tls_certificate_expiry_timestamp_seconds",
                MetricType::kGauge,
                "When a certificate expires, of the Unix epoch.");
    for (const auto& certificate : certificates->Current()->Certificates()) {
      out_.Sample({{"certificate", certificate.name}},
                  int64_t{certificate.not_after_s});
    }
  }

  template <typename Rows, typename Select>
  void RequestsOf(absl::string_view app, const Rows& rows, Select select) {
    for (size_t method = 0; method < kMethods.size(); ++method) {
      std::array<int64_t, kStatusClasses.size()> counts{};
      int64_t total = 0;
      for (size_t i = 0; i < counts.size(); ++i) {
        counts[i] = rows.Sum([&](const auto& row) -> const Counter& {
          return select(row).counts[method][i];
        });
        total += counts[i];
      }
      // GET is always there, so that rates of errors begin at 0.
      if (total == 0 && method != 0) continue;
      for (size_t i = 0; i < counts.size(); ++i) {
        out_.Sample({{kApp, app},
                     {kMethod, kMethods[method]},
                     {kClass, kStatusClasses[i]}},
                    counts[i]);
      }
    }
  }

  void Requests() {
    out_.Family("mycelium_edge_requests_total", MetricType::kCounter,
                "Requests that ended, by app (empty: for none), method and "
                "class of status (none: without one).");
    RequestsOf(
        "", workers_, [](const W& row) -> const auto& { return row.unrouted; });
    for (const AppRoute* const app : apps_) {
      RequestsOf(
          app->name, *app->stats,
          [](const A& row) -> const auto& { return row.methods; });
    }
  }

  void Rejections() {
    out_.Family("mycelium_edge_rejected_total", MetricType::kCounter,
                "Requests that the edge itself answered, by app (empty: for "
                "none) and reason.");
    for (size_t i = 0; i < kReasons.size(); ++i) {
      out_.Sample({{kApp, ""}, {"reason", kReasons[i]}},
                  workers_.Sum([i](const W& row) -> const Counter& {
                    return row.unrouted_by_reason[i];
                  }));
    }
    for (const AppRoute* const app : apps_) {
      for (size_t i = 0; i < kReasons.size(); ++i) {
        const int64_t count =
            app->stats->Sum([i](const A& row) -> const Counter& {
              return row.requests.by_reason[i];
            });
        if (count == 0) continue;
        out_.Sample({{kApp, app->name}, {"reason", kReasons[i]}}, count);
      }
    }
  }

  void Durations() {
    out_.Family("http_server_request_duration_seconds", MetricType::kHistogram,
                "Time from the first byte of a request to the end of its "
                "response, of a tunnel to its 101.");
    for (const AppRoute* const app : apps_) {
      for (size_t i = 0; i < kStatusClasses.size(); ++i) {
        const auto merged = Merge(
            *app->stats, [i](const A& row) -> const auto& {
              return row.durations[i];
            });
        if (merged.total == 0 && i != kSuccess) continue;
        out_.Histogram({{kApp, app->name}, {kClass, kStatusClasses[i]}},
                       seconds_, merged.counts,
                       static_cast<double>(merged.sum) / 1e6,
                       ExemplarsOf(*app->stats, i));
      }
    }
    out_.Family("http_client_request_duration_seconds", MetricType::kHistogram,
                "Time from the choice of an instance to the end of its "
                "response, of each attempt.");
    for (const AppRoute* const app : apps_) {
      const auto merged = Merge(
          *app->stats,
          [](const A& row) -> const auto& { return row.attempts; });
      out_.Histogram({{kApp, app->name}}, seconds_, merged.counts,
                     static_cast<double>(merged.sum) / 1e6);
    }
  }

  void Bodies() {
    const std::array<double, kExportedBodyBytes.size()> bounds =
        BoundsInBytes();
    const auto family = [&](absl::string_view name, absl::string_view help,
                            BodyHistogram A::*histogram) {
      out_.Family(name, MetricType::kHistogram, help);
      for (const AppRoute* const app : apps_) {
        const auto merged = Merge(
            *app->stats, [histogram](const A& row) -> const auto& {
              return row.*histogram;
            });
        out_.Histogram({{kApp, app->name}}, bounds, merged.counts,
                       static_cast<double>(merged.sum));
      }
    };
    family("http_server_request_body_size_bytes", "Bodies of requests.",
           &A::request_bodies);
    family("http_server_response_body_size_bytes", "Bodies of responses.",
           &A::response_bodies);
  }

  template <typename Select>
  void PerApp(absl::string_view name, MetricType type, absl::string_view help,
              Select select) {
    out_.Family(name, type, help);
    for (const AppRoute* const app : apps_)
      out_.Sample({{kApp, app->name}}, app->stats->Sum(select));
  }

  void Connections() {
    out_.Family("mycelium_edge_upstream_connections", MetricType::kGauge,
                "Connections to an app's instances, in use and idle.");
    for (const AppRoute* const app : apps_) {
      int64_t open = 0;
      int64_t active = 0;
      for (const auto* const list : {&app->ready, &app->draining}) {
        for (const auto& endpoint : *list) {
          open += endpoint->stats->Sum(&E::connections);
          active += endpoint->stats->Sum(&E::in_flight);
        }
      }
      out_.Sample({{kApp, app->name}, {"state", "active"}}, active);
      out_.Sample({{kApp, app->name}, {"state", "idle"}},
                  std::max<int64_t>(0, open - active));
    }
  }

  void Health() {
    out_.Family("mycelium_edge_endpoint_healthy", MetricType::kGauge,
                "Whether an instance may get requests and some worker sends it "
                "any.");
    const auto workers = static_cast<int64_t>(workers_.rows().size());
    for (const Instances& each : instances_) {
      const bool healthy =
          each.ready > 0 &&
          each.Sum(&E::ejected) <
              workers * static_cast<int64_t>(each.members.size());
      out_.Sample(
          {{kApp, each.app}, {"instance", each.id}, {"node", each.node}},
          int64_t{healthy ? 1 : 0});
    }
  }

  const MetricsSource& source_;
  const PerWorker<W>& workers_;
  const std::vector<const AppRoute*> apps_;
  const std::vector<Instances> instances_;
  const std::array<double, kExportedBoundsMicros.size()> seconds_ =
      BoundsInSeconds();
  Exposition out_;
};

}  // namespace

std::string FormatMetrics(const MetricsSource& source,
                          telemetry::ExpositionFormat format) {
  return MetricsPage(source, format).Format();
}

}  // namespace mycelium::edge
