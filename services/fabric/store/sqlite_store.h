#ifndef SERVICES_FABRIC_STORE_SQLITE_STORE_H_
#define SERVICES_FABRIC_STORE_SQLITE_STORE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/fabric/store/store.h"

namespace mycelium::fabric {

// Opens the durable store in the SQLite file `path`, or makes one if there is
// none; the directory must exist. Beside it lies `path`-wal, which belongs to
// it: never move or remove one without the other.
//
// An acknowledged write is on stable storage. Requests that arrive together
// share one commit and one fsync. All reading is from memory.
//
// Unavailable (kReasonLocked): the file is open elsewhere. FailedPrecondition
// (kReasonSchema): a newer release wrote it, or something else did. DataLoss
// (kReasonCorrupt): it is damaged. Unavailable (kReasonDiskFull), Internal
// (kReasonDiskFailed), and what opening a file can end in. All name the path.
absl::StatusOr<std::unique_ptr<Store>> OpenSqliteStore(
    const std::string& path, const StoreOptions& options);

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_STORE_SQLITE_STORE_H_
