#include "services/repo/errors.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "lib/base/error.h"
#include "lib/base/ids.h"

namespace mycelium::repo {

absl::Status CheckDigest(absl::string_view digest) {
  if (IsDigest(digest)) return absl::OkStatus();
  return MakeError(absl::StatusCode::kInvalidArgument, kErrorDomain,
                   "DIGEST_INVALID",
                   absl::StrCat("digest ", Quoted(digest), " ", kDigestRule),
                   {{"digest", Quoted(digest)}});
}

absl::Status SporeNotFound(absl::string_view digest) {
  return MakeError(
      absl::StatusCode::kNotFound, kErrorDomain, "SPORE_NOT_FOUND",
      absl::StrCat("the repo has no spore ", digest, "; publish it first"),
      {{"digest", std::string(digest)}});
}

absl::Status SporeRefused(absl::string_view code, absl::string_view detail) {
  return MakeError(
      absl::StatusCode::kInvalidArgument, kErrorDomain, "SPORE_REFUSED",
      absl::StrCat("the file is not a valid spore: ", code, ": ", detail),
      {{"code", std::string(code)}, {"detail", std::string(detail)}});
}

absl::Status StorageError(const absl::Status& status) {
  if (status.ok()) return status;
  if (status.code() == absl::StatusCode::kResourceExhausted) {
    return MakeError(
        status.code(), kErrorDomain, "DISK_FULL",
        absl::StrCat("no space is left in the repo: ", status.message(),
                     "; delete spores or collect garbage"));
  }
  return MakeError(absl::StatusCode::kInternal, kErrorDomain, "STORAGE_FAILED",
                   status.message());
}

}  // namespace mycelium::repo
