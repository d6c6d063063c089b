#include "lib/spore/verify.h"

#include "lib/spore/refusal.h"
namespace mycelium::spore {
absl::Status Verdict::ToStatus() const {
  return accept ? absl::OkStatus() : Refuse(code, message);
}
Verdict VerifySpore(int, const crypto::TrustStore*, absl::Time, const Limits&) {
  return {};
}
Verdict VerifySpore(int, absl::string_view, const crypto::TrustStore*,
                    absl::Time, const Limits&) {
  return {};
}
class StreamingVerifier::Impl {};
StreamingVerifier::StreamingVerifier(const Limits&) {}
StreamingVerifier::StreamingVerifier(StreamingVerifier&&) noexcept = default;
StreamingVerifier& StreamingVerifier::operator=(StreamingVerifier&&) noexcept =
    default;
StreamingVerifier::~StreamingVerifier() = default;
absl::Status StreamingVerifier::Update(absl::string_view) {
  return absl::UnimplementedError("verify");
}
Verdict StreamingVerifier::Finish(int, absl::string_view,
                                  const crypto::TrustStore*, absl::Time) {
  return {};
}
}  // namespace mycelium::spore
