#ifndef SERVICES_REPO_TRUST_STORE_FILE_H_
#define SERVICES_REPO_TRUST_STORE_FILE_H_

#include <sys/stat.h>

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "lib/base/mutex.h"
#include "lib/crypto/trust_store.h"

namespace mycelium::repo {

// A trust store that follows its file. Thread-safe.
class TrustStoreFile {
 public:
  // Reads `path`; the error says what is wrong with it.
  static absl::StatusOr<std::unique_ptr<TrustStoreFile>> Open(std::string path);

  // The trust store, read again if the file has changed. A change that cannot
  // be read, is no trust store or has a lower version than the last one is
  // logged once, and the last good one stays in force.
  std::shared_ptr<const crypto::TrustStore> Current();

 private:
  explicit TrustStoreFile(std::string path) : path_(std::move(path)) {}

  absl::Status Read(const struct stat& info)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string path_;

  Mutex mutex_;
  struct stat seen_ ABSL_GUARDED_BY(mutex_) = {};
  std::shared_ptr<const crypto::TrustStore> store_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mycelium::repo

#endif  // SERVICES_REPO_TRUST_STORE_FILE_H_
