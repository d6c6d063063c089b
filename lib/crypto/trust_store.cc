#include "lib/crypto/trust_store.h"

namespace mycelium::crypto {

absl::string_view KeyStateName(KeyState) { return ""; }
bool NameMatches(absl::string_view, absl::string_view) { return false; }
absl::StatusOr<TrustStore> TrustStore::Parse(absl::string_view) {
  return absl::UnimplementedError("trust store");
}
absl::StatusOr<TrustStore> TrustStore::Load(const std::string&) {
  return absl::UnimplementedError("trust store");
}
std::string TrustStore::Serialize() const { return ""; }
const TrustedKey* TrustStore::FindKey(absl::string_view) const {
  return nullptr;
}
absl::Status TrustStore::CheckNotOlderThan(int64_t) const {
  return absl::UnimplementedError("trust store");
}
absl::Status TrustStore::AddKey(absl::string_view, absl::string_view,
                                const std::vector<std::string>&) {
  return absl::UnimplementedError("trust store");
}
absl::Status TrustStore::RemoveKey(absl::string_view) {
  return absl::UnimplementedError("trust store");
}
absl::Status TrustStore::RetireKey(absl::string_view, absl::Time) {
  return absl::UnimplementedError("trust store");
}
absl::Status TrustStore::RevokeKey(absl::string_view) {
  return absl::UnimplementedError("trust store");
}
absl::Status TrustStore::RevokeSpore(absl::string_view) {
  return absl::UnimplementedError("trust store");
}
void TrustStore::SetExpires(std::optional<absl::Time>) {}
absl::Status TrustStore::EvaluateSigner(absl::string_view, absl::string_view,
                                        absl::Time, absl::Time) const {
  return absl::UnimplementedError("trust store");
}
absl::Status TrustStore::EvaluateSpore(const VerifiedSpore&,
                                       std::vector<std::string>&) const {
  return absl::UnimplementedError("trust store");
}

}  // namespace mycelium::crypto
