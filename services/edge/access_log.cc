#include "services/edge/access_log.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "glog/logging.h"
#include "lib/base/status_macros.h"

namespace mycelium::edge {
namespace {

constexpr absl::string_view kHex = "0123456789abcdef";
// Of lines that are written at once, and what one line may take at most: all of
// its text escaped, and its numbers.
constexpr size_t kBatchBytes = size_t{256} << 10;
constexpr size_t kMaxLineBytes = size_t{8} << 10;

// Whether a byte stands for itself in a JSON string.
constexpr bool IsPlain(unsigned char byte) {
  return byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\';
}

// The size of the UTF-8 sequence that `text` begins with; 0: it is none.
size_t SequenceSize(absl::string_view text) {
  const auto byte = [text](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i])
                           : static_cast<unsigned char>(0);
  };
  const auto follows = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  const unsigned char first = byte(0);
  if (first >= 0xc2 && first <= 0xdf) return follows(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    // Neither overlong forms nor surrogates.
    if ((first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) > 0x9f))
      return 0;
    return follows(1) && follows(2) ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    if ((first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) > 0x8f))
      return 0;
    return follows(1) && follows(2) && follows(3) ? 4 : 0;
  }
  return 0;
}

// `2023-11-14T22:13:20.` of a second of the Unix epoch.
void FormatSecond(int64_t second, std::array<char, 20>* out) {
  const time_t time = second;
  tm parts{};
  gmtime_r(&time, &parts);
  std::array<char, 32> text{};
  strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S.", &parts);
  std::copy_n(text.begin(), out->size(), out->begin());
}

void AppendString(absl::string_view key, absl::string_view value,
                  std::string* out) {
  out->append(key.data(), key.size());
  size_t begin = 0;
  for (size_t i = 0; i < value.size();) {
    const auto byte = static_cast<unsigned char>(value[i]);
    if (IsPlain(byte)) {
      ++i;
      continue;
    }
    out->append(value.data() + begin, i - begin);
    begin = i + 1;
    if (byte == '"' || byte == '\\') {
      out->push_back('\\');
      out->push_back(value[i]);
    } else if (byte < 0x80) {
      out->append("\\u00");
      out->push_back(kHex[byte >> 4]);
      out->push_back(kHex[byte & 15]);
    } else if (const size_t size = SequenceSize(value.substr(i)); size > 0) {
      out->append(value.data() + i, size);
      begin = i + size;
    } else {
      out->append("\\ufffd");
    }
    i = begin;
  }
  out->append(value.data() + begin, value.size() - begin);
  out->push_back('"');
}

}  // namespace

void AccessFormatter::Append(const AccessRecord& record, std::string* out) {
  // A time is a cached second and six digits: formatting it whole would cost
  // more than the rest of the line.
  int64_t micros = record.start_us % 1'000'000;
  int64_t second = record.start_us / 1'000'000;
  if (micros < 0) {
    micros += 1'000'000;
    --second;
  }
  if (second != second_) {
    second_ = second;
    FormatSecond(second, &time_);
  }
  out->append("{\"ts\":\"");
  out->append(time_.data(), time_.size());
  std::array<char, 6> digits;
  for (size_t i = digits.size(); i-- > 0; micros /= 10)
    digits[i] = static_cast<char>('0' + micros % 10);
  out->append(digits.data(), digits.size());
  AppendString("Z\",\"client\":\"", record.client.view(), out);
  AppendString(",\"method\":\"", record.method, out);
  AppendString(",\"host\":\"", record.host.view(), out);
  AppendString(",\"path\":\"", record.path.view(), out);
  AppendString(",\"app\":\"", record.app.view(), out);
  AppendString(",\"instance\":\"", record.instance.view(), out);
  absl::StrAppend(out, ",\"status\":", record.status,
                  ",\"bytes_in\":", record.bytes_in);
  absl::StrAppend(out, ",\"bytes_out\":", record.bytes_out,
                  ",\"attempts\":", record.attempts);
  absl::StrAppend(out, ",\"duration_us\":", record.duration_us);
  if (record.first_byte_us >= 0)
    absl::StrAppend(out, ",\"first_byte_us\":", record.first_byte_us);
  AppendString(",\"request_id\":\"", record.request_id.view(), out);
  if (!record.tls.empty()) {
    AppendString(",\"tls\":\"", record.tls, out);
    AppendString(",\"sni\":\"", record.server_name.view(), out);
  }
  if (record.traced) {
    AppendString(",\"trace_id\":\"",
                 {record.trace_id.data(), record.trace_id.size()}, out);
  }
  if (record.skipped > 0)
    absl::StrAppend(out, ",\"skipped_lines\":", record.skipped);
  if (record.dropped > 0)
    absl::StrAppend(out, ",\"dropped_lines\":", record.dropped);
  AppendString(",\"end\":\"", record.end, out);
  out->append("}\n");
}

