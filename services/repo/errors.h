// The errors of the repo, as repo.proto names them.

#ifndef SERVICES_REPO_ERRORS_H_
#define SERVICES_REPO_ERRORS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace mycelium::repo {

inline constexpr absl::string_view kErrorDomain = "repo.mycelium";

// InvalidArgument (DIGEST_INVALID) unless `digest` is one.
absl::Status CheckDigest(absl::string_view digest);

// NotFound (SPORE_NOT_FOUND).
absl::Status SporeNotFound(absl::string_view digest);

// InvalidArgument (SPORE_REFUSED): `code` is the error class of the format.
absl::Status SporeRefused(absl::string_view code, absl::string_view detail);

// `status` of a file operation as callers see it: a full disk, quota or file
// size limit is ResourceExhausted (DISK_FULL), all else Internal
// (STORAGE_FAILED).
absl::Status StorageError(const absl::Status& status);

}  // namespace mycelium::repo

#endif  // SERVICES_REPO_ERRORS_H_
