// Errors that callers can act on: an absl::Status whose payload is a
// google.rpc.ErrorInfo, as AIP-193 asks.

#ifndef LIB_BASE_ERROR_H_
#define LIB_BASE_ERROR_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace mycelium {

// Makes an error of a service. `reason` is a constant in UPPER_SNAKE_CASE that
// the .proto documents; whatever varies goes into `metadata` as well as into
// `message`, so that no one has to parse the latter.
absl::Status MakeError(
    absl::StatusCode code, absl::string_view domain, absl::string_view reason,
    absl::string_view message,
    const std::vector<std::pair<std::string, std::string>>& metadata = {});

// Collects what is wrong with the fields of a request, so that the caller is
// told everything at once. Not thread-safe.
class FieldViolations {
 public:
  // `field` is a path from the request, such as `plan.appName`; `description`
  // names the value and the rule.
  void Add(absl::string_view field, absl::string_view description);

  bool empty() const { return violations_.empty(); }

  // OK when nothing was added; otherwise InvalidArgument, with an ErrorInfo of
  // `domain` and `reason` and a google.rpc.BadRequest that lists every field.
  absl::Status ToStatus(absl::string_view domain,
                        absl::string_view reason) const;

 private:
  std::vector<std::pair<std::string, std::string>> violations_;
};

// `status` with a google.rpc.RetryInfo that tells the caller when to try again.
absl::Status WithRetryAfter(absl::Status status, absl::Duration delay);

// The metadata value under `key` of an error made by MakeError; empty if there
// is none.
std::string MetadataOf(const absl::Status& status, absl::string_view key);

// `status` with `context` and ": " before its message, and its payloads kept.
absl::Status Annotate(const absl::Status& status, absl::string_view context);

// The reason of an error made by MakeError, here or in another process; empty
// for every other status.
std::string ReasonOf(const absl::Status& status);

}  // namespace mycelium

#endif  // LIB_BASE_ERROR_H_
