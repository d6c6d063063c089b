// Lines of several logs in the order of their times.

#ifndef TOOLS_MESHCTL_LOG_MERGER_H_
#define TOOLS_MESHCTL_LOG_MERGER_H_

#include <cstddef>
#include <deque>
#include <map>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/base/mutex.h"
#include "mycelium/agent/v1/agent.pb.h"

namespace mycelium::meshctl {

// Merges streams, each of which is in order by itself. While a stream that is
// open has nothing to offer, its next line might be older than all others, so
// lines wait for it, but never longer than `patience`. Memory is bounded:
// streams that are ahead wait. Thread-safe.
class LogMerger {
 public:
  struct Line {
    std::string source;
    agent::v1::LogLine line;
  };

  // `clock` must outlive the merger.
  LogMerger(Clock* clock, absl::Duration patience)
      : clock_(*clock), patience_(patience) {}

  // Opens a stream. A name may be opened again after it was closed.
  void Open(const std::string& source);

  // Adds the next line of an open stream, waiting while it has 1024 of them
  // that nobody took. False once the merger is closed.
  bool Add(const std::string& source, agent::v1::LogLine line);

  // Ends a stream; what it has added is still merged.
  void Close(const std::string& source);

  // Ends everything: Add returns false from now on, and Next nothing.
  void CloseAll();

  // The next line, waiting for it up to `timeout`. Nothing when the time is up,
  // or when every stream is closed and all lines are taken.
  std::optional<Line> Next(absl::Duration timeout);

  // Whether every stream is closed and all lines are taken.
  bool drained() const;

 private:
  struct Source {
    bool open = true;
    std::deque<agent::v1::LogLine> lines;
    // When the first of the lines came to be the first.
    absl::Duration waiting_since;
  };

  // The source whose line may be taken now, or null.
  std::map<std::string, Source>::iterator Oldest(absl::Duration now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Drained() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Clock& clock_;
  const absl::Duration patience_;

  mutable Mutex mutex_;
  CondVar changed_;
  std::map<std::string, Source> sources_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_LOG_MERGER_H_
