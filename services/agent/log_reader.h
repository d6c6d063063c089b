#ifndef SERVICES_AGENT_LOG_READER_H_
#define SERVICES_AGENT_LOG_READER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/file.h"
#include "services/agent/log_line.h"
#include "services/agent/log_store.h"

namespace mycelium::agent {

// Which lines are wanted.
struct LogFilter {
  absl::Time since = absl::InfinitePast();
  // All streams if unset.
  std::optional<LogStream> stream;
};

// The lines of one instance that are wanted.
struct LogSource {
  std::string instance_id;
  std::string app_name;
  // Only those of this run of its process; of all if 0.
  int64_t run = 0;
};

// Reads the lines of any number of instances, merged in the order of their
// times, with memory that does not depend on how many there are. What is
// rotated away while it reads is left out. Not thread-safe.
class LogReader {
 public:
  struct Line {
    absl::Time time;
    LogStream stream = LogStream::kOut;
    std::string text;
    const LogSource* source = nullptr;  // Owned by the reader.
  };

  // `store` must outlive the reader.
  LogReader(const LogStore* store, const LogFilter& filter);
  ~LogReader();

  // Adds an instance, from its first line on. One that is there already is
  // ignored.
  void AddSource(LogSource source);
  bool HasSource(absl::string_view instance_id) const;

  // Leaves out all present lines but the last `lines`; -1 keeps all. To be
  // called after the sources were added and before the first Read.
  void KeepTail(int64_t lines);

  // The next lines, until their texts have `max_bytes` together. Empty: there
  // are no more at present.
  std::vector<Line> Read(int64_t max_bytes);

 private:
  class Cursor;

  // The cursor whose next line comes first; null if none has one.
  Cursor* Earliest();

  const LogStore& store_;
  const LogFilter filter_;
  std::vector<std::unique_ptr<Cursor>> cursors_;
  int64_t skip_ = 0;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_LOG_READER_H_
