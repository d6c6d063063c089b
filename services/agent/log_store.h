#ifndef SERVICES_AGENT_LOG_STORE_H_
#define SERVICES_AGENT_LOG_STORE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"
#include "lib/base/mutex.h"
#include "services/agent/log_line.h"

namespace mycelium::agent {

struct LogStoreOptions {
  // Each instance keeps this many files of this size, and then the newest.
  int64_t max_file_bytes = int64_t{10} << 20;
  int max_files = 10;
  // What all instances together may keep; beyond it, those that stopped first
  // lose theirs first.
  int64_t max_total_bytes = int64_t{4} << 30;
  // How long the lines of an instance are kept after the last one.
  absl::Duration max_age = absl::Hours(24);
};

// The lines that instances wrote, in files below one directory, rotated by
// size. A disk that cannot be written to costs lines, which are counted, and
// nothing else. Thread-safe.
class LogStore {
 public:
  // `clock` must outlive the store.
  static absl::StatusOr<std::unique_ptr<LogStore>> Open(
      const std::string& directory, const LogStoreOptions& options,
      Clock* clock);

  // Appends lines of an instance, which come into the files in this order.
  void Append(const std::string& instance_id,
              const std::vector<LogLine>& lines);

  // Appends a remark of the agent.
  void AppendRemark(const std::string& instance_id, int64_t run,
                    absl::string_view text);

  // The files of an instance that exist, oldest first, as (number, path).
  struct File {
    int64_t number;
    std::string path;
  };
  std::vector<File> FilesOf(const std::string& instance_id) const;

  // Closes what is open for an instance that has stopped.
  void Close(const std::string& instance_id);

  // Deletes what is too old or too much. `running` says whether an instance may
  // still write; those are kept.
  void Prune(const std::function<bool(const std::string&)>& running);

  // Counts the appends. WaitForChange returns when it is not `seen` any more,
  // after `timeout` at the latest.
  uint64_t change_count() const;
  void WaitForChange(uint64_t seen, absl::Duration timeout) const;

  // Lines that were lost because they could not be written.
  int64_t dropped() const;

 private:
  struct Writer {
    UniqueFd fd;
    int64_t number = 0;
    int64_t size = 0;
    int64_t dropped = 0;
    LogLineFormatter formatter;
  };

  LogStore(std::string directory, const LogStoreOptions& options, Clock* clock);

  std::string DirectoryOf(const std::string& instance_id) const;
  // Opens the file that the next `bytes` go to.
  absl::Status Prepare(const std::string& instance_id, int64_t bytes,
                       Writer& writer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Write(const std::string& instance_id, absl::string_view text,
                     Writer& writer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string directory_;
  const LogStoreOptions options_;
  Clock& clock_;

  mutable Mutex mutex_;
  mutable CondVar changed_;
  std::map<std::string, Writer> writers_ ABSL_GUARDED_BY(mutex_);
  uint64_t changes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t dropped_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_LOG_STORE_H_
