#include "services/repo/collector.h"

#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "lib/base/error.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "services/repo/errors.h"

namespace mycelium::repo {

absl::StatusOr<absl::flat_hash_map<std::string, std::string>>
Collector::Planned() {
  if (plans_ == nullptr) return absl::flat_hash_map<std::string, std::string>();
  auto planned = plans_->PlannedDigests();
  if (!planned.ok()) {
    return WithRetryAfter(
        MakeError(absl::StatusCode::kUnavailable, kErrorDomain,
                  "FABRIC_UNAVAILABLE",
                  absl::StrCat("the fabric cannot be asked which spores are "
                               "planned, so nothing was deleted: ",
                               planned.status().message())),
        absl::Seconds(1));
  }
  return planned;
}

absl::StatusOr<int64_t> Collector::Delete(const std::string& digest,
                                          InUse in_use) {
  MYC_RETURN_IF_ERROR(CheckDigest(digest));
  if (in_use == InUse::kRefuse) {
    MYC_ASSIGN_OR_RETURN(const auto planned, Planned());
    if (const auto it = planned.find(digest); it != planned.end()) {
      return MakeError(
          absl::StatusCode::kFailedPrecondition, kErrorDomain, "SPORE_IN_USE",
          absl::StrCat("the plan of app ", it->second, " refers to spore ",
                       digest, "; change the plan first, or set force"),
          {{"app_name", it->second}, {"digest", digest}});
    }
  }
  return store_.Delete(digest);
}

absl::StatusOr<Collector::GcResult> Collector::Gc(const GcRequest& request) {
  FieldViolations violations;
  if (request.keep_digests.size() > size_t{kMaxKeepDigests}) {
    violations.Add("keepDigests", absl::StrCat(request.keep_digests.size(),
                                               " digests are more than the ",
                                               kMaxKeepDigests, " allowed"));
  }
  for (size_t i = 0; i < request.keep_digests.size(); ++i) {
    if (IsDigest(request.keep_digests[i])) continue;
    violations.Add(
        absl::StrCat("keepDigests[", i, "]"),
        absl::StrCat(Quoted(request.keep_digests[i]), " ", kDigestRule));
    break;  // One is enough to see what is wrong.
  }
  if (request.min_age < absl::ZeroDuration()) {
    violations.Add("minAge", absl::StrCat(absl::FormatDuration(request.min_age),
                                          " must not be negative"));
  }
  MYC_RETURN_IF_ERROR(violations.ToStatus(kErrorDomain, "REQUEST_INVALID"));
  if (plans_ == nullptr && request.keep_digests.empty()) {
    return MakeError(
        absl::StatusCode::kFailedPrecondition, kErrorDomain, "NO_REFERENCES",
        "the repo knows no fabric and keep_digests is empty, so everything "
        "would be deleted; start the repo with --fabric, or name the spores to "
        "keep");
  }

  // What is planned is asked for after the list was made, so that a spore that
  // was put and planned in between is not on the list.
  const std::vector<SporeStore::Age> ages = store_.Ages();
  const absl::Time put_before = clock_.Now() - request.min_age;
  MYC_ASSIGN_OR_RETURN(const auto planned, Planned());
  const absl::flat_hash_set<std::string> keep(request.keep_digests.begin(),
                                              request.keep_digests.end());
  GcResult result;
  for (const SporeStore::Age& age : ages) {
    if (keep.contains(age.digest) || planned.contains(age.digest) ||
        age.put_time > put_before) {
      ++result.kept_count;
      continue;
    }
    if (!request.dry_run) {
      if (request.cancelled != nullptr && request.cancelled()) {
        return absl::CancelledError("the caller gave up");
      }
      const absl::StatusOr<int64_t> freed =
          store_.DeleteIfPutBefore(age.digest, put_before);
      if (absl::IsNotFound(freed.status())) continue;
      if (absl::IsFailedPrecondition(freed.status())) {
        ++result.kept_count;
        continue;
      }
      MYC_RETURN_IF_ERROR(freed.status());
    }
    result.deleted_digests.push_back(age.digest);
    result.freed_bytes += age.size_bytes;
  }
  return result;
}

}  // namespace mycelium::repo
