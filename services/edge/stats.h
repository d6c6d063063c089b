#ifndef SERVICES_EDGE_STATS_H_
#define SERVICES_EDGE_STATS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/strings/string_view.h"

namespace mycelium::edge {

// A number that one thread writes and any thread reads.
class Counter {
 public:
  void Add(int64_t by) {
    value_.store(value_.load(std::memory_order_relaxed) + by,
                 std::memory_order_relaxed);
  }
  void Set(int64_t value) { value_.store(value, std::memory_order_relaxed); }
  int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

// Log-linear buckets over microseconds: each power of two is cut into 64, so a
// value is known to 1/128 of itself. Up to 2^36 us, about 19 hours.
class LatencyBuckets {
 public:
  static constexpr int kSubBits = 6;
  static constexpr int kOctaves = 31;
  static constexpr int kCount = (kOctaves + 1) << kSubBits;

  static int IndexOf(uint64_t micros);
  static int64_t UpperBoundMicros(int index);
  // The middle of a bucket.
  static double MicrosOf(int index);
};

// A histogram merged from any number of others. Not thread-safe.
class LatencySummary {
 public:
  LatencySummary() : counts_(LatencyBuckets::kCount) {}

  void Add(int index, int64_t count) {
    counts_[index] += count;
    total_ += count;
  }
  int64_t total() const { return total_; }
  const std::vector<int64_t>& counts() const { return counts_; }
  // The latency below which `quantile` (0 to 1) of all values are; 0 if there
  // are none.
  double QuantileMicros(double quantile) const;

 private:
  std::vector<int64_t> counts_;
  int64_t total_ = 0;
};

// Upper bounds, in microseconds, of the buckets that are exported.
inline constexpr std::array<int64_t, 19> kExportedBoundsMicros = {
    100,     250,     500,     1000,    2500,    5000,   10000,
    25000,   50000,   75000,   100000,  250000,  500000, 750000,
    1000000, 2500000, 5000000, 7500000, 10000000};

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
  // [status / 100]; 0: ended without a status.
  std::array<Counter, 6> by_class;
  std::array<Counter, kReasons.size()> by_reason;
  Counter bytes_in;
  Counter bytes_out;

  void Add(int status, int64_t in, int64_t out);
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
  Counter micros;  // Sum of all durations.
  std::array<Counter, kExportedBoundsMicros.size() + 1> exported;
  std::array<Counter, LatencyBuckets::kCount> latency;
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
  std::array<Counter, 6> by_class;
  Counter failures;  // No response, or 5xx.
  Counter connect_failures;
  Counter ejected;    // 0 or 1.
  Counter ejections;  // Times that it was ejected, after failed probes as well.
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
    });

// What one worker counts of itself.
struct alignas(64) WorkerCounters {
  Counter accepted;
  Counter client_connections;
  Counter upstream_connections;
  Counter accept_pauses;
  RequestCounters requests;
  Counter log_drops;
  Counter proxy_errors;
  Counter tls_handshakes;
  Counter tls_resumed;
  std::array<Counter, kTlsFailures.size()> tls_failures;
};

inline constexpr auto kWorkerFamilies =
    std::to_array<CounterFamily<WorkerCounters>>({
        {"mycelium_edge_accepted_connections_total", MetricKind::kCounter,
         "Client connections accepted.", &WorkerCounters::accepted},
        {"mycelium_edge_client_connections", MetricKind::kGauge,
         "Client connections open.", &WorkerCounters::client_connections},
        {"mycelium_edge_upstream_connections", MetricKind::kGauge,
         "Connections to endpoints open.",
         &WorkerCounters::upstream_connections},
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

// Counts the duration of a request that ended.
void CountDuration(AppCounters* counters, int64_t micros);

LatencySummary SummarizeLatency(const AppStats& stats);

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_STATS_H_
