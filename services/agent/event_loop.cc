#include "services/agent/event_loop.h"

#include <algorithm>
#include <utility>

namespace mycelium::agent {

EventLoop::~EventLoop() { Stop(); }

void EventLoop::Start(std::function<void()> tick,
                      std::function<absl::Duration()> next_due) {
  tick_ = std::move(tick);
  next_due_ = std::move(next_due);
  thread_ = std::thread([this] { Run(); });
}

void EventLoop::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    wake_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

void EventLoop::Post(std::function<void()> task) {
  MutexLock lock(mutex_);
  tasks_.push_back(std::move(task));
  wake_.NotifyOne();
}

void EventLoop::Run() {
  // Even an infinite wait ends now and then, for what nobody announces.
  constexpr absl::Duration kLongestWait = absl::Seconds(1);
  tick_();
  while (true) {
    const absl::Duration wait = std::min(next_due_(), kLongestWait);
    std::deque<std::function<void()>> tasks;
    {
      MutexLock lock(mutex_);
      if (!stopping_ && tasks_.empty() && wait > absl::ZeroDuration()) {
        wake_.WaitFor(mutex_, wait);
      }
      if (stopping_) return;
      tasks.swap(tasks_);
    }
    for (const std::function<void()>& task : tasks) task();
    tick_();
  }
}

}  // namespace mycelium::agent
