// The errors of the fabric, and how those of its store become them.
#ifndef SERVICES_FABRIC_ERRORS_H_
#define SERVICES_FABRIC_ERRORS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace mycelium::fabric {

// The domain of every ErrorInfo that leaves the fabric.
inline constexpr absl::string_view kErrorDomain = "fabric.mycelium";

// An error of the fabric; see MakeError.
absl::Status FabricError(
    absl::StatusCode code, absl::string_view reason, absl::string_view message,
    const std::vector<std::pair<std::string, std::string>>& metadata = {});

// ABORTED (REVISION_MISMATCH): `what`, such as "plan 'billing'", is at
// `current` and not at `expected`; 0 means that it does not exist.
absl::Status RevisionMismatch(absl::string_view what, int64_t expected,
                              int64_t current);

// An error of the store as the fabric's callers see it: STORE_UNAVAILABLE and
// OVERLOADED with a RetryInfo, LEASE_NOT_FOUND, and anything else as Internal.
absl::Status FromStore(const absl::Status& status);

// UNAVAILABLE (STOPPING): the fabric stops, with a RetryInfo that is spread at
// random over two seconds.
absl::Status StoppingError();

// NOT_FOUND (LEASE_NOT_FOUND) for the lease of `holder`.
absl::Status LeaseNotFound(absl::string_view lease, absl::string_view holder);

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_ERRORS_H_
