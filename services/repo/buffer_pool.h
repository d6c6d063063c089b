#ifndef SERVICES_REPO_BUFFER_POOL_H_
#define SERVICES_REPO_BUFFER_POOL_H_

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "lib/base/mutex.h"

namespace mycelium::repo {

// Buffers of one size that are used again: fresh ones of this size come from
// the kernel page by page, and that costs more than filling them. Thread-safe.
class BufferPool {
 public:
  // Keeps at most `max_kept` buffers that are not in use.
  BufferPool(size_t buffer_bytes, size_t max_kept)
      : buffer_bytes_(buffer_bytes), max_kept_(max_kept) {}

  size_t buffer_bytes() const { return buffer_bytes_; }

  // Its contents are what was there before.
  std::unique_ptr<char[]> Get() {
    {
      MutexLock lock(mutex_);
      if (!kept_.empty()) {
        std::unique_ptr<char[]> buffer = std::move(kept_.back());
        kept_.pop_back();
        return buffer;
      }
    }
    return std::unique_ptr<char[]>(new char[buffer_bytes_]);
  }

  void Return(std::unique_ptr<char[]> buffer) {
    MutexLock lock(mutex_);
    if (kept_.size() < max_kept_) kept_.push_back(std::move(buffer));
  }

 private:
  const size_t buffer_bytes_;
  const size_t max_kept_;

  Mutex mutex_;
  std::vector<std::unique_ptr<char[]>> kept_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mycelium::repo

#endif  // SERVICES_REPO_BUFFER_POOL_H_
