#include "lib/spore/verify.h"

#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "lib/base/error.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/crypto/ed25519.h"
#include "lib/crypto/sha256.h"
#include "lib/spore/contents.h"
#include "lib/spore/crc32.h"
#include "lib/spore/refusal.h"

namespace mycelium::spore {
namespace {

// What is known of the bytes of a STORED entry before the file is judged.
struct HashedData {
  int64_t size = 0;
  uint32_t crc32 = 0;
  std::string sha256;  // Hex.
};

// By the offset of the data in the file.
using HashedEntries = std::map<int64_t, HashedData>;

absl::StatusOr<std::string> ReadManifestText(
    int fd, const std::vector<Entry>& entries) {
  const auto entry = std::find_if(
      entries.begin(), entries.end(),
      [](const Entry& candidate) { return candidate.path == kManifestPath; });
  if (entry == entries.end()) {
    return Refuse("E_MANIFEST_MISSING", "the zip has no entry manifest.json");
  }
  // The second bound keeps a small text from hiding in a large one: deflate
  // data may contain any number of empty blocks.
  if (entry->size > int64_t{kMaxManifestBytes} ||
      entry->stored_bytes > 2 * int64_t{kMaxManifestBytes}) {
    return Refuse("E_SIZE", absl::StrCat("the manifest has ", entry->size,
                                         " bytes; at most ", kMaxManifestBytes,
                                         " are allowed"));
  }
  std::string text;
  MYC_RETURN_IF_ERROR(ReadEntry(fd, *entry, [&](absl::string_view bytes) {
    absl::StrAppend(&text, bytes);
    return absl::OkStatus();
  }));
  return text;
}

// The SHA-256 of the unpacked entry, in hex: from `hashed` where it passed by,
// otherwise read from the file. Its size and CRC are as declared.
absl::StatusOr<std::string> HashEntry(int fd, const Entry& entry,
                                      const HashedEntries& hashed) {
  const auto found = hashed.find(entry.data_offset);
  if (!entry.deflated && found != hashed.end() &&
      found->second.size == entry.size) {
    if (found->second.crc32 != entry.crc32) {
      return Refuse("E_ZIP_DATA", absl::StrCat("entry ", Quoted(entry.path),
                                               " does not have the declared "
                                               "CRC"));
    }
    return found->second.sha256;
  }
  crypto::Sha256 hash;
  MYC_RETURN_IF_ERROR(ReadEntry(fd, entry, [&](absl::string_view bytes) {
    hash.Update(bytes);
    return absl::OkStatus();
  }));
  return absl::BytesToHexString(hash.Finish());
}

absl::Status CheckHashes(int fd, const std::vector<SignedEntry>& entries,
                         const HashedEntries& hashed) {
  for (const SignedEntry& entry : entries) {
    MYC_ASSIGN_OR_RETURN(const std::string found,
                         HashEntry(fd, entry.entry, hashed));
    if (found != entry.sha256) {
      return Refuse("E_HASH", absl::StrCat("entry ", Quoted(entry.entry.path),
                                           " has the SHA-256 ", found, ", but ",
                                           entry.sha256, " is signed"));
    }
  }
  return absl::OkStatus();
}

// All checks in the order of docs/spore-format.md. Fills in `verdict` as far as
// they come; `wait_for_digest` sets verdict.digest.
absl::Status Check(int fd, const HashedEntries& hashed,
                   const crypto::TrustStore* trust, absl::Time at,
                   const Limits& limits,
                   absl::FunctionRef<absl::Status()> wait_for_digest,
                   Verdict& verdict) {
  MYC_ASSIGN_OR_RETURN(const std::vector<Entry> entries,
                       ReadArchive(fd, limits));
  MYC_ASSIGN_OR_RETURN(const std::string text, ReadManifestText(fd, entries));
  MYC_ASSIGN_OR_RETURN(verdict.manifest, ParseManifest(text));
  const Manifest& manifest = verdict.manifest;
  verdict.key_id = crypto::KeyId(manifest.public_key);
  if (trust != nullptr) {
    MYC_RETURN_IF_ERROR(trust->EvaluateSigner(verdict.key_id, manifest.name,
                                              manifest.created_at, at));
  }
  const std::string statement_digest = StatementDigest(manifest);
  verdict.statement_digest = absl::BytesToHexString(statement_digest);
  if (!crypto::VerifyEd25519(manifest.public_key, statement_digest,
                             manifest.signature)) {
    return Refuse("E_SIG", absl::StrCat("the signature is not one of key ",
                                        verdict.key_id, " over this manifest"));
  }
  MYC_ASSIGN_OR_RETURN(const std::vector<SignedEntry> signed_entries,
                       MatchEntries(manifest, entries));
  MYC_RETURN_IF_ERROR(CheckHashes(fd, signed_entries, hashed));
  MYC_RETURN_IF_ERROR(wait_for_digest());
  if (trust == nullptr) return absl::OkStatus();
  return trust->EvaluateSpore(
      {.name = manifest.name,
       .digest = verdict.digest,
       .statement_digest = verdict.statement_digest,
       .expires_at = manifest.expires_at,
       .has_sbom = manifest.files.has_value() &&
                   manifest.files->count(std::string(kSbomPath)) > 0},
      at, verdict.warnings);
}

Verdict Judge(int fd, const HashedEntries& hashed,
              const crypto::TrustStore* trust, absl::Time at,
              const Limits& limits,
              absl::FunctionRef<absl::StatusOr<std::string>()> digest) {
  Verdict verdict;
  verdict.trust_checked = trust != nullptr;
  if (trust != nullptr) verdict.policy_version = trust->version();
  const auto wait_for_digest = [&]() -> absl::Status {
    if (!verdict.digest.empty()) return absl::OkStatus();
    absl::StatusOr<std::string> result = digest();
    if (!result.ok()) return Refuse("E_IO", result.status().message());
    verdict.digest = *std::move(result);
    return absl::OkStatus();
  };
  absl::Status status =
      Check(fd, hashed, trust, at, limits, wait_for_digest, verdict);
  // Also what is refused is named by its digest, where it has one.
  const absl::Status digest_status = wait_for_digest();
  if (status.ok()) status = digest_status;
  verdict.accept = status.ok();
  if (status.ok()) {
    verdict.code = "OK";
    verdict.message =
        trust == nullptr
            ? absl::StrCat("whole, and signed by key ", verdict.key_id,
                           "; no trust store was given, so nothing says whose "
                           "key that is")
            : absl::StrCat("signed by key ", verdict.key_id,
                           ", which may sign ", Quoted(verdict.manifest.name));
  } else {
    verdict.code = ReasonOf(status);
    if (verdict.code.empty()) verdict.code = "E_IO";
    verdict.message = std::string(status.message());
  }
  return verdict;
}

// Hashes a file on a thread of its own, or in Wait() if there is none to be
// had.
class BackgroundDigest {
 public:
  explicit BackgroundDigest(int fd) : fd_(fd) {
    try {
      thread_ = std::thread([this] { result_ = crypto::Sha256HexOfFd(fd_); });
    } catch (const std::system_error&) {
      // The limit of threads is reached; it will take longer.
    }
  }
  ~BackgroundDigest() {
    if (thread_.joinable()) thread_.join();
  }
  BackgroundDigest(const BackgroundDigest&) = delete;
  BackgroundDigest& operator=(const BackgroundDigest&) = delete;

