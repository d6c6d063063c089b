#ifndef SERVICES_FABRIC_OPERATION_SCOPE_H_
#define SERVICES_FABRIC_OPERATION_SCOPE_H_

#include <memory>

#include "absl/base/thread_annotations.h"
#include "lib/base/mutex.h"

namespace mycelium::fabric {

// Keeps an object alive for the asynchronous operations that it has started by
// itself: declared as its last member, it is destroyed first, and waits for
// them. Thread-safe.
class OperationScope {
 public:
  OperationScope() = default;
  ~OperationScope() {
    MutexLock lock(state_->mutex);
    while (state_->running > 0) state_->idle.Wait(state_->mutex);
  }

  OperationScope(const OperationScope&) = delete;
  OperationScope& operator=(const OperationScope&) = delete;

  // The operation runs as long as the result or a copy of it lives: until the
  // callback that holds it has been called and destroyed.
  std::shared_ptr<void> Enter() {
    {
      MutexLock lock(state_->mutex);
      ++state_->running;
    }
    return std::shared_ptr<void>(nullptr, [state = state_](void*) {
      MutexLock lock(state->mutex);
      if (--state->running == 0) state->idle.NotifyAll();
    });
  }

 private:
  struct State {
    Mutex mutex;
    CondVar idle;
    int running ABSL_GUARDED_BY(mutex) = 0;
  };

  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_OPERATION_SCOPE_H_
