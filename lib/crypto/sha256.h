// SHA-256, the digest by which spores, binaries and keys are known.
//
//   crypto::Sha256 hash;
//   for (absl::string_view chunk : chunks) hash.Update(chunk);
//   const std::string digest = absl::BytesToHexString(hash.Finish());

#ifndef LIB_CRYPTO_SHA256_H_
#define LIB_CRYPTO_SHA256_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct SHA256state_st;  // OpenSSL's SHA256_CTX.

namespace mycelium::crypto {

// A SHA-256 that is fed piece by piece. Not thread-safe.
class Sha256 {
 public:
  static constexpr size_t kDigestBytes = 32;

  Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  ~Sha256();

  void Update(absl::string_view bytes);

  // Which code UpdateBoth() runs.
  enum class Both {
    kFastest,   // What this machine does fastest.
    kOneByOne,  // What works on every machine.
  };

  // Feeds the same bytes to both, which must be different objects: to the same
  // end as an Update() of each, but in two thirds of the time where the CPU has
  // SHA instructions. It gains nothing for less than some hundred bytes at a
  // time.
  static void UpdateBoth(Sha256& first, Sha256& second, absl::string_view bytes,
                         Both how = Both::kFastest);

  // The 32 raw bytes of the digest of all that was fed. The object must not be
  // used afterwards, except to be assigned to.
  [[nodiscard]] std::string Finish();

 private:
  // How many bytes complete the block that is under way; 0 if none is.
  size_t BytesToBlock() const;
  // Says that so many blocks were fed to the state itself.
  void CountBlocks(size_t count);

  std::unique_ptr<SHA256state_st> context_;
};

// The digest of `bytes`: 32 raw bytes.
std::string Sha256Raw(absl::string_view bytes);

// The digest of `bytes`: 64 lower-case hex digits.
std::string Sha256Hex(absl::string_view bytes);

// The digest of the whole file behind `fd` in hex, whatever the file offset is;
// the offset is left as it was. `fd` must support pread.
absl::StatusOr<std::string> Sha256HexOfFd(int fd);

}  // namespace mycelium::crypto

#endif  // LIB_CRYPTO_SHA256_H_