  // To be called once.
  absl::StatusOr<std::string> Wait() {
    if (!thread_.joinable()) return crypto::Sha256HexOfFd(fd_);
    thread_.join();
    return std::move(result_);
  }

 private:
  const int fd_;
  // Written by the thread, read after it has been joined.
  absl::StatusOr<std::string> result_ = absl::UnknownError("not hashed");
  std::thread thread_;
};

}  // namespace

absl::Status Verdict::ToStatus() const {
  return accept ? absl::OkStatus() : Refuse(code, message);
}

Verdict VerifySpore(int fd, const crypto::TrustStore* trust, absl::Time at,
                    const Limits& limits) {
  // Below this, starting a thread takes longer than hashing.
  constexpr int64_t kMinThreadBytes = int64_t{1} << 20;
  struct stat info;
  const bool readable = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) &&
                        info.st_size <= limits.max_file_bytes;
  if (!readable) {
    return Judge(fd, {}, trust, at, limits, [] { return std::string(); });
  }
  if (info.st_size < kMinThreadBytes) {
    return Judge(fd, {}, trust, at, limits,
                 [fd] { return crypto::Sha256HexOfFd(fd); });
  }
  BackgroundDigest digest(fd);
  return Judge(fd, {}, trust, at, limits, [&] { return digest.Wait(); });
}

Verdict VerifySpore(int fd, absl::string_view digest,
                    const crypto::TrustStore* trust, absl::Time at,
                    const Limits& limits) {
  return Judge(fd, {}, trust, at, limits,
               [digest] { return std::string(digest); });
}

// Follows the local headers of a zip from its first byte. All it learns is what
// the hash of the bytes at some offset is; whether an entry is there at all,
// ReadArchive decides.
class StreamingVerifier::Impl {
 public:
  explicit Impl(const Limits& limits) : limits_(limits) {}

  // `whole` may be null.
  absl::Status Update(absl::string_view chunk, crypto::Sha256* whole) {
    if (position_ + static_cast<int64_t>(chunk.size()) >
        limits_.max_file_bytes) {
      return Refuse("E_SIZE",
                    absl::StrCat("the file has more than the ",
                                 limits_.max_file_bytes, " bytes allowed"));
    }
    while (!chunk.empty()) {
      const size_t taken = Take(chunk, whole);
      position_ += static_cast<int64_t>(taken);
      chunk.remove_prefix(taken);
    }
    return absl::OkStatus();
  }

  const HashedEntries& hashed() const { return hashed_; }
  const Limits& limits() const { return limits_; }

 private:
  enum class State { kHeader, kData, kSkip, kLost };

