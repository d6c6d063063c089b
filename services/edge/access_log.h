#ifndef SERVICES_EDGE_ACCESS_LOG_H_
#define SERVICES_EDGE_ACCESS_LOG_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/file.h"
#include "lib/base/mutex.h"

namespace mycelium::edge {

// A piece of text of bounded size; longer text is cut.
template <size_t N>
class ShortText {
 public:
  void Set(absl::string_view text) {
    size_ = static_cast<uint16_t>(text.size() < N ? text.size() : N);
    text.copy(bytes_.data(), size_);
  }
  void Clear() { size_ = 0; }
  absl::string_view view() const { return {bytes_.data(), size_}; }

 private:
  uint16_t size_ = 0;
  std::array<char, N> bytes_;
};

// What the access log says about one request. No pointers but to constants.
struct AccessRecord {
  int64_t start_us = 0;  // Of the Unix epoch.
  int64_t duration_us = 0;
  int64_t first_byte_us = -1;  // From the start; -1: the origin sent none.
  int64_t bytes_in = 0;        // Of the request, head included.
  int64_t bytes_out = 0;
  int16_t status = 0;    // 0: no response was sent.
  int16_t attempts = 0;  // Connections that the request was tried on.
  // Who ended the request and why, such as "origin.complete",
  // "client.disconnected", "edge.unknown_app". A constant.
  absl::string_view end;
  ShortText<16> method;
  ShortText<48> client;
  ShortText<64> app;
  ShortText<64> instance;
  ShortText<64> request_id;
  ShortText<64> host;
  ShortText<256> path;
  absl::string_view tls;      // Such as "TLSv1.3", a constant; empty: none.
  ShortText<64> server_name;  // That the client named in its handshake.
};

// `record` as one line of JSON, newline included. Whatever bytes it holds, the
// line is valid.
void AppendJson(const AccessRecord& record, std::string* out);

// Writes records to a file, a pipe or standard output on a thread of its own.
// Each producer has a bounded queue; when it is full, which a slow disk or a
// blocked pipe can cause, records are dropped and counted: requests never wait.
class AccessLog {
 public:
  // One producer's end. Push may be called by one thread at a time.
  class Queue {
   public:
    explicit Queue(size_t capacity) : slots_(capacity) {}

    // False: the queue is full and the record was dropped.
    bool Push(const AccessRecord& record);

   private:
    friend class AccessLog;

    std::vector<AccessRecord> slots_;
    alignas(64) std::atomic<uint64_t> head_{0};  // Next to be read.
    alignas(64) std::atomic<uint64_t> tail_{0};  // Next to be written.
  };

  static constexpr size_t kQueueCapacity = 2048;

  // `path` is a file to append to, or "-" for standard output.
  static absl::StatusOr<std::unique_ptr<AccessLog>> Create(
      const std::string& path, int producers);

  // Writes what is queued, for a second at most, and stops.
  ~AccessLog();

  Queue* queue(int producer) {
    return queues_[static_cast<size_t>(producer)].get();
  }

  // Lines that could not be written because of an error.
  int64_t write_errors() const {
    return write_errors_.load(std::memory_order_relaxed);
  }

 private:
  AccessLog(UniqueFd fd, int producers);

  void Run();
  // Moves a batch of every queue into `out`; false if all were empty.
  bool Collect(std::string* out);
  void Write(absl::string_view text);

  UniqueFd fd_;
  absl::Time give_up_ = absl::InfiniteFuture();  // Used by Run's thread only.
  std::vector<std::unique_ptr<Queue>> queues_;
  std::atomic<int64_t> write_errors_{0};

  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_ACCESS_LOG_H_
