#include "services/edge/timer_wheel.h"

#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace mycelium::edge {
namespace {

TEST(TimerWheelTest, FiresInTimeAndNotBefore) {
  TimerWheel wheel(1000);
  Timer timer;
  wheel.Arm(&timer, 1100);

  EXPECT_EQ(wheel.PopExpired(1099), nullptr);
  EXPECT_EQ(wheel.PopExpired(1100 + TimerWheel::kTickMs), &timer);
  EXPECT_EQ(wheel.PopExpired(5000), nullptr);
}

TEST(TimerWheelTest, DoesNotFireWhatWasDisarmedOrRemoved) {
  TimerWheel wheel(0);
  Timer disarmed;
  Timer removed;
  wheel.Arm(&disarmed, 100);
  wheel.Arm(&removed, 100);
  TimerWheel::Disarm(&disarmed);
  wheel.Remove(&removed);

  EXPECT_EQ(wheel.PopExpired(1000), nullptr);
}

TEST(TimerWheelTest, MovesATimerBothWays) {
  TimerWheel wheel(0);
  Timer timer;
  wheel.Arm(&timer, 100);
  wheel.Arm(&timer, 500);
  EXPECT_EQ(wheel.PopExpired(400), nullptr);
  wheel.Arm(&timer, 420);
  EXPECT_EQ(wheel.PopExpired(440), &timer);
}

TEST(TimerWheelTest, KeepsTimersOfLaterTurns) {
  TimerWheel wheel(0);
  Timer timer;
  wheel.Arm(&timer, 300'000);

  int64_t now = 0;
  while (now + 1000 < 300'000) {
    now += 1000;
    ASSERT_EQ(wheel.PopExpired(now), nullptr) << now;
  }
  EXPECT_EQ(wheel.PopExpired(300'010), &timer);
}

TEST(TimerWheelTest, SurvivesALongSleep) {
  TimerWheel wheel(0);
  Timer first;
  Timer second;
  wheel.Arm(&first, 50);
  wheel.Arm(&second, 100'000);

  EXPECT_NE(wheel.PopExpired(10'000'000), nullptr);
  EXPECT_NE(wheel.PopExpired(10'000'000), nullptr);
  EXPECT_EQ(wheel.PopExpired(10'000'000), nullptr);
}

TEST(TimerWheelTest, SaysHowLongMayBeSlept) {
  TimerWheel wheel(0);
  EXPECT_EQ(wheel.SleepMs(0, 1000), 1000);
  Timer timer;
  wheel.Arm(&timer, 200);
  const int sleep = wheel.SleepMs(0, 1000);
  EXPECT_GE(sleep, 200 - TimerWheel::kTickMs);
  EXPECT_LE(sleep, 200 + TimerWheel::kTickMs);
}

TEST(TimerWheelTest, LetsATimerBeArmedWhileOthersFire) {
  TimerWheel wheel(0);
  Timer again;
  Timer other;
  wheel.Arm(&again, 10);
  wheel.Arm(&other, 10);
  int fired = 0;
  while (Timer* const timer = wheel.PopExpired(100)) {
    ++fired;
    if (timer == &again && fired < 3) wheel.Arm(&again, 100 + 50);
    if (timer == &again) wheel.Remove(&other);
    ASSERT_LT(fired, 10);
  }
  EXPECT_EQ(fired, 1);
  EXPECT_EQ(wheel.PopExpired(170), &again);
}

TEST(TimerWheelTest, AgreesWithAModel) {
  std::mt19937 random(11);
  TimerWheel wheel(0);
  std::vector<std::unique_ptr<Timer>> timers;
  for (int i = 0; i < 50; ++i) timers.push_back(std::make_unique<Timer>());
  std::vector<int64_t> due(timers.size(), Timer::kNever);
  for (int64_t now = 0; now < 200'000;
       now += static_cast<int64_t>(random() % 40)) {
    const size_t i = random() % timers.size();
    if (random() % 4 == 0) {
      TimerWheel::Disarm(timers[i].get());
      due[i] = Timer::kNever;
    } else {
      due[i] = now + static_cast<int64_t>(random() % 50'000);
      wheel.Arm(timers[i].get(), due[i]);
    }
    while (const Timer* const fired = wheel.PopExpired(now)) {
      size_t which = 0;
      while (timers[which].get() != fired) ++which;
      ASSERT_LE(due[which], now);
      due[which] = Timer::kNever;
    }
    for (size_t j = 0; j < due.size(); ++j) {
      if (due[j] == Timer::kNever) continue;
      ASSERT_GT(due[j], now - TimerWheel::kTickMs)
          << "timer " << j << " is late";
    }
  }
}

}  // namespace
}  // namespace mycelium::edge
