#include "services/agent/spore_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "glog/logging.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/crypto/sha256.h"
#include "lib/spore/extract.h"
#include "lib/spore/verify.h"

namespace mycelium::agent {
namespace {

constexpr absl::string_view kErrorDomain = "agent.mycelium";
constexpr char kSporeFile[] = "spore";
constexpr char kPartialFile[] = "partial";
constexpr char kTree[] = "tree";

int64_t FileSize(const std::string& path) {
  struct stat info = {};
  return stat(path.c_str(), &info) == 0 ? info.st_size : 0;
}

absl::Time ModificationTime(const std::string& path) {
  struct stat info = {};
  return stat(path.c_str(), &info) == 0 ? absl::TimeFromTimespec(info.st_mtim)
                                        : absl::InfinitePast();
}

int64_t TreeSize(const std::string& directory) {
  int64_t size = 0;
  const absl::StatusOr<std::vector<std::string>> names =
      ListDirectory(directory);
  if (!names.ok()) return 0;
  for (const std::string& name : *names) {
    const std::string path = JoinPath(directory, name);
    struct stat info = {};
    if (lstat(path.c_str(), &info) != 0) continue;
    size += S_ISDIR(info.st_mode) ? TreeSize(path) : info.st_size;
  }
  return size;
}

// Whether the unpacked program is the one that was signed.
bool HasSignedBinary(const std::string& tree, const spore::Manifest& manifest) {
  const UniqueFd fd(open(JoinPath(tree, manifest.binary).c_str(),
                         O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid()) return false;
  const absl::StatusOr<std::string> hash = crypto::Sha256HexOfFd(fd.get());
  return hash.ok() && *hash == manifest.binary_sha256;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SporeCache>> SporeCache::Open(
    const Options& options, SporeSource* source, TrustPolicy* trust,
    Clock* clock) {
  MYC_RETURN_IF_ERROR(MakeDirectories(options.directory, 0700));
  auto cache = std::unique_ptr<SporeCache>(
      new SporeCache(options, source, trust, clock));
  MYC_RETURN_IF_ERROR(cache->TakeOver());
  return cache;
}

SporeCache::SporeCache(const Options& options, SporeSource* source,
                       TrustPolicy* trust, Clock* clock)
    : options_(options), source_(*source), trust_(*trust), clock_(*clock) {}

absl::StatusOr<CachedSpore> SporeCache::Get(const std::string& digest) {
  if (!IsDigest(digest)) {
    return absl::InvalidArgumentError(
        absl::StrCat("digest ", Quoted(digest), " ", kDigestRule));
  }
  // Before the generation is read, so that a change in between is seen as one.
  trust_.Current();
  {
    MutexLock lock(mutex_);
    // What is not busy may be evicted during the wait.
    while (entries_[digest].busy) idle_.Wait(mutex_);
    Entry& entry = entries_[digest];
    const absl::Time now = clock_.Now();
    entry.last_use = now;
    if (entry.accepted.has_value() &&
        entry.trust_generation == trust_.generation() &&
        (!entry.good_until.has_value() || now < *entry.good_until)) {
      return *entry.accepted;
    }
    entry.accepted.reset();
    entry.busy = true;
  }

  const int64_t generation = trust_.generation();
  absl::StatusOr<CachedSpore> spore = Prepare(digest);
  const int64_t bytes = TreeSize(DirectoryOf(digest));

  MutexLock lock(mutex_);
  Entry& entry = entries_[digest];
  entry.busy = false;
  entry.bytes = bytes;
  entry.last_use = clock_.Now();
  if (spore.ok()) {
    entry.accepted = *spore;
    entry.trust_generation = generation;
    entry.good_until = spore->manifest.expires_at;
    const std::optional<absl::Time> trust_expires = trust_.Current()->expires();
    if (trust_expires.has_value() &&
        (!entry.good_until.has_value() || *trust_expires < *entry.good_until)) {
      entry.good_until = trust_expires;
    }
  }
  idle_.NotifyAll();
  return spore;
}

void SporeCache::SetNeeded(std::set<std::string> digests) {
  MutexLock lock(mutex_);
  needed_ = std::move(digests);
}

void SporeCache::Trim() {
  MutexLock lock(mutex_);
  Evict(options_.max_bytes);
}

int64_t SporeCache::size_bytes() const {
  MutexLock lock(mutex_);
  int64_t size = 0;
  for (const auto& [digest, entry] : entries_) size += entry.bytes;
  return size;
}

bool SporeCache::IsRefusal(const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  return absl::StartsWith(reason, "E_") && reason != "E_IO";
}

std::string SporeCache::DirectoryOf(const std::string& digest) const {
  return JoinPath(options_.directory, digest);
}

absl::Status SporeCache::TakeOver() {
  MYC_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                       ListDirectory(options_.directory));
  MutexLock lock(mutex_);
  for (const std::string& name : names) {
    const std::string directory = DirectoryOf(name);
    const std::string file = JoinPath(directory, kSporeFile);
    if (!IsDigest(name)) {
      LOG(WARNING) << directory << " is not ours and is ignored";
      continue;
    }
    // What Extract did not finish lies beside the tree.
    const absl::StatusOr<std::vector<std::string>> parts =
        ListDirectory(directory);
    if (!parts.ok()) continue;
    for (const std::string& part : *parts) {
      if (part == kSporeFile || part == kPartialFile || part == kTree) continue;
      MYC_RETURN_IF_ERROR(RemoveTree(JoinPath(directory, part)));
    }
    Entry& entry = entries_[name];
    entry.here = FileSize(file) > 0;
    entry.bytes = TreeSize(directory);
    entry.last_use = ModificationTime(file);
  }
  return absl::OkStatus();
}

absl::StatusOr<CachedSpore> SporeCache::Prepare(const std::string& digest) {
  bool here = false;
  {
    MutexLock lock(mutex_);
    here = entries_[digest].here;
  }
  if (!here) {
    MYC_RETURN_IF_ERROR(Fetch(digest));
    MutexLock lock(mutex_);
    entries_[digest].here = true;
  }
  absl::StatusOr<CachedSpore> spore = VerifyAndUnpack(digest);
  if (!spore.ok() && ReasonOf(spore.status()) == "DIGEST_MISMATCH") {
    // The disk changed it. The next try fetches it again.
    MutexLock lock(mutex_);
    entries_[digest].here = false;
  }
  return spore;
}

absl::Status SporeCache::Fetch(const std::string& digest) {
  const std::string directory = DirectoryOf(digest);
  MYC_RETURN_IF_ERROR(MakeDirectories(directory, 0700));
  const std::string partial = JoinPath(directory, kPartialFile);
  const UniqueFd fd(
      open(partial.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) {
    return ErrnoStatus(errno, absl::StrCat("cannot open ", partial));
  }
  int64_t offset = lseek(fd.get(), 0, SEEK_END);
  const int64_t had = offset;
  int64_t expected = -1;
  bool roomy = false;
  const auto sink = [&](int64_t size_bytes,
                        absl::string_view chunk) -> absl::Status {
    expected = size_bytes;
    if (size_bytes > options_.limits.max_file_bytes ||
        offset + static_cast<int64_t>(chunk.size()) > size_bytes) {
      return absl::OutOfRangeError(absl::StrCat(
          "the spore is longer than ",
          std::min(size_bytes, options_.limits.max_file_bytes), " bytes"));
    }
    if (!roomy) {
      // It is unpacked as well; how large it is then shows later.
      MYC_RETURN_IF_ERROR(MakeRoom(2 * (size_bytes - had)));
      roomy = true;
    }
    MYC_RETURN_IF_ERROR(WriteFully(fd.get(), chunk));
    offset += static_cast<int64_t>(chunk.size());
    return absl::OkStatus();
  };
  absl::Status status = source_.Fetch(digest, offset, sink);
  if (!status.ok()) {
    // What is there is kept for the next try, unless it cannot be right.
    if (absl::IsOutOfRange(status)) unlink(partial.c_str());
    return status;
  }
  if (expected >= 0 && offset != expected) {
    return absl::UnavailableError(absl::StrCat("the spore ended after ", offset,
                                               " of ", expected, " bytes"));
  }
  MYC_ASSIGN_OR_RETURN(const std::string got, crypto::Sha256HexOfFd(fd.get()));
  if (got != digest) {
    unlink(partial.c_str());
    return MakeError(
        absl::StatusCode::kDataLoss, kErrorDomain, "DIGEST_MISMATCH",
        absl::StrCat("what was sent has digest ", got, ", not ", digest),
        {{"want", digest}, {"got", got}});
  }
  if (fsync(fd.get()) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot write ", partial));
  }
  const std::string file = JoinPath(directory, kSporeFile);
  if (rename(partial.c_str(), file.c_str()) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot rename ", partial));
  }
  return SyncDirectory(directory);
}

absl::StatusOr<CachedSpore> SporeCache::VerifyAndUnpack(
    const std::string& digest) {
  const std::string directory = DirectoryOf(digest);
  const std::string file = JoinPath(directory, kSporeFile);
  const UniqueFd fd(open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid())
    return ErrnoStatus(errno, absl::StrCat("cannot open ", file));

  const std::shared_ptr<const crypto::TrustStore> trust = trust_.Current();
  spore::Verdict verdict =
      spore::VerifySpore(fd.get(), trust.get(), clock_.Now(), options_.limits);
  if (!verdict.digest.empty() && verdict.digest != digest) {
    RemoveTree(directory).IgnoreError();
    return MakeError(absl::StatusCode::kDataLoss, kErrorDomain,
                     "DIGEST_MISMATCH",
                     absl::StrCat("the cached file of ", digest,
                                  " has changed to ", verdict.digest));
  }
  if (!verdict.accept) return verdict.ToStatus();
  for (const std::string& warning : verdict.warnings) {
    LOG(WARNING) << "spore " << digest << ": " << warning;
  }

  CachedSpore spore = {.digest = digest,
                       .directory = JoinPath(directory, kTree)};
  spore.program = JoinPath(spore.directory, verdict.manifest.command);
  if (!HasSignedBinary(spore.directory, verdict.manifest)) {
    MYC_RETURN_IF_ERROR(RemoveTree(spore.directory));
    MYC_ASSIGN_OR_RETURN(
        spore.program,
        spore::Extract(fd.get(), verdict, spore.directory, options_.limits));
  }
  spore.manifest = std::move(verdict.manifest);
  return spore;
}

absl::Status SporeCache::MakeRoom(int64_t bytes) {
  MutexLock lock(mutex_);
  Evict(options_.max_bytes - bytes);
  int64_t used = 0;
  for (const auto& [digest, entry] : entries_) used += entry.bytes;
  if (used + bytes <= options_.max_bytes) return absl::OkStatus();
  return MakeError(
      absl::StatusCode::kResourceExhausted, kErrorDomain, "CACHE_FULL",
      absl::StrCat("the spore needs ", bytes, " bytes, and ", used, " of the ",
                   options_.max_bytes,
                   " of the spore cache are in use by what runs or is "
                   "planned; raise --cache_max_mb"));
}

void SporeCache::Evict(int64_t limit) {
  int64_t used = 0;
  for (const auto& [digest, entry] : entries_) used += entry.bytes;
  while (used > limit) {
    auto oldest = entries_.end();
    for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
      if (entry->second.busy || needed_.contains(entry->first)) continue;
      if (oldest == entries_.end() ||
          entry->second.last_use < oldest->second.last_use) {
        oldest = entry;
      }
    }
    if (oldest == entries_.end()) return;
    const absl::Status status = RemoveTree(DirectoryOf(oldest->first));
    if (!status.ok()) {
      LOG(WARNING) << "cannot evict " << oldest->first << ": " << status;
      return;
    }
    used -= oldest->second.bytes;
    entries_.erase(oldest);
  }
}

}  // namespace mycelium::agent
