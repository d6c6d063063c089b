// The spores of a repo, on disk.
//
//   DATA_DIR/lock                      held by the process that uses it
//   DATA_DIR/incoming/                 uploads under way; emptied at start
//   DATA_DIR/spores/ab/ab….spore       a spore, named by its digest
//   DATA_DIR/spores/ab/ab….info        what Stat says of it (StoredSpore)

#ifndef SERVICES_REPO_SPORE_STORE_H_
#define SERVICES_REPO_SPORE_STORE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"
#include "lib/base/mutex.h"
#include "mycelium/spore/v1/spore.pb.h"
#include "services/repo/stored_spore.pb.h"
#include "services/repo/trust_store_file.h"
#include "services/repo/upload.h"
#include "services/repo/worker_pool.h"

namespace mycelium::repo {

// A spore that is being read. It can be read to its end even if it is deleted
// meanwhile. Thread-safe.
class SporeReader {
 public:
  SporeReader(UniqueFd fd, int64_t size_bytes)
      : fd_(std::move(fd)), size_bytes_(size_bytes) {}

  int64_t size_bytes() const { return size_bytes_; }

  // Reads exactly `size` bytes from `offset` into `buffer`. The bytes must lie
  // within the spore. DataLoss: the file has become shorter.
  absl::Status ReadAt(int64_t offset, char* buffer, size_t size) const;

 private:
  UniqueFd fd_;
  int64_t size_bytes_;
};

// Stores spores by their digest. A spore is there whole, verified and durable,
// or not at all, whenever the process or the machine dies. Holds about 1 KiB of
// memory per spore. Thread-safe.
class SporeStore {
 public:
  static constexpr int kDefaultPageSize = 100;
  static constexpr int kMaxPageSize = 1000;

  struct Options {
    std::string data_dir;
    int64_t max_spore_bytes = spore::Limits().max_file_bytes;
    int max_uploads = 32;
    // What one upload may keep in memory while disk and hashing lag behind.
    size_t max_queued_bytes = size_t{3} << 20;
    absl::Duration upload_idle_timeout = absl::Seconds(30);
    // Who may sign; null accepts every valid signature. Must outlive the store.
    TrustStoreFile* trust = nullptr;
    // Must outlive the store.
    Clock* clock = Clock::Real();
  };

  // Opens or creates the store in `data_dir`: removes what uploads left behind
  // and reads what is known of each spore. A spore without that is verified
  // again; a file that is no spore stays where it is, is logged, and is not
  // served.
  // FailedPrecondition: another process uses the directory.
  static absl::StatusOr<std::unique_ptr<SporeStore>> Open(Options options);

  // Every upload must have ended, or been cancelled.
  ~SporeStore() = default;

  // How a Put goes on.
  struct BegunPut {
    // Set if the spore is there already; nothing more is needed.
    std::optional<PutResult> existing;
    // Otherwise where its bytes go.
    std::shared_ptr<Upload> upload;
  };

  // Starts to receive a spore. Errors, here and in OnEnd(), are those of
  // Repo.Put in repo.proto; besides, DeadlineExceeded (UPLOAD_IDLE) and
  // Internal (STORAGE_FAILED). `listener` must live until OnEnd().
  absl::StatusOr<BegunPut> BeginPut(const std::string& digest,
                                    int64_t size_bytes,
                                    UploadListener* listener);

  // What is known of a spore, its manifest included.
  // InvalidArgument (DIGEST_INVALID), NotFound (SPORE_NOT_FOUND).
  absl::StatusOr<spore::v1::SporeInfo> Stat(const std::string& digest);

  struct Page {
    std::vector<spore::v1::SporeInfo> spores;
    std::string next_token;  // Empty on the last page.
  };

  // A page in the order of digests. `page_size` 0 means kDefaultPageSize, and
  // more than kMaxPageSize means that. An empty `name` lists all.
  // InvalidArgument (PAGE_TOKEN_INVALID, REQUEST_INVALID).
  absl::StatusOr<Page> List(int page_size, const std::string& page_token,
                            const std::string& name);

  // Opens a spore. InvalidArgument (DIGEST_INVALID), NotFound
  // (SPORE_NOT_FOUND).
  absl::StatusOr<SporeReader> Read(const std::string& digest);

  // Deletes a spore and returns the bytes that this frees. Who reads it
  // finishes. InvalidArgument (DIGEST_INVALID), NotFound (SPORE_NOT_FOUND).
  absl::StatusOr<int64_t> Delete(const std::string& digest);

  // As Delete, unless the spore was put, or put again, after `time`; then
  // FailedPrecondition.
  absl::StatusOr<int64_t> DeleteIfPutBefore(const std::string& digest,
                                            absl::Time time);

  struct Age {
    std::string digest;
    int64_t size_bytes = 0;
    // When it was put for the last time.
    absl::Time put_time;
  };

  // All spores, in the order of their digests.
  std::vector<Age> Ages();

 private:
  // What is kept in memory of a spore.
  struct Entry {
    storage::StoredSpore stored;  // Without the manifest.
    absl::Time last_put;
  };

  // Keeps all others from storing or deleting one digest.
  class DigestLock;

  SporeStore(Options options, UniqueFd lock);

  std::string PathOf(absl::string_view digest, absl::string_view suffix) const;
  std::string ShardOf(absl::string_view digest) const;

  absl::Status Load();
  absl::Status LoadShard(const std::string& shard);
  // Reads, or makes again, the information on the spore in `path`.
  absl::StatusOr<storage::StoredSpore> Recover(const std::string& digest,
                                               const std::string& path,
                                               int64_t size_bytes);
  absl::StatusOr<PutResult> Commit(const std::string& digest,
                                   int64_t size_bytes, IncomingFile file,
                                   spore::StreamingVerifier& verifier);
  // Makes the file and its information durable under their final names.
  absl::Status Publish(const std::string& digest, IncomingFile file,
                       const storage::StoredSpore& stored);
  // If the spore is there, counts it as put now.
  std::optional<PutResult> Touch(const std::string& digest);
  absl::StatusOr<int64_t> DeleteIf(const std::string& digest,
                                   absl::Time not_put_after);
  absl::Status CheckHeader(const std::string& digest, int64_t size_bytes) const;
  absl::Status CheckSpace(int64_t size_bytes) const;
  // `stored` as callers see it.
  spore::v1::SporeInfo InfoOf(const storage::StoredSpore& stored) const;

  const Options options_;
  const spore::Limits limits_;
  const UniqueFd lock_;

  Mutex mutex_;
  CondVar digest_unlocked_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<std::string> locked_digests_ ABSL_GUARDED_BY(mutex_);
  int uploads_ ABSL_GUARDED_BY(mutex_) = 0;

  // Last, so that its threads have ended before anything else goes.
  WorkerPool pool_;
};

}  // namespace mycelium::repo

#endif  // SERVICES_REPO_SPORE_STORE_H_
