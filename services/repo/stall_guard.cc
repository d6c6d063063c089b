#include "services/repo/stall_guard.h"

#include <utility>

#include "lib/base/clock.h"

namespace mycelium::repo {

StallGuard::StallGuard(absl::Duration timeout)
    : timeout_(timeout), thread_([this] { Run(); }) {}

StallGuard::~StallGuard() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  stopped_.NotifyAll();
  thread_.join();
}

void StallGuard::Add(const void* key, std::function<void()> end) {
  MutexLock lock(mutex_);
  streams_[key] = Stream{.last_progress = Clock::Real()->Monotonic(),
                         .end = std::move(end)};
}

void StallGuard::Progress(const void* key) {
  MutexLock lock(mutex_);
  const auto it = streams_.find(key);
  if (it != streams_.end())
    it->second.last_progress = Clock::Real()->Monotonic();
}

void StallGuard::Remove(const void* key) {
  MutexLock lock(mutex_);
  streams_.erase(key);
}

void StallGuard::Run() {
  MutexLock lock(mutex_);
  while (!stopping_) {
    stopped_.WaitFor(mutex_, timeout_ / 4);
    const absl::Duration now = Clock::Real()->Monotonic();
    for (auto it = streams_.begin(); it != streams_.end();) {
      if (now - it->second.last_progress < timeout_) {
        ++it;
        continue;
      }
      // Under the lock, so that Remove() can promise what it does.
      it->second.end();
      it = streams_.erase(it);
    }
  }
}

}  // namespace mycelium::repo
