// What makes a store durable.

#ifndef SERVICES_FABRIC_STORE_JOURNAL_H_
#define SERVICES_FABRIC_STORE_JOURNAL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/fabric/store/store.h"

namespace mycelium::fabric {

// What one commit makes durable: all of it or nothing.
struct JournalGroup {
  // In order of revisions, without gaps, beginning just after the newest
  // revision of the journal.
  std::vector<std::shared_ptr<const Batch>> batches;
  // Leases by id: granted with this time to live, or ended.
  std::map<LeaseId, std::optional<absl::Duration>> leases;
  // Changes up to this revision need not be kept.
  int64_t compact_revision = 0;
};

// What a journal held when it was opened.
struct JournalState {
  std::string epoch;
  int64_t revision = 0;
  int64_t compact_revision = 0;
  // In order of keys.
  std::vector<std::shared_ptr<const Entry>> entries;
  std::map<LeaseId, absl::Duration> leases;
  // From `compact_revision` + 1 to `revision`.
  std::vector<std::shared_ptr<const Batch>> batches;
};

// Used by one thread at a time.
class Journal {
 public:
  virtual ~Journal() = default;

  // Returns when the group is on stable storage. After an error nothing of it
  // will be read back, and the same revisions are used again.
  //
  // Unavailable (kReasonDiskFull), Internal (kReasonDiskFailed).
  virtual absl::Status Commit(const JournalGroup& group) = 0;

  // Called after a group has been answered: for work that is due now and that
  // no answer should wait for.
  virtual void Settle() = 0;

  // A small step of the work that can wait until there is nothing to commit,
  // such as forgetting changes up to `compact_revision`. Returns whether there
  // is more to do.
  virtual absl::StatusOr<bool> Maintain(int64_t compact_revision) = 0;
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_STORE_JOURNAL_H_
