#ifndef SERVICES_AGENT_TRUST_POLICY_H_
#define SERVICES_AGENT_TRUST_POLICY_H_

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lib/base/mutex.h"
#include "lib/crypto/trust_store.h"

namespace mycelium::agent {

// The trust store of a file, read again when the file changes. A file that
// becomes unreadable, broken or older than what was used changes nothing: the
// last good store goes on. Thread-safe.
class TrustPolicy {
 public:
  // InvalidArgument and others: the file cannot be used; names it.
  static absl::StatusOr<std::unique_ptr<TrustPolicy>> Load(
      const std::string& path);

  // The present store, after a look whether the file has changed.
  std::shared_ptr<const crypto::TrustStore> Current();

  // Counts the changes that were taken over.
  int64_t generation() const;

 private:
  explicit TrustPolicy(std::string path) : path_(std::move(path)) {}

  absl::Status Reload() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string path_;

  mutable Mutex mutex_;
  struct stat seen_ ABSL_GUARDED_BY(mutex_) = {};
  std::shared_ptr<const crypto::TrustStore> store_ ABSL_GUARDED_BY(mutex_);
  int64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_TRUST_POLICY_H_
