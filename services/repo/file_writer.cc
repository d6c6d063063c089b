#include "services/repo/file_writer.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/types/span.h"
#include "lib/base/file.h"
#include "lib/base/status_macros.h"

namespace mycelium::repo {
namespace {

// Suits every block device: memory, offset and length must be multiples of the
// logical block size, which is 512 or 4096.
constexpr size_t kAlignment = 4096;

// What one direct write takes: enough to keep a disk busy.
constexpr size_t kStagedBytes = size_t{1} << 20;

// How much is written in buffered mode before the kernel is told to start
// bringing it to disk, so that the final fsync finds little left to do.
constexpr int64_t kFlushBytes = int64_t{8} << 20;

// IOV_MAX is 1024.
constexpr size_t kMaxVectors = 256;

absl::Status WriteError() { return ErrnoStatus(errno, "cannot write"); }

absl::Status WriteVectors(int fd, absl::Span<iovec> vectors) {
  while (!vectors.empty()) {
    const ssize_t got =
        writev(fd, vectors.data(), static_cast<int>(vectors.size()));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return WriteError();
    size_t written = static_cast<size_t>(got);
    while (!vectors.empty() && written >= vectors[0].iov_len) {
      written -= vectors[0].iov_len;
      vectors.remove_prefix(1);
    }
    if (written > 0) {
      vectors[0].iov_base = static_cast<char*>(vectors[0].iov_base) + written;
      vectors[0].iov_len -= written;
    }
  }
  return absl::OkStatus();
}

bool SetDirect(int fd, bool direct) {
  const int flags = fcntl(fd, F_GETFL);
  return flags >= 0 &&
         fcntl(fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

}  // namespace

void FileWriter::Free::operator()(char* buffer) const { std::free(buffer); }

FileWriter::FileWriter(int fd, Mode mode) : fd_(fd) {
  if (mode == Mode::kDirect && SetDirect(fd_, true)) {
    staged_.reset(
        static_cast<char*>(std::aligned_alloc(kAlignment, kStagedBytes)));
  }
}

absl::Status FileWriter::Append(const std::vector<absl::string_view>& pieces) {
  if (staged_ == nullptr) return WriteBuffered(pieces);
  for (absl::string_view piece : pieces) {
    while (!piece.empty() && staged_ != nullptr) {
      const size_t size = std::min(piece.size(), kStagedBytes - staged_bytes_);
      std::memcpy(staged_.get() + staged_bytes_, piece.data(), size);
      staged_bytes_ += size;
      piece.remove_prefix(size);
      if (staged_bytes_ == kStagedBytes) MYC_RETURN_IF_ERROR(WriteStaged());
    }
    // The file system has turned out not to like it.
    if (!piece.empty()) MYC_RETURN_IF_ERROR(WriteBuffered({piece}));
  }
  return absl::OkStatus();
}

absl::Status FileWriter::Finish() {
  if (staged_ == nullptr) return absl::OkStatus();
  // The end of a file is seldom the end of a block.
  return LeaveDirectMode();
}

absl::Status FileWriter::WriteStaged() {
  size_t done = 0;
  while (done < staged_bytes_) {
    const ssize_t got = write(fd_, staged_.get() + done, staged_bytes_ - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno != EINVAL) return WriteError();
    if (got > 0) done += static_cast<size_t>(got);
    if (got < 0 || done % kAlignment != 0) {
      // Not here, or not from where a short write ended.
      std::memmove(staged_.get(), staged_.get() + done, staged_bytes_ - done);
      staged_bytes_ -= done;
      written_bytes_ += static_cast<int64_t>(done);
      return LeaveDirectMode();
    }
  }
  written_bytes_ += static_cast<int64_t>(done);
  staged_bytes_ = 0;
  return absl::OkStatus();
}

absl::Status FileWriter::LeaveDirectMode() {
  if (!SetDirect(fd_, false)) return WriteError();
  const std::unique_ptr<char, Free> staged = std::move(staged_);
  flushed_bytes_ = written_bytes_;
  return WriteBuffered({{staged.get(), staged_bytes_}});
}

absl::Status FileWriter::WriteBuffered(
    const std::vector<absl::string_view>& pieces) {
  std::array<iovec, kMaxVectors> vectors;
  for (size_t next = 0; next < pieces.size();) {
    size_t count = 0;
    for (; count < kMaxVectors && next < pieces.size(); ++count, ++next) {
      // writev() takes pointers to mutable bytes but only reads them.
      vectors[count] = {.iov_base = const_cast<char*>(pieces[next].data()),
                        .iov_len = pieces[next].size()};
      written_bytes_ += static_cast<int64_t>(pieces[next].size());
    }
    MYC_RETURN_IF_ERROR(WriteVectors(fd_, {vectors.data(), count}));
  }
  if (written_bytes_ - flushed_bytes_ >= kFlushBytes) {
    // Only begins the writing; whether it succeeds is for fsync to tell.
    sync_file_range(fd_, flushed_bytes_, written_bytes_ - flushed_bytes_,
                    SYNC_FILE_RANGE_WRITE);
    flushed_bytes_ = written_bytes_;
  }
  return absl::OkStatus();
}

}  // namespace mycelium::repo
