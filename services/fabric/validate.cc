#include "services/fabric/validate.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "lib/base/ids.h"
#include "services/fabric/keys.h"

namespace mycelium::fabric {
namespace {

constexpr int64_t kMaxInstances = 1000;
constexpr int64_t kMaxCpuMilli = 1'000'000'000;
constexpr int64_t kMaxInFlight = 1'000'000;
constexpr int kMaxRequestRate = 1'000'000;
constexpr int64_t kMaxMemoryMb = int64_t{1} << 40;

// `value` and the rule that it breaks.
std::string Breaks(absl::string_view value, absl::string_view rule) {
  return value.empty() ? absl::StrCat("is missing; ", rule)
                       : absl::StrCat(Quoted(value), " ", rule);
}

// The length of the UTF-8 sequence that `text` begins with; 0 if there is none.
size_t Utf8Length(absl::string_view text) {
  const auto byte = [&](size_t i) {
    return static_cast<unsigned char>(text[i]);
  };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // Overlong forms, surrogates and what is above U+10FFFF.
  if ((lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xed && byte(1) > 0x9f) ||
      (lead == 0xf0 && byte(1) < 0x90) || (lead == 0xf4 && byte(1) > 0x8f)) {
    return 0;
  }
  return length;
}

bool IsHostName(absl::string_view host) {
  if (host.empty() || host.size() > 253) return false;
  const std::vector<absl::string_view> labels = absl::StrSplit(host, '.');
  return std::all_of(labels.begin(), labels.end(), [](absl::string_view label) {
    return !label.empty() && label.size() <= 63 && label.front() != '-' &&
           label.back() != '-' &&
           std::all_of(label.begin(), label.end(), [](char c) {
             return absl::ascii_isalnum(c) || c == '-';
           });
  });
}

bool IsHostPort(absl::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos) return false;
  const absl::string_view digits = text.substr(colon + 1);
  int port = 0;
  if (digits.empty() || digits.size() > 5 || !absl::ascii_isdigit(digits[0]) ||
      !absl::SimpleAtoi(digits, &port) || port < 1 || port > 65535) {
    return false;
  }
  absl::string_view host = text.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    in6_addr address;
    const std::string inner(host.substr(1, host.size() - 2));
    return inet_pton(AF_INET6, inner.c_str(), &address) == 1;
  }
  // What consists of digits and dots is an IPv4 address or nothing.
  if (std::all_of(host.begin(), host.end(),
                  [](char c) { return absl::ascii_isdigit(c) || c == '.'; })) {
    in_addr address;
    return inet_pton(AF_INET, std::string(host).c_str(), &address) == 1;
  }
  return IsHostName(host);
}

void CheckLabel(absl::string_view path, absl::string_view key,
                absl::string_view value, FieldViolations* violations) {
  const std::string field = absl::StrCat(path, "[", Quoted(key), "]");
  if (!IsId(key))
    violations->Add(field, Breaks(key, absl::StrCat("as a key ", kIdRule)));
  CheckText(field, value, 63, violations);
}

void CheckNutrients(absl::string_view path,
                    const mycelium::spore::v1::Nutrients& value,
                    FieldViolations* violations) {
  CheckRange(absl::StrCat(path, ".cpu_milli"), value.cpu_milli(), 0,
             kMaxCpuMilli, violations);
  CheckRange(absl::StrCat(path, ".memory_mb"), value.memory_mb(), 0,
             kMaxMemoryMb, violations);
}

template <typename Map>
std::vector<std::string> SortedKeys(const Map& map) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : map) keys.push_back(key);
  std::sort(keys.begin(), keys.end());
  return keys;
}

}  // namespace

void CheckAppName(absl::string_view path, absl::string_view value,
                  FieldViolations* violations) {
  if (!IsAppName(value)) violations->Add(path, Breaks(value, kAppNameRule));
}

void CheckAppFilter(absl::string_view path, absl::string_view value,
                    FieldViolations* violations) {
  if (!value.empty()) CheckAppName(path, value, violations);
}

