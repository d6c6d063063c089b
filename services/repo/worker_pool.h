#ifndef SERVICES_REPO_WORKER_POOL_H_
#define SERVICES_REPO_WORKER_POOL_H_

#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "lib/base/mutex.h"

namespace mycelium::repo {

// Threads for work that blocks on disks. They are started as they are needed
// and kept. Thread-safe.
class WorkerPool {
 public:
  // At most `max_threads` tasks run at a time, and at most `max_waiting` wait.
  // `name` is what debuggers and profilers call the threads: 15 bytes at most.
  WorkerPool(std::string name, int max_threads, int max_waiting)
      : name_(std::move(name)),
        max_threads_(max_threads),
        max_waiting_(max_waiting) {}

  // Waits for every task that was scheduled.
  ~WorkerPool();

  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // Runs `task` on one of the threads, in the order of scheduling. Returns
  // false, and drops it, if too many tasks are waiting.
  [[nodiscard]] bool Schedule(std::function<void()> task);

 private:
  void Run();

  const std::string name_;
  const int max_threads_;
  const int max_waiting_;

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> waiting_ ABSL_GUARDED_BY(mutex_);
  int idle_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mycelium::repo

#endif  // SERVICES_REPO_WORKER_POOL_H_
