#include "services/repo/trust_store_file.h"

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "glog/logging.h"
#include "lib/base/file.h"
#include "lib/base/status_macros.h"

namespace mycelium::repo {
namespace {

bool IsSameFile(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino &&
         a.st_size == b.st_size && a.st_mtim.tv_sec == b.st_mtim.tv_sec &&
         a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TrustStoreFile>> TrustStoreFile::Open(
    std::string path) {
  std::unique_ptr<TrustStoreFile> file(new TrustStoreFile(std::move(path)));
  struct stat info = {};
  if (stat(file->path_.c_str(), &info) != 0) {
    return ErrnoStatus(errno,
                       absl::StrCat("cannot read trust store ", file->path_));
  }
  {
    MutexLock lock(file->mutex_);
    MYC_RETURN_IF_ERROR(file->Read(info));
  }
  return file;
}

std::shared_ptr<const crypto::TrustStore> TrustStoreFile::Current() {
  MutexLock lock(mutex_);
  struct stat info = {};
  // A file that is away for a moment is being replaced.
  if (stat(path_.c_str(), &info) != 0 || IsSameFile(info, seen_)) return store_;
  if (const absl::Status status = Read(info); !status.ok()) {
    LOG(ERROR) << "the trust store has changed but is not used: "
               << status.message();
  }
  return store_;
}

absl::Status TrustStoreFile::Read(const struct stat& info) {
  seen_ = info;
  MYC_ASSIGN_OR_RETURN(crypto::TrustStore store,
                       crypto::TrustStore::Load(path_));
  if (store_ != nullptr) {
    MYC_RETURN_IF_ERROR(store.CheckNotOlderThan(store_->version()));
  }
  store_ = std::make_shared<const crypto::TrustStore>(std::move(store));
  return absl::OkStatus();
}

}  // namespace mycelium::repo
