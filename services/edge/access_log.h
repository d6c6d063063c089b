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
  absl::string_view method;  // A constant.
  // Lines that the same producer left out since its last one: by sampling or
  // rate, and because its queue was full.
  uint32_t skipped = 0;
  uint32_t dropped = 0;
  bool traced = false;
  std::array<char, 32> trace_id{};  // If traced.
  ShortText<48> client;
  ShortText<64> app;
  ShortText<64> instance;
  ShortText<64> request_id;
  ShortText<64> host;
  ShortText<256> path;
  absl::string_view tls;      // Such as "TLSv1.3", a constant; empty: none.
  ShortText<64> server_name;  // That the client named in its handshake.
};

// Formats records as lines of JSON. Not thread-safe.
class AccessFormatter {
 public:
  // Appends `record` as one line, newline included. Whatever bytes it holds,
  // the line is valid JSON in UTF-8: control bytes and quotes are escaped, and
  // each byte that is no UTF-8 is a U+FFFD.
  void Append(const AccessRecord& record, std::string* out);

 private:
  int64_t second_ = -1;  // That time_ says.
  std::array<char, 20> time_;
};

// Decides which requests of one producer have a line. Not thread-safe.
class LogSampler {
 public:
  struct Options {
    // Lines per second of requests that went well, and as many again of those
    // that did not; 0: any number.
    int64_t max_per_second = 0;
    // Share of the requests that went well, 0 to 1.
    double sample = 1;
  };

  LogSampler() = default;
  explicit LogSampler(const Options& options) : options_(options) {}

  // Whether a request that ended at `now_ms`, of any clock that does not go
  // back, gets a line. `failed`: it is kept whatever the share is.
  bool Take(bool failed, int64_t now_ms);

 private:
  Options options_;
  int64_t second_ = -1;
  int64_t taken_ = 0;  // In this second.
  int64_t taken_failed_ = 0;
  uint64_t random_ = 0x9e3779b97f4a7c15;
};

// Writes records to a file, a pipe or standard output on a thread of its own.
// Each producer has a bounded queue; when it is full, which a slow disk or a
// blocked pipe can cause, records are dropped and counted: requests never wait.
// Thread-safe.
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

  // `path` is a file to append to, a pipe that is being read, or "-" for
  // standard output.
  static absl::StatusOr<std::unique_ptr<AccessLog>> Create(
      const std::string& path, int producers);

  // Writes what is queued, for a second at most, and stops.
  ~AccessLog();

  Queue* queue(int producer) {
    return queues_[static_cast<size_t>(producer)].get();
  }

  // Opens the path anew, soon: what is queued goes to the new file. If it
  // cannot be opened, lines go on to the old one. Standard output stays.
  void Reopen() { reopen_.store(true, std::memory_order_relaxed); }

  // Lines that could not be written because of an error, such as a full disk.
  int64_t write_errors() const {
    return write_errors_.load(std::memory_order_relaxed);
  }

 private:
  AccessLog(std::string path, UniqueFd fd, int producers);

  void Run();
  void OpenAgain();
  // Moves a batch of every queue into `out`; false if all were empty.
  bool Collect(std::string* out);
  void Write(absl::string_view text);
  void Lose(absl::string_view text);

  const std::string path_;
  UniqueFd fd_;           // This and what follows: of Run's thread.
  bool regular_ = false;  // A file, which is never waited for.
  bool torn_ = false;     // The last line was not written to its end.
  AccessFormatter formatter_;
  size_t first_queue_ = 0;
  absl::Time give_up_ = absl::InfiniteFuture();
  std::vector<std::unique_ptr<Queue>> queues_;
  std::atomic<int64_t> write_errors_{0};
  std::atomic<bool> reopen_{false};

  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_ACCESS_LOG_H_
