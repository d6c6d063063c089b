#ifndef SERVICES_EDGE_STATS_H_
#define SERVICES_EDGE_STATS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/strings/string_view.h"
#include "lib/telemetry/counter.h"
#include "lib/telemetry/latency_histogram.h"

namespace mycelium::edge {

using telemetry::Counter;
using telemetry::LatencyHistogram;
using telemetry::LatencySummary;

// Upper bounds, in microseconds, of the buckets that are exported.
inline constexpr std::array<int64_t, 19> kExportedBoundsMicros = {
    100,     250,     500,     1000,    2500,    5000,   10000,
    25000,   50000,   75000,   100000,  250000,  500000, 750000,
    1000000, 2500000, 5000000, 7500000, 10000000};

// Upper bounds, in bytes, of the buckets of message bodies.
inline constexpr std::array<int64_t, 10> kExportedBodyBytes = {
    256,     1 << 10, 1 << 12, 1 << 14, 1 << 16,
    1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26};

// Reasons for which the edge itself answers a request; the last one stands for
// all that are not listed.
inline constexpr std::array<absl::string_view, 23> kReasons = {
    "no_endpoint",
    "unknown_app",
    "rate_limited",
    "client_rate_limited",
    "overloaded",
    "hold_full",
    "hold_timeout",
    "connect_failed",
    "connect_timeout",
    "response_timeout",
    "upstream_closed",
    "bad_response",
    "truncated_response",
    "upstream_stalled",
    "unexpected_upgrade",
    "body_too_large",
    "body_timeout",
    "header_timeout",
    "bad_request",
    "loop",
    "out_of_descriptors",
    "refused",
    "other"};

int ReasonIndex(absl::string_view reason);

// Why a TLS handshake came to nothing; kTlsFailures has their names.
enum class TlsFailure : uint8_t {
  kClosed,             // The client went away.
  kTimeout,            // It was too slow.
  kPlainHttp,          // It sent HTTP without TLS.
  kUnknownName,        // No certificate is for the host that it named.
  kProtocol,           // It offers protocols, but not HTTP/1.1.
  kVersion,            // It does not speak TLS 1.2 or 1.3.
  kCipher,             // No cipher, group or signature in common.
  kClientCertificate,  // It showed none, or one that is not trusted.
  kClientAlert,        // It refused, as it would an unknown certificate.
  kBadMessage,         // It sent what is no TLS.
  kOther,
};
inline constexpr std::array<absl::string_view, 11> kTlsFailures = {
    "closed",       "timeout",     "plain_http", "unknown_name",
    "protocol",     "version",     "cipher",     "client_certificate",
    "client_alert", "bad_message", "other"};
// Classes of statuses, by status / 100; 0: ended without a status.
inline constexpr std::array<absl::string_view, 6> kStatusClasses = {
    "none", "1xx", "2xx", "3xx", "4xx", "5xx"};

inline size_t StatusClass(int status) {
  return status >= 100 && status < 600 ? static_cast<size_t>(status / 100) : 0;
}

// Names by the order of Method; the last one stands for all others.
inline constexpr std::array<absl::string_view, 10> kMethods = {
    "GET",     "HEAD",  "POST",    "PUT",   "DELETE",
    "OPTIONS", "TRACE", "CONNECT", "PATCH", "_OTHER"};

// Counts of values up to each of N bounds, and above.
template <size_t N>
struct BoundedHistogram {
  std::array<Counter, N + 1> counts;
  Counter sum;

  void Add(const std::array<int64_t, N>& bounds, int64_t value) {
    // The bounds are few, and most values are near the first.
    size_t i = 0;
    while (i < N && value > bounds[i]) ++i;
    counts[i].Add(1);
    sum.Add(value);
  }
};

using DurationHistogram = BoundedHistogram<kExportedBoundsMicros.size()>;
using BodyHistogram = BoundedHistogram<kExportedBodyBytes.size()>;

// The last sampled trace that fell into a bucket. One thread writes, any reads.
class TraceExemplar {
 public:
  struct Value {
    std::array<uint64_t, 2> trace_id{};  // All zero: there is none.
    int64_t micros = 0;
    int64_t time_us = 0;  // Of the Unix epoch.
    int64_t status_class = 0;
  };

  void Set(const Value& value);
  // Nothing while it is being written.
  Value Get() const;

