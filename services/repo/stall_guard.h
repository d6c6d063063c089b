#ifndef SERVICES_REPO_STALL_GUARD_H_
#define SERVICES_REPO_STALL_GUARD_H_

#include <functional>
#include <map>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "lib/base/mutex.h"

namespace mycelium::repo {

// Ends streams whose other side has stopped taking part. Thread-safe.
class StallGuard {
 public:
  // A stream without progress for `timeout` is ended, up to a quarter of that
  // later.
  explicit StallGuard(absl::Duration timeout);
  ~StallGuard();

  StallGuard(const StallGuard&) = delete;
  StallGuard& operator=(const StallGuard&) = delete;

  // Watches a stream, which `key` stands for, until Remove(). `end` is called
  // at most once, on the guard's thread; it must not call the guard.
  void Add(const void* key, std::function<void()> end);
  // The stream has moved on.
  void Progress(const void* key);
  // `end` is not called, or has returned, once this returns.
  void Remove(const void* key);

 private:
  struct Stream {
    absl::Duration last_progress;
    std::function<void()> end;
  };

  void Run();

  const absl::Duration timeout_;

  Mutex mutex_;
  CondVar stopped_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<const void*, Stream> streams_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace mycelium::repo

#endif  // SERVICES_REPO_STALL_GUARD_H_
