// The way of a spore from whoever sends it to a verified file on disk.

#ifndef SERVICES_REPO_UPLOAD_H_
#define SERVICES_REPO_UPLOAD_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/file.h"
#include "lib/base/mutex.h"
#include "lib/spore/verify.h"
#include "mycelium/spore/v1/spore.pb.h"
#include "services/repo/file_writer.h"

namespace mycelium::repo {

// Bytes as they were received.
struct Chunk {
  // In order; their memory belongs to `owner`.
  std::vector<absl::string_view> pieces;
  std::shared_ptr<const void> owner;

  size_t SizeBytes() const;
};

// What came of a Put.
struct PutResult {
  spore::v1::SporeInfo spore;
  bool existed = false;
};

// Who feeds an upload. It is called from threads of the upload and must not
// block.
class UploadListener {
 public:
  virtual ~UploadListener() = default;

  // There is room again, after Append() said that there was none.
  virtual void OnRoom() = 0;

  // The upload has ended, in success or not. Comes exactly once, whatever
  // happens, when every other call has returned.
  virtual void OnEnd(absl::StatusOr<PutResult> result) = 0;
};

// A file that is removed with its owner unless it was moved elsewhere.
class IncomingFile {
 public:
  // Creates `directory`/<random><suffix>.
  static absl::StatusOr<IncomingFile> Create(const std::string& directory,
                                             absl::string_view suffix);

  IncomingFile(IncomingFile&& other) noexcept
      : path_(std::exchange(other.path_, {})), fd_(std::move(other.fd_)) {}
  ~IncomingFile();

  int fd() const { return fd_.get(); }

  // Renames the file to `path`, replacing what is there.
  absl::Status MoveTo(const std::string& path);

 private:
  IncomingFile(std::string path, UniqueFd fd)
      : path_(std::move(path)), fd_(std::move(fd)) {}

  std::string path_;  // Empty once moved.
  UniqueFd fd_;
};

// Receives one spore. Two threads work on it: one writes the bytes, and one
// hashes the whole and, following the zip, its entries. What waits for them is
// bounded by `max_queued_bytes` (and one chunk), whatever the size of the
// spore.
//
// Thread-safe; but only one thread may append and finish.
class Upload {
 public:
  struct Options {
    std::string digest;
    int64_t size_bytes = 0;
    size_t max_queued_bytes = 0;
    // An upload that brings nothing for so long is given up.
    absl::Duration idle_timeout;
    spore::Limits limits;
    // Judges the file, which has the right size and digest, and stores it.
    // Called on a thread of the upload.
    std::function<absl::StatusOr<PutResult>(IncomingFile,
                                            spore::StreamingVerifier&)>
        commit;
    // Called when the file is gone or stored, before OnEnd().
    std::function<void()> release;
    // Must live until OnEnd() was called.
    UploadListener* listener = nullptr;
  };

  Upload(Options options, IncomingFile file);

  // Appends the next bytes. Returns whether there is room for more; if not,
  // wait for OnRoom() (or OnEnd()) before appending again.
  bool Append(Chunk chunk);

  // All bytes were appended. OnEnd() will follow.
  void Finish();

  // Gives the upload up; OnEnd() follows with `why`, unless the upload has
  // ended otherwise by then.
  void Cancel(const absl::Status& why);

  // The threads' work; each is to be called once, on a thread of its own.
  // WriteAll() ends last.
  void WriteAll();
  void FollowAll();

 private:
  static constexpr int kReaders = 2;

  struct Item {
    Chunk chunk;
    size_t cost_bytes = 0;
    int readers_left = kReaders;
  };
  using Queue = std::deque<std::shared_ptr<Item>>;

  // Waits for the next item of `queue`; null when there is none to come.
  std::shared_ptr<Item> Take(Queue& queue);
  // One of the readers has finished with `item`.
  void Release(const std::shared_ptr<Item>& item);

  void Fail(const absl::Status& status);
  // One of the readers but the writer has nothing more to do.
  void ReaderDone();
  absl::Status SizeMismatch(int64_t got) const;
  absl::StatusOr<PutResult> Complete();

  const Options options_;

  // Each of the thread that reads its queue; of the writer once it is alone.
  IncomingFile file_;
  FileWriter writer_;
  spore::StreamingVerifier verifier_;
  std::string digest_;

  Mutex mutex_;
  CondVar changed_;
  // The queues are guarded, too, but their readers must name them.
  Queue to_write_;
  Queue to_follow_;
  size_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t appended_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool waiting_for_room_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  int readers_done_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mycelium::repo

#endif  // SERVICES_REPO_UPLOAD_H_
