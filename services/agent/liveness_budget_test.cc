#include "services/agent/liveness_budget.h"

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace mycelium::agent {
namespace {

constexpr absl::Duration kNow = absl::Seconds(1000);

TEST(LivenessBudgetTest, AllowsOneRestartOfASmallAppPerWindow) {
  LivenessBudget budget{LivenessLimits()};

  EXPECT_TRUE(budget.TryRestart("shop", 2, kNow));
  EXPECT_FALSE(budget.TryRestart("shop", 2, kNow + absl::Seconds(29)));
  EXPECT_TRUE(budget.TryRestart("shop", 2, kNow + absl::Seconds(30)));
}

TEST(LivenessBudgetTest, AllowsAFifthOfABigApp) {
  LivenessBudget budget{LivenessLimits()};

  for (int i = 0; i < 4; ++i) EXPECT_TRUE(budget.TryRestart("shop", 20, kNow));
  EXPECT_FALSE(budget.TryRestart("shop", 20, kNow));
}

TEST(LivenessBudgetTest, CountsAppsApart) {
  LivenessBudget budget{LivenessLimits()};
  ASSERT_TRUE(budget.TryRestart("shop", 1, kNow));

  EXPECT_TRUE(budget.TryRestart("mail", 1, kNow));
}

}  // namespace
}  // namespace mycelium::agent
