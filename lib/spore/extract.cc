#include "lib/spore/extract.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/crypto/sha256.h"
#include "lib/spore/contents.h"
#include "lib/spore/refusal.h"

namespace mycelium::spore {
namespace {

// Opens paths below a directory, and never anything else: no component may be
// a symbolic link or lead out, even if somebody swaps one in meanwhile.
class Beneath {
 public:
  // `root` is borrowed.
  explicit Beneath(int root) : root_(root) {}

  absl::StatusOr<UniqueFd> Open(const std::string& path, int flags,
                                mode_t mode = 0) const {
    open_how how = {};
    how.flags = static_cast<uint64_t>(flags | O_CLOEXEC | O_NOFOLLOW);
    how.mode = mode;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    const long result =  // NOLINT(google-runtime-int): syscall's own type.
        syscall(SYS_openat2, root_, path.c_str(), &how, sizeof how);
    if (result >= 0) return UniqueFd(static_cast<int>(result));
    // Kernels before 5.6 lack the call, and some sandboxes forbid it.
    if (errno == ENOSYS || errno == EPERM) return Walk(path, flags, mode);
    return ErrnoStatus(errno, absl::StrCat("cannot open ", Quoted(path)));
  }

  // Makes the directory at `path`, whose parent exists; one that is there is
  // success.
  absl::Status MakeDirectory(const std::string& path) const {
    const size_t slash = path.rfind('/');
    const bool nested = slash != std::string::npos;
    UniqueFd parent;
    if (nested) {
      MYC_ASSIGN_OR_RETURN(parent,
                           Open(path.substr(0, slash), O_RDONLY | O_DIRECTORY));
    }
    const std::string name = nested ? path.substr(slash + 1) : path;
    const int parent_fd = nested ? parent.get() : root_;
    if (mkdirat(parent_fd, name.c_str(), 0755) != 0) {
      if (errno == EEXIST) return absl::OkStatus();
      return ErrnoStatus(errno, absl::StrCat("cannot make ", Quoted(path)));
    }
    MYC_ASSIGN_OR_RETURN(const UniqueFd made,
                         Open(path, O_RDONLY | O_DIRECTORY));
    if (fchmod(made.get(), 0755) != 0) {
      return ErrnoStatus(errno, absl::StrCat("cannot chmod ", Quoted(path)));
    }
    return absl::OkStatus();
  }

 private:
  // One component after the other, following no link.
  absl::StatusOr<UniqueFd> Walk(const std::string& path, int flags,
                                mode_t mode) const {
    const std::vector<std::string> components = absl::StrSplit(path, '/');
    UniqueFd directory;
    for (size_t i = 0; i < components.size(); ++i) {
      const bool last = i + 1 == components.size();
      const int from = directory.valid() ? directory.get() : root_;
      UniqueFd next(openat(
          from, components[i].c_str(),
          (last ? flags : O_RDONLY | O_DIRECTORY) | O_CLOEXEC | O_NOFOLLOW,
          mode));
      if (!next.valid()) {
        return ErrnoStatus(errno, absl::StrCat("cannot open ", Quoted(path)));
      }
      directory = std::move(next);
    }
    return directory;
  }

