#include "services/agent/instance_machine.h"

#include <csignal>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/fake_clock.h"

namespace mycelium::agent {
namespace {

using ::testing::HasSubstr;
using EndpointWish = InstanceMachine::EndpointWish;
using Signal = InstanceMachine::Signal;

v1::ExitStatus ExitedWith(int code) {
  v1::ExitStatus exit;
  exit.set_code(code);
  return exit;
}

v1::ExitStatus KilledBy(int signal) {
  v1::ExitStatus exit;
  exit.set_signal(signal);
  return exit;
}

class InstanceMachineTest : public ::testing::Test {
 protected:
  InstanceMachineTest()
      : clock_(absl::FromUnixSeconds(1'800'000'000)),
        machine_(InstanceOptions(), &clock_, [] { return 0.5; }) {}

  void Pull() {
    ASSERT_TRUE(machine_.wants_pull());
    machine_.OnPullBegun();
    machine_.OnPulled();
  }

  void Launch() {
    ASSERT_TRUE(machine_.wants_launch());
    machine_.OnLaunched(42);
  }

  // Moves on to the next probe, which must be of `kind`, and answers it.
  void Probe(ProbeKind kind, bool success) {
    for (int i = 0; i < 10; ++i) {
      const absl::Duration now = clock_.Monotonic();
      if (machine_.next_due() > now) clock_.Advance(machine_.next_due() - now);
      for (const HealthTracker::Probe& probe : machine_.TakeProbes()) {
        if (probe.kind == kind) {
          machine_.OnProbe(kind, success, success ? "200" : "status 503");
          return;
        }
        machine_.OnProbe(probe.kind, true, "200");
      }
    }
    FAIL() << "no such probe is sent";
  }

  void BecomeReady() {
    Pull();
    Launch();
    Probe(ProbeKind::kStarted, true);
    ASSERT_EQ(machine_.state(), v1::Instance::STATE_READY);
  }

  // Lets `by` pass, with all probes succeeding.
  void StayHealthy(absl::Duration by) {
    const absl::Duration end = clock_.Monotonic() + by;
    while (machine_.next_due() <= end) {
      clock_.Advance(machine_.next_due() - clock_.Monotonic());
      for (const HealthTracker::Probe& probe : machine_.TakeProbes()) {
        machine_.OnProbe(probe.kind, true, "200");
      }
    }
    clock_.Advance(end - clock_.Monotonic());
  }

  void TickAfter(absl::Duration by) {
    clock_.Advance(by);
    machine_.OnTick();
  }

  FakeClock clock_;
  InstanceMachine machine_;
};

TEST_F(InstanceMachineTest, BeginsByPulling) {
  EXPECT_EQ(machine_.state(), v1::Instance::STATE_PULLING);
  EXPECT_TRUE(machine_.wants_pull());
  EXPECT_FALSE(machine_.wants_launch());
  EXPECT_EQ(machine_.endpoint_wish(), EndpointWish::kNone);
}

TEST_F(InstanceMachineTest, PullsOnceAtATime) {
  machine_.OnPullBegun();

  EXPECT_FALSE(machine_.wants_pull());
}

TEST_F(InstanceMachineTest, TriesToPullAgainWithGrowingPauses) {
  absl::Duration expected = absl::Milliseconds(250);
  for (int i = 0; i < 10; ++i) {
    machine_.OnPullBegun();
    machine_.OnPullFailed("PULL_FAILED", absl::UnavailableError("repo away"));
    EXPECT_EQ(machine_.state(), v1::Instance::STATE_PULLING);
    EXPECT_EQ(machine_.reason(), "PULL_FAILED");
    EXPECT_EQ(machine_.message(), "repo away");
    EXPECT_EQ(machine_.next_due(), clock_.Monotonic() + expected);
    EXPECT_FALSE(machine_.wants_pull());
    clock_.Advance(expected);
    EXPECT_TRUE(machine_.wants_pull());
    expected = std::min(expected * 2, absl::Seconds(10));
  }
}

TEST_F(InstanceMachineTest, IsRefusedForGoodWithTheCheckThatFailed) {
  machine_.OnPullBegun();

  machine_.OnRefused("E_SIGNATURE", "the signature is not valid");
  TickAfter(absl::Hours(1));

  EXPECT_EQ(machine_.state(), v1::Instance::STATE_REFUSED);
  EXPECT_EQ(machine_.reason(), "E_SIGNATURE");
  EXPECT_FALSE(machine_.wants_pull());
  EXPECT_FALSE(machine_.wants_launch());
  EXPECT_EQ(machine_.next_due(), absl::InfiniteDuration());
}

TEST_F(InstanceMachineTest, GetsTrafficOnlyAfterItsFirstHealthyAnswer) {
  Pull();
  Launch();
  EXPECT_EQ(machine_.state(), v1::Instance::STATE_STARTING);
  EXPECT_EQ(machine_.reason(), "HEALTH_PENDING");
  EXPECT_EQ(machine_.until(), clock_.Now() + absl::Seconds(30));

  Probe(ProbeKind::kStarted, false);
  EXPECT_EQ(machine_.endpoint_wish(), EndpointWish::kNone);
  EXPECT_THAT(machine_.message(), HasSubstr("503"));

  Probe(ProbeKind::kStarted, true);
  EXPECT_EQ(machine_.state(), v1::Instance::STATE_READY);
  EXPECT_EQ(machine_.endpoint_wish(), EndpointWish::kReady);
  EXPECT_EQ(machine_.reason(), "");
}

TEST_F(InstanceMachineTest, IsRestartedWhenItIsNotHealthyByTheDeadline) {
  Pull();
  Launch();

  TickAfter(absl::Seconds(29.9));
  EXPECT_EQ(machine_.state(), v1::Instance::STATE_STARTING);
  TickAfter(absl::Seconds(0.1));
  EXPECT_EQ(machine_.TakeSignal(), Signal::kTerminate);
  EXPECT_EQ(machine_.reason(), "START_DEADLINE");

  machine_.OnExited(KilledBy(SIGTERM));
  EXPECT_EQ(machine_.state(), v1::Instance::STATE_BACKOFF);
  EXPECT_EQ(machine_.reason(), "START_DEADLINE");
  TickAfter(absl::Milliseconds(250));
  EXPECT_TRUE(machine_.wants_launch());
}

TEST_F(InstanceMachineTest, LeavesAndReentersTrafficWithItsProbes) {
  BecomeReady();

  Probe(ProbeKind::kReady, false);
  EXPECT_EQ(machine_.endpoint_wish(), EndpointWish::kReady);
  Probe(ProbeKind::kReady, false);
  EXPECT_EQ(machine_.state(), v1::Instance::STATE_UNHEALTHY);
  EXPECT_EQ(machine_.endpoint_wish(), EndpointWish::kUnready);
  EXPECT_THAT(machine_.message(), HasSubstr("503"));

  Probe(ProbeKind::kReady, true);
  EXPECT_EQ(machine_.endpoint_wish(), EndpointWish::kReady);
}

TEST_F(InstanceMachineTest, IsLaunchedAtOnceAfterACrashOfAHealthyProcess) {
  BecomeReady();
  StayHealthy(absl::Seconds(10));

  machine_.OnExited(KilledBy(SIGSEGV));
  EXPECT_EQ(machine_.endpoint_wish(), EndpointWish::kNone);
  EXPECT_EQ(machine_.pid(), 0);
  machine_.OnTick();

  EXPECT_TRUE(machine_.wants_launch());
  Launch();
  EXPECT_EQ(machine_.restarts(), 1);
}

TEST_F(InstanceMachineTest, WaitsAfterACrashOfAProcessThatWasNeverHealthy) {
  Pull();
  Launch();

  machine_.OnExited(ExitedWith(3));

  EXPECT_EQ(machine_.state(), v1::Instance::STATE_BACKOFF);
  EXPECT_EQ(machine_.reason(), "EXITED");
  EXPECT_THAT(machine_.message(), HasSubstr("code 3"));
  EXPECT_EQ(machine_.last_exit()->code(), 3);
  EXPECT_EQ(machine_.until(), clock_.Now() + absl::Milliseconds(250));
  machine_.OnTick();
  EXPECT_FALSE(machine_.wants_launch());
}

TEST_F(InstanceMachineTest, NamesACrashLoopAndGoesOnTrying) {
  Pull();
  for (int i = 0; i < 5; ++i) {
    Launch();
    machine_.OnExited(ExitedWith(1));
    EXPECT_EQ(machine_.reason(), i < 4 ? "EXITED" : "CRASHLOOP");
    clock_.Advance(machine_.next_due() - clock_.Monotonic());
    machine_.OnTick();
  }
  EXPECT_TRUE(machine_.wants_launch());
  EXPECT_EQ(machine_.restarts(), 4);
}

TEST_F(InstanceMachineTest, NamesMemoryAsTheCause) {
  BecomeReady();
  v1::ExitStatus exit = KilledBy(SIGKILL);
  exit.set_out_of_memory(true);

  machine_.OnExited(exit);

  EXPECT_EQ(machine_.reason(), "OOM");
}

TEST_F(InstanceMachineTest, AsksForARestartWhenLivenessFailsAndGetsIt) {
  BecomeReady();
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(machine_.wants_liveness_restart());
    Probe(ProbeKind::kLive, false);
  }
  ASSERT_TRUE(machine_.wants_liveness_restart());

  machine_.RestartForLiveness();
  EXPECT_EQ(machine_.TakeSignal(), Signal::kTerminate);
  machine_.OnExited(ExitedWith(0));

  EXPECT_EQ(machine_.state(), v1::Instance::STATE_BACKOFF);
  EXPECT_EQ(machine_.reason(), "LIVENESS_FAILED");
}

TEST_F(InstanceMachineTest, DrainsBeforeItStops) {
  BecomeReady();

  machine_.RequestStop({.reason = "SURPLUS"});
  EXPECT_EQ(machine_.state(), v1::Instance::STATE_DRAINING);
  EXPECT_EQ(machine_.endpoint_wish(), EndpointWish::kDraining);
  EXPECT_EQ(machine_.TakeSignal(), std::nullopt);

  machine_.OnDrained();
  EXPECT_EQ(machine_.state(), v1::Instance::STATE_STOPPING);
  EXPECT_EQ(machine_.TakeSignal(), Signal::kTerminate);
  EXPECT_EQ(machine_.TakeSignal(), std::nullopt);

  machine_.OnExited(ExitedWith(0));
  EXPECT_TRUE(machine_.stopped());
  EXPECT_EQ(machine_.reason(), "SURPLUS");
  EXPECT_EQ(machine_.endpoint_wish(), EndpointWish::kNone);
}

TEST_F(InstanceMachineTest, StopsWaitingForTheDrainAtItsTimeout) {
  BecomeReady();
  machine_.RequestStop(
      {.reason = "SURPLUS", .drain_timeout = absl::Seconds(5)});

  TickAfter(absl::Seconds(4.9));
  EXPECT_EQ(machine_.state(), v1::Instance::STATE_DRAINING);
  TickAfter(absl::Seconds(0.1));
  EXPECT_EQ(machine_.TakeSignal(), Signal::kTerminate);
}

TEST_F(InstanceMachineTest, KillsWhatIgnoresTheRequestToStop) {
  BecomeReady();
  machine_.RequestStop({.reason = "SURPLUS", .stop_timeout = absl::Seconds(2)});
  machine_.OnDrained();
  ASSERT_EQ(machine_.TakeSignal(), Signal::kTerminate);

  TickAfter(absl::Seconds(1.9));
  EXPECT_EQ(machine_.TakeSignal(), std::nullopt);
  TickAfter(absl::Seconds(0.1));
  EXPECT_EQ(machine_.TakeSignal(), Signal::kKill);

  machine_.OnExited(KilledBy(SIGKILL));
  EXPECT_TRUE(machine_.stopped());
}

TEST_F(InstanceMachineTest, DoesNotDrainWhatNeverHadTraffic) {
  Pull();
  Launch();

  machine_.RequestStop({.reason = "SURPLUS"});

  EXPECT_EQ(machine_.TakeSignal(), Signal::kTerminate);
}

TEST_F(InstanceMachineTest, StopsAtOnceWithoutAProcess) {
  machine_.OnPullBegun();

  machine_.RequestStop({.reason = "SURPLUS"});
  EXPECT_TRUE(machine_.stopped());

  machine_.OnPulled();
  EXPECT_TRUE(machine_.stopped());
}

TEST_F(InstanceMachineTest, RestartsInItsSlotAfterADrain) {
  BecomeReady();
  machine_.RequestStop({.reason = "RESTART_REQUESTED", .restart = true});
  EXPECT_FALSE(machine_.stopping());
  machine_.OnDrained();

  machine_.OnExited(ExitedWith(0));

  EXPECT_TRUE(machine_.wants_launch());
  Launch();
  EXPECT_EQ(machine_.restarts(), 1);
  EXPECT_EQ(machine_.state(), v1::Instance::STATE_STARTING);
}

TEST_F(InstanceMachineTest, AStopForGoodWinsOverARestart) {
  BecomeReady();
  machine_.RequestStop({.reason = "RESTART_REQUESTED", .restart = true});

  machine_.RequestStop({.reason = "SURPLUS"});
  EXPECT_TRUE(machine_.stopping());
  machine_.OnDrained();
  machine_.OnExited(ExitedWith(0));

  EXPECT_TRUE(machine_.stopped());
}

TEST_F(InstanceMachineTest, ALaterStopShortensTheTimeouts) {
  BecomeReady();
  machine_.RequestStop({.reason = "SURPLUS",
                        .drain_timeout = absl::Minutes(10),
                        .stop_timeout = absl::Minutes(10)});

  machine_.RequestStop({.reason = "NODE_STOPS",
                        .drain_timeout = absl::Seconds(1),
                        .stop_timeout = absl::Seconds(1)});
  TickAfter(absl::Seconds(1));
  EXPECT_EQ(machine_.TakeSignal(), Signal::kTerminate);
  TickAfter(absl::Seconds(1));

  EXPECT_EQ(machine_.TakeSignal(), Signal::kKill);
}

TEST_F(InstanceMachineTest, DyingDuringTheDrainEndsTheStop) {
  BecomeReady();
  machine_.RequestStop({.reason = "SURPLUS"});

  machine_.OnExited(KilledBy(SIGKILL));

  EXPECT_TRUE(machine_.stopped());
}

TEST_F(InstanceMachineTest, ARequestedRestartSkipsTheBackoff) {
  Pull();
  Launch();
  machine_.OnExited(ExitedWith(1));

  machine_.RequestStop({.reason = "RESTART_REQUESTED", .restart = true});

  EXPECT_TRUE(machine_.wants_launch());
}

TEST_F(InstanceMachineTest, TriesAgainWhenTheLaunchFailed) {
  Pull();

  machine_.OnLaunchFailed("PORT_TAKEN",
                          absl::UnavailableError("port 80 is taken"));

  EXPECT_EQ(machine_.state(), v1::Instance::STATE_BACKOFF);
  EXPECT_EQ(machine_.reason(), "PORT_TAKEN");
  TickAfter(absl::Milliseconds(250));
  EXPECT_TRUE(machine_.wants_launch());
}

TEST_F(InstanceMachineTest, KeepsItsTimeoutsWhenTheTimeOfDaySteps) {
  BecomeReady();
  machine_.RequestStop({.reason = "SURPLUS"});

  clock_.Step(absl::Hours(24));
  machine_.OnTick();

  EXPECT_EQ(machine_.state(), v1::Instance::STATE_DRAINING);
  EXPECT_EQ(machine_.until(), clock_.Now() + absl::Seconds(10));
}

}  // namespace
}  // namespace mycelium::agent
