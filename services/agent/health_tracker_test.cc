#include "services/agent/health_tracker.h"

#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace mycelium::agent {
namespace {

constexpr absl::Duration kStart = absl::Seconds(1000);

// Answers every probe that is due from `from` up to `to` with `success`, and
// returns how many of `kind` there were.
int AnswerUntil(HealthTracker& tracker, absl::Duration& now, absl::Duration to,
                ProbeKind kind, bool success) {
  int count = 0;
  while (tracker.next_due() <= to) {
    now = std::max(now, tracker.next_due());
    for (const HealthTracker::Probe& probe : tracker.TakeDue(now)) {
      if (probe.kind == kind) ++count;
      tracker.OnResult(probe.kind, success, now);
    }
  }
  now = to;
  return count;
}

HealthTracker Started(absl::Duration& now) {
  HealthTracker tracker{HealthOptions(), kStart};
  now = kStart + absl::Milliseconds(20);
  tracker.TakeDue(now);
  tracker.OnResult(ProbeKind::kStarted, true, now);
  return tracker;
}

TEST(HealthTrackerTest, ProbesTwentyMillisecondsAfterTheStart) {
  HealthTracker tracker{HealthOptions(), kStart};

  EXPECT_TRUE(tracker.TakeDue(kStart + absl::Milliseconds(19)).empty());
  const std::vector<HealthTracker::Probe> probes =
      tracker.TakeDue(kStart + absl::Milliseconds(20));

  ASSERT_EQ(probes.size(), 1u);
  EXPECT_EQ(probes[0].kind, ProbeKind::kStarted);
}

TEST(HealthTrackerTest, WaitsForAResultBeforeProbingAgain) {
  HealthTracker tracker{HealthOptions(), kStart};
  tracker.TakeDue(kStart + absl::Milliseconds(20));

  EXPECT_EQ(tracker.next_due(), absl::InfiniteDuration());
  EXPECT_TRUE(tracker.TakeDue(kStart + absl::Seconds(5)).empty());
}

TEST(HealthTrackerTest, ProbesAStartingProcessLessAndLessOftenUpToEverySecond) {
  HealthTracker tracker{HealthOptions(), kStart};
  absl::Duration now = kStart;

  const int first = AnswerUntil(tracker, now, kStart + absl::Seconds(1),
                                ProbeKind::kStarted, false);
  AnswerUntil(tracker, now, kStart + absl::Seconds(10), ProbeKind::kStarted,
              false);
  const int tenth = AnswerUntil(tracker, now, kStart + absl::Seconds(20),
                                ProbeKind::kStarted, false);

  EXPECT_GE(first, 6);
  EXPECT_EQ(tenth, 10);
  EXPECT_FALSE(tracker.started());
  EXPECT_FALSE(tracker.dead());
}

TEST(HealthTrackerTest, IsReadyAfterTheFirstSuccess) {
  absl::Duration now;

  const HealthTracker tracker = Started(now);

  EXPECT_TRUE(tracker.started());
  EXPECT_TRUE(tracker.ready());
  EXPECT_EQ(tracker.next_due(), now + absl::Seconds(2));
}

TEST(HealthTrackerTest,
     LeavesTrafficAfterTwoFailuresAndReturnsAfterOneSuccess) {
  absl::Duration now;
  HealthTracker tracker = Started(now);

  now += absl::Seconds(2);
  tracker.TakeDue(now);
  tracker.OnResult(ProbeKind::kReady, false, now);
  EXPECT_TRUE(tracker.ready());

  now += absl::Seconds(2);
  tracker.TakeDue(now);
  tracker.OnResult(ProbeKind::kReady, false, now);
  EXPECT_FALSE(tracker.ready());

  now += absl::Seconds(2);
  tracker.TakeDue(now);
  tracker.OnResult(ProbeKind::kReady, true, now);
  EXPECT_TRUE(tracker.ready());
}

TEST(HealthTrackerTest, ASuccessInBetweenKeepsItInTraffic) {
  absl::Duration now;
  HealthTracker tracker = Started(now);

  for (const bool success : {false, true, false, true, false}) {
    now += absl::Seconds(2);
    tracker.TakeDue(now);
    tracker.OnResult(ProbeKind::kReady, success, now);
    EXPECT_TRUE(tracker.ready());
  }
}

TEST(HealthTrackerTest, IsDeadAfterThreeLivenessFailures) {
  absl::Duration now;
  HealthTracker tracker = Started(now);

  const absl::Duration begin = now;
  AnswerUntil(tracker, now, begin + absl::Seconds(14), ProbeKind::kLive, false);
  EXPECT_FALSE(tracker.dead());
  AnswerUntil(tracker, now, begin + absl::Seconds(15), ProbeKind::kLive, false);
  EXPECT_TRUE(tracker.dead());

  AnswerUntil(tracker, now, begin + absl::Seconds(20), ProbeKind::kLive, true);
  EXPECT_FALSE(tracker.dead());
}

TEST(HealthTrackerTest, IgnoresResultsThatNobodyWaitsFor) {
  HealthTracker tracker{HealthOptions(), kStart};

  tracker.OnResult(ProbeKind::kStarted, true, kStart);
  tracker.OnResult(ProbeKind::kLive, false, kStart);

  EXPECT_FALSE(tracker.started());
}

}  // namespace
}  // namespace mycelium::agent