  // Uses bytes from the front of `chunk` and says how many, at least one.
  size_t Take(absl::string_view chunk, crypto::Sha256* whole) {
    if (state_ == State::kData) return TakeData(chunk, whole);
    const size_t taken = TakeOther(chunk);
    if (whole != nullptr) whole->Update(chunk.substr(0, taken));
    return taken;
  }

  size_t TakeData(absl::string_view chunk, crypto::Sha256* whole) {
    const absl::string_view bytes = chunk.substr(0, BytesLeft(chunk));
    // In portions, so that the CRC finds them in the cache.
    constexpr size_t kPortionBytes = size_t{16} << 10;
    for (size_t i = 0; i < bytes.size(); i += kPortionBytes) {
      const absl::string_view portion = bytes.substr(i, kPortionBytes);
      if (whole != nullptr) {
        crypto::Sha256::UpdateBoth(*whole, hash_, portion);
      } else {
        hash_.Update(portion);
      }
      data_.crc32 = ExtendCrc32(data_.crc32, portion);
    }
    OnTaken(bytes.size());
    return bytes.size();
  }

  size_t TakeOther(absl::string_view chunk) {
    switch (state_) {
      case State::kHeader: {
        const size_t taken =
            std::min(chunk.size(), header_bytes_ - header_.size());
        absl::StrAppend(&header_, chunk.substr(0, taken));
        if (header_.size() == header_bytes_) {
          OnHeader(position_ + static_cast<int64_t>(taken));
        }
        return taken;
      }
      case State::kSkip: {
        const size_t taken = BytesLeft(chunk);
        OnTaken(taken);
        return taken;
      }
      case State::kData:
      case State::kLost:
        return chunk.size();
    }
    return chunk.size();
  }

  // How much of `chunk` belongs to the entry.
  size_t BytesLeft(absl::string_view chunk) const {
    return static_cast<size_t>(
        std::min<int64_t>(static_cast<int64_t>(chunk.size()), left_));
  }

  void OnTaken(size_t bytes) {
    left_ -= static_cast<int64_t>(bytes);
    if (left_ == 0) OnDataEnd();
  }

  uint32_t HeaderField(size_t offset, size_t bytes) const {
    uint32_t value = 0;
    for (size_t i = 0; i < bytes; ++i) {
      value |=
          static_cast<uint32_t>(static_cast<unsigned char>(header_[offset + i]))
          << (8 * i);
    }
    return value;
  }

  // The header is there up to header_bytes_; `end` is the position behind it.
  void OnHeader(int64_t end) {
    constexpr uint32_t kLocalSignature = 0x04034b50;
    constexpr uint32_t kFlagDescriptor = 1 << 3;
    if (header_bytes_ == kFixedHeaderBytes) {
      const bool follow =
          HeaderField(0, 4) == kLocalSignature &&
          (HeaderField(6, 2) & kFlagDescriptor) == 0 &&
          hashed_.size() <= static_cast<size_t>(limits_.max_entries);
      if (!follow) {
        state_ = State::kLost;
        return;
      }
      header_bytes_ += HeaderField(26, 2) + HeaderField(28, 2);
      if (header_bytes_ > header_.size()) return;
    }
    left_ = HeaderField(18, 4);
    state_ = HeaderField(8, 2) == 0 ? State::kData : State::kSkip;
    data_ = HashedData{.size = left_, .crc32 = 0, .sha256 = ""};
    data_offset_ = end;
    hash_ = crypto::Sha256();
    if (left_ == 0) OnDataEnd();
  }

  void OnDataEnd() {
    if (state_ == State::kData) {
      data_.sha256 = absl::BytesToHexString(hash_.Finish());
      hashed_.emplace(data_offset_, std::move(data_));
    }
    state_ = State::kHeader;
    header_.clear();
    header_bytes_ = kFixedHeaderBytes;
  }

  static constexpr size_t kFixedHeaderBytes = 30;

  const Limits limits_;
  State state_ = State::kHeader;
  int64_t position_ = 0;
  std::string header_;
  size_t header_bytes_ = kFixedHeaderBytes;
  int64_t left_ = 0;
  int64_t data_offset_ = 0;
  HashedData data_;
  crypto::Sha256 hash_;
  HashedEntries hashed_;
};

StreamingVerifier::StreamingVerifier(const Limits& limits)
    : impl_(std::make_unique<Impl>(limits)) {}
StreamingVerifier::StreamingVerifier(StreamingVerifier&&) noexcept = default;
StreamingVerifier& StreamingVerifier::operator=(StreamingVerifier&&) noexcept =
    default;
StreamingVerifier::~StreamingVerifier() = default;

absl::Status StreamingVerifier::Update(absl::string_view chunk) {
  return impl_->Update(chunk, nullptr);
}

absl::Status StreamingVerifier::Update(absl::string_view chunk,
                                       crypto::Sha256& whole) {
  return impl_->Update(chunk, &whole);
}

Verdict StreamingVerifier::Finish(int fd, absl::string_view digest,
                                  const crypto::TrustStore* trust,
                                  absl::Time at) {
  return Judge(fd, impl_->hashed(), trust, at, impl_->limits(),
               [digest] { return std::string(digest); });
}

}  // namespace mycelium::spore
