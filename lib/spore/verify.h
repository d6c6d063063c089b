// Decides whether a file is a spore that may run here.
//
//   const spore::Verdict verdict =
//       spore::VerifySpore(fd, &trust, clock.Now(), spore::Limits());
//   if (!verdict.accept) return verdict.ToStatus();

#ifndef LIB_SPORE_VERIFY_H_
#define LIB_SPORE_VERIFY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/crypto/sha256.h"
#include "lib/crypto/trust_store.h"
#include "lib/spore/archive.h"
#include "lib/spore/manifest.h"

namespace mycelium::spore {

// The one result of a verification.
struct Verdict {
  bool accept = false;
  // "OK", or the first check that failed: an E_ code of docs/spore-format.md.
  std::string code;
  // A sentence for people: what was wrong, with the value.
  std::string message;
  // False if no trust store was given: then `accept` means only that the file
  // is whole and signed by the key it names, whoever holds that.
  bool trust_checked = false;
  // Version of the trust store; 0 without one. A verdict may be cached by
  // (digest, policy_version) while it accepts and `manifest.expires_at` and the
  // store's expiry are ahead.
  int64_t policy_version = 0;
  // SHA-256 of the file, in hex; empty if it could not be read or is too large.
  std::string digest;
  // As far as the checks came; empty otherwise.
  std::string key_id;
  std::string statement_digest;
  // Filled in once it is known to be well-formed. Only to be relied on when
  // `accept` is true.
  Manifest manifest;
  // What rules that only audit would have refused.
  std::vector<std::string> warnings;

  // OK, or an error of domain "spore.mycelium" with the code as its reason.
  absl::Status ToStatus() const;
};

// Verifies the file behind `fd` (pread; the file offset is neither used nor
// changed), at time `at`, under `trust`; with null, integrity alone. Checks in
// the order that docs/spore-format.md gives, and stops at the first failure.
// Memory is bounded whatever the file's size; files beyond 1 MiB are hashed on
// a second thread, which has ended when this returns. The file must not be
// changed meanwhile.
//
// Thread-safe.
Verdict VerifySpore(int fd, const crypto::TrustStore* trust, absl::Time at,
                    const Limits& limits);

// As above, for a file whose SHA-256 (in hex) the caller has computed already.
Verdict VerifySpore(int fd, absl::string_view digest,
                    const crypto::TrustStore* trust, absl::Time at,
                    const Limits& limits);

// Verifies a spore while it is received, so that almost nothing is left to do
// after its last byte: it follows the local headers and hashes STORED entries
// as they pass by. Whatever it could not follow (deflated entries, sizes in
// descriptors) is read again from the file, so that the verdict is always the
// one of VerifySpore.
//
//   StreamingVerifier verifier(limits);
//   crypto::Sha256 hash;
//   for each chunk: write it to the file;
//                   MYC_RETURN_IF_ERROR(verifier.Update(chunk, hash));
//   digest = absl::BytesToHexString(hash.Finish());
//   Verdict verdict = verifier.Finish(fd, digest, &trust, clock.Now());
//
// The hash of the file is the caller's, who may know it already. Computed along
// the way it costs little, where Sha256::UpdateBoth() does.
//
// Not thread-safe.
class StreamingVerifier {
 public:
  explicit StreamingVerifier(const Limits& limits);
  StreamingVerifier(StreamingVerifier&&) noexcept;
  StreamingVerifier& operator=(StreamingVerifier&&) noexcept;
  ~StreamingVerifier();

  // The next bytes of the file. E_SIZE: it is longer than the limits allow, and
  // nothing more need be received.
  absl::Status Update(absl::string_view chunk);

  // As above, and feeds the bytes to `whole` if they are not too many.
  absl::Status Update(absl::string_view chunk, crypto::Sha256& whole);

  // Judges the file behind `fd`, which must hold exactly the bytes that were
  // fed; `digest` is their SHA-256 in hex. To be called once.
  Verdict Finish(int fd, absl::string_view digest,
                 const crypto::TrustStore* trust, absl::Time at);

 private:
  class Impl;

  std::unique_ptr<Impl> impl_;
};

}  // namespace mycelium::spore

#endif  // LIB_SPORE_VERIFY_H_
