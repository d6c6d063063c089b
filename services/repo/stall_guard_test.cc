#include "services/repo/stall_guard.h"

#include <atomic>

#include "gtest/gtest.h"

namespace mycelium::repo {
namespace {

class Ending {
 public:
  void Come() {
    MutexLock lock(mutex_);
    ++count_;
    changed_.NotifyAll();
  }
  int WaitForOne() {
    MutexLock lock(mutex_);
    while (count_ == 0) changed_.Wait(mutex_);
    return count_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
};

TEST(StallGuardTest, EndsAStreamThatDoesNotMove) {
  StallGuard guard(absl::Milliseconds(10));
  Ending ending;

  guard.Add(&ending, [&ending] { ending.Come(); });

  EXPECT_EQ(ending.WaitForOne(), 1);
}

TEST(StallGuardTest, LeavesStreamsAloneThatAreGoneOrNew) {
  StallGuard guard(absl::Milliseconds(10));
  std::atomic<bool> removed_ended = false;
  int removed = 0;
  guard.Add(&removed, [&removed_ended] { removed_ended = true; });
  guard.Remove(&removed);

  // By the time that this ends, the other would have ended long ago.
  Ending later;
  guard.Add(&later, [&later] { later.Come(); });
  later.WaitForOne();

  EXPECT_FALSE(removed_ended);
}

}  // namespace
}  // namespace mycelium::repo
