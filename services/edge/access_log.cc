#include "services/edge/access_log.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace mycelium::edge {
namespace {

void AppendString(absl::string_view key, absl::string_view value,
                  std::string* out) {
  absl::StrAppend(out, ",\"", key, "\":\"");
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out->push_back('\\');
      out->push_back(c);
    } else if (byte < 0x20 || byte >= 0x7f) {
      // Bytes, not characters: what is not ASCII need not be UTF-8.
      absl::StrAppendFormat(out, "\\u%04x", byte);
    } else {
      out->push_back(c);
    }
  }
  out->push_back('"');
}

}  // namespace

void AppendJson(const AccessRecord& record, std::string* out) {
  absl::StrAppend(out, "{\"ts\":\"",
                  absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ",
                                   absl::FromUnixMicros(record.start_us),
                                   absl::UTCTimeZone()),
                  "\"");
  AppendString("client", record.client.view(), out);
  AppendString("method", record.method.view(), out);
  AppendString("host", record.host.view(), out);
  AppendString("path", record.path.view(), out);
  AppendString("app", record.app.view(), out);
  AppendString("instance", record.instance.view(), out);
  absl::StrAppend(
      out, ",\"status\":", record.status, ",\"bytes_in\":", record.bytes_in,
      ",\"bytes_out\":", record.bytes_out, ",\"attempts\":", record.attempts,
      ",\"duration_us\":", record.duration_us);
  if (record.first_byte_us >= 0)
    absl::StrAppend(out, ",\"first_byte_us\":", record.first_byte_us);
  AppendString("request_id", record.request_id.view(), out);
  if (!record.tls.empty()) {
    AppendString("tls", record.tls, out);
    AppendString("sni", record.server_name.view(), out);
  }
  AppendString("end", record.end, out);
  out->append("}\n");
}

bool AccessLog::Queue::Push(const AccessRecord& record) {
  const uint64_t tail = tail_.load(std::memory_order_relaxed);
  if (tail - head_.load(std::memory_order_acquire) == slots_.size())
    return false;
  slots_[tail % slots_.size()] = record;
  tail_.store(tail + 1, std::memory_order_release);
  return true;
}

absl::StatusOr<std::unique_ptr<AccessLog>> AccessLog::Create(
    const std::string& path, int producers) {
  UniqueFd fd(path == "-"
                  ? fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3)
                  : open(path.c_str(),
                         O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644));
  if (!fd.valid()) {
    return ErrnoStatus(errno,
                       absl::StrCat("cannot open the access log ", path));
  }
  return std::unique_ptr<AccessLog>(new AccessLog(std::move(fd), producers));
}

AccessLog::AccessLog(UniqueFd fd, int producers) : fd_(std::move(fd)) {
  for (int i = 0; i < producers; ++i)
    queues_.push_back(std::make_unique<Queue>(kQueueCapacity));
  thread_ = std::thread([this] { Run(); });
}

AccessLog::~AccessLog() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
}

void AccessLog::Run() {
  std::string text;
  for (;;) {
    text.clear();
    if (Collect(&text)) {
      Write(text);
      continue;
    }
    // Producers do not notify: a wake-up per request would cost them a system
    // call. A line may be this late.
    MutexLock lock(mutex_);
    if (stopping_) return;
    changed_.WaitFor(mutex_, absl::Milliseconds(20));
  }
}

bool AccessLog::Collect(std::string* out) {
  constexpr uint64_t kBatch = 256;
  bool any = false;
  for (const std::unique_ptr<Queue>& queue : queues_) {
    uint64_t head = queue->head_.load(std::memory_order_relaxed);
    const uint64_t tail = queue->tail_.load(std::memory_order_acquire);
    for (uint64_t i = 0; i < kBatch && head != tail; ++i, ++head) {
      AppendJson(queue->slots_[head % queue->slots_.size()], out);
      any = true;
    }
    queue->head_.store(head, std::memory_order_release);
  }
  return any;
}

void AccessLog::Write(absl::string_view text) {
  // A pipe that nobody reads must not keep the process from ending.
  while (!text.empty()) {
    pollfd ready{fd_.get(), POLLOUT, 0};
    if (poll(&ready, 1, 100) == 0) {
      MutexLock lock(mutex_);
      if (!stopping_) continue;
      if (give_up_ == absl::InfiniteFuture())
        give_up_ = absl::Now() + absl::Seconds(1);
      if (absl::Now() < give_up_) continue;
      write_errors_.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    // PIPE_BUF bytes fit whenever a pipe polls writable, so this cannot block.
    const ssize_t written =
        write(fd_.get(), text.data(), text.size() < 4096 ? text.size() : 4096);
    if (written < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      write_errors_.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    text.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace mycelium::edge
