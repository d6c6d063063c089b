#ifndef SERVICES_EDGE_BUFFER_H_
#define SERVICES_EDGE_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace mycelium::edge {

// Blocks of two sizes, last in, first out, so that what is in use stays in the
// cache. One per thread; not thread-safe.
class BlockPool {
 public:
  static constexpr size_t kSmall = 4096;
  // The most that is buffered of one direction of one connection: 64 KiB of a
  // body and its head, which then need one read and one write.
  static constexpr size_t kLarge = (size_t{64} + 16) << 10;

  std::unique_ptr<char[]> Take(bool large) {
    auto& blocks = large ? large_ : small_;
    if (blocks.empty()) {
      return std::unique_ptr<char[]>(new char[large ? kLarge : kSmall]);
    }
    std::unique_ptr<char[]> block = std::move(blocks.back());
    blocks.pop_back();
    return block;
  }

  void Give(std::unique_ptr<char[]> block, bool large) {
    auto& blocks = large ? large_ : small_;
    if (blocks.size() < (large ? kLargeKept : kSmallKept))
      blocks.push_back(std::move(block));
  }

 private:
  // 5 MiB of large ones and 4 MiB of small ones at most stay with the thread.
  static constexpr size_t kLargeKept = 64;
  static constexpr size_t kSmallKept = 1024;

  std::vector<std::unique_ptr<char[]>> large_;
  std::vector<std::unique_ptr<char[]>> small_;
};

// Bytes that were received and not yet dealt with. Holds no memory while it is
// empty. Not thread-safe.
class Buffer {
 public:
  bool empty() const { return begin_ == end_; }
  size_t size() const { return end_ - begin_; }
  char* data() { return block_.get() + begin_; }
  absl::string_view view() const {
    return {block_.get() + begin_, end_ - begin_};
  }

  // Where the next bytes go: room_size() bytes at room(), at least `wanted`
  // unless the buffer is full at kLarge. May move what is held.
  void Reserve(BlockPool* pool, size_t wanted) {
    if (block_ == nullptr) {
      block_ = pool->Take(true);
      large_ = true;
      begin_ = end_ = 0;
      return;
    }
    if (empty()) begin_ = end_ = 0;
    if (room_size() >= wanted) return;
    if (!large_) {
      std::unique_ptr<char[]> block = pool->Take(true);
      std::memcpy(block.get(), data(), size());
      pool->Give(std::move(block_), false);
      block_ = std::move(block);
      large_ = true;
    } else if (begin_ > 0) {
      std::memmove(block_.get(), data(), size());
    }
    end_ -= begin_;
    begin_ = 0;
  }
  char* room() { return block_.get() + end_; }
  size_t room_size() const {
    return (large_ ? BlockPool::kLarge : BlockPool::kSmall) - end_;
  }
  void Added(size_t size) { end_ += static_cast<uint32_t>(size); }

  void Consume(size_t size) { begin_ += static_cast<uint32_t>(size); }

  // Cuts `size` bytes out at `at`: what is behind them moves up.
  void Erase(size_t at, size_t size) {
    if (size == 0) return;
    std::memmove(data() + at, data() + at + size, this->size() - at - size);
    end_ -= static_cast<uint32_t>(size);
  }

  // Gives back memory that is not needed: all of it when empty, the large
  // block when a small one does. Moves what is held.
  void Settle(BlockPool* pool) {
    if (block_ == nullptr) return;
    if (empty()) {
      pool->Give(std::move(block_), large_);
      begin_ = end_ = 0;
      return;
    }
    if (large_ && size() <= BlockPool::kSmall) {
      std::unique_ptr<char[]> block = pool->Take(false);
      std::memcpy(block.get(), data(), size());
      pool->Give(std::move(block_), true);
      block_ = std::move(block);
      large_ = false;
      end_ -= begin_;
      begin_ = 0;
    }
  }

  void Release(BlockPool* pool) {
    begin_ = end_;
    Settle(pool);
  }

 private:
  std::unique_ptr<char[]> block_;
  uint32_t begin_ = 0;
  uint32_t end_ = 0;
  bool large_ = false;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_BUFFER_H_