 private:
  std::atomic<uint32_t> sequence_{0};  // Odd while the rest is written.
  std::array<std::atomic<uint64_t>, 2> trace_id_{};
  std::atomic<int64_t> micros_{0};
  std::atomic<int64_t> time_us_{0};
  std::atomic<int64_t> status_class_{0};
};

// Whether a Counter only grows, or is a number of now.
enum class MetricKind : uint8_t { kCounter, kGauge };

// Says how one Counter of a Row is shown in `/_mesh/metrics`: a family with the
// sum of all workers, per edge, app or instance. A counter's name ends in
// `_total`, and every name in its unit before that (`_seconds`, `_bytes`).
template <typename Row>
struct CounterFamily {
  absl::string_view name;
  MetricKind kind;
  absl::string_view help;  // A sentence.
  Counter Row::*counter;
};

// To count something new, add a Counter to WorkerCounters, AppCounters or
// EndpointCounters and a line to the table that follows it; nothing else has
// to know.

// Requests of an app, or of all.
struct RequestCounters {
  std::array<Counter, kStatusClasses.size()> by_class;
  std::array<Counter, kReasons.size()> by_reason;
  Counter bytes_in;
  Counter bytes_out;

  void Add(int status, int64_t in, int64_t out);
};

// Requests by kMethods and kStatusClasses.
struct MethodCounters {
  std::array<std::array<Counter, kStatusClasses.size()>, kMethods.size()>
      counts;

