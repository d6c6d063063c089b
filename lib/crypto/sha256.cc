// OpenSSL 3 would rather have all digests go through EVP, which does not show
// the state that two digests at a time need.
#define OPENSSL_API_COMPAT 0x10101000L

#include "lib/crypto/sha256.h"

#include <openssl/sha.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <vector>

#include "absl/strings/escaping.h"
#include "lib/base/file.h"
#include "lib/crypto/sha256_pair.h"

namespace mycelium::crypto {

namespace {

static_assert(sizeof(SHA_LONG) == sizeof(uint32_t));

constexpr size_t kBlockBytes = SHA256_CBLOCK;

}  // namespace

Sha256::Sha256() : context_(std::make_unique<SHA256_CTX>()) {
  SHA256_Init(context_.get());
}

Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;
Sha256::~Sha256() = default;

void Sha256::Update(absl::string_view bytes) {
  SHA256_Update(context_.get(), bytes.data(), bytes.size());
}

void Sha256::UpdateBoth(Sha256& first, Sha256& second, absl::string_view bytes,
                        Both how) {
  // Below this, little but the beginnings and ends of blocks would be left.
  constexpr size_t kMinBytes = 8 * kBlockBytes;
  // Stays in the first-level cache from the one to the other.
  constexpr size_t kPortionBytes = size_t{16} << 10;
  if (how == Both::kOneByOne || !CanCompressPair()) {
    for (; !bytes.empty();
         bytes.remove_prefix(std::min(kPortionBytes, bytes.size()))) {
      first.Update(bytes.substr(0, kPortionBytes));
      second.Update(bytes.substr(0, kPortionBytes));
    }
    return;
  }
  if (bytes.size() < kMinBytes) {
    first.Update(bytes);
    second.Update(bytes);
    return;
  }
  const size_t first_begin = first.BytesToBlock();
  const size_t second_begin = second.BytesToBlock();
  first.Update(bytes.substr(0, first_begin));
  second.Update(bytes.substr(0, second_begin));
  const size_t count =
      (bytes.size() - std::max(first_begin, second_begin)) / kBlockBytes;
  CompressPair({.state = first.context_->h, .blocks = &bytes[first_begin]},
               {.state = second.context_->h, .blocks = &bytes[second_begin]},
               count);
  first.CountBlocks(count);
  second.CountBlocks(count);
  first.Update(bytes.substr(first_begin + count * kBlockBytes));
  second.Update(bytes.substr(second_begin + count * kBlockBytes));
}

std::string Sha256::Finish() {
  std::string digest(kDigestBytes, '\0');
  SHA256_Final(reinterpret_cast<unsigned char*>(digest.data()), context_.get());
  return digest;
}

size_t Sha256::BytesToBlock() const {
  return (kBlockBytes - context_->num) % kBlockBytes;
}

void Sha256::CountBlocks(size_t count) {
  // The length in bits is kept in two words.
  const uint64_t bits =
      (uint64_t{context_->Nh} << 32 | context_->Nl) + count * kBlockBytes * 8;
  context_->Nh = static_cast<SHA_LONG>(bits >> 32);
  context_->Nl = static_cast<SHA_LONG>(bits);
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
