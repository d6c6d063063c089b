#ifndef LIB_BASE_SIGNAL_WATCHER_H_
#define LIB_BASE_SIGNAL_WATCHER_H_

#include <atomic>
#include <functional>
#include <thread>

namespace mycelium {

// Blocks `signal` in this thread and in all that it starts. Call it in main(),
// before anything starts a thread, for each signal that is watched for.
void BlockSignal(int signal);

// Calls a function whenever a signal arrives that BlockSignal() has blocked, on
// a thread of its own, where the function may do anything.
class SignalWatcher {
 public:
  SignalWatcher(int signal, std::function<void()> on_signal);
  ~SignalWatcher();

  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

 private:
  void Run();

  const int signal_;
  const std::function<void()> on_signal_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace mycelium

#endif  // LIB_BASE_SIGNAL_WATCHER_H_
