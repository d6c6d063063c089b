#include "services/agent/restart_policy.h"

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace mycelium::agent {
namespace {

constexpr absl::Duration kNever = absl::ZeroDuration();

double Middle() { return 0.5; }

TEST(RestartPolicyTest, RestartsAtOnceAfterTheFirstFailureOfAHealthyProcess) {
  RestartPolicy policy(RestartOptions(), Middle);

  EXPECT_EQ(policy.OnFailure(absl::Seconds(100), absl::Seconds(10)).delay,
            absl::ZeroDuration());
}

TEST(RestartPolicyTest, WaitsWhenTheProcessWasHealthyForLess) {
  RestartPolicy policy(RestartOptions(), Middle);

  EXPECT_EQ(policy.OnFailure(absl::Seconds(100), absl::Seconds(9.9)).delay,
            absl::Milliseconds(250));
}

TEST(RestartPolicyTest, RestartsAtOnceOnlyOnceBeforeTheReset) {
  RestartPolicy policy(RestartOptions(), Middle);
  policy.OnFailure(absl::Seconds(100), absl::Seconds(10));

  EXPECT_EQ(policy.OnFailure(absl::Seconds(120), absl::Seconds(20)).delay,
            absl::Milliseconds(250));
}

TEST(RestartPolicyTest, DoublesTheDelayUpToThirtySecondsAndNeverGivesUp) {
  RestartPolicy policy(RestartOptions(), Middle);
  absl::Duration now = absl::Seconds(100);

  absl::Duration expected = absl::Milliseconds(250);
  for (int i = 0; i < 1000; ++i) {
    const absl::Duration delay = policy.OnFailure(now, kNever).delay;
    ASSERT_EQ(delay, expected) << "failure " << i;
    expected = std::min(expected * 2, absl::Seconds(30));
    now += delay;
  }
}

TEST(RestartPolicyTest, SpreadsDelaysByAQuarterToEitherSide) {
  double random = 0;
  RestartPolicy low(RestartOptions(), [&] { return random; });
  EXPECT_EQ(low.OnFailure(absl::Seconds(1), kNever).delay,
            absl::Milliseconds(187.5));

  random = 0.999999;
  RestartPolicy high(RestartOptions(), [&] { return random; });
  EXPECT_NEAR(absl::ToDoubleMilliseconds(
                  high.OnFailure(absl::Seconds(1), kNever).delay),
              312.5, 0.1);
}

TEST(RestartPolicyTest, NeverWaitsLongerThanTheLimitWhateverTheJitter) {
  RestartPolicy policy(RestartOptions(), [] { return 0.999; });
  absl::Duration longest;

  for (int i = 0; i < 20; ++i) {
    longest =
        std::max(longest, policy.OnFailure(absl::Seconds(i), kNever).delay);
  }

  EXPECT_EQ(longest, absl::Seconds(30));
}

TEST(RestartPolicyTest, ForgetsEverythingAfterAMinuteOfHealth) {
  RestartPolicy policy(RestartOptions(), Middle);
  for (int i = 0; i < 10; ++i) policy.OnFailure(absl::Seconds(i), kNever);

  const RestartPolicy::Decision decision =
      policy.OnFailure(absl::Seconds(80), absl::Seconds(60));

  EXPECT_EQ(decision.delay, absl::ZeroDuration());
  EXPECT_FALSE(decision.crash_loop);
  EXPECT_EQ(policy.OnFailure(absl::Seconds(81), kNever).delay,
            absl::Milliseconds(250));
}

TEST(RestartPolicyTest, CallsFiveFailuresWithinAMinuteACrashLoop) {
  RestartPolicy policy(RestartOptions(), Middle);

  for (int i = 0; i < 4; ++i) {
    EXPECT_FALSE(policy.OnFailure(absl::Seconds(i * 10), kNever).crash_loop);
  }
  EXPECT_TRUE(policy.OnFailure(absl::Seconds(40), kNever).crash_loop);
}

TEST(RestartPolicyTest, DoesNotCallRareFailuresACrashLoop) {
  RestartPolicy policy(RestartOptions(), Middle);

  for (int i = 0; i < 20; ++i) {
    EXPECT_FALSE(policy.OnFailure(absl::Seconds(i * 20), kNever).crash_loop);
  }
}

TEST(RestartPolicyTest, StaysInACrashLoopWhenTheDelaysGrowBeyondTheWindow) {
  RestartPolicy policy(RestartOptions(), Middle);
  for (int i = 0; i < 5; ++i) policy.OnFailure(absl::Seconds(i), kNever);

  EXPECT_TRUE(policy.OnFailure(absl::Seconds(300), kNever).crash_loop);
}

}  // namespace
}  // namespace mycelium::agent
