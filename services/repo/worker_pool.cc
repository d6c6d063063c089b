#include "services/repo/worker_pool.h"

#include <pthread.h>

#include <utility>

namespace mycelium::repo {

WorkerPool::~WorkerPool() {
  std::vector<std::thread> threads;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    threads.swap(threads_);
  }
  changed_.NotifyAll();
  for (std::thread& thread : threads) thread.join();
}

bool WorkerPool::Schedule(std::function<void()> task) {
  MutexLock lock(mutex_);
  const bool has_thread = static_cast<int>(waiting_.size()) < idle_ ||
                          static_cast<int>(threads_.size()) < max_threads_;
  if (!has_thread && static_cast<int>(waiting_.size()) >= max_waiting_) {
    return false;
  }
  waiting_.push_back(std::move(task));
  if (static_cast<int>(waiting_.size()) > idle_ &&
      static_cast<int>(threads_.size()) < max_threads_) {
    threads_.emplace_back([this] { Run(); });
  } else {
    changed_.NotifyOne();
  }
  return true;
}

void WorkerPool::Run() {
  pthread_setname_np(pthread_self(), name_.c_str());
  while (true) {
    std::function<void()> task;
    {
      MutexLock lock(mutex_);
      ++idle_;
      while (waiting_.empty() && !stopping_) changed_.Wait(mutex_);
      --idle_;
      if (waiting_.empty()) return;
      task = std::move(waiting_.front());
      waiting_.pop_front();
    }
    task();
  }
}

}  // namespace mycelium::repo
