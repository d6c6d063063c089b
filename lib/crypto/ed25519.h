// Ed25519 keys and signatures (RFC 8032, pure, no context).
//
//   MYC_ASSIGN_OR_RETURN(const crypto::PrivateKey key,
//                        crypto::PrivateKey::FromPem(pem));
//   const std::string signature = key.Sign(message);
//   crypto::VerifyEd25519(key.public_key(), message, signature);  // true

#ifndef LIB_CRYPTO_ED25519_H_
#define LIB_CRYPTO_ED25519_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct evp_pkey_st;  // OpenSSL's EVP_PKEY.

namespace mycelium::crypto {

inline constexpr size_t kPublicKeyBytes = 32;
inline constexpr size_t kSignatureBytes = 64;

// A key to sign with. It is movable only, and its memory is wiped when it goes.
// Thread-safe once made.
class PrivateKey {
 public:
  // A new key from OpenSSL's random generator.
  static absl::StatusOr<PrivateKey> Generate();

  // Reads an unencrypted PKCS #8 PEM ("BEGIN PRIVATE KEY").
  // InvalidArgument: it is none, or not of an Ed25519 key.
  static absl::StatusOr<PrivateKey> FromPem(absl::string_view pem);

  PrivateKey(PrivateKey&&) noexcept;
  PrivateKey& operator=(PrivateKey&&) noexcept;
  ~PrivateKey();

  // The key as PKCS #8 PEM. The caller holds a secret: see Wipe.
  [[nodiscard]] std::string ToPem() const;

  // The 64 bytes of the signature over `message`; the same for the same input.
  [[nodiscard]] std::string Sign(absl::string_view message) const;

  // 32 raw bytes.
  const std::string& public_key() const { return public_key_; }

 private:
  struct Free {
    void operator()(evp_pkey_st* key) const;
  };

  PrivateKey(evp_pkey_st* key, std::string public_key);

  static absl::StatusOr<PrivateKey> FromKey(evp_pkey_st* key);

  std::unique_ptr<evp_pkey_st, Free> key_;
  std::string public_key_;
};

// Whether `public_key` is 32 bytes that encode a point in the one canonical way
// (y < p) and not one of the eight points of small order, for which anybody can
// make signatures.
bool IsUsablePublicKey(absl::string_view public_key);

// Whether `signature` is one of `public_key` over `message`. Refuses, besides
// what OpenSSL refuses, every key that is not usable, and every signature whose
// R is of small order or not canonically encoded: OpenSSL 3.0 accepts those.
bool VerifyEd25519(absl::string_view public_key, absl::string_view message,
                   absl::string_view signature);

// By what a key is known: the SHA-256 of its 32 bytes, in lower-case hex.
std::string KeyId(absl::string_view public_key);

// Overwrites a secret in place before its memory is used for something else.
void Wipe(std::string& secret);

}  // namespace mycelium::crypto

#endif  // LIB_CRYPTO_ED25519_H_
