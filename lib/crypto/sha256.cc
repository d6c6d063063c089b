#include "lib/crypto/sha256.h"

#include <openssl/evp.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <vector>

#include "absl/strings/escaping.h"
#include "lib/base/file.h"

namespace mycelium::crypto {

void Sha256::Free::operator()(evp_md_ctx_st* context) const {
  EVP_MD_CTX_free(context);
}

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  // Fails only when there is no memory.
  if (context_ == nullptr ||
      EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1) {
    std::abort();
  }
}

Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;
Sha256::~Sha256() = default;

void Sha256::Update(absl::string_view bytes) {
  if (EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) != 1) {
    std::abort();
  }
}

std::string Sha256::Finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned int size = 0;
  if (EVP_DigestFinal_ex(context_.get(), digest.data(), &size) != 1 ||
      size != kDigestBytes) {
    std::abort();
  }
  return {digest.begin(), digest.begin() + size};
}

std::string Sha256Raw(absl::string_view bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return hash.Finish();
}

std::string Sha256Hex(absl::string_view bytes) {
  return absl::BytesToHexString(Sha256Raw(bytes));
}

absl::StatusOr<std::string> Sha256HexOfFd(int fd) {
  // Fits the second-level cache; larger reads are slower.
  constexpr size_t kBufferBytes = size_t{256} << 10;
  std::vector<char> buffer(kBufferBytes);
  Sha256 hash;
  off_t offset = 0;
  while (true) {
    const ssize_t got = pread(fd, buffer.data(), buffer.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "cannot read the file to hash");
    if (got == 0) return absl::BytesToHexString(hash.Finish());
    hash.Update({buffer.data(), static_cast<size_t>(got)});
    offset += got;
  }
}

}  // namespace mycelium::crypto
