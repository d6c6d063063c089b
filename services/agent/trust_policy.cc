#include "services/agent/trust_policy.h"

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "glog/logging.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/status_macros.h"

namespace mycelium::agent {
namespace {

bool SameFile(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino &&
         a.st_size == b.st_size && a.st_mtim.tv_sec == b.st_mtim.tv_sec &&
         a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TrustPolicy>> TrustPolicy::Load(
    const std::string& path) {
  auto policy = std::unique_ptr<TrustPolicy>(new TrustPolicy(path));
  MutexLock lock(policy->mutex_);
  if (stat(path.c_str(), &policy->seen_) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot read trust store ", path));
  }
  MYC_RETURN_IF_ERROR(policy->Reload());
  return policy;
}

std::shared_ptr<const crypto::TrustStore> TrustPolicy::Current() {
  MutexLock lock(mutex_);
  struct stat now = {};
  if (stat(path_.c_str(), &now) != 0) {
    if (seen_.st_ino != 0) {
      LOG(WARNING) << "trust store " << path_
                   << " is gone; the last one stays in force";
    }
    seen_ = {};
    return store_;
  }
  if (!SameFile(now, seen_)) {
    seen_ = now;
    const absl::Status status = Reload();
    if (status.ok()) {
      LOG(INFO) << "trust store " << path_ << " is now at version "
                << store_->version();
    } else {
      LOG(ERROR) << "the last trust store stays in force: " << status;
    }
  }
  return store_;
}

int64_t TrustPolicy::generation() const {
  MutexLock lock(mutex_);
  return generation_;
}

absl::Status TrustPolicy::Reload() {
  MYC_ASSIGN_OR_RETURN(crypto::TrustStore store,
                       crypto::TrustStore::Load(path_));
  if (store_ != nullptr) {
    const absl::Status status = store.CheckNotOlderThan(store_->version());
    if (!status.ok()) return Annotate(status, path_);
  }
  store_ = std::make_shared<const crypto::TrustStore>(std::move(store));
  ++generation_;
  return absl::OkStatus();
}

}  // namespace mycelium::agent
