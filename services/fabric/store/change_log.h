#ifndef SERVICES_FABRIC_STORE_CHANGE_LOG_H_
#define SERVICES_FABRIC_STORE_CHANGE_LOG_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/fabric/store/store.h"

namespace mycelium::fabric {

// The newest changes of a store, one batch per revision without gaps, within a
// bound. Not thread-safe.
class ChangeLog {
 public:
  ChangeLog(size_t max_batches, size_t max_bytes)
      : max_batches_(max_batches), max_bytes_(max_bytes) {}

  // Begins anew after `revision`, with nothing kept.
  void Reset(int64_t revision);

  // Adds the batch of the next revision, and forgets what is beyond the bound.
  void Append(std::shared_ptr<const Batch> batch);

  // Forgets all up to `revision`.
  void Compact(int64_t revision);

  // OutOfRange: `after_revision` is in the future, or compacted.
  absl::StatusOr<std::vector<std::shared_ptr<const Batch>>> Read(
      int64_t after_revision, size_t max_bytes) const;

  // OutOfRange as for Read.
  absl::Status Check(int64_t after_revision) const;

  // The batch of a revision in (compact_revision(), revision()].
  const Batch& At(int64_t revision) const {
    return *batches_[static_cast<size_t>(revision - compact_revision_ - 1)];
  }

  int64_t revision() const { return revision_; }
  int64_t compact_revision() const { return compact_revision_; }
  size_t size() const { return batches_.size(); }
  size_t size_bytes() const { return size_bytes_; }

 private:
  void PopFront();

  const size_t max_batches_;
  const size_t max_bytes_;

  std::deque<std::shared_ptr<const Batch>> batches_;
  size_t size_bytes_ = 0;
  int64_t compact_revision_ = 0;
  int64_t revision_ = 0;
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_STORE_CHANGE_LOG_H_
