#ifndef SERVICES_REPO_FILE_WRITER_H_
#define SERVICES_REPO_FILE_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace mycelium::repo {

// Writes a new file from its beginning to its end. Large files go past the page
// cache (O_DIRECT) where the file system can do that: an upload then evicts
// nothing that is being served, does not wait for memory, and leaves nothing to
// fsync but the metadata. Not thread-safe.
class FileWriter {
 public:
  enum class Mode { kBuffered, kDirect };

  // `fd`, which must outlive the writer, is an empty file. kDirect is a wish.
  FileWriter(int fd, Mode mode);

  // Appends the pieces in their order.
  absl::Status Append(const std::vector<absl::string_view>& pieces);

  // Writes what is still in memory. Nothing may be appended afterwards. The
  // file is not synced.
  absl::Status Finish();

  int64_t written_bytes() const { return written_bytes_; }

 private:
  struct Free {
    void operator()(char* buffer) const;
  };

  absl::Status WriteBuffered(const std::vector<absl::string_view>& pieces);
  // Writes the staged bytes; whole blocks of them in direct mode.
  absl::Status WriteStaged();
  absl::Status LeaveDirectMode();

  const int fd_;
  int64_t written_bytes_ = 0;
  int64_t flushed_bytes_ = 0;

  // In direct mode: what is not written yet, in memory that is aligned for it.
  std::unique_ptr<char, Free> staged_;
  size_t staged_bytes_ = 0;
};

}  // namespace mycelium::repo

#endif  // SERVICES_REPO_FILE_WRITER_H_
