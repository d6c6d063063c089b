// Which keys may sign which spores: the policy that a spore is judged under.
// The key that a manifest carries proves nothing by itself.
//
//   MYC_ASSIGN_OR_RETURN(const crypto::TrustStore trust,
//                        crypto::TrustStore::Load("/etc/mycelium/trust.json"));
//   const spore::Verdict verdict =
//       spore::VerifySpore(fd, &trust, clock.Now(), spore::Limits());
//
// The file is described in docs/spore-format.md.

#ifndef LIB_CRYPTO_TRUST_STORE_H_
#define LIB_CRYPTO_TRUST_STORE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace mycelium::crypto {

// Whether a key may still sign.
enum class KeyState {
  kActive,
  // What it signed up to `not_after` holds; nothing later, and nothing at all
  // if no `not_after` is given.
  kRetired,
  // Nothing it ever signed holds.
  kRevoked,
};

// "active", "retired" or "revoked".
absl::string_view KeyStateName(KeyState state);

struct TrustedKey {
  std::string id;          // KeyId(public_key).
  std::string public_key;  // 32 raw bytes.
  std::string comment;
  KeyState state = KeyState::kActive;
  // Compared with the time at which a spore says that it was created.
  std::optional<absl::Time> not_before;
  std::optional<absl::Time> not_after;
  // What the key may sign; empty means spores.
  std::vector<std::string> usages;
};

// What a rule does with a spore that does not meet its requirements.
enum class Enforcement { kEnforce, kAudit };

// Who may sign the spores of some names, and what these must bring along.
struct TrustRule {
  // Patterns, compared by whole segments: `*` is exactly one segment, and a
  // last `**` is one or more.
  std::vector<std::string> names;
  std::vector<std::string> key_ids;
  std::string comment;
  // How many of the keys must have signed. A spore of format v1 carries one
  // signature, so that a rule with more refuses all of them.
  int threshold = 1;
  // kAudit accepts a spore that misses a requirement (threshold, SBOM) and says
  // so in a warning. Keys and signatures are never only audited.
  Enforcement enforcement = Enforcement::kEnforce;
  bool require_sbom = false;
};

// Whether `pattern` of a rule covers the spore name `name`.
bool NameMatches(absl::string_view pattern, absl::string_view name);

// A trust store: keys, rules, revoked spores. A value; thread-safe while const.
class TrustStore {
 public:
  // One that trusts nobody, at version 1.
  TrustStore() = default;

  // Reads trust.json. Unknown members are refused, because a requirement that
  // is not understood must not be skipped.
  // InvalidArgument: names the member and the rule that it breaks.
  static absl::StatusOr<TrustStore> Parse(absl::string_view json);

  // Reads and parses a file; errors name `path`.
  static absl::StatusOr<TrustStore> Load(const std::string& path);

  // trust.json, indented for people; Parse gives an equal store back. Write it
  // with WriteFileAtomically.
  std::string Serialize() const;

  // Counts the changes. Holders keep the highest version they have seen and
  // refuse to go back, see CheckNotOlderThan.
  int64_t version() const { return version_; }
  const std::vector<TrustedKey>& keys() const { return keys_; }
  const std::vector<TrustRule>& rules() const { return rules_; }
  // Digests (of the file or of the statement) in hex.
  const std::vector<std::string>& revoked_spores() const {
    return revoked_spores_;
  }
  // After this time the store approves of nothing.
  std::optional<absl::Time> expires() const { return expires_; }

  // The key, or null.
  const TrustedKey* FindKey(absl::string_view key_id) const;

  // FailedPrecondition: this store is older than `version`, the last one used.
  absl::Status CheckNotOlderThan(int64_t version) const;

  // The edits below add 1 to the version when they succeed and change nothing
  // when they fail.

  // Trusts `public_key` (32 raw bytes) for spores whose names match one of
  // `names`. A key that is there already gets the names in addition, and is
  // active again if it was retired.
  // InvalidArgument: unusable key, no name, malformed pattern.
  // FailedPrecondition: the key is revoked.
  absl::Status AddKey(absl::string_view public_key, absl::string_view comment,
                      const std::vector<std::string>& names);

  // Forgets a key and takes it out of every rule. NotFound.
  absl::Status RemoveKey(absl::string_view key_id);

  // Spores that say they were created after `at` are refused. NotFound;
  // FailedPrecondition: the key is revoked.
  absl::Status RetireKey(absl::string_view key_id, absl::Time at);

  // Refuses everything the key signed, for ever. NotFound.
  absl::Status RevokeKey(absl::string_view key_id);

  // Refuses one spore, by the digest of its file or of its statement.
  // InvalidArgument: not a digest.
  absl::Status RevokeSpore(absl::string_view digest);

  // Sets or clears the time after which the store approves of nothing.
  void SetExpires(std::optional<absl::Time> expires);

  // Whether the key may sign spores of this name, as of `created_at` (what the
  // manifest says) and `at` (now). Everything but the signature itself.
  // PermissionDenied with reason E_TRUST_EXPIRED, E_UNTRUSTED_KEY,
  // E_KEY_REVOKED, E_KEY_RETIRED, E_KEY_NOT_YET_VALID or E_NOT_AUTHORIZED.
  absl::Status EvaluateSigner(absl::string_view key_id, absl::string_view name,
                              absl::Time created_at, absl::Time at) const;

  // What is known of a spore once its bytes are verified.
  struct VerifiedSpore {
    std::string name;
    std::string digest;            // Of the file, in hex.
    std::string statement_digest;  // In hex.
    std::optional<absl::Time> expires_at;
    bool has_sbom = false;
  };

  // Whether it is neither revoked nor expired `at` that time, and the rules for
  // its name are met. What rules that only audit miss is appended to
  // `warnings`. PermissionDenied with reason E_REVOKED, E_EXPIRED or E_POLICY.
  absl::Status EvaluateSpore(const VerifiedSpore& spore, absl::Time at,
                             std::vector<std::string>& warnings) const;

 private:
  TrustedKey* MutableKey(absl::string_view key_id);

  int64_t version_ = 1;
  std::optional<absl::Time> expires_;
  std::string comment_;
  std::vector<TrustedKey> keys_;
  std::vector<TrustRule> rules_;
  std::vector<std::string> revoked_spores_;
};

}  // namespace mycelium::crypto

#endif  // LIB_CRYPTO_TRUST_STORE_H_
