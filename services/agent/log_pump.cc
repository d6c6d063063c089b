#include "services/agent/log_pump.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "services/agent/utf8_text.h"

namespace mycelium::agent {
namespace {

constexpr size_t kReadBytes = size_t{64} << 10;
// What one pipe may deliver before the others get their turn, and what Finish
// takes at most: more than a pipe holds.
constexpr size_t kTurnBytes = size_t{256} << 10;
constexpr size_t kFinishBytes = size_t{2} << 20;
// A last line is a hint for people, not the log.
constexpr size_t kMaxLastLineBytes = 512;

}  // namespace

struct LogPump::Pipe {
  std::string instance_id;
  int64_t run = 0;
  LogStream stream = LogStream::kOut;
  UniqueFd fd;
  std::string partial;  // A line without its end yet.
  std::vector<std::string> lines;
  std::deque<std::string> last_lines;
};

struct LogPump::Finishing {
  const std::string* instance_id;
  int64_t run;
  std::vector<std::string> last_lines;
  bool done = false;
};

absl::StatusOr<std::unique_ptr<LogPump>> LogPump::Start(LogStore* store,
                                                        Clock* clock) {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll.valid() || !wake.valid()) {
    return ErrnoStatus(errno, "cannot watch the pipes of instances");
  }
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.fd = wake.get();
  if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &event) != 0) {
    return ErrnoStatus(errno, "cannot watch the pipes of instances");
  }
  return std::unique_ptr<LogPump>(
      new LogPump(store, clock, std::move(epoll), std::move(wake)));
}

LogPump::LogPump(LogStore* store, Clock* clock, UniqueFd epoll, UniqueFd wake)
    : store_(*store),
      clock_(*clock),
      epoll_(std::move(epoll)),
      wake_(std::move(wake)) {
  buffer_.resize(kReadBytes);
  thread_ = std::thread([this] { Run(); });
}

LogPump::~LogPump() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  Wake();
  thread_.join();
}

void LogPump::Add(const std::string& instance_id, int64_t run, UniqueFd out,
                  UniqueFd err) {
  const auto make = [&](LogStream stream, UniqueFd fd) {
    fcntl(fd.get(), F_SETFL, O_NONBLOCK);
    auto pipe = std::make_unique<Pipe>();
    pipe->instance_id = instance_id;
    pipe->run = run;
    pipe->stream = stream;
    pipe->fd = std::move(fd);
    return pipe;
  };
  {
    MutexLock lock(mutex_);
    added_.push_back(make(LogStream::kOut, std::move(out)));
    added_.push_back(make(LogStream::kErr, std::move(err)));
  }
  Wake();
}

std::vector<std::string> LogPump::Finish(const std::string& instance_id,
                                         int64_t run) {
  Finishing finishing = {
      .instance_id = &instance_id, .run = run, .last_lines = {}};
  {
    MutexLock lock(mutex_);
    finishing_.push_back(&finishing);
  }
  Wake();
  MutexLock lock(mutex_);
  while (!finishing.done) done_.Wait(mutex_);
  return std::move(finishing.last_lines);
}

void LogPump::Run() {
  constexpr int kMaxEvents = 64;
  epoll_event events[kMaxEvents];
  while (true) {
    const int count = epoll_wait(epoll_.get(), events, kMaxEvents, -1);
    for (int i = 0; i < count; ++i) {
      if (events[i].data.fd == wake_.get()) continue;
      const auto pipe = pipes_.find(events[i].data.fd);
      if (pipe == pipes_.end()) continue;
      if (!Drain(*pipe->second, kTurnBytes)) {
        Flush(*pipe->second);
        // Kept for Finish, which wants the last lines.
        epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, pipe->first, nullptr);
      }
    }
    TakeCommands();
    // After TakeCommands(): it may have taken the very wake-up that says stop.
    MutexLock lock(mutex_);
    if (stopping_ && finishing_.empty()) return;
  }
}

