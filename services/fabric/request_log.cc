#include "services/fabric/request_log.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "lib/base/error.h"
#include "lib/base/ids.h"
#include "services/fabric/errors.h"
#include "services/fabric/keys.h"
#include "services/fabric/resources.h"

namespace mycelium::fabric {
namespace {

constexpr absl::Duration kRenewEvery = absl::Minutes(1);
constexpr absl::Duration kKeep = absl::Minutes(11);

// Ids are any text, keys are not.
std::string RequestKey(absl::string_view method, absl::string_view id) {
  return absl::StrCat(kRequests, method, "/", absl::BytesToHexString(id));
}

}  // namespace

absl::Status RequestLog::Renew() {
  const absl::Duration now = clock_.Monotonic();
  if (lease_ != kNoLease &&
      now - absl::Nanoseconds(renewed_ns_.load()) < kRenewEvery) {
    return absl::OkStatus();
  }
  absl::StatusOr<LeaseId> lease = store_.Grant(kKeep);
  if (!lease.ok()) return FromStore(lease.status());
  lease_ = *lease;
  renewed_ns_ = absl::ToInt64Nanoseconds(now);
  return absl::OkStatus();
}

absl::StatusOr<std::optional<RequestLog::Answer>> RequestLog::Find(
    absl::string_view method, absl::string_view id,
    const google::protobuf::MessageLite& request) {
  if (id.empty()) return std::nullopt;
  absl::StatusOr<EntryPtr> entry = Get(store_, RequestKey(method, id));
  if (!entry.ok()) return entry.status();
  if (*entry == nullptr) return std::nullopt;
  // The value is the length of the request in hex, the request, the answer.
  const std::string bytes = Serialize(request);
  const std::string head = absl::StrCat(absl::Hex(bytes.size()), ":", bytes);
  const std::string& value = (*entry)->value;
  if (value.compare(0, head.size(), head) != 0) {
    FieldViolations violations;
    violations.Add("requestId",
                   absl::StrCat(Quoted(id),
                                " was used for another request; choose a new "
                                "one for each request"));
    return violations.ToStatus(kErrorDomain, "REQUEST_INVALID");
  }
  return Answer{value.substr(head.size()), (*entry)->mod_revision};
}

void RequestLog::Append(absl::string_view method, absl::string_view id,
                        const google::protobuf::MessageLite& request,
                        const google::protobuf::MessageLite& response,
                        std::vector<Compare>* compares, std::vector<Op>* ops) {
  // Without a lease, because the store could not write, nothing would ever
  // forget the answer.
  if (id.empty() || lease_ == kNoLease) return;
  const std::string key = RequestKey(method, id);
  const std::string bytes = Serialize(request);
  compares->push_back(Compare::Absent(key));
  ops->push_back(Op::Put(
      key,
      absl::StrCat(absl::Hex(bytes.size()), ":", bytes, Serialize(response)),
      lease_));
}

}  // namespace mycelium::fabric
