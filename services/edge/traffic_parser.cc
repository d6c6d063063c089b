#include "services/edge/traffic_parser.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "google/protobuf/util/json_util.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"

namespace mycelium::edge {
namespace {

constexpr double kMaxRate = 1e6;
constexpr int64_t kMaxCount = 1'000'000;
constexpr int64_t kMaxHeld = 100'000;
constexpr int64_t kMaxBodyBytes = int64_t{1} << 50;
constexpr int64_t kMaxSlowStartMs = 3'600'000;
constexpr int64_t kMaxWaitMs = 300'000;
// Far beyond the life of a process, and far from an overflow when a clock is
// added.
constexpr int64_t kEternityNs = int64_t{1} << 61;

absl::Status OutOfRange(absl::string_view field, absl::string_view value,
                        absl::string_view range) {
  return absl::InvalidArgumentError(
      absl::StrCat("traffic.", field, " is ", value, "; want ", range));
}

absl::Status CheckCount(absl::string_view field, int64_t value, int64_t most) {
  if (value >= 0 && value <= most) return absl::OkStatus();
  return OutOfRange(field, absl::StrCat(value), absl::StrCat("0 to ", most));
}

// Milliseconds of `duration`, rounded up.
absl::StatusOr<int64_t> Millis(absl::string_view field,
                               const google::protobuf::Duration& duration,
                               int64_t least_ns, int64_t most_ms) {
  const int64_t seconds = duration.seconds();
  const int64_t nanos = duration.nanos();
  if (seconds >= 0 && nanos >= 0 && seconds <= most_ms / 1000 &&
      nanos < 1'000'000'000) {
    const int64_t total_ns = seconds * 1'000'000'000 + nanos;
    if (total_ns >= least_ns && total_ns <= most_ms * 1'000'000)
      return (total_ns + 999'999) / 1'000'000;
  }
  return OutOfRange(field, absl::StrCat(seconds, " s and ", nanos, " ns"),
                    absl::StrCat(least_ns > 0 ? "more than " : "", "0 to ",
                                 most_ms / 1000, " s"));
}

absl::StatusOr<RateLimit> RateLimitOf(absl::string_view field,
                                      const fabric::v1::RateLimit& limit) {
  const double rate = limit.requests_per_second();
  // Written so that a NaN is refused as well.
  if (!(rate > 0 && rate <= kMaxRate)) {
    return OutOfRange(absl::StrCat(field, ".requestsPerSecond"),
                      absl::StrCat(rate), "more than 0, to 1000000");
  }
  MYC_RETURN_IF_ERROR(
      CheckCount(absl::StrCat(field, ".burst"), limit.burst(), kMaxCount));
  const int64_t burst = limit.burst() > 0
                            ? limit.burst()
                            : std::max<int64_t>(1, static_cast<int64_t>(rate));
  const double interval_ns =
      std::min(1e9 / rate, static_cast<double>(kEternityNs));
  RateLimit out;
  out.interval_ns = std::max<int64_t>(1, std::llround(interval_ns));
  out.tolerance_ns = burst - 1 > kEternityNs / out.interval_ns
                         ? kEternityNs
                         : (burst - 1) * out.interval_ns;
  return out;
}

}  // namespace

absl::StatusOr<TrafficPolicy> TrafficPolicyOf(
    const fabric::v1::Traffic& traffic, BalancePolicy balancing) {
  using Pb = fabric::v1::Traffic;
  TrafficPolicy policy;
  switch (traffic.balancing()) {
    case Pb::BALANCING_ROUND_ROBIN:
      policy.balancing = BalancePolicy::kRoundRobin;
      break;
    case Pb::BALANCING_LEAST_REQUEST:
      policy.balancing = BalancePolicy::kLeastRequest;
      break;
    case Pb::BALANCING_PEAK_EWMA:
      policy.balancing = BalancePolicy::kPeakEwma;
      break;
    default:
      policy.balancing = balancing;
      break;
  }
  if (traffic.has_slow_start()) {
    MYC_ASSIGN_OR_RETURN(
        policy.slow_start_ms,
        Millis("slowStart", traffic.slow_start(), 0, kMaxSlowStartMs));
  }
  if (traffic.has_hold()) {
    HoldPolicy hold;
    if (traffic.hold().has_max_wait()) {
      MYC_ASSIGN_OR_RETURN(
          hold.max_wait_ms,
          Millis("hold.maxWait", traffic.hold().max_wait(), 1, kMaxWaitMs));
    }
    MYC_RETURN_IF_ERROR(CheckCount("hold.maxRequests",
                                   traffic.hold().max_requests(), kMaxHeld));
    if (traffic.hold().max_requests() > 0)
      hold.max_requests = traffic.hold().max_requests();
    policy.hold = hold;
  }
  if (traffic.has_rate_limit()) {
    MYC_ASSIGN_OR_RETURN(policy.rate_limit,
                         RateLimitOf("rateLimit", traffic.rate_limit()));
  }
  if (traffic.has_client_rate_limit()) {
    MYC_ASSIGN_OR_RETURN(
        policy.client_rate_limit,
        RateLimitOf("clientRateLimit", traffic.client_rate_limit()));
  }
  MYC_RETURN_IF_ERROR(
      CheckCount("maxInFlight", traffic.max_in_flight(), kMaxCount));
  policy.max_in_flight = traffic.max_in_flight();
  MYC_RETURN_IF_ERROR(CheckCount("maxInFlightPerEndpoint",
                                 traffic.max_in_flight_per_endpoint(),
                                 kMaxCount));
  policy.max_in_flight_per_endpoint = traffic.max_in_flight_per_endpoint();
  MYC_RETURN_IF_ERROR(CheckCount(
      "maxRequestBodyBytes", traffic.max_request_body_bytes(), kMaxBodyBytes));
  policy.max_request_body_bytes = traffic.max_request_body_bytes();
  policy.retry_server_errors = traffic.retry_server_errors();
  return policy;
}

absl::StatusOr<absl::flat_hash_map<std::string, TrafficPolicy>>
ParseStaticTraffic(absl::string_view text, BalancePolicy balancing) {
  absl::flat_hash_map<std::string, TrafficPolicy> policies;
  // No value of a Traffic message has a semicolon in it.
  for (const absl::string_view item :
       absl::StrSplit(text, ';', absl::SkipWhitespace())) {
    const auto invalid = [item](absl::string_view why) {
      return absl::InvalidArgumentError(
          absl::StrCat("static traffic ", Quoted(item), ": ", why));
    };
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(absl::StripAsciiWhitespace(item),
                       absl::MaxSplits('=', 1));
    if (!IsAppName(parts.first))
      return invalid(absl::StrCat("the app ", kAppNameRule));
    fabric::v1::Traffic traffic;
    const auto parsed = google::protobuf::util::JsonStringToMessage(
        google::protobuf::StringPiece(parts.second.data(), parts.second.size()),
        &traffic);
    if (!parsed.ok())
      return invalid(absl::StrCat("want app=JSON of a Traffic message: ",
                                  parsed.message().as_string()));
    absl::StatusOr<TrafficPolicy> policy = TrafficPolicyOf(traffic, balancing);
    if (!policy.ok()) return invalid(policy.status().message());
    if (!policies.emplace(parts.first, *std::move(policy)).second)
      return invalid("the app is repeated");
  }
  return policies;
}

}  // namespace mycelium::edge
