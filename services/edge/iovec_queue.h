#ifndef SERVICES_EDGE_IOVEC_QUEUE_H_
#define SERVICES_EDGE_IOVEC_QUEUE_H_

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdlib>

#include "absl/strings/string_view.h"

namespace mycelium::edge {

// Bytes on their way out, in memory that others own and must leave alone until
// they are written. Not thread-safe.
class IovecQueue {
 public:
  // A head and a trailer section, each of the most fields that are taken and
  // with every other field cut out, need 113.
  static constexpr int kCapacity = 128;

  bool empty() const { return first_ == last_; }
  size_t bytes() const { return bytes_; }

  void Clear() {
    first_ = last_ = 0;
    bytes_ = 0;
  }

  // Adjacent pieces become one.
  void Add(const char* data, size_t size) {
    if (size == 0) return;
    bytes_ += size;
    if (last_ > first_) {
      iovec& back = pieces_[last_ - 1];
      if (static_cast<const char*>(back.iov_base) + back.iov_len == data) {
        back.iov_len += size;
        return;
      }
    }
    // Never so, by the bound above; but a lost process is better than memory
    // that others own, written over.
    if (last_ == kCapacity) std::abort();
    pieces_[last_++] = {const_cast<char*>(data), size};
  }
  void Add(absl::string_view text) { Add(text.data(), text.size()); }

  const iovec* data() const { return &pieces_[first_]; }
  int count() const { return last_ - first_; }

  // `size` bytes were written.
  void Consume(size_t size) {
    bytes_ -= size;
    while (size > 0) {
      iovec& front = pieces_[first_];
      if (size < front.iov_len) {
        front.iov_base = static_cast<char*>(front.iov_base) + size;
        front.iov_len -= size;
        return;
      }
      size -= front.iov_len;
      ++first_;
    }
    if (first_ == last_) first_ = last_ = 0;
  }

 private:
  int first_ = 0;
  int last_ = 0;
  size_t bytes_ = 0;
  std::array<iovec, kCapacity> pieces_;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_IOVEC_QUEUE_H_
