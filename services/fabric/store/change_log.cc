#include "services/fabric/store/change_log.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/error.h"

namespace mycelium::fabric {

void ChangeLog::Reset(int64_t revision) {
  batches_.clear();
  size_bytes_ = 0;
  compact_revision_ = revision;
  revision_ = revision;
}

void ChangeLog::PopFront() {
  size_bytes_ -= batches_.front()->size_bytes;
  compact_revision_ = batches_.front()->revision;
  batches_.pop_front();
}

void ChangeLog::Append(std::shared_ptr<const Batch> batch) {
  revision_ = batch->revision;
  size_bytes_ += batch->size_bytes;
  batches_.push_back(std::move(batch));
  // The newest batch stays, however large it is: who follows the store closely
  // must never be told that it fell behind.
  while (batches_.size() > 1 &&
         (batches_.size() > max_batches_ || size_bytes_ > max_bytes_)) {
    PopFront();
  }
}

void ChangeLog::Compact(int64_t revision) {
  while (!batches_.empty() && batches_.front()->revision <= revision) {
    PopFront();
  }
}

absl::Status ChangeLog::Check(int64_t after_revision) const {
  if (after_revision > revision_) {
    return MakeError(
        absl::StatusCode::kOutOfRange, kStoreErrorDomain, kReasonFutureRevision,
        absl::StrCat("revision ", after_revision,
                     " has not happened; the newest is ", revision_),
        {{"revision", absl::StrCat(revision_)}});
  }
  if (after_revision < compact_revision_) {
    return MakeError(absl::StatusCode::kOutOfRange, kStoreErrorDomain,
                     kReasonCompacted,
                     absl::StrCat("changes after revision ", after_revision,
                                  " are no longer kept, only those after ",
                                  compact_revision_, ": list again"),
                     {{"compact_revision", absl::StrCat(compact_revision_)}});
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::shared_ptr<const Batch>>> ChangeLog::Read(
    int64_t after_revision, size_t max_bytes) const {
  if (absl::Status status = Check(after_revision); !status.ok()) return status;
  std::vector<std::shared_ptr<const Batch>> read;
  size_t bytes = 0;
  for (size_t i = static_cast<size_t>(after_revision - compact_revision_);
       i < batches_.size(); ++i) {
    bytes += batches_[i]->size_bytes;
    if (!read.empty() && bytes > max_bytes) break;
    read.push_back(batches_[i]);
  }
  return read;
}

}  // namespace mycelium::fabric