void LogPump::TakeCommands() {
  uint64_t ignored = 0;
  while (read(wake_.get(), &ignored, sizeof(ignored)) > 0) {
  }
  std::deque<std::unique_ptr<Pipe>> added;
  std::deque<Finishing*> finishing;
  {
    MutexLock lock(mutex_);
    added.swap(added_);
    finishing.swap(finishing_);
  }
  for (std::unique_ptr<Pipe>& pipe : added) {
    const int fd = pipe->fd.get();
    epoll_event event = {};
    event.events = EPOLLIN;
    event.data.fd = fd;
    epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
    pipes_[fd] = std::move(pipe);
  }
  for (Finishing* const finished : finishing) {
    for (auto entry = pipes_.begin(); entry != pipes_.end();) {
      Pipe& pipe = *entry->second;
      if (pipe.run != finished->run ||
          pipe.instance_id != *finished->instance_id) {
        ++entry;
        continue;
      }
      Drain(pipe, kFinishBytes);
      Flush(pipe);
      if (pipe.stream == LogStream::kErr) {
        finished->last_lines.assign(pipe.last_lines.begin(),
                                    pipe.last_lines.end());
      }
      entry = pipes_.erase(entry);
    }
  }
  MutexLock lock(mutex_);
  for (Finishing* const finished : finishing) finished->done = true;
  done_.NotifyAll();
}

bool LogPump::Drain(Pipe& pipe, size_t max_bytes) {
  size_t total = 0;
  while (total < max_bytes) {
    const ssize_t count = read(pipe.fd.get(), buffer_.data(), buffer_.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return true;
    if (count <= 0) return false;
    Take(pipe, absl::string_view(buffer_.data(), count));
    total += count;
  }
  return true;
}

void LogPump::Take(Pipe& pipe, absl::string_view bytes) {
  const absl::Time now = clock_.Now();
  // Lines that are whole in `bytes` are not copied.
  std::string head;
  std::vector<LogLine> lines;
  const auto add = [&](absl::string_view text) {
    lines.push_back(
        {.time = now, .run = pipe.run, .stream = pipe.stream, .text = text});
  };
  if (!pipe.partial.empty()) {
    const size_t end = bytes.find('\n');
    const size_t room = kMaxLineBytes - pipe.partial.size();
    const size_t taken = std::min({end, room, bytes.size()});
    pipe.partial.append(bytes.data(), taken);
    bytes.remove_prefix(taken);
    const bool ended = !bytes.empty() && bytes.front() == '\n';
    if (ended) bytes.remove_prefix(1);
    if (ended || pipe.partial.size() >= kMaxLineBytes) {
      head.swap(pipe.partial);
      add(head);
    }
  }
  while (!bytes.empty() && pipe.partial.empty()) {
    const size_t end = bytes.find('\n');
    if (end <= kMaxLineBytes) {
      add(bytes.substr(0, end));
      bytes.remove_prefix(end + 1);
    } else if (bytes.size() >= kMaxLineBytes) {
      add(bytes.substr(0, kMaxLineBytes));
      bytes.remove_prefix(kMaxLineBytes);
    } else {
      pipe.partial = std::string(bytes);
    }
  }
  if (pipe.stream == LogStream::kErr) {
    const size_t first =
        lines.size() > kLastLines ? lines.size() - kLastLines : 0;
    for (size_t i = first; i < lines.size(); ++i) {
      pipe.last_lines.push_back(
          ToValidUtf8(lines[i].text.substr(0, kMaxLastLineBytes)));
      if (pipe.last_lines.size() > kLastLines) pipe.last_lines.pop_front();
    }
  }
  store_.Append(pipe.instance_id, lines);
}

void LogPump::Flush(Pipe& pipe) {
  if (pipe.partial.empty()) return;
  // The end of the stream ends its last line.
  Take(pipe, "\n");
}

void LogPump::Wake() {
  const uint64_t one = 1;
  // A full counter wakes as well.
  [[maybe_unused]] const ssize_t written =
      write(wake_.get(), &one, sizeof(one));
}

}  // namespace mycelium::agent
