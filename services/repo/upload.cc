#include "services/repo/upload.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "lib/base/clock.h"
#include "lib/base/error.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/crypto/sha256.h"
#include "services/repo/errors.h"

namespace mycelium::repo {
namespace {

// Below this, a spore goes through the page cache.
constexpr int64_t kDirectBytes = int64_t{4} << 20;

// Chunks may be tiny; what one costs beside its bytes.
constexpr size_t kChunkOverheadBytes = 512;

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
      file_(std::move(file)),
      writer_(file_.fd(), options_.size_bytes >= kDirectBytes
                              ? FileWriter::Mode::kDirect
                              : FileWriter::Mode::kBuffered),
      verifier_(options_.limits) {}

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
      to_follow_.push_back(std::move(item));
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
  absl::Duration give_up = clock->Monotonic() + options_.idle_timeout;
  MutexLock lock(mutex_);
  while (failure_.ok() && queue.empty() && !finished_) {
    const absl::Duration now = clock->Monotonic();
    // While there is no room, it is a slow disk that keeps the sender idle.
    if (waiting_for_room_) give_up = now + options_.idle_timeout;
    if (now >= give_up) {
      failure_ = MakeError(
          absl::StatusCode::kDeadlineExceeded, kErrorDomain, "UPLOAD_IDLE",
          absl::StrCat("nothing was received for ",
                       absl::FormatDuration(options_.idle_timeout), ", after ",
                       appended_bytes_, " of ", options_.size_bytes,
                       " bytes; start again"));
      break;
    }
    changed_.WaitFor(mutex_, give_up - now);
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

void Upload::FollowAll() {
  crypto::Sha256 hash;
  while (const std::shared_ptr<Item> item = Take(to_follow_)) {
    for (const absl::string_view piece : item->chunk.pieces) {
      if (const absl::Status status = verifier_.Update(piece, hash);
          !status.ok()) {
        Fail(SporeRefused(ReasonOf(status), status.message()));
        break;
      }
    }
    Release(item);
  }
  digest_ = absl::BytesToHexString(hash.Finish());
  ReaderDone();
}

void Upload::ReaderDone() {
  {
    MutexLock lock(mutex_);
    ++readers_done_;
  }
  changed_.NotifyAll();
}

void Upload::WriteAll() {
  while (const std::shared_ptr<Item> item = Take(to_write_)) {
    if (const absl::Status status = writer_.Append(item->chunk.pieces);
        !status.ok()) {
      Fail(StorageError(status));
    }
    Release(item);
  }
  absl::StatusOr<PutResult> result = Complete();
  options_.release();
  options_.listener->OnEnd(std::move(result));
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
  {
    MutexLock lock(mutex_);
    while (readers_done_ < kReaders - 1) changed_.Wait(mutex_);
    if (!failure_.ok()) return failure_;
  }
  MYC_RETURN_IF_ERROR(StorageError(writer_.Finish()));
  if (writer_.written_bytes() != options_.size_bytes) {
    return SizeMismatch(writer_.written_bytes());
  }
  if (digest_ != options_.digest) {
    return MakeError(
        absl::StatusCode::kDataLoss, kErrorDomain, "DIGEST_MISMATCH",
        absl::StrCat("the bytes that were received have the digest ", digest_,
                     ", not ", options_.digest, "; send them again"),
        {{"want", options_.digest}, {"got", digest_}});
  }
  return options_.commit(std::move(file), verifier_);
}

}  // namespace mycelium::repo
