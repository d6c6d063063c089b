#include "services/repo/worker_pool.h"

#include <atomic>

#include "gtest/gtest.h"

namespace mycelium::repo {
namespace {

// A gate that tasks wait at.
class Gate {
 public:
  void Open() {
    MutexLock lock(mutex_);
    open_ = true;
    changed_.NotifyAll();
  }
  // Waits until `count` are waiting.
  void WaitForArrivals(int count) {
    MutexLock lock(mutex_);
    while (arrived_ < count) changed_.Wait(mutex_);
  }
  void Pass() {
    MutexLock lock(mutex_);
    ++arrived_;
    changed_.NotifyAll();
    while (!open_) changed_.Wait(mutex_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
  int arrived_ ABSL_GUARDED_BY(mutex_) = 0;
};

TEST(WorkerPoolTest, RunsEveryTaskBeforeItGoes) {
  std::atomic<int> done = 0;
  {
    WorkerPool pool("test", 3, 100);
    for (int i = 0; i < 100; ++i) {
      ASSERT_TRUE(pool.Schedule([&done] { ++done; }));
    }
  }
  EXPECT_EQ(done, 100);
}

TEST(WorkerPoolTest, RunsAsManyAtATimeAsItHasThreads) {
  Gate gate;
  WorkerPool pool("test", 3, 0);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(pool.Schedule([&gate] { gate.Pass(); }));
  }

  gate.WaitForArrivals(3);  // Comes only if all three run.
  gate.Open();
}

TEST(WorkerPoolTest, RefusesWhatItHasNoRoomFor) {
  Gate gate;
  WorkerPool pool("test", 1, 2);
  ASSERT_TRUE(pool.Schedule([&gate] { gate.Pass(); }));
  gate.WaitForArrivals(1);

  EXPECT_TRUE(pool.Schedule([] {}));
  EXPECT_TRUE(pool.Schedule([] {}));
  EXPECT_FALSE(pool.Schedule([] {}));
  gate.Open();
}

}  // namespace
}  // namespace mycelium::repo
