#include "services/agent/log_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "lib/base/status_macros.h"

namespace mycelium::agent {
namespace {

constexpr absl::string_view kSuffix = ".log";

std::string FileName(int64_t number) {
  return absl::StrCat(absl::Dec(number, absl::kZeroPad8), kSuffix);
}

// The files in the directory of one instance, oldest first.
std::vector<LogStore::File> FilesIn(const std::string& directory) {
  std::vector<LogStore::File> files;
  const absl::StatusOr<std::vector<std::string>> names =
      ListDirectory(directory);
  if (!names.ok()) return files;
  for (const std::string& name : *names) {
    absl::string_view stem = name;
    int64_t number = 0;
    if (absl::ConsumeSuffix(&stem, kSuffix) &&
        absl::SimpleAtoi(stem, &number)) {
      files.push_back({.number = number, .path = JoinPath(directory, name)});
    }
  }
  std::sort(files.begin(), files.end(),
            [](const auto& a, const auto& b) { return a.number < b.number; });
  return files;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LogStore>> LogStore::Open(
    const std::string& directory, const LogStoreOptions& options,
    Clock* clock) {
  MYC_RETURN_IF_ERROR(MakeDirectories(directory, 0700));
  return std::unique_ptr<LogStore>(new LogStore(directory, options, clock));
}

LogStore::LogStore(std::string directory, const LogStoreOptions& options,
                   Clock* clock)
    : directory_(std::move(directory)), options_(options), clock_(*clock) {}

void LogStore::Append(const std::string& instance_id,
                      const std::vector<LogLine>& lines) {
  if (lines.empty()) return;
  MutexLock lock(mutex_);
  Writer& writer = writers_[instance_id];
  std::string text;
  if (writer.dropped > 0) {
    writer.formatter.Append(
        {.time = lines.front().time,
         .run = lines.front().run,
         .stream = LogStream::kAgent,
         .text = absl::StrCat(writer.dropped,
                              " lines were lost: the disk could not be "
                              "written to")},
        &text);
  }
  for (const LogLine& line : lines) writer.formatter.Append(line, &text);

  const absl::Status status = Write(instance_id, text, writer);
  if (status.ok()) {
    writer.dropped = 0;
  } else {
    // Not logged: a full disk would fill the agent's own log as well.
    writer.dropped += static_cast<int64_t>(lines.size());
    dropped_ += static_cast<int64_t>(lines.size());
  }
  ++changes_;
  changed_.NotifyAll();
}

void LogStore::AppendRemark(const std::string& instance_id, int64_t run,
                            absl::string_view text) {
  Append(instance_id, {{.time = clock_.Now(),
                        .run = run,
                        .stream = LogStream::kAgent,
                        .text = text.substr(0, kMaxLineBytes)}});
}

std::vector<LogStore::File> LogStore::FilesOf(
    const std::string& instance_id) const {
  return FilesIn(DirectoryOf(instance_id));
}

void LogStore::Close(const std::string& instance_id) {
  MutexLock lock(mutex_);
  writers_.erase(instance_id);
  ++changes_;
  changed_.NotifyAll();
}

void LogStore::Prune(const std::function<bool(const std::string&)>& running) {
  struct Stopped {
    absl::Time last_write;
    int64_t bytes = 0;
    std::string directory;
  };
  const absl::StatusOr<std::vector<std::string>> names =
      ListDirectory(directory_);
  if (!names.ok()) return;
  std::vector<Stopped> stopped;
  int64_t total = 0;
  for (const std::string& name : *names) {
    Stopped entry = {.last_write = absl::InfinitePast(),
                     .directory = DirectoryOf(name)};
    for (const File& file : FilesIn(entry.directory)) {
      struct stat info = {};
      if (stat(file.path.c_str(), &info) != 0) continue;
      entry.bytes += info.st_size;
      entry.last_write =
          std::max(entry.last_write, absl::TimeFromTimespec(info.st_mtim));
    }
    total += entry.bytes;
    if (!running(name)) stopped.push_back(std::move(entry));
  }
  std::sort(stopped.begin(), stopped.end(), [](const auto& a, const auto& b) {
    return a.last_write < b.last_write;
  });
  const absl::Time oldest = clock_.Now() - options_.max_age;
  for (const Stopped& entry : stopped) {
    if (entry.last_write >= oldest && total <= options_.max_total_bytes) break;
    if (RemoveTree(entry.directory).ok()) total -= entry.bytes;
  }
}

uint64_t LogStore::change_count() const {
  MutexLock lock(mutex_);
  return changes_;
}

void LogStore::WaitForChange(uint64_t seen, absl::Duration timeout) const {
  MutexLock lock(mutex_);
  if (changes_ == seen) changed_.WaitFor(mutex_, timeout);
}

int64_t LogStore::dropped() const {
  MutexLock lock(mutex_);
  return dropped_;
}

std::string LogStore::DirectoryOf(const std::string& instance_id) const {
  return JoinPath(directory_, instance_id);
}

absl::Status LogStore::Prepare(const std::string& instance_id, int64_t bytes,
                               Writer& writer) {
  if (writer.fd.valid() &&
      (writer.size == 0 || writer.size + bytes <= options_.max_file_bytes)) {
    return absl::OkStatus();
  }
  const std::string directory = DirectoryOf(instance_id);
  MYC_RETURN_IF_ERROR(MakeDirectories(directory, 0700));
  std::vector<File> files = FilesIn(directory);
  const int64_t number = files.empty() ? 1 : files.back().number + 1;
  // Old files go first, so that a full disk gets room for the new one.
  for (size_t i = 0; i + options_.max_files <= files.size(); ++i) {
    unlink(files[i].path.c_str());
  }
  const std::string path = JoinPath(directory, FileName(number));
  UniqueFd fd(open(path.c_str(),
                   O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW,
                   0600));
  if (!fd.valid())
    return ErrnoStatus(errno, absl::StrCat("cannot open ", path));
  writer.fd = std::move(fd);
  writer.number = number;
  writer.size = 0;
  return absl::OkStatus();
}

absl::Status LogStore::Write(const std::string& instance_id,
                             absl::string_view text, Writer& writer) {
  MYC_RETURN_IF_ERROR(
      Prepare(instance_id, static_cast<int64_t>(text.size()), writer));
  absl::Status status = WriteFully(writer.fd.get(), text);
  if (!status.ok()) {
    // Half a line must not become the head of the next one.
    if (ftruncate(writer.fd.get(), writer.size) != 0) writer.fd.reset();
    return status;
  }
  writer.size += static_cast<int64_t>(text.size());
  return absl::OkStatus();
}

}  // namespace mycelium::agent
