#include "services/repo/upload.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "lib/base/clock.h"
#include "lib/base/error.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "services/repo/errors.h"

namespace mycelium::repo {
namespace {

// How much is written before the kernel is told to start bringing it to disk,
// so that the final fsync finds little left to do.
constexpr int64_t kFlushBytes = int64_t{8} << 20;

// Chunks may be tiny; what one costs beside its bytes.
constexpr size_t kChunkOverheadBytes = 512;

// IOV_MAX is 1024.
constexpr size_t kMaxVectors = 256;

absl::Status WriteVectors(int fd, absl::Span<iovec> vectors) {
  while (!vectors.empty()) {
    const ssize_t got =
        writev(fd, vectors.data(), static_cast<int>(vectors.size()));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return StorageError(ErrnoStatus(errno, "cannot write"));
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

}  // namespace

size_t Chunk::SizeBytes() const {
  size_t size = 0;
  for (const absl::string_view piece : pieces) size += piece.size();
  return size;
}

absl::StatusOr<IncomingFile> IncomingFile::Create(const std::string& directory,
                                                  absl::string_view suffix) {
  std::string path = JoinPath(directory, absl::StrCat(RandomHex(16), suffix));
  UniqueFd fd(open(path.c_str(),
                   O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd.valid())
    return ErrnoStatus(errno, absl::StrCat("cannot create ", path));
  return IncomingFile(std::move(path), std::move(fd));
}

IncomingFile::~IncomingFile() {
  if (!path_.empty()) unlink(path_.c_str());
}

absl::Status IncomingFile::MoveTo(const std::string& path) {
  if (rename(path_.c_str(), path.c_str()) != 0) {
    return ErrnoStatus(errno,
                       absl::StrCat("cannot move ", path_, " to ", path));
  }
  path_.clear();
  return absl::OkStatus();
}

Upload::Upload(Options options, IncomingFile file)
    : options_(std::move(options)),
      verifier_(options_.limits),
      file_(std::move(file)) {}

bool Upload::Append(Chunk chunk) {
  const size_t size = chunk.SizeBytes();
  auto item = std::make_shared<Item>();
  item->chunk = std::move(chunk);
  item->cost_bytes = size + kChunkOverheadBytes;
  bool room = false;
  {
    MutexLock lock(mutex_);
    if (!failure_.ok()) return false;
    appended_bytes_ += static_cast<int64_t>(size);
    if (appended_bytes_ > options_.size_bytes) {
      failure_ = SizeMismatch(appended_bytes_);
    } else {
      queued_bytes_ += item->cost_bytes;
      to_write_.push_back(item);
      to_hash_.push_back(std::move(item));
      room = queued_bytes_ < options_.max_queued_bytes;
      waiting_for_room_ = !room;
    }
  }
  changed_.NotifyAll();
  return room;
}

void Upload::Finish() {
  {
    MutexLock lock(mutex_);
    finished_ = true;
  }
  changed_.NotifyAll();
}

void Upload::Cancel(const absl::Status& why) { Fail(why); }

void Upload::Fail(const absl::Status& status) {
  {
    MutexLock lock(mutex_);
    if (failure_.ok()) failure_ = status;
  }
  changed_.NotifyAll();
}

std::shared_ptr<Upload::Item> Upload::Take(Queue& queue) {
  Clock* const clock = Clock::Real();
  const absl::Duration give_up = clock->Monotonic() + options_.idle_timeout;
  MutexLock lock(mutex_);
  while (failure_.ok() && queue.empty() && !finished_) {
    const absl::Duration left = give_up - clock->Monotonic();
    if (left <= absl::ZeroDuration()) {
      failure_ = MakeError(
          absl::StatusCode::kDeadlineExceeded, kErrorDomain, "UPLOAD_IDLE",
          absl::StrCat("nothing was received for ",
                       absl::FormatDuration(options_.idle_timeout), ", after ",
                       appended_bytes_, " of ", options_.size_bytes,
                       " bytes; start again"));
      break;
    }
    changed_.WaitFor(mutex_, left);
  }
  if (!failure_.ok() || queue.empty()) return nullptr;
  std::shared_ptr<Item> item = std::move(queue.front());
  queue.pop_front();
  return item;
}

void Upload::Release(const std::shared_ptr<Item>& item) {
  bool tell_room = false;
  {
    MutexLock lock(mutex_);
    if (--item->readers_left > 0) return;
    queued_bytes_ -= item->cost_bytes;
    tell_room = waiting_for_room_ && failure_.ok() &&
                queued_bytes_ < options_.max_queued_bytes;
    if (tell_room) waiting_for_room_ = false;
  }
  if (tell_room) options_.listener->OnRoom();
}

void Upload::HashAll() {
  while (const std::shared_ptr<Item> item = Take(to_hash_)) {
    for (const absl::string_view piece : item->chunk.pieces) {
      hash_.Update(piece);
    }
    Release(item);
  }
  {
    MutexLock lock(mutex_);
    digest_ = absl::BytesToHexString(hash_.Finish());
    hashed_ = true;
  }
  changed_.NotifyAll();
}

void Upload::WriteAll() {
  while (const std::shared_ptr<Item> item = Take(to_write_)) {
    if (const absl::Status status = Write(item->chunk); !status.ok()) {
      Fail(status);
    }
    Release(item);
  }
  absl::StatusOr<PutResult> result = Complete();
  options_.release();
  options_.listener->OnEnd(std::move(result));
}

absl::Status Upload::Write(const Chunk& chunk) {
  std::array<iovec, kMaxVectors> vectors;
  size_t next = 0;
  while (next < chunk.pieces.size()) {
    const size_t count = std::min(kMaxVectors, chunk.pieces.size() - next);
    for (size_t i = 0; i < count; ++i) {
      const absl::string_view piece = chunk.pieces[next + i];
      // writev() takes pointers to mutable bytes but only reads them.
      vectors[i] = {.iov_base = const_cast<char*>(piece.data()),
                    .iov_len = piece.size()};
    }
    MYC_RETURN_IF_ERROR(WriteVectors(file_.fd(), {vectors.data(), count}));
    next += count;
  }
  for (const absl::string_view piece : chunk.pieces) {
    if (const absl::Status status = verifier_.Update(piece); !status.ok()) {
      return SporeRefused(ReasonOf(status), status.message());
    }
  }
  written_bytes_ += static_cast<int64_t>(chunk.SizeBytes());
  if (written_bytes_ - flushed_bytes_ >= kFlushBytes) {
    // Only begins the writing; whether it succeeds is fdatasync's to tell.
    sync_file_range(file_.fd(), flushed_bytes_, written_bytes_ - flushed_bytes_,
                    SYNC_FILE_RANGE_WRITE);
    flushed_bytes_ = written_bytes_;
  }
  return absl::OkStatus();
}

absl::Status Upload::SizeMismatch(int64_t got) const {
  return MakeError(
      absl::StatusCode::kOutOfRange, kErrorDomain, "SIZE_MISMATCH",
      absl::StrCat(
          got > options_.size_bytes ? "more than the " : "only ",
          got > options_.size_bytes
              ? absl::StrCat(options_.size_bytes, " bytes of the header")
              : absl::StrCat(got, " of the ", options_.size_bytes,
                             " bytes of the header"),
          " were received"),
      {{"size_bytes", absl::StrCat(options_.size_bytes)},
       {"received_bytes", absl::StrCat(got)}});
}

absl::StatusOr<PutResult> Upload::Complete() {
  // Declared first, so that a file that is not kept is gone before the answer.
  IncomingFile file = std::move(file_);
  std::string digest;
  {
    MutexLock lock(mutex_);
    while (!hashed_) changed_.Wait(mutex_);
    if (!failure_.ok()) return failure_;
    digest = digest_;
  }
  if (written_bytes_ != options_.size_bytes)
    return SizeMismatch(written_bytes_);
  if (digest != options_.digest) {
    return MakeError(
        absl::StatusCode::kDataLoss, kErrorDomain, "DIGEST_MISMATCH",
        absl::StrCat("the bytes that were received have the digest ", digest,
                     ", not ", options_.digest, "; send them again"),
        {{"want", options_.digest}, {"got", digest}});
  }
  return options_.commit(std::move(file), verifier_);
}

}  // namespace mycelium::repo
