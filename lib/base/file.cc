#include "lib/base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"

namespace mycelium {
namespace {

absl::StatusCode CodeOf(int error_number) {
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
      return absl::StatusCode::kNotFound;
    case EEXIST:
      return absl::StatusCode::kAlreadyExists;
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::StatusCode::kPermissionDenied;
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case EFBIG:
      return absl::StatusCode::kResourceExhausted;
    case ECONNREFUSED:
    case ECONNRESET:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EADDRINUSE:
      return absl::StatusCode::kUnavailable;
    case ETIMEDOUT:
      return absl::StatusCode::kDeadlineExceeded;
    default:
      return absl::StatusCode::kInternal;
  }
}

std::string ParentOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

void UniqueFd::reset(int fd) {
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
}

absl::Status ErrnoStatus(int error_number, absl::string_view what) {
  return {
      CodeOf(error_number),
      absl::StrCat(what, ": ", std::generic_category().message(error_number))};
}

absl::StatusOr<std::string> ReadFile(const std::string& path,
                                     int64_t max_bytes) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) {
    return ErrnoStatus(errno, absl::StrCat("cannot open ", path));
  }
  std::string contents;
  std::array<char, 1 << 16> buffer;
  while (true) {
    const ssize_t got = read(fd.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, absl::StrCat("cannot read ", path));
    if (got == 0) return contents;
    contents.append(buffer.data(), static_cast<size_t>(got));
    if (static_cast<int64_t>(contents.size()) > max_bytes) {
      return absl::ResourceExhaustedError(absl::StrCat(
          path, " is longer than the ", max_bytes, " bytes allowed"));
    }
  }
}

absl::Status WriteFully(int fd, absl::string_view data) {
  while (!data.empty()) {
    const ssize_t written = write(fd, data.data(), data.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(errno, "cannot write");
    data.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status SyncDirectory(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid() || fsync(fd.get()) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot sync directory ", path));
  }
  return absl::OkStatus();
}

absl::Status WriteFileAtomically(const std::string& path,
                                 absl::string_view contents, mode_t mode) {
  const std::string temporary = absl::StrCat(path, ".", RandomHex(8), ".tmp");
  const auto fail = [&temporary](absl::Status status) {
    unlink(temporary.c_str());
    return status;
  };
  UniqueFd fd(open(temporary.c_str(),
                   O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode));
  if (!fd.valid()) {
    return ErrnoStatus(errno, absl::StrCat("cannot create ", temporary));
  }
  if (absl::Status status = WriteFully(fd.get(), contents); !status.ok()) {
    return fail({status.code(), absl::StrCat(path, ": ", status.message())});
  }
  if (fsync(fd.get()) != 0) {
    return fail(ErrnoStatus(errno, absl::StrCat("cannot sync ", temporary)));
  }
  fd.reset();
  if (rename(temporary.c_str(), path.c_str()) != 0) {
    return fail(ErrnoStatus(errno, absl::StrCat("cannot replace ", path)));
  }
  return SyncDirectory(ParentOf(path));
}

absl::Status MakeDirectories(const std::string& path, mode_t mode) {
  if (path.empty()) {
    return absl::InvalidArgumentError("cannot make a directory without a name");
  }
  struct stat info = {};
  if (stat(path.c_str(), &info) == 0) {
    if (S_ISDIR(info.st_mode)) return absl::OkStatus();
    return absl::AlreadyExistsError(
        absl::StrCat(path, " exists and is not a directory"));
  }
  const std::string parent = ParentOf(path);
  if (parent != path && parent != ".") {
    MYC_RETURN_IF_ERROR(MakeDirectories(parent, mode));
  }
  if (mkdir(path.c_str(), mode) != 0 && errno != EEXIST) {
    return ErrnoStatus(errno, absl::StrCat("cannot make directory ", path));
  }
  return absl::OkStatus();
}

absl::Status RemoveTree(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) {
    return ErrnoStatus(error.value(), absl::StrCat("cannot remove ", path));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ListDirectory(
    const std::string& path) {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(path.c_str()),
                                                      closedir);
  if (directory == nullptr) {
    return ErrnoStatus(errno, absl::StrCat("cannot list ", path));
  }
  std::vector<std::string> names;
  // readdir() is safe here: no other thread knows this DIR.
  // NOLINTNEXTLINE(concurrency-mt-unsafe)
  while (const dirent* entry = readdir(directory.get())) {
    const absl::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string JoinPath(absl::string_view directory, absl::string_view name) {
  if (directory.empty()) return std::string(name);
  return absl::StrCat(directory, absl::EndsWith(directory, "/") ? "" : "/",
                      name);
}

absl::StatusOr<TempDirectory> TempDirectory::Create(absl::string_view prefix) {
  const char* base = std::getenv("TMPDIR");  // NOLINT(concurrency-mt-unsafe)
  std::string path = JoinPath(base == nullptr || *base == '\0' ? "/tmp" : base,
                              absl::StrCat(prefix, "XXXXXX"));
  if (mkdtemp(path.data()) == nullptr) {
    return ErrnoStatus(errno, absl::StrCat("cannot make directory ", path));
  }
  return TempDirectory(std::move(path));
}

TempDirectory& TempDirectory::operator=(TempDirectory&& other) noexcept {
  std::swap(path_, other.path_);
  return *this;
}

TempDirectory::~TempDirectory() {
  // A leftover in /tmp is all that a failure costs.
  if (!path_.empty()) RemoveTree(path_).IgnoreError();
}

}  // namespace mycelium
