#ifndef SERVICES_FABRIC_STORE_TEST_EVENT_H_
#define SERVICES_FABRIC_STORE_TEST_EVENT_H_

#include "absl/base/thread_annotations.h"
#include "lib/base/mutex.h"

namespace mycelium::fabric {

// Something that happens once and that threads can wait for. Thread-safe.
//
// absl::Notification would do, but ThreadSanitizer cannot see how Debian's
// build of it synchronizes.
class TestEvent {
 public:
  void Notify() {
    MutexLock lock(mutex_);
    happened_ = true;
    changed_.NotifyAll();
  }

  void Wait() {
    MutexLock lock(mutex_);
    while (!happened_) changed_.Wait(mutex_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool happened_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_STORE_TEST_EVENT_H_
