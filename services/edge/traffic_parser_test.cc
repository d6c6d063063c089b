#include "services/edge/traffic_parser.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::edge {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<TrafficPolicy> Parse(absl::string_view json) {
  auto policies = ParseStaticTraffic("app=" + std::string(json),
                                     BalancePolicy::kRoundRobin);
  if (!policies.ok()) return policies.status();
  return policies->at("app");
}

TEST(TrafficParserTest, AnEmptyMessageLimitsNothing) {
  const TrafficPolicy policy =
      *TrafficPolicyOf(fabric::v1::Traffic(), BalancePolicy::kLeastRequest);

  EXPECT_EQ(policy.balancing, BalancePolicy::kLeastRequest);
  EXPECT_EQ(policy.slow_start_ms, 0);
  EXPECT_FALSE(policy.hold.has_value());
  EXPECT_FALSE(policy.rate_limit.has_value());
  EXPECT_FALSE(policy.client_rate_limit.has_value());
  EXPECT_EQ(policy.max_in_flight, 0);
  EXPECT_EQ(policy.max_in_flight_per_endpoint, 0);
  EXPECT_EQ(policy.max_request_body_bytes, 0);
  EXPECT_FALSE(policy.retry_server_errors);
}

TEST(TrafficParserTest, ReadsEveryField) {
  const auto policy = Parse(
      R"({"balancing": "BALANCING_PEAK_EWMA", "slowStart": "1.5s",
          "hold": {"maxWait": "0.250s", "maxRequests": 7},
          "rateLimit": {"requestsPerSecond": 100, "burst": 5},
          "clientRateLimit": {"requestsPerSecond": 0.5},
          "maxInFlight": 8, "maxInFlightPerEndpoint": 9,
          "maxRequestBodyBytes": "10", "retryServerErrors": true})");

  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_EQ(policy->balancing, BalancePolicy::kPeakEwma);
  EXPECT_EQ(policy->slow_start_ms, 1500);
  EXPECT_EQ(policy->hold->max_wait_ms, 250);
  EXPECT_EQ(policy->hold->max_requests, 7);
  EXPECT_EQ(policy->rate_limit->interval_ns, 10'000'000);
  EXPECT_EQ(policy->rate_limit->tolerance_ns, 40'000'000);
  EXPECT_EQ(policy->client_rate_limit->interval_ns, 2'000'000'000);
  EXPECT_EQ(policy->client_rate_limit->tolerance_ns, 0);
  EXPECT_EQ(policy->max_in_flight, 8);
  EXPECT_EQ(policy->max_in_flight_per_endpoint, 9);
  EXPECT_EQ(policy->max_request_body_bytes, 10);
  EXPECT_TRUE(policy->retry_server_errors);
}

TEST(TrafficParserTest, FillsInWhatHoldAndBurstLeaveOut) {
  const auto policy =
      Parse(R"({"hold": {}, "rateLimit": {"requestsPerSecond": 20.7}})");

  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_EQ(policy->hold->max_wait_ms, 10'000);
  EXPECT_EQ(policy->hold->max_requests, 1000);
  EXPECT_EQ(policy->rate_limit->tolerance_ns,
            19 * policy->rate_limit->interval_ns);
}

TEST(TrafficParserTest, RefusesValuesOutOfRangeByName) {
  const struct {
    const char* json;
    const char* field;
  } cases[] = {
      {R"({"slowStart": "-1s"})", "slowStart"},
      {R"({"slowStart": "3601s"})", "slowStart"},
      {R"({"hold": {"maxWait": "0s"}})", "hold.maxWait"},
      {R"({"hold": {"maxWait": "301s"}})", "hold.maxWait"},
      {R"({"hold": {"maxRequests": -1}})", "hold.maxRequests"},
      {R"({"hold": {"maxRequests": 100001}})", "hold.maxRequests"},
      {R"({"rateLimit": {}})", "rateLimit.requestsPerSecond"},
      {R"({"rateLimit": {"requestsPerSecond": "NaN"}})",
       "rateLimit.requestsPerSecond"},
      {R"({"rateLimit": {"requestsPerSecond": 1000001}})",
       "rateLimit.requestsPerSecond"},
      {R"({"clientRateLimit": {"requestsPerSecond": 1, "burst": -2}})",
       "clientRateLimit.burst"},
      {R"({"maxInFlight": -1})", "maxInFlight"},
      {R"({"maxInFlightPerEndpoint": 1000001})", "maxInFlightPerEndpoint"},
      {R"({"maxRequestBodyBytes": "-1"})", "maxRequestBodyBytes"},
  };
  for (const auto& each : cases) {
    const auto policy = Parse(each.json);
    ASSERT_FALSE(policy.ok()) << each.json;
    EXPECT_THAT(std::string(policy.status().message()), HasSubstr(each.field));
  }
}

TEST(TrafficParserTest, TheSlowestRateDoesNotOverflow) {
  fabric::v1::Traffic traffic;
  traffic.mutable_rate_limit()->set_requests_per_second(
      std::numeric_limits<double>::denorm_min());
  traffic.mutable_rate_limit()->set_burst(1'000'000);

  const auto policy = TrafficPolicyOf(traffic, BalancePolicy::kRoundRobin);

  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_GT(policy->rate_limit->interval_ns, 0);
  EXPECT_GT(policy->rate_limit->tolerance_ns, 0);
}

TEST(TrafficParserTest, AWayOfBalancingFromTheFutureIsTheDefault) {
  fabric::v1::Traffic traffic;
  traffic.set_balancing(static_cast<fabric::v1::Traffic::Balancing>(99));

  EXPECT_EQ(TrafficPolicyOf(traffic, BalancePolicy::kPeakEwma)->balancing,
            BalancePolicy::kPeakEwma);
}

TEST(TrafficParserTest, StaticTextMayNameSeveralAppsOnce) {
  const auto policies =
      ParseStaticTraffic(R"(a={"maxInFlight": 1}; b={"maxInFlight": 2};)",
                         BalancePolicy::kRoundRobin);
  ASSERT_TRUE(policies.ok()) << policies.status();
  EXPECT_EQ(policies->at("a").max_in_flight, 1);
  EXPECT_EQ(policies->at("b").max_in_flight, 2);

  for (const char* text :
       {"a", "a=", "a={", "={}", "A!={}", "a={};a={}", R"(a={"no": 1})"}) {
    const auto bad = ParseStaticTraffic(text, BalancePolicy::kRoundRobin);
    ASSERT_FALSE(bad.ok()) << text;
    EXPECT_THAT(std::string(bad.status().message()),
                HasSubstr("static traffic"));
  }
}

}  // namespace
}  // namespace mycelium::edge
