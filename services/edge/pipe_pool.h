#ifndef SERVICES_EDGE_PIPE_POOL_H_
#define SERVICES_EDGE_PIPE_POOL_H_

#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "lib/base/file.h"

namespace mycelium::edge {

// A pipe through which the kernel moves bytes from one socket to another
// without copying them (splice).
struct Pipe {
  UniqueFd out;      // To read from.
  UniqueFd in;       // To write to.
  size_t bytes = 0;  // In it.
};

// Pipes that are made once and used again, last in, first out. Not
// thread-safe.
class PipePool {
 public:
  // The most that a pipe is asked to hold.
  static constexpr size_t kPipeBytes = size_t{256} << 10;

  // `limit` bounds the pipes that are out and kept together.
  explicit PipePool(int limit) : limit_(limit) {}

  // Empty; nullptr if all are in use, or the process is out of descriptors.
  std::unique_ptr<Pipe> Take() {
    if (!free_.empty()) {
      std::unique_ptr<Pipe> pipe = std::move(free_.back());
      free_.pop_back();
      return pipe;
    }
    if (made_ == limit_) return nullptr;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return nullptr;
    auto pipe = std::make_unique<Pipe>();
    pipe->out = UniqueFd(ends[0]);
    pipe->in = UniqueFd(ends[1]);
    // A user may be short of pipe memory; a smaller pipe only takes more turns.
    fcntl(ends[1], F_SETPIPE_SZ, static_cast<int>(kPipeBytes));
    ++made_;
    return pipe;
  }

  // Closes a pipe with bytes left: they are of one connection alone.
  void Give(std::unique_ptr<Pipe> pipe) {
    if (pipe->bytes > 0) {
      --made_;
      return;
    }
    free_.push_back(std::move(pipe));
  }

 private:
  const int limit_;
  int made_ = 0;
  std::vector<std::unique_ptr<Pipe>> free_;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_PIPE_POOL_H_
