#ifndef SERVICES_AGENT_SPORE_CACHE_H_
#define SERVICES_AGENT_SPORE_CACHE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/base/mutex.h"
#include "lib/spore/archive.h"
#include "lib/spore/manifest.h"
#include "services/agent/trust_policy.h"

namespace mycelium::agent {

// Where spores come from. Thread-safe.
class SporeSource {
 public:
  // Takes the bytes of a spore in order; `size_bytes` is that of the whole. An
  // error ends the fetching and is returned by Fetch.
  using Sink = absl::FunctionRef<absl::Status(int64_t size_bytes,
                                              absl::string_view chunk)>;

  virtual ~SporeSource() = default;

  // Fetches the spore from `offset` to its end.
  //
  // NotFound: the source does not have it. OutOfRange: it is shorter than
  // `offset`. Unavailable: the source is away.
  virtual absl::Status Fetch(const std::string& digest, int64_t offset,
                             Sink sink) = 0;
};

// A spore that may be run.
struct CachedSpore {
  std::string digest;
  spore::Manifest manifest;
  // Where it was unpacked, and its program therein.
  std::string directory;
  std::string program;
};

// The spores of a node: fetched, verified, unpacked once each, kept up to a
// size. Thread-safe.
class SporeCache {
 public:
  struct Options {
    std::string directory;
    // Of spores and what was unpacked from them.
    int64_t max_bytes = int64_t{10} << 30;
    spore::Limits limits;
  };

  // `source`, `trust` and `clock` must outlive the cache. Takes over what is in
  // the directory, except for what was not finished.
  static absl::StatusOr<std::unique_ptr<SporeCache>> Open(
      const Options& options, SporeSource* source, TrustPolicy* trust,
      Clock* clock);

  // Returns a spore, fetched if need be from where an earlier try broke off.
  // Blocks; calls for one digest wait for each other and fetch it once. It is
  // verified with the present trust store, however long it has been here.
  //
  // PermissionDenied, InvalidArgument or ResourceExhausted with a reason E_…:
  // refused; see IsRefusal. DataLoss: what the source sent is not the spore.
  // ResourceExhausted (CACHE_FULL): it does not fit beside what must be kept.
  // Others: it could not be fetched.
  absl::StatusOr<CachedSpore> Get(const std::string& digest);

  // Spores that must not be evicted: what runs and what is planned.
  void SetNeeded(std::set<std::string> digests);

  // Evicts what is not needed, the least recently used first, until the limit
  // holds.
  void Trim();

  int64_t size_bytes() const;

  // Whether `status` says that a spore will not be accepted however often it is
  // fetched.
  static bool IsRefusal(const absl::Status& status);

 private:
  struct Entry {
    bool busy = false;
    bool here = false;  // The file is whole.
    int64_t bytes = 0;
    absl::Time last_use;
    // A verdict that is still good, and under which trust.
    std::optional<CachedSpore> accepted;
    int64_t trust_generation = 0;
    std::optional<absl::Time> good_until;
  };

  SporeCache(const Options& options, SporeSource* source, TrustPolicy* trust,
             Clock* clock);

  std::string DirectoryOf(const std::string& digest) const;
  absl::Status TakeOver();
  absl::StatusOr<CachedSpore> Prepare(const std::string& digest);
  absl::Status Fetch(const std::string& digest);
  absl::StatusOr<CachedSpore> VerifyAndUnpack(const std::string& digest);
  // Makes room for `bytes` more.
  absl::Status MakeRoom(int64_t bytes);
  void Evict(int64_t limit) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  SporeSource& source_;
  TrustPolicy& trust_;
  Clock& clock_;

  mutable Mutex mutex_;
  CondVar idle_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> needed_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_SPORE_CACHE_H_