void CheckId(absl::string_view path, absl::string_view value,
             FieldViolations* violations) {
  if (!IsId(value)) violations->Add(path, Breaks(value, kIdRule));
}

void CheckIdFilter(absl::string_view path, absl::string_view value,
                   FieldViolations* violations) {
  if (!value.empty()) CheckId(path, value, violations);
}

void CheckDigest(absl::string_view path, absl::string_view value,
                 FieldViolations* violations) {
  if (!IsDigest(value)) violations->Add(path, Breaks(value, kDigestRule));
}

void CheckRange(absl::string_view path, int64_t value, int64_t min, int64_t max,
                FieldViolations* violations) {
  if (value < min || value > max) {
    violations->Add(
        path, absl::StrCat(value, " must be between ", min, " and ", max));
  }
}

void CheckDuration(absl::string_view path,
                   const google::protobuf::Duration& value, absl::Duration min,
                   absl::Duration max, FieldViolations* violations) {
  constexpr int64_t kMaxSeconds = 315'576'000'000;
  const bool well_formed =
      value.seconds() >= -kMaxSeconds && value.seconds() <= kMaxSeconds &&
      value.nanos() > -1'000'000'000 && value.nanos() < 1'000'000'000 &&
      (value.seconds() == 0 || value.nanos() == 0 ||
       (value.seconds() > 0) == (value.nanos() > 0));
  if (!well_formed) {
    violations->Add(path,
                    absl::StrCat(value.seconds(), " s and ", value.nanos(),
                                 " ns is not a valid duration"));
    return;
  }
  const absl::Duration duration = ToDuration(value);
  if (duration < min || duration > max) {
    violations->Add(
        path, absl::StrCat(absl::FormatDuration(duration), " must be between ",
                           absl::FormatDuration(min), " and ",
                           absl::FormatDuration(max)));
  }
}

void CheckTimestamp(absl::string_view path,
                    const google::protobuf::Timestamp& value,
                    FieldViolations* violations) {
  constexpr int64_t kYear1 = -62'135'596'800;
  constexpr int64_t kYear9999 = 253'402'300'799;
  if (value.seconds() < kYear1 || value.seconds() > kYear9999 ||
      value.nanos() < 0 || value.nanos() > 999'999'999) {
    violations->Add(path,
                    absl::StrCat(value.seconds(), " s and ", value.nanos(),
                                 " ns must be a time between the years 1 "
                                 "and 9999, with 0 to 999999999 ns"));
  }
}

void CheckText(absl::string_view path, absl::string_view value,
               size_t max_bytes, FieldViolations* violations) {
  if (value.size() > max_bytes) {
    violations->Add(path,
                    absl::StrCat(Quoted(value), " has ", value.size(),
                                 " bytes and must have at most ", max_bytes));
    return;
  }
  for (absl::string_view rest = value; !rest.empty();) {
    const size_t length = Utf8Length(rest);
    const unsigned char c = static_cast<unsigned char>(rest[0]);
    if (length == 0 || (c < 0x20 && c != '\t' && c != '\n') || c == 0x7f) {
      violations->Add(
          path, Breaks(value, "must be UTF-8 without control characters"));
      return;
    }
    rest.remove_prefix(length);
  }
}

void CheckConstant(absl::string_view path, absl::string_view value,
                   bool optional, FieldViolations* violations) {
  if (optional && value.empty()) return;
  const bool valid =
      !value.empty() && value.size() <= 63 && absl::ascii_isupper(value[0]) &&
      std::all_of(value.begin(), value.end(), [](char c) {
        return absl::ascii_isupper(c) || absl::ascii_isdigit(c) || c == '_';
      });
  if (!valid) {
    violations->Add(path,
                    Breaks(value,
                           "must be 1 to 63 of A-Z, 0-9 and '_', starting with "
                           "a letter"));
  }
}

void CheckAddress(absl::string_view path, absl::string_view value,
                  FieldViolations* violations) {
  if (!IsHostPort(value)) {
    violations->Add(path,
                    Breaks(value,
                           "must be HOST:PORT, the host an IP address or a DNS "
                           "name and the port 1 to 65535"));
  }
}

