#include "tools/meshctl/plan_diff.h"

#include <string>
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

  EXPECT_EQ(ApplyLine(plan, 7),
            "meshctl apply billing --digest aa --min 1 --max 2 --port 0 "
            "--strategy blue-green --min-ready 1m30s --spread-label 'my zone' "
            "--check-revision 7");
}

}  // namespace
}  // namespace mycelium::meshctl
