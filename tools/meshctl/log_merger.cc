#include "tools/meshctl/log_merger.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "google/protobuf/timestamp.pb.h"

namespace mycelium::meshctl {
namespace {

constexpr size_t kMaxWaiting = 1024;

bool Before(const google::protobuf::Timestamp& a,
            const google::protobuf::Timestamp& b) {
  return a.seconds() != b.seconds() ? a.seconds() < b.seconds()
                                    : a.nanos() < b.nanos();
}

}  // namespace

void LogMerger::Open(const std::string& source) {
  const MutexLock lock(mutex_);
  sources_[source].open = true;
  changed_.NotifyAll();
}

bool LogMerger::Add(const std::string& source, agent::v1::LogLine line) {
  const MutexLock lock(mutex_);
  Source& into = sources_[source];
  while (!closed_ && into.lines.size() >= kMaxWaiting) changed_.Wait(mutex_);
  if (closed_) return false;
  if (into.lines.empty()) into.waiting_since = clock_.Monotonic();
  into.lines.push_back(std::move(line));
  changed_.NotifyAll();
  return true;
}

void LogMerger::Close(const std::string& source) {
  const MutexLock lock(mutex_);
  sources_[source].open = false;
  changed_.NotifyAll();
}

void LogMerger::CloseAll() {
  const MutexLock lock(mutex_);
  closed_ = true;
  changed_.NotifyAll();
}

std::map<std::string, LogMerger::Source>::iterator LogMerger::Oldest(
    absl::Duration now) {
  auto oldest = sources_.end();
  bool all_offer = true;
  for (auto at = sources_.begin(); at != sources_.end(); ++at) {
    Source& source = at->second;
    if (source.lines.empty()) {
      all_offer = all_offer && !source.open;
      continue;
    }
    if (oldest == sources_.end() ||
        Before(source.lines.front().time(),
               oldest->second.lines.front().time())) {
      oldest = at;
    }
  }
  if (oldest == sources_.end() || all_offer) return oldest;
  const bool waited_enough = now - oldest->second.waiting_since >= patience_;
  return waited_enough ? oldest : sources_.end();
}

std::optional<LogMerger::Line> LogMerger::Next(absl::Duration timeout) {
  const absl::Duration end = clock_.Monotonic() + timeout;
  const MutexLock lock(mutex_);
  while (true) {
    const absl::Duration now = clock_.Monotonic();
    const auto oldest = Oldest(now);
    if (oldest != sources_.end()) {
      Source& source = oldest->second;
      Line line = {oldest->first, std::move(source.lines.front())};
      source.lines.pop_front();
      source.waiting_since = now;
      changed_.NotifyAll();
      return line;
    }
    if (closed_ || Drained() || now >= end) return std::nullopt;
    // A line that only waits out its patience needs no notification.
    changed_.WaitFor(mutex_, std::min(end - now, absl::Milliseconds(20)));
  }
}

bool LogMerger::drained() const {
  const MutexLock lock(mutex_);
  return Drained();
}

bool LogMerger::Drained() const {
  return std::all_of(sources_.begin(), sources_.end(), [](const auto& entry) {
    return !entry.second.open && entry.second.lines.empty();
  });
}

}  // namespace mycelium::meshctl
