#include "services/agent/start_limiter.h"

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace mycelium::agent {
namespace {

constexpr absl::Duration kNow = absl::Seconds(1000);

TEST(StartLimiterTest, StartsTwoOfAnAppAtOnce) {
  StartLimiter limiter{StartLimits()};
  limiter.Begin("shop", "shop-1", kNow);
  EXPECT_TRUE(limiter.MayStart("shop", kNow));

  limiter.Begin("shop", "shop-2", kNow);

  EXPECT_FALSE(limiter.MayStart("shop", kNow));
  EXPECT_TRUE(limiter.MayStart("mail", kNow));
}

TEST(StartLimiterTest, StartsEightOnANodeAtOnce) {
  StartLimiter limiter{StartLimits()};
  for (int i = 0; i < 8; ++i) {
    EXPECT_TRUE(limiter.MayStart("another", kNow)) << i;
    limiter.Begin(absl::StrCat("app-", i), absl::StrCat("instance-", i), kNow);
  }

  EXPECT_FALSE(limiter.MayStart("another", kNow));

  limiter.Done("instance-3");
  EXPECT_TRUE(limiter.MayStart("another", kNow));
}

TEST(StartLimiterTest, CountsAnInstanceOnce) {
  StartLimiter limiter{StartLimits()};

  for (int i = 0; i < 5; ++i) limiter.Begin("shop", "shop-1", kNow);

  EXPECT_TRUE(limiter.MayStart("shop", kNow));
}

TEST(StartLimiterTest, DoesNotWaitForEverForAStart) {
  StartLimiter limiter{StartLimits()};
  limiter.Begin("shop", "shop-1", kNow);
  limiter.Begin("shop", "shop-2", kNow);

  EXPECT_FALSE(limiter.MayStart("shop", kNow + absl::Seconds(9)));
  EXPECT_TRUE(limiter.MayStart("shop", kNow + absl::Seconds(10)));
}

}  // namespace
}  // namespace mycelium::agent