bool LogSampler::Take(bool failed, int64_t now_ms) {
  if (!failed && options_.sample < 1) {
    // xorshift64: good enough to be in step with nobody's requests.
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    if (static_cast<double>(random_ >> 11) * 0x1p-53 >= options_.sample)
      return false;
  }
  if (options_.max_per_second == 0) return true;
  if (now_ms / 1000 != second_) {
    second_ = now_ms / 1000;
    taken_ = taken_failed_ = 0;
  }
  int64_t& taken = failed ? taken_failed_ : taken_;
  if (taken == options_.max_per_second) return false;
  ++taken;
  return true;
}

bool AccessLog::Queue::Push(const AccessRecord& record) {
  const uint64_t tail = tail_.load(std::memory_order_relaxed);
  if (tail - head_.load(std::memory_order_acquire) == slots_.size())
    return false;
  slots_[tail % slots_.size()] = record;
  tail_.store(tail + 1, std::memory_order_release);
  return true;
}

namespace {

absl::StatusOr<UniqueFd> OpenLog(const std::string& path) {
  // Without O_NONBLOCK, opening a pipe would wait for its reader.
  UniqueFd fd(path == "-"
                  ? fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3)
                  : open(path.c_str(),
                         O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK,
                         0644));
  if (!fd.valid()) {
    return ErrnoStatus(errno,
                       absl::StrCat("cannot open the access log ", path));
  }
  return fd;
}

bool IsRegular(const UniqueFd& fd) {
  struct stat info {};
  return fstat(fd.get(), &info) == 0 && S_ISREG(info.st_mode);
}

}  // namespace

absl::StatusOr<std::unique_ptr<AccessLog>> AccessLog::Create(
    const std::string& path, int producers) {
  MYC_ASSIGN_OR_RETURN(UniqueFd fd, OpenLog(path));
  return std::unique_ptr<AccessLog>(
      new AccessLog(path, std::move(fd), producers));
}

AccessLog::AccessLog(std::string path, UniqueFd fd, int producers)
    : path_(std::move(path)), fd_(std::move(fd)), regular_(IsRegular(fd_)) {
  for (int i = 0; i < producers; ++i)
    queues_.push_back(std::make_unique<Queue>(kQueueCapacity));
  thread_ = std::thread([this] { Run(); });
}

void AccessLog::OpenAgain() {
  if (path_ == "-") return;
  absl::StatusOr<UniqueFd> fd = OpenLog(path_);
  if (!fd.ok()) {
    LOG(WARNING) << fd.status().message() << "; going on with the old one";
    return;
  }
  fd_ = *std::move(fd);
  regular_ = IsRegular(fd_);
  torn_ = false;
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
  text.reserve(kBatchBytes);
  for (;;) {
    if (reopen_.exchange(false, std::memory_order_relaxed)) OpenAgain();
    text.clear();
    if (torn_) text.push_back('\n');
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
  // Of one queue, before the next has its turn.
  constexpr uint64_t kBatch = 256;
  bool any = false;
  // The buffer may be full before all had their turn: begin with another one
  // each time.
  ++first_queue_;
  for (size_t i = 0; i < queues_.size(); ++i) {
    Queue* const queue = queues_[(first_queue_ + i) % queues_.size()].get();
    uint64_t head = queue->head_.load(std::memory_order_relaxed);
    const uint64_t tail = queue->tail_.load(std::memory_order_acquire);
    for (uint64_t j = 0; j < kBatch && head != tail; ++j, ++head) {
      if (out->size() + kMaxLineBytes > kBatchBytes) break;
      formatter_.Append(queue->slots_[head % queue->slots_.size()], out);
      any = true;
    }
    queue->head_.store(head, std::memory_order_release);
  }
  return any;
}

void AccessLog::Lose(absl::string_view text) {
  // The end of a line that was torn is no line.
  if (torn_ && text.front() == '\n') text.remove_prefix(1);
  write_errors_.fetch_add(std::count(text.begin(), text.end(), '\n'),
                          std::memory_order_relaxed);
}

void AccessLog::Write(absl::string_view text) {
  while (!text.empty()) {
    pollfd ready{fd_.get(), POLLOUT, 0};
    if (!regular_ && poll(&ready, 1, 100) == 0) {
      if (reopen_.exchange(false, std::memory_order_relaxed)) OpenAgain();
      // A pipe that nobody reads must not keep the process from ending.
      MutexLock lock(mutex_);
      if (!stopping_) continue;
      if (give_up_ == absl::InfiniteFuture())
        give_up_ = absl::Now() + absl::Seconds(1);
      if (absl::Now() < give_up_) continue;
      return Lose(text);
    }
    // Standard output is shared, and so may block: PIPE_BUF bytes fit whenever
    // a pipe polls writable.
    const size_t size = regular_ || path_ != "-"
                            ? text.size()
                            : std::min<size_t>(text.size(), PIPE_BUF);
    const ssize_t written = write(fd_.get(), text.data(), size);
    if (written < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (written <= 0) return Lose(text);
    torn_ = text[static_cast<size_t>(written) - 1] != '\n';
    text.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace mycelium::edge