void CheckUrl(absl::string_view path, absl::string_view value,
              FieldViolations* violations) {
  constexpr absl::string_view kScheme = "http://";
  if (!absl::StartsWith(value, kScheme) ||
      !IsHostPort(value.substr(kScheme.size()))) {
    violations->Add(path,
                    Breaks(value,
                           "must be http://HOST:PORT with nothing after it, "
                           "the host an IP address or a DNS name and the port "
                           "1 to 65535"));
  }
}

void CheckLease(absl::string_view path, absl::string_view value,
                FieldViolations* violations) {
  if (ParseLease(value) == 0) {
    violations->Add(path, Breaks(value, "must be a lease id: 16 hex digits"));
  }
}

void CheckRequestId(absl::string_view value, FieldViolations* violations) {
  CheckText("requestId", value, 64, violations);
}

void CheckExpectedRevision(int64_t value, FieldViolations* violations) {
  CheckRange("expectedRevision", value, 0, INT64_MAX, violations);
}

namespace {

void CheckRateLimit(absl::string_view path, const v1::RateLimit& limit,
                    FieldViolations* violations) {
  const double rate = limit.requests_per_second();
  // Written so that NaN fails, too.
  if (!(rate > 0 && rate <= kMaxRequestRate)) {
    violations->Add(
        absl::StrCat(path, ".requestsPerSecond"),
        absl::StrCat(rate, " must be above 0 and at most ", kMaxRequestRate));
  }
  CheckRange(absl::StrCat(path, ".burst"), limit.burst(), 0, kMaxRequestRate,
             violations);
}

void CheckTraffic(const v1::Traffic& traffic, FieldViolations* violations) {
  if (!v1::Traffic::Balancing_IsValid(traffic.balancing())) {
    violations->Add("plan.traffic.balancing",
                    absl::StrCat(static_cast<int>(traffic.balancing()),
                                 " is no known balancing"));
  }
  if (traffic.has_slow_start()) {
    CheckDuration("plan.traffic.slowStart", traffic.slow_start(),
                  absl::ZeroDuration(), absl::Hours(1), violations);
  }
  if (traffic.has_hold()) {
    if (traffic.hold().has_max_wait()) {
      CheckDuration("plan.traffic.hold.maxWait", traffic.hold().max_wait(),
                    absl::Milliseconds(1), absl::Minutes(5), violations);
    }
    CheckRange("plan.traffic.hold.maxRequests", traffic.hold().max_requests(),
               0, 100'000, violations);
  }
  if (traffic.has_rate_limit()) {
    CheckRateLimit("plan.traffic.rateLimit", traffic.rate_limit(), violations);
  }
  if (traffic.has_client_rate_limit()) {
    CheckRateLimit("plan.traffic.clientRateLimit", traffic.client_rate_limit(),
                   violations);
  }
  CheckRange("plan.traffic.maxInFlight", traffic.max_in_flight(), 0,
             kMaxInFlight, violations);
  CheckRange("plan.traffic.maxInFlightPerEndpoint",
             traffic.max_in_flight_per_endpoint(), 0, kMaxInFlight, violations);
  CheckRange("plan.traffic.maxRequestBodyBytes",
             traffic.max_request_body_bytes(), 0, int64_t{1} << 50, violations);
}

}  // namespace

void CheckPlan(const v1::Plan& plan, FieldViolations* violations) {
  CheckAppName("plan.appName", plan.app_name(), violations);
  CheckDigest("plan.digest", plan.digest(), violations);
  CheckRange("plan.min", plan.min(), 0, kMaxInstances, violations);
  if (plan.max() < 1 || plan.max() > kMaxInstances) {
    CheckRange("plan.max", plan.max(), 1, kMaxInstances, violations);
  } else if (plan.max() < plan.min()) {
    violations->Add(
        "plan.max",
        absl::StrCat(plan.max(), " must not be below plan.min, ", plan.min()));
  }
  CheckRange("plan.port", plan.port(), 0, 65535, violations);
  if (plan.has_strategy()) {
    const v1::Strategy& strategy = plan.strategy();
    if (!v1::Strategy::Kind_IsValid(strategy.kind())) {
      violations->Add(
          "plan.strategy.kind",
          absl::StrCat(static_cast<int>(strategy.kind()), " is no known kind"));
    } else if (strategy.kind() == v1::Strategy::KIND_BLUE_GREEN ||
               strategy.kind() == v1::Strategy::KIND_CANARY) {
      violations->Add("plan.strategy.kind",
                      absl::StrCat(v1::Strategy::Kind_Name(strategy.kind()),
                                   " is not supported yet; use KIND_ROLLING"));
    }
    if (strategy.has_max_surge()) {
      CheckRange("plan.strategy.maxSurge", strategy.max_surge(), 1,
                 kMaxInstances, violations);
    }
    if (strategy.has_min_ready()) {
      CheckDuration("plan.strategy.minReady", strategy.min_ready(),
                    absl::ZeroDuration(), absl::Hours(1), violations);
    }
    if (strategy.has_drain_timeout()) {
      CheckDuration("plan.strategy.drainTimeout", strategy.drain_timeout(),
                    absl::ZeroDuration(), absl::Hours(1), violations);
    }
    if (strategy.has_stop_timeout()) {
      CheckDuration("plan.strategy.stopTimeout", strategy.stop_timeout(),
                    absl::ZeroDuration(), absl::Minutes(10), violations);
    }
    if (strategy.has_progress_deadline()) {
      CheckDuration("plan.strategy.progressDeadline",
                    strategy.progress_deadline(), absl::Seconds(1),
                    absl::Hours(24), violations);
    }
  }
  const v1::Placement& placement = plan.placement();
  if (placement.required_labels_size() > 16) {
    violations->Add("plan.placement.requiredLabels",
                    absl::StrCat(placement.required_labels_size(),
                                 " labels are more than the 16 allowed"));
  } else {
    for (const std::string& key : SortedKeys(placement.required_labels())) {
      CheckLabel("plan.placement.requiredLabels", key,
                 placement.required_labels().at(key), violations);
    }
  }
  CheckIdFilter("plan.placement.spreadLabel", placement.spread_label(),
                violations);
  CheckTraffic(plan.traffic(), violations);
}

void CheckBudget(const v1::Budget& budget, FieldViolations* violations) {
  CheckAppName("budget.appName", budget.app_name(), violations);
  CheckRange("budget.maxInstances", budget.max_instances(), 0, kMaxInstances,
             violations);
  CheckRange("budget.cpu_milli", budget.cpu_milli(), 0, kMaxCpuMilli,
             violations);
  CheckRange("budget.memory_mb", budget.memory_mb(), 0, kMaxMemoryMb,
             violations);
}

void CheckEndpoint(const v1::Endpoint& endpoint, FieldViolations* violations) {
  CheckAppName("endpoint.appName", endpoint.app_name(), violations);
  CheckUrl("endpoint.url", endpoint.url(), violations);
  CheckId("endpoint.nodeID", endpoint.node_id(), violations);
  CheckId("endpoint.instanceId", endpoint.instance_id(), violations);
  CheckDigest("endpoint.digest", endpoint.digest(), violations);
  switch (endpoint.state()) {
    case v1::Endpoint::STATE_UNSPECIFIED:
    case v1::Endpoint::STATE_READY:
    case v1::Endpoint::STATE_UNREADY:
    case v1::Endpoint::STATE_DRAINING:
      break;
    default:
      violations->Add("endpoint.state",
                      absl::StrCat(static_cast<int>(endpoint.state()),
                                   " must be STATE_READY, STATE_UNREADY or "
                                   "STATE_DRAINING"));
  }
  CheckRange("endpoint.index", endpoint.index(), 0, 999'999, violations);
  CheckRange("endpoint.generation", endpoint.generation(), 1, INT64_MAX,
             violations);
  CheckRange("endpoint.claimRevision", endpoint.claim_revision(), 1, INT64_MAX,
             violations);
  if (endpoint.has_drain_deadline()) {
    CheckTimestamp("endpoint.drainDeadline", endpoint.drain_deadline(),
                   violations);
  }
}

void CheckNode(const v1::Node& node, FieldViolations* violations) {
  CheckId("node.nodeID", node.node_id(), violations);
  CheckAddress("node.address", node.address(), violations);
  CheckNutrients("node.capacity", node.capacity(), violations);
  if (node.labels_size() > 32) {
    violations->Add("node.labels", absl::StrCat(node.labels_size(),
                                                " labels are more than the 32 "
                                                "allowed"));
  } else {
    for (const std::string& key : SortedKeys(node.labels())) {
      CheckLabel("node.labels", key, node.labels().at(key), violations);
    }
  }
  CheckText("node.agentVersion", node.agent_version(), 64, violations);
}

void CheckEdge(const v1::EdgeInfo& edge, FieldViolations* violations) {
  CheckId("edge.edgeId", edge.edge_id(), violations);
  if (!edge.url().empty()) CheckUrl("edge.url", edge.url(), violations);
  if (!edge.address().empty()) {
    CheckAddress("edge.address", edge.address(), violations);
  }
  CheckText("edge.edgeVersion", edge.edge_version(), 64, violations);
}

void CheckEvent(absl::string_view path, const v1::Event& event,
                FieldViolations* violations) {
  const auto field = [&](absl::string_view name) {
    return absl::StrCat(path, ".", name);
  };
  CheckText(field("eventId"), event.event_id(), 64, violations);
  if (event.has_time()) CheckTimestamp(field("time"), event.time(), violations);
  CheckConstant(field("type"), event.type(), /*optional=*/false, violations);
  if (!v1::Event::Severity_IsValid(event.severity())) {
    violations->Add(field("severity"),
                    absl::StrCat(static_cast<int>(event.severity()),
                                 " is no known severity"));
  }
  CheckAppFilter(field("appName"), event.app_name(), violations);
  CheckIdFilter(field("nodeID"), event.node_id(), violations);
  CheckIdFilter(field("instanceId"), event.instance_id(), violations);
  CheckText(field("message"), event.message(), 4096, violations);
  if (event.details_size() > 16) {
    violations->Add(field("details"), absl::StrCat(event.details_size(),
                                                   " values are more than the "
                                                   "16 allowed"));
    return;
  }
  for (const std::string& key : SortedKeys(event.details())) {
    const std::string entry = absl::StrCat(path, ".details[", Quoted(key), "]");
    CheckText(entry, key, 1024, violations);
    CheckText(entry, event.details().at(key), 1024, violations);
  }
}

void CheckSlotId(absl::string_view app, int32_t index, int64_t generation,
                 FieldViolations* violations) {
  CheckAppName("appName", app, violations);
  CheckRange("index", index, 0, 999'999, violations);
  CheckRange("generation", generation, 1, 999'999'999'999, violations);
}

absl::Duration ToDuration(const google::protobuf::Duration& value) {
  return absl::Seconds(value.seconds()) + absl::Nanoseconds(value.nanos());
}

google::protobuf::Duration FromDuration(absl::Duration value) {
  google::protobuf::Duration result;
  result.set_seconds(absl::IDivDuration(value, absl::Seconds(1), &value));
  result.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(value)));
  return result;
}

absl::Time ToTime(const google::protobuf::Timestamp& value) {
  return absl::FromUnixSeconds(value.seconds()) +
         absl::Nanoseconds(value.nanos());
}

google::protobuf::Timestamp FromTime(absl::Time value) {
  absl::Duration rest = value - absl::UnixEpoch();
  google::protobuf::Timestamp result;
  int64_t seconds = absl::IDivDuration(rest, absl::Seconds(1), &rest);
  if (rest < absl::ZeroDuration()) {
    --seconds;
    rest += absl::Seconds(1);
  }
  result.set_seconds(seconds);
  result.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  return result;
}

}  // namespace mycelium::fabric