  void Add(size_t method, int status) {
    counts[method][StatusClass(status)].Add(1);
  }
};

// What one worker counts of one app.
struct alignas(64) AppCounters {
  RequestCounters requests;
  Counter active;
  Counter retries;
  // 1 while requests go to ejected endpoints as well, because all fail.
  Counter panicking;
  Counter panics;  // Times that this began.
  Counter waiting;
  Counter holds;
  MethodCounters methods;
  // From the first byte of a request to the last of its response (of a tunnel,
  // to its 101), by kStatusClasses.
  std::array<DurationHistogram, kStatusClasses.size()> durations;
  LatencyHistogram latency;
  DurationHistogram attempts;  // As EndpointCounters::latency.
  BodyHistogram request_bodies;
  BodyHistogram response_bodies;
  std::array<TraceExemplar, kExportedBoundsMicros.size() + 1> exemplars;
};

inline constexpr auto kAppFamilies = std::to_array<CounterFamily<AppCounters>>({
    {"http_server_active_requests", MetricKind::kGauge, "Requests under way.",
     &AppCounters::active},
    {"mycelium_edge_retries_total", MetricKind::kCounter,
     "Attempts after the first.", &AppCounters::retries},
    {"mycelium_edge_panicking", MetricKind::kGauge,
     "Workers that send requests to ejected endpoints too, because all fail.",
     &AppCounters::panicking},
    {"mycelium_edge_panics_total", MetricKind::kCounter,
     "Times that a worker saw all endpoints of an app fail.",
     &AppCounters::panics},
    {"mycelium_edge_upstream_queue", MetricKind::kGauge,
     "Requests that wait for an endpoint.", &AppCounters::waiting},
    {"mycelium_edge_holds_total", MetricKind::kCounter,
     "Times that a request had to wait for an endpoint.", &AppCounters::holds},
});

// What one worker counts of one instance.
struct alignas(64) EndpointCounters {
  Counter in_flight;
  Counter requests;  // Attempts.
  std::array<Counter, kStatusClasses.size()> by_class;
  // Attempts that ended without a response that could be passed on.
  std::array<Counter, kReasons.size()> by_reason;
  Counter failures;  // No response, or 5xx.
  Counter connect_failures;
  Counter ejected;    // 0 or 1.
  Counter ejections;  // Times that it was ejected, after failed probes as well.
  Counter connections;
  Counter bytes_in;  // Of clients' requests that ended here.
  Counter bytes_out;
  // From the choice of the instance to the end of its response.
  LatencyHistogram latency;
};

inline constexpr auto kEndpointFamilies =
    std::to_array<CounterFamily<EndpointCounters>>({
        {"mycelium_edge_endpoint_requests_total", MetricKind::kCounter,
         "Attempts at an instance.", &EndpointCounters::requests},
        {"mycelium_edge_endpoint_failures_total", MetricKind::kCounter,
         "Attempts that brought no response, or a 5xx.",
         &EndpointCounters::failures},
        {"mycelium_edge_endpoint_connect_failures_total", MetricKind::kCounter,
         "Connections to an instance that failed.",
         &EndpointCounters::connect_failures},
        {"mycelium_edge_endpoint_in_flight", MetricKind::kGauge,
         "Requests under way at an instance.", &EndpointCounters::in_flight},
        {"mycelium_edge_endpoint_ejected", MetricKind::kGauge,
         "Workers that send no requests to an instance because it fails.",
         &EndpointCounters::ejected},
        {"mycelium_edge_endpoint_ejections_total", MetricKind::kCounter,
         "Times that a worker took an instance out because it fails.",
         &EndpointCounters::ejections},
        {"mycelium_edge_endpoint_connections", MetricKind::kGauge,
         "Connections to an instance open.", &EndpointCounters::connections},
    });

// What one worker counts of itself.
struct alignas(64) WorkerCounters {
  Counter accepted;
  Counter client_connections;
  Counter upstream_connections;
  Counter accept_pauses;
  RequestCounters requests;  // All but those for the edge's own pages.
  Counter page_requests;
  // Those for no app, which no AppCounters has.
  MethodCounters unrouted;
  std::array<Counter, kReasons.size()> unrouted_by_reason;
  LatencyHistogram latency;  // Of all apps, those that are gone too.
  Counter retries;
  Counter log_drops;
  Counter proxy_errors;
  Counter tls_handshakes;
  Counter tls_resumed;
  std::array<Counter, kTlsFailures.size()> tls_failures;
  Counter log_skips;
  // Between two looks for events: how late one may be noticed.
  DurationHistogram turns;
};

inline constexpr auto kWorkerFamilies =
    std::to_array<CounterFamily<WorkerCounters>>({
        {"mycelium_edge_accepted_connections_total", MetricKind::kCounter,
         "Client connections accepted.", &WorkerCounters::accepted},
        {"mycelium_edge_client_connections", MetricKind::kGauge,
         "Client connections open.", &WorkerCounters::client_connections},
        {"mycelium_edge_accept_pauses_total", MetricKind::kCounter,
         "Times that accepting paused for want of descriptors.",
         &WorkerCounters::accept_pauses},
        {"mycelium_edge_log_drops_total", MetricKind::kCounter,
         "Access log lines dropped because the log was too slow.",
         &WorkerCounters::log_drops},
        {"mycelium_edge_proxy_protocol_errors_total", MetricKind::kCounter,
         "Connections closed for want of a valid PROXY header.",
         &WorkerCounters::proxy_errors},
        {"mycelium_edge_tls_handshakes_total", MetricKind::kCounter,
         "TLS handshakes completed.", &WorkerCounters::tls_handshakes},
        {"mycelium_edge_tls_resumed_total", MetricKind::kCounter,
         "TLS handshakes that resumed a session.",
         &WorkerCounters::tls_resumed},
        {"mycelium_edge_log_skips_total", MetricKind::kCounter,
         "Requests that the access log left out by its sampling or its rate.",
         &WorkerCounters::log_skips},
        {"mycelium_edge_page_requests_total", MetricKind::kCounter,
         "Requests for pages of the edge itself, which nothing else counts.",
         &WorkerCounters::page_requests},
    });

// One row per worker; rows are written by their worker and summed by readers.
// Thread-safe in that sense.
template <typename Row>
class PerWorker {
 public:
  explicit PerWorker(int workers) : rows_(static_cast<size_t>(workers)) {}

  Row& row(int worker) { return rows_[static_cast<size_t>(worker)]; }
  const std::vector<Row>& rows() const { return rows_; }

  // The sum of a Counter that `select` finds in each row: a function, or a
  // pointer to a member.
  template <typename Select>
  int64_t Sum(Select select) const {
    int64_t sum = 0;
    for (const Row& row : rows_) sum += std::invoke(select, row).value();
    return sum;
  }

 private:
  std::vector<Row> rows_;
};

using AppStats = PerWorker<AppCounters>;
using EndpointStats = PerWorker<EndpointCounters>;

// A request that ended, as its app's counters take it.
struct EndedRequest {
  size_t method = kMethods.size() - 1;  // An index of kMethods.
  int status = 0;                       // 0: none was sent.
  int64_t micros = 0;
  int64_t bytes_in = 0;
  int64_t bytes_out = 0;
  int64_t request_body_bytes = 0;
  int64_t response_body_bytes = 0;
};

void CountRequest(const EndedRequest& request, AppCounters* counters);

// Makes a traced request the exemplar of its bucket.
void SetExemplar(const TraceExemplar::Value& exemplar, AppCounters* counters);

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_STATS_H_
