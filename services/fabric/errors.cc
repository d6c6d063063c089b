#include "services/fabric/errors.h"

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "lib/base/error.h"
#include "lib/base/ids.h"
#include "services/fabric/store/store.h"

namespace mycelium::fabric {

absl::Status FabricError(
    absl::StatusCode code, absl::string_view reason, absl::string_view message,
    const std::vector<std::pair<std::string, std::string>>& metadata) {
  return MakeError(code, kErrorDomain, reason, message, metadata);
}

absl::Status RevisionMismatch(absl::string_view what, int64_t expected,
                              int64_t current) {
  return FabricError(
      absl::StatusCode::kAborted, "REVISION_MISMATCH",
      absl::StrCat(
          what,
          current == 0 ? std::string(" does not exist")
                       : absl::StrCat(" is at revision ", current),
          expected == 0
              ? std::string(", and was expected not to exist")
              : absl::StrCat(", and was expected at revision ", expected),
          "; read it again and decide anew"),
      {{"expected_revision", absl::StrCat(expected)},
       {"current_revision", absl::StrCat(current)}});
}

absl::Status FromStore(const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  if (status.code() == absl::StatusCode::kUnavailable ||
      reason == kReasonDiskFailed) {
    return WithRetryAfter(
        FabricError(absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE",
                    absl::StrCat("the fabric cannot write to its store: ",
                                 status.message())),
        absl::Seconds(1));
  }
  if (status.code() == absl::StatusCode::kResourceExhausted) {
    return WithRetryAfter(
        FabricError(
            absl::StatusCode::kResourceExhausted, "OVERLOADED",
            absl::StrCat("the fabric is overloaded: ", status.message())),
        absl::Milliseconds(250));
  }
  if (reason == kReasonNoLease) {
    return FabricError(absl::StatusCode::kNotFound, "LEASE_NOT_FOUND",
                       "the lease has lapsed; join again");
  }
  return FabricError(absl::StatusCode::kInternal, "STORE_ERROR",
                     absl::StrCat("the fabric's store: ", status.message()));
}

absl::Status StoppingError() {
  absl::BitGen random;
  const absl::Duration delay =
      absl::Milliseconds(absl::Uniform(random, 50, 2000));
  return WithRetryAfter(FabricError(absl::StatusCode::kUnavailable, "STOPPING",
                                    "the fabric is stopping; connect again"),
                        delay);
}

absl::Status LeaseNotFound(absl::string_view lease, absl::string_view holder) {
  return FabricError(absl::StatusCode::kNotFound, "LEASE_NOT_FOUND",
                     absl::StrCat("lease ", Quoted(lease), " of ", holder,
                                  " has lapsed; join again"));
}

}  // namespace mycelium::fabric
