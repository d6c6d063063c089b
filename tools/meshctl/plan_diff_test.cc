#include "tools/meshctl/plan_diff.h"

#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::meshctl {
namespace {

fabric::v1::Plan PlanOf(const std::string& digest, int min, int max) {
  fabric::v1::Plan plan;
  plan.set_app_name("billing");
  plan.set_digest(digest);
  plan.set_min(min);
  plan.set_max(max);
  return plan;
}

std::vector<std::string> Changed(const std::vector<PlanChange>& changes) {
  std::vector<std::string> lines;
  for (const PlanChange& change : changes) {
    if (!change.changed) continue;
    lines.push_back(change.field + " " + change.before + " to " + change.after +
                    (change.replaces ? " replaces" : ""));
  }
  return lines;
}

TEST(PlanDiffTest, NamesWhatChangesAndWhatReplacesInstances) {
  const fabric::v1::Plan before = PlanOf("aa", 1, 4);
  fabric::v1::Plan after = PlanOf("bb", 1, 6);
  after.mutable_strategy()->set_max_surge(2);

  EXPECT_THAT(Changed(DiffPlans(&before, after)),
              testing::ElementsAre("digest aa to bb replaces", "max 4 to 6",
                                   "max-surge  to 2"));
}

TEST(PlanDiffTest, NamesWhatIsTakenAway) {
  fabric::v1::Plan before = PlanOf("aa", 1, 4);
  (*before.mutable_placement()->mutable_required_labels())["zone"] = "a";
  (*before.mutable_placement()->mutable_required_labels())["disk"] = "ssd";
  fabric::v1::Plan after = PlanOf("aa", 1, 4);
  (*after.mutable_placement()->mutable_required_labels())["disk"] = "ssd";

  EXPECT_THAT(Changed(DiffPlans(&before, after)),
              testing::ElementsAre("require-label zone=a to  replaces"));
}

TEST(PlanDiffTest, AFirstPlanReplacesNothing) {
  EXPECT_THAT(Changed(DiffPlans(nullptr, PlanOf("aa", 1, 2))),
              testing::ElementsAre("digest  to aa", "min  to 1", "max  to 2",
                                   "port  to 0"));
}

TEST(PlanDiffTest, WritesTheLineThatAppliesExactlyThis) {
  fabric::v1::Plan plan = PlanOf("aa", 1, 2);
  plan.mutable_strategy()->set_kind(fabric::v1::Strategy::KIND_BLUE_GREEN);
  plan.mutable_strategy()->mutable_min_ready()->set_seconds(90);
  plan.mutable_placement()->set_spread_label("my zone");

  EXPECT_EQ(ApplyLine(nullptr, plan, 7),
            "meshctl apply billing --digest aa --min 1 --max 2 --port 0 "
            "--strategy blue-green --min-ready 1m30s --spread-label 'my zone' "
            "--check-revision 7");
}

TEST(PlanDiffTest, WritesThePolicyOfTrafficAsFlags) {
  fabric::v1::Plan plan = PlanOf("aa", 1, 2);
  fabric::v1::Traffic* traffic = plan.mutable_traffic();
  traffic->set_balancing(fabric::v1::Traffic::BALANCING_LEAST_REQUEST);
  traffic->mutable_slow_start()->set_seconds(30);
  traffic->mutable_hold()->set_max_requests(7);
  traffic->mutable_rate_limit()->set_requests_per_second(0.5);
  traffic->mutable_client_rate_limit()->set_requests_per_second(10);
  traffic->mutable_client_rate_limit()->set_burst(20);
  traffic->set_max_in_flight(100);
  traffic->set_retry_server_errors(true);

  EXPECT_EQ(ApplyLine(nullptr, plan, 7),
            "meshctl apply billing --digest aa --min 1 --max 2 --port 0 "
            "--balancing least-request --slow-start 30s --hold 10s "
            "--hold-requests 7 --rate-limit 0.5 --client-rate-limit 10:20 "
            "--max-in-flight 100 --retry-server-errors on "
            "--check-revision 7");
}

TEST(PlanDiffTest, WritesWhatIsTakenAwayOfThePolicyOfTrafficAsFlags) {
  fabric::v1::Plan before = PlanOf("aa", 1, 2);
  fabric::v1::Traffic* traffic = before.mutable_traffic();
  traffic->mutable_slow_start()->set_seconds(30);
  traffic->mutable_hold()->set_max_requests(7);
  traffic->mutable_rate_limit()->set_requests_per_second(0.5);
  traffic->mutable_client_rate_limit()->set_requests_per_second(10);
  traffic->set_max_in_flight(100);
  traffic->set_max_in_flight_per_endpoint(10);
  traffic->set_max_request_body_bytes(1000);
  traffic->set_retry_server_errors(true);

  EXPECT_EQ(ApplyLine(&before, PlanOf("aa", 1, 2), 7),
            "meshctl apply billing --digest aa --min 1 --max 2 --port 0 "
            "--slow-start 0s --hold 0s --rate-limit 0 --client-rate-limit 0 "
            "--max-in-flight 0 --max-in-flight-per-endpoint 0 "
            "--max-request-body-bytes 0 --retry-server-errors off "
            "--check-revision 7");

  fabric::v1::Plan after = PlanOf("aa", 1, 2);
  after.mutable_traffic()->mutable_hold()->mutable_max_wait()->set_seconds(5);
  before.mutable_traffic()->Clear();
  before.mutable_traffic()->mutable_hold()->set_max_requests(7);
  EXPECT_EQ(ApplyLine(&before, after, 7),
            "meshctl apply billing --digest aa --min 1 --max 2 --port 0 "
            "--hold 5s --hold-requests 0 --check-revision 7");
}

TEST(PlanDiffTest, WritesRatesExactly) {
  fabric::v1::Plan plan = PlanOf("aa", 1, 2);
  fabric::v1::RateLimit* limit = plan.mutable_traffic()->mutable_rate_limit();
  for (const auto& [rate, text] : std::vector<std::pair<double, std::string>>{
           {0.1, "0.1"},
           {1'000'000, "1e+06"},
           {123'456.75, "123456.75"},
           {1.0 / 3, "0.3333333333333333"}}) {
    limit->set_requests_per_second(rate);
    EXPECT_EQ(PlanFields(plan).back(),
              (std::pair<std::string, std::string>("rate-limit", text)));
  }
}

TEST(PlanDiffTest, APolicyOfTrafficReplacesNothing) {
  const fabric::v1::Plan before = PlanOf("aa", 1, 2);
  fabric::v1::Plan after = before;
  after.mutable_traffic()->set_max_in_flight(5);

  EXPECT_THAT(Changed(DiffPlans(&before, after)),
              testing::ElementsAre("max-in-flight  to 5"));
}

}  // namespace
}  // namespace mycelium::meshctl
