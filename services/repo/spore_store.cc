#include "services/repo/spore_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "glog/logging.h"
#include "lib/base/error.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/spore/json.h"
#include "lib/spore/manifest.h"
#include "services/repo/errors.h"

namespace mycelium::repo {
namespace {

constexpr absl::string_view kSporeSuffix = ".spore";
constexpr absl::string_view kInfoSuffix = ".info";
constexpr int64_t kMaxInfoBytes = int64_t{1} << 20;

// Begins every page token, so that a digest is not taken for one.
constexpr absl::string_view kTokenPrefix = "after:";

google::protobuf::Timestamp ToProto(absl::Time time) {
  google::protobuf::Timestamp proto;
  const int64_t nanos = absl::ToUnixNanos(time);
  // Rounds towards the past, as Timestamp demands, also before 1970.
  const int64_t seconds = absl::ToUnixSeconds(time);
  proto.set_seconds(seconds);
  proto.set_nanos(static_cast<int32_t>(nanos - seconds * 1'000'000'000));
  return proto;
}

absl::Time FromProto(const google::protobuf::Timestamp& proto) {
  return absl::FromUnixSeconds(proto.seconds()) +
         absl::Nanoseconds(proto.nanos());
}

storage::StoredSpore Describe(const spore::Verdict& verdict, int64_t size_bytes,
                              absl::Time put_time) {
  const spore::Manifest& manifest = verdict.manifest;
  storage::StoredSpore stored;
  spore::v1::SporeInfo& info = *stored.mutable_spore();
  info.set_digest(verdict.digest);
  info.set_size_bytes(size_bytes);
  info.set_name(manifest.name);
  info.set_app_name(std::string(spore::ManifestApp(manifest.name)));
  info.set_version(manifest.version);
  info.set_key_id(verdict.key_id);
  info.set_statement_digest(verdict.statement_digest);
  if (manifest.nutrients.cpu_milli > 0 || manifest.nutrients.memory_mb > 0) {
    info.mutable_nutrients()->set_cpu_milli(manifest.nutrients.cpu_milli);
    info.mutable_nutrients()->set_memory_mb(manifest.nutrients.memory_mb);
  }
  *info.mutable_put_time() = ToProto(put_time);
  info.set_manifest_json(spore::Canonicalize(manifest.json));
  *stored.mutable_create_time() = ToProto(manifest.created_at);
  return stored;
}

absl::Status ToStatus(const spore::Verdict& verdict) {
  if (verdict.accept) return absl::OkStatus();
  if (verdict.code == "E_IO") {
    return StorageError(absl::InternalError(verdict.message));
  }
  if (verdict.ToStatus().code() == absl::StatusCode::kPermissionDenied) {
    return MakeError(
        absl::StatusCode::kPermissionDenied, kErrorDomain, "SPORE_UNTRUSTED",
        absl::StrCat("the repo's trust store does not accept the spore: ",
                     verdict.code, ": ", verdict.message),
        {{"code", verdict.code},
         {"detail", verdict.message},
         {"key_id", verdict.key_id}});
  }
  return SporeRefused(verdict.code, verdict.message);
}

// A rename that was not synced is undone by a loss of power.
absl::Status Sync(int fd, absl::string_view what) {
  if (fdatasync(fd) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, absl::StrCat("cannot sync ", what));
}

absl::Status NotOurToken(const std::string& token) {
  FieldViolations violations;
  violations.Add("pageToken",
                 absl::StrCat(Quoted(token), " is no token of this repo"));
  return violations.ToStatus(kErrorDomain, "PAGE_TOKEN_INVALID");
}

}  // namespace

absl::Status SporeReader::ReadAt(int64_t offset, char* buffer,
                                 size_t size) const {
  while (size > 0) {
    const ssize_t got = pread(fd_.get(), buffer, size, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return StorageError(ErrnoStatus(errno, "cannot read a spore"));
    if (got == 0) {
      return MakeError(absl::StatusCode::kDataLoss, kErrorDomain,
                       "STORAGE_FAILED",
                       absl::StrCat("a spore of ", size_bytes_,
                                    " bytes ends at byte ", offset));
    }
    buffer += got;
    offset += got;
    size -= static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

class SporeStore::DigestLock {
 public:
  DigestLock(SporeStore& store, const std::string& digest)
      : store_(store), digest_(digest) {
    MutexLock lock(store_.mutex_);
    while (!store_.locked_digests_.insert(digest_).second) {
      store_.digest_unlocked_.Wait(store_.mutex_);
    }
  }
  ~DigestLock() {
    {
      MutexLock lock(store_.mutex_);
      store_.locked_digests_.erase(digest_);
    }
    store_.digest_unlocked_.NotifyAll();
  }
  DigestLock(const DigestLock&) = delete;
  DigestLock& operator=(const DigestLock&) = delete;

 private:
  SporeStore& store_;
  const std::string digest_;
};

absl::StatusOr<std::unique_ptr<SporeStore>> SporeStore::Open(Options options) {
  MYC_RETURN_IF_ERROR(MakeDirectories(options.data_dir));
  const std::string lock_path = JoinPath(options.data_dir, "lock");
  UniqueFd lock(open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!lock.valid()) {
    return ErrnoStatus(errno, absl::StrCat("cannot open ", lock_path));
  }
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) {
      return ErrnoStatus(errno, absl::StrCat("cannot lock ", lock_path));
    }
    return absl::FailedPreconditionError(
        absl::StrCat(options.data_dir,
                     " is in use by another repo; stop it or "
                     "choose another directory"));
  }
  std::unique_ptr<SporeStore> store(
      new SporeStore(std::move(options), std::move(lock)));
  MYC_RETURN_IF_ERROR(store->Load());
  return store;
}

// The pool has two threads for each upload and some for uploads that have
// made room for the next but have not returned yet.
SporeStore::SporeStore(Options options, UniqueFd lock)
    : options_(std::move(options)),
      limits_([this] {
        spore::Limits limits;
        limits.max_file_bytes =
            std::min(limits.max_file_bytes, options_.max_spore_bytes);
        return limits;
      }()),
      lock_(std::move(lock)),
      pool_("repo-upload", 2 * options_.max_uploads + 2,
            2 * options_.max_uploads) {}

std::string SporeStore::ShardOf(absl::string_view digest) const {
  return absl::StrCat(options_.data_dir, "/spores/", digest.substr(0, 2));
}

std::string SporeStore::PathOf(absl::string_view digest,
                               absl::string_view suffix) const {
  return absl::StrCat(ShardOf(digest), "/", digest, suffix);
}

absl::Status SporeStore::Load() {
  const std::string incoming = JoinPath(options_.data_dir, "incoming");
  MYC_RETURN_IF_ERROR(RemoveTree(incoming));
  MYC_RETURN_IF_ERROR(MakeDirectories(incoming));
  const std::string spores = JoinPath(options_.data_dir, "spores");
  MYC_RETURN_IF_ERROR(MakeDirectories(spores));
  MYC_RETURN_IF_ERROR(SyncDirectory(options_.data_dir));
  MYC_ASSIGN_OR_RETURN(const std::vector<std::string> shards,
                       ListDirectory(spores));
  for (const std::string& shard : shards) {
    MYC_RETURN_IF_ERROR(LoadShard(JoinPath(spores, shard)));
  }
  return absl::OkStatus();
}

absl::Status SporeStore::LoadShard(const std::string& shard) {
  MYC_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                       ListDirectory(shard));
  const absl::flat_hash_set<absl::string_view> all(names.begin(), names.end());
  for (const std::string& name : names) {
    absl::string_view digest = name;
    const std::string path = JoinPath(shard, name);
    if (absl::ConsumeSuffix(&digest, kInfoSuffix) && IsDigest(digest) &&
        !all.contains(absl::StrCat(digest, kSporeSuffix))) {
      // Its spore was deleted, or did not get as far as its final name.
      MYC_RETURN_IF_ERROR(RemoveTree(path));
      continue;
    }
    digest = name;
    struct stat info = {};
    if (!absl::ConsumeSuffix(&digest, kSporeSuffix) || !IsDigest(digest) ||
        PathOf(digest, kSporeSuffix) != path ||
        lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) {
      continue;
    }
    absl::StatusOr<storage::StoredSpore> stored =
        Recover(std::string(digest), path, info.st_size);
    if (!stored.ok()) {
      LOG(ERROR) << path << " is not served: " << stored.status().message();
      continue;
    }
    stored->mutable_spore()->clear_manifest_json();
    MutexLock lock(mutex_);
    entries_[std::string(digest)] =
        Entry{.stored = *std::move(stored),
              .last_put = absl::TimeFromTimespec(info.st_mtim)};
  }
  return absl::OkStatus();
}

absl::StatusOr<storage::StoredSpore> SporeStore::Recover(
    const std::string& digest, const std::string& path, int64_t size_bytes) {
  const std::string info_path = PathOf(digest, kInfoSuffix);
  storage::StoredSpore stored;
  if (const absl::StatusOr<std::string> text =
          ReadFile(info_path, kMaxInfoBytes);
      text.ok() && stored.ParseFromString(*text) &&
      stored.spore().digest() == digest &&
      stored.spore().size_bytes() == size_bytes) {
    return stored;
  }
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open it");
  const spore::Verdict verdict = spore::VerifySpore(
      fd.get(), nullptr, options_.clock->Now(), spore::Limits());
  MYC_RETURN_IF_ERROR(verdict.ToStatus());
  if (verdict.digest != digest) {
    return absl::DataLossError(absl::StrCat("its digest is ", verdict.digest));
  }
  struct stat info = {};
  if (fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, "cannot stat it");
  stored = Describe(verdict, size_bytes, absl::TimeFromTimespec(info.st_mtim));
  MYC_RETURN_IF_ERROR(
      WriteFileAtomically(info_path, stored.SerializeAsString()));
  return stored;
}

absl::Status SporeStore::CheckHeader(const std::string& digest,
                                     int64_t size_bytes) const {
  FieldViolations violations;
  if (!IsDigest(digest)) {
    violations.Add("header.digest",
                   absl::StrCat(Quoted(digest), " ", kDigestRule));
  }
  if (size_bytes <= 0) {
    violations.Add("header.sizeBytes",
                   absl::StrCat(size_bytes, " must be at least 1"));
  }
  MYC_RETURN_IF_ERROR(violations.ToStatus(kErrorDomain, "HEADER_INVALID"));
  if (size_bytes > limits_.max_file_bytes) {
    return MakeError(
        absl::StatusCode::kResourceExhausted, kErrorDomain, "SPORE_TOO_LARGE",
        absl::StrCat("a spore of ", size_bytes, " bytes is above the limit of ",
                     limits_.max_file_bytes, " bytes of this repo"),
        {{"max_bytes", absl::StrCat(limits_.max_file_bytes)},
         {"size_bytes", absl::StrCat(size_bytes)}});
  }
  return absl::OkStatus();
}

absl::Status SporeStore::CheckSpace(int64_t size_bytes) const {
  struct statvfs info = {};
  if (statvfs(options_.data_dir.c_str(), &info) != 0) {
    return StorageError(
        ErrnoStatus(errno, absl::StrCat("cannot stat ", options_.data_dir)));
  }
  const uint64_t free_bytes = uint64_t{info.f_bavail} * info.f_frsize;
  if (free_bytes >= static_cast<uint64_t>(size_bytes)) return absl::OkStatus();
  return StorageError(absl::ResourceExhaustedError(absl::StrCat(
      free_bytes, " bytes are free and ", size_bytes, " are needed")));
}

std::optional<PutResult> SporeStore::Touch(const std::string& digest) {
  const absl::Time now = options_.clock->Now();
  storage::StoredSpore stored;
  {
    MutexLock lock(mutex_);
    const auto it = entries_.find(digest);
    if (it == entries_.end()) return std::nullopt;
    it->second.last_put = std::max(it->second.last_put, now);
    stored = it->second.stored;
  }
  // So that it counts after a restart, too; garbage collection has a margin.
  const timespec times[2] = {{.tv_sec = 0, .tv_nsec = UTIME_OMIT},
                             absl::ToTimespec(now)};
  utimensat(AT_FDCWD, PathOf(digest, kSporeSuffix).c_str(), times, 0);
  return PutResult{.spore = InfoOf(stored), .existed = true};
}

absl::StatusOr<SporeStore::BegunPut> SporeStore::BeginPut(
    const std::string& digest, int64_t size_bytes, UploadListener* listener) {
  MYC_RETURN_IF_ERROR(CheckHeader(digest, size_bytes));
  if (std::optional<PutResult> existing = Touch(digest)) {
    if (existing->spore.size_bytes() != size_bytes) {
      return MakeError(
          absl::StatusCode::kOutOfRange, kErrorDomain, "SIZE_MISMATCH",
          absl::StrCat("the spore ", digest, " has ",
                       existing->spore.size_bytes(), " bytes, not the ",
                       size_bytes, " of the header"),
          {{"size_bytes", absl::StrCat(size_bytes)}});
    }
    return BegunPut{.existing = std::move(existing), .upload = nullptr};
  }
  MYC_RETURN_IF_ERROR(CheckSpace(size_bytes));
  {
    MutexLock lock(mutex_);
    if (uploads_ >= options_.max_uploads) {
      return WithRetryAfter(
          MakeError(absl::StatusCode::kResourceExhausted, kErrorDomain,
                    "TOO_MANY_UPLOADS",
                    absl::StrCat(uploads_,
                                 " uploads are under way, the most "
                                 "that this repo takes at a time; try "
                                 "again"),
                    {{"max_uploads", absl::StrCat(options_.max_uploads)}}),
          absl::Seconds(1));
    }
    ++uploads_;
  }
  const auto release = [this] {
    MutexLock lock(mutex_);
    --uploads_;
  };
  absl::StatusOr<IncomingFile> file =
      IncomingFile::Create(JoinPath(options_.data_dir, "incoming"), ".part");
  if (!file.ok()) {
    release();
    return StorageError(file.status());
  }
  auto upload = std::make_shared<Upload>(
      Upload::Options{
          .digest = digest,
          .size_bytes = size_bytes,
          .max_queued_bytes = options_.max_queued_bytes,
          .idle_timeout = options_.upload_idle_timeout,
          .limits = limits_,
          .commit =
              [this, digest, size_bytes](IncomingFile received,
                                         spore::StreamingVerifier& verifier) {
                return Commit(digest, size_bytes, std::move(received),
                              verifier);
              },
          .release = release,
          .listener = listener,
      },
      *std::move(file));
  // The pool has room for the tasks of every upload that is counted.
  CHECK(pool_.Schedule([upload] { upload->FollowAll(); }));
  CHECK(pool_.Schedule([upload] { upload->WriteAll(); }));
  return BegunPut{.existing = std::nullopt, .upload = std::move(upload)};
}

absl::StatusOr<PutResult> SporeStore::Commit(
    const std::string& digest, int64_t size_bytes, IncomingFile file,
    spore::StreamingVerifier& verifier) {
  const std::shared_ptr<const crypto::TrustStore> trust =
      options_.trust == nullptr ? nullptr : options_.trust->Current();
  const absl::Time now = options_.clock->Now();
  const spore::Verdict verdict =
      verifier.Finish(file.fd(), digest, trust.get(), now);
  MYC_RETURN_IF_ERROR(ToStatus(verdict));
  for (const std::string& warning : verdict.warnings) {
    LOG(WARNING) << "spore " << digest << ": " << warning;
  }
  storage::StoredSpore stored = Describe(verdict, size_bytes, now);
  MYC_RETURN_IF_ERROR(StorageError(Sync(file.fd(), "a spore")));

  const DigestLock digest_lock(*this, digest);
  if (std::optional<PutResult> existing = Touch(digest)) return *existing;
  MYC_RETURN_IF_ERROR(StorageError(Publish(digest, std::move(file), stored)));
  stored.mutable_spore()->clear_manifest_json();
  PutResult result{.spore = InfoOf(stored), .existed = false};
  MutexLock lock(mutex_);
  entries_[digest] = Entry{.stored = std::move(stored), .last_put = now};
  return result;
}

absl::Status SporeStore::Publish(const std::string& digest, IncomingFile file,
                                 const storage::StoredSpore& stored) {
  MYC_ASSIGN_OR_RETURN(
      IncomingFile info,
      IncomingFile::Create(JoinPath(options_.data_dir, "incoming"), ".info"));
  MYC_RETURN_IF_ERROR(WriteFully(info.fd(), stored.SerializeAsString()));
  MYC_RETURN_IF_ERROR(Sync(info.fd(), "the information on a spore"));
  const timespec put_time =
      absl::ToTimespec(FromProto(stored.spore().put_time()));
  const timespec times[2] = {put_time, put_time};
  if (fchmod(file.fd(), 0444) != 0 || futimens(file.fd(), times) != 0) {
    return ErrnoStatus(errno, "cannot set mode and time of a spore");
  }

  const std::string shard = ShardOf(digest);
  if (mkdir(shard.c_str(), 0755) != 0 && errno != EEXIST) {
    return ErrnoStatus(errno, absl::StrCat("cannot make directory ", shard));
  }
  // Also if it exists: who made it may not have come to this yet.
  MYC_RETURN_IF_ERROR(SyncDirectory(JoinPath(options_.data_dir, "spores")));
  // The information first: alone it is nothing, and removed at the next start.
  const std::string info_path = PathOf(digest, kInfoSuffix);
  const std::string spore_path = PathOf(digest, kSporeSuffix);
  MYC_RETURN_IF_ERROR(info.MoveTo(info_path));
  absl::Status status = file.MoveTo(spore_path);
  if (status.ok()) status = SyncDirectory(shard);
  if (!status.ok()) {
    unlink(spore_path.c_str());
    unlink(info_path.c_str());
  }
  return status;
}

spore::v1::SporeInfo SporeStore::InfoOf(
    const storage::StoredSpore& stored) const {
  spore::v1::SporeInfo info = stored.spore();
  if (options_.trust != nullptr) {
    info.set_trusted(options_.trust->Current()
                         ->EvaluateSigner(info.key_id(), info.name(),
                                          FromProto(stored.create_time()),
                                          options_.clock->Now())
                         .ok());
  }
  return info;
}

absl::StatusOr<spore::v1::SporeInfo> SporeStore::Stat(
    const std::string& digest) {
  MYC_RETURN_IF_ERROR(CheckDigest(digest));
  {
    MutexLock lock(mutex_);
    if (entries_.find(digest) == entries_.end()) return SporeNotFound(digest);
  }
  const absl::StatusOr<std::string> text =
      ReadFile(PathOf(digest, kInfoSuffix), kMaxInfoBytes);
  if (absl::IsNotFound(text.status())) return SporeNotFound(digest);
  if (!text.ok()) return StorageError(text.status());
  storage::StoredSpore stored;
  if (!stored.ParseFromString(*text)) {
    return StorageError(absl::InternalError(absl::StrCat(
        "the information on spore ", digest,
        " is damaged; remove it and restart the repo to have it made again")));
  }
  return InfoOf(stored);
}

absl::StatusOr<SporeStore::Page> SporeStore::List(int page_size,
                                                  const std::string& page_token,
                                                  const std::string& name) {
  FieldViolations violations;
  if (page_size < 0) {
    violations.Add("pageSize",
                   absl::StrCat(page_size, " must not be negative"));
  }
  if (!name.empty() && !spore::IsSporeName(name)) {
    violations.Add("name", absl::StrCat(Quoted(name),
                                        " is not the name of a spore or app"));
  }
  MYC_RETURN_IF_ERROR(violations.ToStatus(kErrorDomain, "REQUEST_INVALID"));
  absl::string_view after = page_token;
  if (!page_token.empty() &&
      (!absl::ConsumePrefix(&after, kTokenPrefix) || !IsDigest(after))) {
    return NotOurToken(page_token);
  }
  const size_t limit =
      page_size == 0 ? size_t{kDefaultPageSize}
                     : static_cast<size_t>(std::min(page_size, kMaxPageSize));

  std::vector<storage::StoredSpore> found;
  bool more = false;
  {
    MutexLock lock(mutex_);
    for (auto it = entries_.upper_bound(std::string(after));
         it != entries_.end(); ++it) {
      const spore::v1::SporeInfo& info = it->second.stored.spore();
      if (!name.empty() && info.name() != name && info.app_name() != name) {
        continue;
      }
      if (found.size() == limit) {
        more = true;
        break;
      }
      found.push_back(it->second.stored);
    }
  }
  Page page;
  page.spores.reserve(found.size());
  for (const storage::StoredSpore& stored : found) {
    page.spores.push_back(InfoOf(stored));
  }
  if (more) {
    page.next_token = absl::StrCat(kTokenPrefix, page.spores.back().digest());
  }
  return page;
}

absl::StatusOr<SporeReader> SporeStore::Read(const std::string& digest) {
  MYC_RETURN_IF_ERROR(CheckDigest(digest));
  int64_t size_bytes = 0;
  {
    MutexLock lock(mutex_);
    const auto it = entries_.find(digest);
    if (it == entries_.end()) return SporeNotFound(digest);
    size_bytes = it->second.stored.spore().size_bytes();
  }
  UniqueFd fd(open(PathOf(digest, kSporeSuffix).c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) {
    if (errno == ENOENT) return SporeNotFound(digest);
    return StorageError(
        ErrnoStatus(errno, absl::StrCat("cannot open spore ", digest)));
  }
  posix_fadvise(fd.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
  return SporeReader(std::move(fd), size_bytes);
}

absl::StatusOr<int64_t> SporeStore::Delete(const std::string& digest) {
  return DeleteIf(digest, absl::InfiniteFuture());
}

absl::StatusOr<int64_t> SporeStore::DeleteIfPutBefore(const std::string& digest,
                                                      absl::Time time) {
  return DeleteIf(digest, time);
}

absl::StatusOr<int64_t> SporeStore::DeleteIf(const std::string& digest,
                                             absl::Time not_put_after) {
  MYC_RETURN_IF_ERROR(CheckDigest(digest));
  const DigestLock digest_lock(*this, digest);
  Entry entry;
  {
    MutexLock lock(mutex_);
    const auto it = entries_.find(digest);
    if (it == entries_.end()) return SporeNotFound(digest);
    if (it->second.last_put > not_put_after) {
      return absl::FailedPreconditionError(
          absl::StrCat("spore ", digest, " was put again"));
    }
    // At once, so that no Put is told that a spore is there which goes.
    entry = std::move(it->second);
    entries_.erase(it);
  }
  const int64_t size_bytes = entry.stored.spore().size_bytes();
  if (unlink(PathOf(digest, kSporeSuffix).c_str()) != 0 && errno != ENOENT) {
    const int error = errno;
    {
      MutexLock lock(mutex_);
      entries_[digest] = std::move(entry);
    }
    return StorageError(
        ErrnoStatus(error, absl::StrCat("cannot delete spore ", digest)));
  }
  unlink(PathOf(digest, kInfoSuffix).c_str());
  MYC_RETURN_IF_ERROR(StorageError(SyncDirectory(ShardOf(digest))));
  return size_bytes;
}

std::vector<SporeStore::Age> SporeStore::Ages() {
  std::vector<Age> ages;
  MutexLock lock(mutex_);
  ages.reserve(entries_.size());
  for (const auto& [digest, entry] : entries_) {
    ages.push_back({.digest = digest,
                    .size_bytes = entry.stored.spore().size_bytes(),
                    .put_time = entry.last_put});
  }
  return ages;
}

}  // namespace mycelium::repo