  const int root_;
};

struct FreeArchive {
  void operator()(archive* reader) const { archive_read_free(reader); }
};
using UniqueArchive = std::unique_ptr<archive, FreeArchive>;

// The file as libarchive reads it, through pread.
struct FileSource {
  int fd = -1;
  int64_t size = 0;
  int64_t offset = 0;
  std::vector<char> buffer = std::vector<char>(size_t{256} << 10);
};

la_ssize_t ReadCallback(archive* reader, void* data, const void** bytes) {
  auto* source = static_cast<FileSource*>(data);
  *bytes = source->buffer.data();
  while (true) {
    const ssize_t got = pread(source->fd, source->buffer.data(),
                              source->buffer.size(), source->offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      archive_set_error(reader, errno, "cannot read the spore");
      return ARCHIVE_FATAL;
    }
    source->offset += got;
    return got;
  }
}

la_int64_t SeekCallback(archive* /*reader*/, void* data, la_int64_t offset,
                        int whence) {
  auto* source = static_cast<FileSource*>(data);
  if (whence == SEEK_CUR) offset += source->offset;
  if (whence == SEEK_END) offset += source->size;
  source->offset = std::clamp<int64_t>(offset, 0, source->size);
  return source->offset;
}

la_int64_t SkipCallback(archive* /*reader*/, void* data, la_int64_t bytes) {
  auto* source = static_cast<FileSource*>(data);
  const int64_t skipped =
      std::clamp<int64_t>(bytes, 0, source->size - source->offset);
  source->offset += skipped;
  return skipped;
}

absl::Status ReaderError(archive* reader) {
  const char* message = archive_error_string(reader);
  return Refuse("E_ZIP_DATA",
                absl::StrCat("libarchive cannot read the spore: ",
                             message == nullptr ? "unknown error" : message));
}

absl::StatusOr<UniqueArchive> OpenReader(FileSource& source) {
  UniqueArchive reader(archive_read_new());
  if (reader == nullptr ||
      archive_read_support_format_zip_seekable(reader.get()) != ARCHIVE_OK ||
      archive_read_set_callback_data(reader.get(), &source) != ARCHIVE_OK ||
      archive_read_set_read_callback(reader.get(), ReadCallback) !=
          ARCHIVE_OK ||
      archive_read_set_seek_callback(reader.get(), SeekCallback) !=
          ARCHIVE_OK ||
      archive_read_set_skip_callback(reader.get(), SkipCallback) !=
          ARCHIVE_OK) {
    return absl::InternalError("libarchive cannot be set up");
  }
  if (archive_read_open1(reader.get()) != ARCHIVE_OK) {
    return ReaderError(reader.get());
  }
  return reader;
}

// Moves on to the next file and checks that it is `path`, as the strict reader
// says.
absl::Status NextFile(archive* reader, absl::string_view path) {
  while (true) {
    archive_entry* header = nullptr;
    const int result = archive_read_next_header(reader, &header);
    if (result != ARCHIVE_OK) return ReaderError(reader);
    const char* name = archive_entry_pathname(header);
    const absl::string_view found = name == nullptr ? "" : name;
    // Directories are ignored, and the manifest is not unpacked.
    if (absl::EndsWith(found, "/") || found == kManifestPath) continue;
    if (found == path) return absl::OkStatus();
    return Refuse("E_ZIP_MISMATCH",
                  absl::StrCat("libarchive finds entry ", Quoted(found),
                               " where ", Quoted(path), " is"));
  }
}

// Writes the data of the reader's current file to `fd`, no byte more than
// signed, and checks its hash.
absl::Status WriteData(archive* reader, const SignedEntry& entry, int fd) {
  crypto::Sha256 hash;
  int64_t written = 0;
  while (true) {
    const void* bytes = nullptr;
    size_t size = 0;
    la_int64_t offset = 0;
    const int result = archive_read_data_block(reader, &bytes, &size, &offset);
    if (result == ARCHIVE_EOF) break;
    if (result != ARCHIVE_OK) return ReaderError(reader);
    if (offset != written ||
        static_cast<int64_t>(size) > entry.entry.size - written) {
      return Refuse("E_ZIP_DATA",
                    absl::StrCat("entry ", Quoted(entry.entry.path),
                                 " is longer than declared"));
    }
    const absl::string_view chunk(static_cast<const char*>(bytes), size);
    hash.Update(chunk);
    MYC_RETURN_IF_ERROR(WriteFully(fd, chunk));
    written += static_cast<int64_t>(size);
  }
  if (absl::BytesToHexString(hash.Finish()) != entry.sha256) {
    return Refuse("E_HASH", absl::StrCat("entry ", Quoted(entry.entry.path),
                                         " has changed since it was verified"));
  }
  return absl::OkStatus();
}

absl::Status Sync(int fd, absl::string_view what) {
  if (fsync(fd) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, absl::StrCat("cannot write ", what, " to disk"));
}

// Unpacks into the empty directory behind `root`.
absl::Status Unpack(int fd, const std::vector<SignedEntry>& entries, int root) {
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoStatus(errno, "cannot stat the spore");
  FileSource source;
  source.fd = fd;
  source.size = info.st_size;
  MYC_ASSIGN_OR_RETURN(const UniqueArchive reader, OpenReader(source));

  const Beneath beneath(root);
  std::set<std::string> directories;
  for (const SignedEntry& entry : entries) {
    const std::string& path = entry.entry.path;
    for (size_t slash = path.find('/'); slash != std::string::npos;
         slash = path.find('/', slash + 1)) {
      if (directories.insert(path.substr(0, slash)).second) {
        MYC_RETURN_IF_ERROR(beneath.MakeDirectory(path.substr(0, slash)));
      }
    }
    MYC_ASSIGN_OR_RETURN(const UniqueFd file,
                         beneath.Open(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
    MYC_RETURN_IF_ERROR(NextFile(reader.get(), path));
    MYC_RETURN_IF_ERROR(WriteData(reader.get(), entry, file.get()));
    if (fchmod(file.get(), entry.exec ? 0555 : 0444) != 0) {
      return ErrnoStatus(errno, absl::StrCat("cannot chmod ", Quoted(path)));
    }
    MYC_RETURN_IF_ERROR(Sync(file.get(), Quoted(path)));
  }
  for (const std::string& path : directories) {
    MYC_ASSIGN_OR_RETURN(const UniqueFd directory,
                         beneath.Open(path, O_RDONLY | O_DIRECTORY));
    MYC_RETURN_IF_ERROR(Sync(directory.get(), Quoted(path)));
  }
  return Sync(root, "the directory");
}

// Renames within one directory, never onto something that is there.
absl::Status RenameInto(int parent, const std::string& from,
                        const std::string& to, const std::string& target) {
  int result =
      renameat2(parent, from.c_str(), parent, to.c_str(), RENAME_NOREPLACE);
  // File systems without the flag: a directory still replaces at most an empty
  // one.
  if (result != 0 && (errno == ENOSYS || errno == EINVAL)) {
    result = renameat(parent, from.c_str(), parent, to.c_str());
  }
  if (result == 0) return absl::OkStatus();
  if (errno == EEXIST || errno == ENOTEMPTY || errno == ENOTDIR) {
    return absl::AlreadyExistsError(absl::StrCat(target, " exists already"));
  }
  return ErrnoStatus(errno, absl::StrCat("cannot create ", target));
}

}  // namespace

absl::StatusOr<std::string> Extract(int fd, const Verdict& accepted,
                                    const std::string& target_directory,
                                    const Limits& limits) {
  if (!accepted.accept) {
    return absl::FailedPreconditionError(absl::StrCat(
        "only an accepted spore is unpacked; this one is ", accepted.code));
  }
  MYC_ASSIGN_OR_RETURN(const std::vector<Entry> archive,
                       ReadArchive(fd, limits));
  MYC_ASSIGN_OR_RETURN(const std::vector<SignedEntry> entries,
                       MatchEntries(accepted.manifest, archive));

  const std::string target(absl::StripSuffix(target_directory, "/"));
  const size_t slash = target.rfind('/');
  const std::string name = target.substr(slash + 1);
  std::string parent_path = ".";
  if (slash == 0) parent_path = "/";
  if (slash != std::string::npos && slash > 0) {
    parent_path = target.substr(0, slash);
  }
  const UniqueFd parent(
      open(parent_path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!parent.valid()) {
    return ErrnoStatus(errno, absl::StrCat("cannot open ", parent_path));
  }
  struct stat info;
  if (fstatat(parent.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) {
    return absl::AlreadyExistsError(absl::StrCat(target, " exists already"));
  }

  const std::string temporary =
      absl::StrCat(".", name, ".", RandomHex(8), ".partial");
  if (mkdirat(parent.get(), temporary.c_str(), 0700) != 0) {
    return ErrnoStatus(
        errno, absl::StrCat("cannot make a directory in ", parent_path));
  }
  const auto unpack_and_rename = [&]() -> absl::Status {
    const UniqueFd root(
        openat(parent.get(), temporary.c_str(),
               O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!root.valid()) {
      return ErrnoStatus(errno, absl::StrCat("cannot open ", temporary));
    }
    MYC_RETURN_IF_ERROR(Unpack(fd, entries, root.get()));
    if (fchmod(root.get(), 0755) != 0) {
      return ErrnoStatus(errno, absl::StrCat("cannot chmod ", temporary));
    }
    return RenameInto(parent.get(), temporary, name, target);
  };
  if (absl::Status status = unpack_and_rename(); !status.ok()) {
    // What cannot be removed either is reported as the failure that it follows
    // from.
    RemoveTree(JoinPath(parent_path, temporary)).IgnoreError();
    return status;
  }
  if (absl::Status status = Sync(parent.get(), parent_path); !status.ok()) {
    RemoveTree(target).IgnoreError();
    return status;
  }
  return JoinPath(target, accepted.manifest.command);
}

}  // namespace mycelium::spore
