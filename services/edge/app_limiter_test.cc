#include "services/edge/app_limiter.h"

#include <set>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::edge {
namespace {

TEST(SlotCounterTest, GivesOutAsManyAsTheLimit) {
  SlotCounter slots;
  EXPECT_TRUE(slots.TryTake(2));
  EXPECT_TRUE(slots.TryTake(2));
  EXPECT_FALSE(slots.TryTake(2));
  slots.Give();
  EXPECT_TRUE(slots.TryTake(2));
  EXPECT_FALSE(slots.TryTake(1)) << "a limit that was lowered";
  EXPECT_TRUE(slots.TryTake(3)) << "a limit that was raised";
}

TEST(SlotCounterTest, ThreadsNeverHoldMoreThanTheLimit) {
  SlotCounter slots;
  std::atomic<int> most{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 10'000; ++j) {
        if (!slots.TryTake(2)) continue;
        const int taken = slots.taken();
        if (taken > most.load()) most.store(taken);
        slots.Give();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();

  EXPECT_LE(most.load(), 2);
  EXPECT_EQ(slots.taken(), 0);
}

TEST(AppLimiterTest, EachWorkerWithRequestsWaitingHasItsTurn) {
  AppLimiter limiter(4);
  EXPECT_EQ(limiter.NextWaiting(), -1);

  for (int i = 0; i < 3; ++i) ASSERT_TRUE(limiter.held.TryTake(10));
  limiter.SetWaiting(1, 2);
  limiter.SetWaiting(3, 1);
  EXPECT_EQ(limiter.NextWaiting(), 1);
  EXPECT_EQ(limiter.NextWaiting(), 3);
  EXPECT_EQ(limiter.NextWaiting(), 1);

  limiter.SetWaiting(1, 0);
  EXPECT_EQ(limiter.NextWaiting(), 3);
  EXPECT_EQ(limiter.NextWaiting(), 3);
}

TEST(AppLimiterTest, NoTwoHaveTheSameNumberEvenOneAfterTheOther) {
  std::set<uint64_t> numbers;
  for (int i = 0; i < 100; ++i) numbers.insert(AppLimiter(1).number());

  EXPECT_EQ(numbers.size(), 100);
}

}  // namespace
}  // namespace mycelium::edge
