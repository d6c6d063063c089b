#include "lib/crypto/ed25519.h"

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <limits>
#include <utility>

#include "absl/strings/escaping.h"
#include "lib/crypto/sha256.h"

namespace mycelium::crypto {
namespace {

struct FreeBio {
  void operator()(BIO* bio) const { BIO_free_all(bio); }
};
using UniqueBio = std::unique_ptr<BIO, FreeBio>;

struct FreeDigestContext {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};
using UniqueDigestContext = std::unique_ptr<EVP_MD_CTX, FreeDigestContext>;

const unsigned char* Bytes(absl::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

// The y coordinates of the points whose order divides 8, little-endian. With
// the sign bit masked away these five cover all eight points. (Encodings with
// y >= p are refused as such.)
constexpr std::array<std::array<unsigned char, 32>, 5> kSmallOrderY = {{
    // 0: order 4.
    {},
    // 1: the identity.
    {1},
    // Two of order 8 each (with either sign).
    {0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4,
     0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6,
     0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05},
    {0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b,
     0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39,
     0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a},
    // -1: order 2.
    {0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
}};

// Whether the y of an encoded point is below p = 2^255 - 19.
bool IsCanonicalY(const std::array<unsigned char, 32>& y) {
  if (y[31] != 0x7f) return true;
  for (size_t i = 30; i > 0; --i) {
    if (y[i] != 0xff) return true;
  }
  return y[0] < 0xed;
}

// Whether 32 bytes are a point that may be a key or the R of a signature, as
// far as their y coordinate tells. Whether it is on the curve, OpenSSL checks.
bool IsUsablePoint(absl::string_view encoded) {
  if (encoded.size() != 32) return false;
  std::array<unsigned char, 32> y;
  std::copy(encoded.begin(), encoded.end(), y.begin());
  y[31] &= 0x7f;
  return IsCanonicalY(y) && std::find(kSmallOrderY.begin(), kSmallOrderY.end(),
                                      y) == kSmallOrderY.end();
}

}  // namespace

void PrivateKey::Free::operator()(evp_pkey_st* key) const {
  EVP_PKEY_free(key);  // Cleanses the secret.
}

PrivateKey::PrivateKey(evp_pkey_st* key, std::string public_key)
    : key_(key), public_key_(std::move(public_key)) {}
PrivateKey::PrivateKey(PrivateKey&&) noexcept = default;
PrivateKey& PrivateKey::operator=(PrivateKey&&) noexcept = default;
PrivateKey::~PrivateKey() = default;

absl::StatusOr<PrivateKey> PrivateKey::FromKey(evp_pkey_st* key) {
  std::string public_key(kPublicKeyBytes, '\0');
  size_t size = public_key.size();
  if (EVP_PKEY_get_id(key) != EVP_PKEY_ED25519 ||
      EVP_PKEY_get_raw_public_key(
          key, reinterpret_cast<unsigned char*>(public_key.data()), &size) !=
          1 ||
      size != kPublicKeyBytes) {
    EVP_PKEY_free(key);
    return absl::InvalidArgumentError(
        "the private key is not an Ed25519 key; make one with meshctl keygen");
  }
  return PrivateKey(key, std::move(public_key));
}

absl::StatusOr<PrivateKey> PrivateKey::Generate() {
  EVP_PKEY* key = EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519");
  if (key == nullptr) {
    return absl::InternalError("OpenSSL cannot generate an Ed25519 key");
  }
  return FromKey(key);
}

absl::StatusOr<PrivateKey> PrivateKey::FromPem(absl::string_view pem) {
  constexpr size_t kMaxPemBytes = 64 << 10;
  EVP_PKEY* key = nullptr;
  if (pem.size() <= kMaxPemBytes) {
    const UniqueBio bio(
        BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
    // The callback answers "no pass phrase", instead of OpenSSL's own, which
    // would ask at the terminal.
    key = PEM_read_bio_PrivateKey(
        bio.get(), nullptr,
        [](char* /*buffer*/, int /*size*/, int /*writing*/, void* /*user*/) {
          return -1;
        },
        nullptr);
  }
  if (key == nullptr) {
    ERR_clear_error();
    return absl::InvalidArgumentError(
        "the private key is not an unencrypted PKCS #8 PEM (BEGIN PRIVATE "
        "KEY); make one with meshctl keygen");
  }
  return FromKey(key);
}

std::string PrivateKey::ToPem() const {
  const UniqueBio bio(BIO_new(BIO_s_secmem()));
  if (bio == nullptr ||
      PEM_write_bio_PKCS8PrivateKey(bio.get(), key_.get(), nullptr, nullptr, 0,
                                    nullptr, nullptr) != 1) {
    std::abort();  // Only without memory.
  }
  char* data = nullptr;
  const auto size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<size_t>(size)};
}

std::string PrivateKey::Sign(absl::string_view message) const {
  const UniqueDigestContext context(EVP_MD_CTX_new());
  std::string signature(kSignatureBytes, '\0');
  size_t size = signature.size();
  if (context == nullptr ||
      EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr,
                         key_.get()) != 1 ||
      EVP_DigestSign(context.get(),
                     reinterpret_cast<unsigned char*>(signature.data()), &size,
                     Bytes(message), message.size()) != 1 ||
      size != kSignatureBytes) {
    std::abort();  // Only without memory.
  }
  return signature;
}

bool IsUsablePublicKey(absl::string_view public_key) {
  return IsUsablePoint(public_key);
}

bool VerifyEd25519(absl::string_view public_key, absl::string_view message,
                   absl::string_view signature) {
  if (signature.size() != kSignatureBytes || !IsUsablePoint(public_key) ||
      !IsUsablePoint(signature.substr(0, 32))) {
    return false;
  }
  EVP_PKEY* key = EVP_PKEY_new_raw_public_key(
      EVP_PKEY_ED25519, nullptr, Bytes(public_key), public_key.size());
  const UniqueDigestContext context(EVP_MD_CTX_new());
  const bool good =
      key != nullptr && context != nullptr &&
      EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key) ==
          1 &&
      EVP_DigestVerify(context.get(), Bytes(signature), signature.size(),
                       Bytes(message), message.size()) == 1;
  EVP_PKEY_free(key);
  // What is left in this thread's queue would be taken for an error of the
  // next TLS call.
  if (!good) ERR_clear_error();
  return good;
}

std::string KeyId(absl::string_view public_key) {
  return Sha256Hex(public_key);
}

void Wipe(std::string& secret) {
  OPENSSL_cleanse(secret.data(), secret.size());
  secret.clear();
}

}  // namespace mycelium::crypto
