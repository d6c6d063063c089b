#include "lib/spore/refusal.h"

#include <algorithm>
#include <array>

#include "lib/base/error.h"

namespace mycelium::spore {
namespace {

constexpr std::array<absl::string_view, 9> kTrustCodes = {
    "E_EXPIRED",     "E_KEY_NOT_YET_VALID", "E_KEY_RETIRED",
    "E_KEY_REVOKED", "E_NOT_AUTHORIZED",    "E_POLICY",
    "E_REVOKED",     "E_TRUST_EXPIRED",     "E_UNTRUSTED_KEY"};

absl::StatusCode StatusCodeOf(absl::string_view code) {
  if (std::find(kTrustCodes.begin(), kTrustCodes.end(), code) !=
      kTrustCodes.end()) {
    return absl::StatusCode::kPermissionDenied;
  }
  if (code == "E_SIZE") return absl::StatusCode::kResourceExhausted;
  if (code == "E_IO") return absl::StatusCode::kInternal;
  return absl::StatusCode::kInvalidArgument;
}

}  // namespace

absl::Status Refuse(absl::string_view code, absl::string_view message) {
  return MakeError(StatusCodeOf(code), kErrorDomain, code, message);
}

}  // namespace mycelium::spore
