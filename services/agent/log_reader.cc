#include "services/agent/log_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace mycelium::agent {
namespace {

constexpr size_t kChunkBytes = size_t{64} << 10;

}  // namespace

// A place in the files of one instance.
class LogReader::Cursor {
 public:
  Cursor(const LogStore* store, const LogFilter* filter, LogSource source)
      : store_(*store), filter_(*filter), source_(std::move(source)) {}

  const LogSource& source() const { return source_; }

  // Goes to the beginning of file `number`.
  void Seek(int64_t number) {
    file_.reset();
    number_ = number - 1;
    buffer_.clear();
    position_ = 0;
    has_line_ = false;
  }

  // The next line that is wanted, or null if there is none at present. It stays
  // the next one until Pop.
  const LogLine* Peek() {
    while (!has_line_) {
      const size_t end = buffer_.find('\n', position_);
      if (end == std::string::npos) {
        if (!Fill()) return nullptr;
        continue;
      }
      const absl::string_view text =
          absl::string_view(buffer_).substr(position_, end - position_);
      position_ = end + 1;
      has_line_ = parser_.Parse(text, &line_) && Wanted(line_);
    }
    return &line_;
  }

  void Pop() { has_line_ = false; }

  // How many wanted lines are between here and the end of file `number`.
  int64_t CountFile(int64_t number) {
    Seek(number);
    stop_after_file_ = true;
    int64_t count = 0;
    while (Peek() != nullptr) {
      Pop();
      ++count;
    }
    stop_after_file_ = false;
    return count;
  }

  // Goes behind the last line that there is.
  void SeekToEnd() {
    const std::vector<LogStore::File> files =
        store_.FilesOf(source_.instance_id);
    if (files.empty()) return;
    Seek(files.back().number);
    while (Peek() != nullptr) Pop();
  }

 private:
  bool Wanted(const LogLine& line) const {
    return line.time >= filter_.since &&
           (source_.run == 0 || line.run == source_.run) &&
           (!filter_.stream.has_value() || line.stream == *filter_.stream);
  }

  // Reads on, in the next file if need be. False at the end.
  bool Fill() {
    if (ReadChunk()) return true;
    if (file_.valid() && stop_after_file_) return false;
    for (const LogStore::File& file : store_.FilesOf(source_.instance_id)) {
      if (file.number <= number_) continue;
      // The writer opens a file after it has written the last line of the one
      // before, which may have come since the end was read.
      if (ReadChunk()) return true;
      UniqueFd fd(open(file.path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
      if (!fd.valid()) continue;
      file_ = std::move(fd);
      number_ = file.number;
      offset_ = 0;
      buffer_.clear();
      position_ = 0;
      return ReadChunk();
    }
    return false;
  }

  bool ReadChunk() {
    if (!file_.valid()) return false;
    buffer_.erase(0, position_);
    position_ = 0;
    const size_t old_size = buffer_.size();
    buffer_.resize(old_size + kChunkBytes);
    ssize_t count = 0;
    do {
      count =
          pread(file_.get(), buffer_.data() + old_size, kChunkBytes, offset_);
    } while (count < 0 && errno == EINTR);
    buffer_.resize(old_size + (count > 0 ? count : 0));
    if (count <= 0) return false;
    offset_ += count;
    return true;
  }

  const LogStore& store_;
  const LogFilter& filter_;
  const LogSource source_;

  UniqueFd file_;
  int64_t number_ = 0;
  off_t offset_ = 0;
  std::string buffer_;
  size_t position_ = 0;
  LogLineParser parser_;
  LogLine line_;
  bool has_line_ = false;
  bool stop_after_file_ = false;
};

LogReader::LogReader(const LogStore* store, const LogFilter& filter)
    : store_(*store), filter_(filter) {}

LogReader::~LogReader() = default;

void LogReader::AddSource(LogSource source) {
  if (HasSource(source.instance_id)) return;
  cursors_.push_back(
      std::make_unique<Cursor>(&store_, &filter_, std::move(source)));
}

bool LogReader::HasSource(absl::string_view instance_id) const {
  return std::any_of(cursors_.begin(), cursors_.end(),
                     [&](const std::unique_ptr<Cursor>& cursor) {
                       return cursor->source().instance_id == instance_id;
                     });
}

void LogReader::KeepTail(int64_t lines) {
  if (lines < 0) return;
  int64_t total = 0;
  for (const std::unique_ptr<Cursor>& cursor : cursors_) {
    if (lines == 0) {
      cursor->SeekToEnd();
      continue;
    }
    // No instance has more than `lines` of the last `lines` lines of all.
    const std::vector<LogStore::File> files =
        store_.FilesOf(cursor->source().instance_id);
    int64_t count = 0;
    int64_t first = 0;
    for (auto file = files.rbegin(); file != files.rend() && count < lines;
         ++file) {
      count += cursor->CountFile(file->number);
      first = file->number;
    }
    if (first != 0) cursor->Seek(first);
    total += count;
  }
  skip_ = lines == 0 ? 0 : std::max<int64_t>(0, total - lines);
}

std::vector<LogReader::Line> LogReader::Read(int64_t max_bytes) {
  std::vector<Line> lines;
  int64_t bytes = 0;
  while (bytes < max_bytes) {
    Cursor* const cursor = Earliest();
    if (cursor == nullptr) break;
    const LogLine& line = *cursor->Peek();
    if (skip_ > 0) {
      --skip_;
    } else {
      // Empty lines count too, or a file of them would be one answer.
      bytes += static_cast<int64_t>(line.text.size()) + 64;
      lines.push_back({.time = line.time,
                       .stream = line.stream,
                       .text = std::string(line.text),
                       .source = &cursor->source()});
    }
    cursor->Pop();
  }
  return lines;
}

LogReader::Cursor* LogReader::Earliest() {
  Cursor* earliest = nullptr;
  for (const std::unique_ptr<Cursor>& cursor : cursors_) {
    const LogLine* const line = cursor->Peek();
    if (line == nullptr) continue;
    if (earliest == nullptr || line->time < earliest->Peek()->time) {
      earliest = cursor.get();
    }
  }
  return earliest;
}

}  // namespace mycelium::agent
