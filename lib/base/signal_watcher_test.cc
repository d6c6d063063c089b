#include "lib/base/signal_watcher.h"

#include <unistd.h>

#include <csignal>
#include <future>

#include "gtest/gtest.h"

namespace mycelium {
namespace {

TEST(SignalWatcherTest, CallsForEachSignalAndEndsWithout) {
  BlockSignal(SIGUSR1);
  for (int i = 0; i < 2; ++i) {
    std::promise<void> called;
    SignalWatcher watcher(SIGUSR1, [&called] { called.set_value(); });

    kill(getpid(), SIGUSR1);

    called.get_future().wait();
  }
  const SignalWatcher idle(SIGUSR1, [] { FAIL(); });
}

}  // namespace
}  // namespace mycelium
