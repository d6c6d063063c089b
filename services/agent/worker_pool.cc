#include "services/agent/worker_pool.h"

#include <utility>

namespace mycelium::agent {

WorkerPool::WorkerPool(int threads, EventLoop* loop) : loop_(*loop) {
  for (int i = 0; i < threads; ++i) {
    threads_.emplace_back([this] { RunThread(); });
  }
}

WorkerPool::~WorkerPool() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    wake_.NotifyAll();
  }
  for (std::thread& thread : threads_) thread.join();
}

void WorkerPool::Run(std::function<void()> work, std::function<void()> then) {
  MutexLock lock(mutex_);
  jobs_.push_back({.work = std::move(work), .then = std::move(then)});
  wake_.NotifyOne();
}

void WorkerPool::RunThread() {
  while (true) {
    Job job;
    {
      MutexLock lock(mutex_);
      while (!stopping_ && jobs_.empty()) wake_.Wait(mutex_);
      if (stopping_) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job.work();
    loop_.Post(std::move(job.then));
  }
}

}  // namespace mycelium::agent
