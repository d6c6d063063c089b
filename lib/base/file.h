// Files, directories and descriptors, with errors that name the path.

#ifndef LIB_BASE_FILE_H_
#define LIB_BASE_FILE_H_

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace mycelium {

// A file descriptor that is closed with its owner. Not thread-safe.
class UniqueFd {
 public:
  UniqueFd() = default;
  // Takes ownership of `fd`; -1 owns nothing.
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

// An absl::Status for `error_number` (an errno), whose code tells the caller
// what to do: NotFound, AlreadyExists, PermissionDenied, ResourceExhausted (no
// space, no descriptors), Unavailable (a peer that is not there), or Internal.
// The message is "<what>: <strerror>".
absl::Status ErrnoStatus(int error_number, absl::string_view what);

// Reads a whole file. ResourceExhausted: it is longer than `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path,
                                     int64_t max_bytes = int64_t{64} << 20);

// Replaces `path` by `contents` so that a reader, and a machine that loses
// power, sees the old file or the new one: temporary file beside it, fsync,
// rename, fsync of the directory. A failure leaves the old file as it was.
absl::Status WriteFileAtomically(const std::string& path,
                                 absl::string_view contents,
                                 mode_t mode = 0644);

// Writes all of `data`, through short writes and interruptions.
absl::Status WriteFully(int fd, absl::string_view data);

// Makes a directory and its missing parents; one that exists is success.
absl::Status MakeDirectories(const std::string& path, mode_t mode = 0755);

// Makes what a rename or a new file in directory `path` changed durable.
absl::Status SyncDirectory(const std::string& path);

// Removes a file or a directory with all that is in it, following no symbolic
// link; what does not exist is success.
absl::Status RemoveTree(const std::string& path);

// Names in a directory, without `.` and `..`, sorted.
absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path);

// `directory` and `name` with one slash between them.
std::string JoinPath(absl::string_view directory, absl::string_view name);

// A directory of its own below $TMPDIR (or /tmp), removed with its owner.
class TempDirectory {
 public:
  // `prefix` begins its name.
  static absl::StatusOr<TempDirectory> Create(absl::string_view prefix);

  TempDirectory(TempDirectory&& other) noexcept
      : path_(std::exchange(other.path_, {})) {}
  TempDirectory& operator=(TempDirectory&& other) noexcept;
  ~TempDirectory();

  const std::string& path() const { return path_; }

 private:
  explicit TempDirectory(std::string path) : path_(std::move(path)) {}

  std::string path_;
};

}  // namespace mycelium

#endif  // LIB_BASE_FILE_H_
