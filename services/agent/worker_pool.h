#ifndef SERVICES_AGENT_WORKER_POOL_H_
#define SERVICES_AGENT_WORKER_POOL_H_

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "lib/base/mutex.h"
#include "services/agent/event_loop.h"
#include "services/agent/executor.h"

namespace mycelium::agent {

// A fixed number of threads; completions run on an event loop. Thread-safe.
class WorkerPool final : public Executor {
 public:
  // `loop` must outlive the pool.
  WorkerPool(int threads, EventLoop* loop);

  // Waits for the work that runs, and forgets the rest.
  ~WorkerPool() override;

  void Run(std::function<void()> work, std::function<void()> then) override;

 private:
  struct Job {
    std::function<void()> work;
    std::function<void()> then;
  };

  void RunThread();

  EventLoop& loop_;

  Mutex mutex_;
  CondVar wake_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mutex_);

  std::vector<std::thread> threads_;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_WORKER_POOL_H_
