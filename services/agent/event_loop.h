#ifndef SERVICES_AGENT_EVENT_LOOP_H_
#define SERVICES_AGENT_EVENT_LOOP_H_

#include <deque>
#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "lib/base/mutex.h"

namespace mycelium::agent {

// A thread on which everything that concerns instances happens, one thing at a
// time. Thread-safe.
class EventLoop {
 public:
  EventLoop() = default;

  // Forgets what has not run yet.
  ~EventLoop();

  // Calls `tick` after every task and when `next_due` (from now; may be
  // infinite) has passed, beginning now. Called once.
  void Start(std::function<void()> tick,
             std::function<absl::Duration()> next_due);

  // Stops: when this returns no task runs, and none will.
  void Stop();

  // Runs `task` on the loop's thread, after those that were posted before.
  void Post(std::function<void()> task);

 private:
  void Run();

  std::function<void()> tick_;
  std::function<absl::Duration()> next_due_;

  Mutex mutex_;
  CondVar wake_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_EVENT_LOOP_H_
