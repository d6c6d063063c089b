// The fabric's state: one ordered key space with a revision per transaction,
// shaped like etcd v3 (range, transaction with compares, changes since a
// revision, leases).
//
// What every store promises:
// - A transaction that changes something gets the next revision, alone; one
//   that changes nothing gets none. Revisions begin at 1 and have no gaps.
// - Readers see committed revisions only. What a store acknowledged survives
//   as far as the store is durable at all.
// - Transactions are linearizable: each takes effect at one moment between its
//   call and its answer.
// - After an error other than Unavailable and Internal a transaction has had
//   no effect. After one of those two it may, if the process dies before its
//   next commit, still turn out to have been applied; writers that cannot bear
//   that use compares.

#ifndef SERVICES_FABRIC_STORE_STORE_H_
#define SERVICES_FABRIC_STORE_STORE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"

namespace mycelium::fabric {

// The domain of the ErrorInfo in a store's errors, and its reasons.
inline constexpr absl::string_view kStoreErrorDomain = "store.fabric.mycelium";

// OutOfRange: the changes after the wanted revision are no longer kept.
// Metadata `compact_revision`: the oldest revision that can be resumed from.
inline constexpr absl::string_view kReasonCompacted = "REVISION_COMPACTED";
// OutOfRange: the revision has not happened in this store. Metadata `revision`:
// the newest one.
inline constexpr absl::string_view kReasonFutureRevision = "REVISION_IN_FUTURE";
// ResourceExhausted: a key, value or transaction is too large.
inline constexpr absl::string_view kReasonTooLarge = "TOO_LARGE";
// ResourceExhausted: too many transactions wait; try again later.
inline constexpr absl::string_view kReasonOverloaded = "STORE_OVERLOADED";
// ResourceExhausted: the store holds as much as it may, in bytes or in leases.
inline constexpr absl::string_view kReasonFull = "STORE_FULL";
// NotFound or FailedPrecondition: no such lease, or no longer.
inline constexpr absl::string_view kReasonNoLease = "LEASE_NOT_FOUND";
// AlreadyExists: the lease id is taken.
inline constexpr absl::string_view kReasonLeaseExists = "LEASE_EXISTS";
// Unavailable: there is no room on the disk; writes work again once there is.
inline constexpr absl::string_view kReasonDiskFull = "DISK_FULL";
// Internal: the disk failed.
inline constexpr absl::string_view kReasonDiskFailed = "DISK_FAILED";
// Unavailable: the store is being closed.
inline constexpr absl::string_view kReasonClosing = "STORE_CLOSING";
// FailedPrecondition: the file is of a newer schema, or no store's at all.
inline constexpr absl::string_view kReasonSchema = "UNKNOWN_SCHEMA";
// Unavailable: another process, or this one, has the file open.
inline constexpr absl::string_view kReasonLocked = "STORE_LOCKED";
// DataLoss: the file is damaged.
inline constexpr absl::string_view kReasonCorrupt = "STORE_CORRUPT";

using LeaseId = int64_t;
inline constexpr LeaseId kNoLease = 0;

// A key and what it holds. Immutable once it is shared.
struct Entry {
  std::string key;
  std::string value;
  // The revision that created the key, and the one that last wrote it.
  int64_t create_revision = 0;
  int64_t mod_revision = 0;
  // Writes since the key was created: 1 for a new one.
  int64_t version = 0;
  // The lease whose end deletes the key, or kNoLease.
  LeaseId lease = kNoLease;
};

// What one revision did to one key.
struct Change {
  // The entry as it is now; null: the key was deleted.
  std::shared_ptr<const Entry> entry;
  // The entry as it was before: always there for a deletion, null for a new
  // key. Null also for an overwrite that happened before the store was opened.
  std::shared_ptr<const Entry> previous;

  bool deleted() const { return entry == nullptr; }
  const std::string& key() const { return (entry ? entry : previous)->key; }
};

// All that one revision changed: each key at most once, in order of keys.
// Immutable once it is shared.
struct Batch {
  int64_t revision = 0;
  std::vector<Change> changes;
  // About what it costs in memory.
  size_t size_bytes = 0;
};

struct RangeRequest {
  enum class Scope { kKey, kPrefix };

  static RangeRequest Key(absl::string_view key) {
    return {.scope = Scope::kKey, .key = std::string(key)};
  }
  // All keys that begin with `prefix`; an empty one means all keys.
  static RangeRequest Prefix(absl::string_view prefix) {
    return {.scope = Scope::kPrefix, .key = std::string(prefix)};
  }

  Scope scope = Scope::kKey;
  std::string key;
  // The revision to read at; 0: the newest. Older ones can be read as far back
  // as the changes are kept, but not beyond the opening of the store.
  int64_t at_revision = 0;
  // At most so many entries; 0: all.
  size_t limit = 0;
  // Only keys greater than this one, for the next page; empty: from the start.
  std::string after_key = {};
};

struct RangeResponse {
  // In order of keys.
  std::vector<std::shared_ptr<const Entry>> entries;
  // The revision that the entries are true at.
  int64_t revision = 0;
  // Whether `limit` cut the answer short.
  bool more = false;
};

// A condition of a transaction.
struct Compare {
  enum class Kind { kModRevision, kCreateRevision, kLeaseAlive };

  // The key was last written by `revision`; 0: there is no such key.
  static Compare ModRevision(absl::string_view key, int64_t revision) {
    return {Kind::kModRevision, std::string(key), revision, kNoLease};
  }
  // The key was created by `revision`; 0: there is no such key.
  static Compare CreateRevision(absl::string_view key, int64_t revision) {
    return {Kind::kCreateRevision, std::string(key), revision, kNoLease};
  }
  static Compare Absent(absl::string_view key) { return ModRevision(key, 0); }
  // The lease has been granted and neither revoked nor expired.
  static Compare LeaseAlive(LeaseId lease) {
    return {Kind::kLeaseAlive, {}, 0, lease};
  }

  Kind kind = Kind::kModRevision;
  std::string key;
  int64_t revision = 0;
  LeaseId lease = kNoLease;
};

// A write of a transaction.
struct Op {
  enum class Kind { kPut, kDelete, kDeletePrefix };

  // Writes a key. It is bound to `lease` from then on, and no longer to the
  // lease that it was bound to before.
  static Op Put(absl::string_view key, absl::string_view value,
                LeaseId lease = kNoLease) {
    return {Kind::kPut, std::string(key), std::string(value), lease};
  }
  // Deletes a key; one that does not exist is no change.
  static Op Delete(absl::string_view key) {
    return {Kind::kDelete, std::string(key), {}, kNoLease};
  }
  // Deletes all keys that begin with `prefix`, which must not be empty.
  static Op DeletePrefix(absl::string_view prefix) {
    return {Kind::kDeletePrefix, std::string(prefix), {}, kNoLease};
  }

  Kind kind = Kind::kPut;
  std::string key;
  std::string value;
  LeaseId lease = kNoLease;
};

// If all compares hold, the then-operations, else the else-operations, in
// order and all or nothing.
struct TxnRequest {
  std::vector<Compare> compares;
  std::vector<Op> then_ops;
  std::vector<Op> else_ops;
};

struct TxnResponse {
  // Whether all compares held.
  bool succeeded = false;
  // Whether anything was changed.
  bool changed = false;
  // The transaction's own revision if it changed anything, otherwise the one
  // that it was evaluated at.
  int64_t revision = 0;
  // The index of the first compare that did not hold, and the entry under its
  // key at that moment (null: there was none).
  std::optional<size_t> failed_compare;
  std::shared_ptr<const Entry> current;
};

struct Changes {
  // One per revision, without gaps, the first just after the wanted revision.
  std::vector<std::shared_ptr<const Batch>> batches;
  // The store's newest revision; there is more to read while it is greater
  // than that of the last batch.
  int64_t revision = 0;
};

struct LeaseInfo {
  LeaseId id = kNoLease;
  // What each KeepAlive grants anew, and what is left of it.
  absl::Duration ttl;
  absl::Duration remaining;
  size_t key_count = 0;
};

// All that a store held at one revision.
struct StoreSnapshot {
  std::string epoch;
  int64_t revision = 0;
  std::vector<std::shared_ptr<const Entry>> entries;
  std::vector<LeaseInfo> leases;
};

struct StoreStats {
  size_t keys = 0;
  size_t state_bytes = 0;
  size_t leases = 0;
  size_t log_batches = 0;
  size_t log_bytes = 0;
  // Requests that were accepted and are not answered yet.
  size_t in_flight = 0;
  // Groups committed, requests in them, and groups that the disk refused.
  int64_t commits = 0;
  int64_t committed_requests = 0;
  int64_t failed_commits = 0;
};

// Holds a registration; destroying it ends the registration, and waits for a
// call in progress. It must not be destroyed by the call itself.
class StoreListener {
 public:
  virtual ~StoreListener() = default;
};

// Bounds and seams of a store. All bounds hold for each store alone.
struct StoreOptions {
  enum class Threads {
    // A writer and a notifier of its own.
    kOwn,
    // None: whoever calls does the work, and callbacks run before the method
    // that causes them returns. Leases end, and files are tidied up, in Tick()
    // only. For simulations.
    kNone,
  };

  // Must outlive the store.
  Clock* clock = Clock::Real();
  Threads threads = Threads::kOwn;
  // Requests accepted and not answered yet.
  size_t max_in_flight = 4096;
  size_t max_key_bytes = 1024;
  size_t max_value_bytes = size_t{1} << 20;
  // Keys and values of one transaction together, and its operations.
  size_t max_txn_bytes = size_t{4} << 20;
  size_t max_txn_ops = 4096;
  size_t max_state_bytes = size_t{1} << 30;
  size_t max_leases = 100'000;
  // The log of changes forgets its oldest batches beyond either of these.
  size_t max_log_batches = 65'536;
  size_t max_log_bytes = size_t{64} << 20;
};

// Thread-safe. Callbacks of the *Async methods and listeners run on the
// store's notifier thread, one at a time, with no lock held; they must not
// block for long, since all others wait for them. A request that is refused at
// once (invalid, too large, overloaded, closing) calls back on the calling
// thread, before the method returns. Every callback is called exactly once,
// before the store's destructor returns.
class Store {
 public:
  using TxnCallback = absl::AnyInvocable<void(absl::StatusOr<TxnResponse>)>;
  using GrantCallback = absl::AnyInvocable<void(absl::StatusOr<LeaseId>)>;
  using RevokeCallback = absl::AnyInvocable<void(absl::StatusOr<int64_t>)>;

  virtual ~Store() = default;

  // Entries in a range of keys.
  //
  // OutOfRange (kReasonCompacted, kReasonFutureRevision): `at_revision` cannot
  // be read.
  virtual absl::StatusOr<RangeResponse> Range(const RangeRequest& request) = 0;

  // Runs a transaction and waits for it to be committed. That compares do not
  // hold is no error.
  //
  // InvalidArgument: an empty key. ResourceExhausted (kReasonTooLarge,
  // kReasonOverloaded, kReasonFull). FailedPrecondition (kReasonNoLease): a put
  // names a lease that is not alive. Unavailable (kReasonDiskFull,
  // kReasonClosing). Internal (kReasonDiskFailed).
  virtual absl::StatusOr<TxnResponse> Txn(TxnRequest request) = 0;

  // As Txn, without waiting.
  virtual void TxnAsync(TxnRequest request, TxnCallback callback) = 0;

  // The changes after `after_revision`, oldest first: as many batches as fit
  // into `max_bytes`, but one at least if there is any. The batches are shared
  // by all readers, so what is derived from one can be kept beside it.
  //
  // OutOfRange (kReasonCompacted, kReasonFutureRevision).
  virtual absl::StatusOr<Changes> ReadChanges(int64_t after_revision,
                                              size_t max_bytes) = 0;

  // Calls `listener` with the newest revision after each commit of one or more
  // revisions: these can be read when it is called. Readers that are behind use
  // ReadChanges; nothing is kept for them but the bounded log of changes.
  [[nodiscard]] virtual std::unique_ptr<StoreListener> OnRevision(
      std::function<void(int64_t)> listener) = 0;

  // Makes a lease that ends after `ttl` (1 ms to 24 h) without a KeepAlive. A
  // positive `id` chooses its id; kNoLease lets the store choose.
  //
  // InvalidArgument, AlreadyExists (kReasonLeaseExists), ResourceExhausted
  // (kReasonOverloaded, kReasonFull), and the disk's errors as for Txn.
  virtual absl::StatusOr<LeaseId> Grant(absl::Duration ttl,
                                        LeaseId id = kNoLease) = 0;
  virtual void GrantAsync(absl::Duration ttl, LeaseId id,
                          GrantCallback callback) = 0;

  // Gives the lease its full time again, and returns that. Cheap: it touches
  // memory only. A store that is opened again gives every lease its full time.
  //
  // NotFound (kReasonNoLease): it has expired, was revoked, or never existed.
  virtual absl::StatusOr<absl::Duration> KeepAlive(LeaseId id) = 0;

  // Ends a lease and deletes its keys, in one revision, and returns that (the
  // current one if it had no keys).
  //
  // NotFound (kReasonNoLease), and errors as for Txn.
  virtual absl::StatusOr<int64_t> Revoke(LeaseId id) = 0;
  virtual void RevokeAsync(LeaseId id, RevokeCallback callback) = 0;

  // NotFound (kReasonNoLease).
  virtual absl::StatusOr<LeaseInfo> TimeToLive(LeaseId id) = 0;

  // In order of ids.
  virtual std::vector<LeaseInfo> ListLeases() = 0;

  // Ends the leases whose time is over by the store's clock, each in one
  // revision of its own, and waits for that. A store with threads does so by
  // itself; tests with a fake clock call it after advancing the clock.
  //
  // Unavailable or Internal: the disk refused; the leases stay and the store
  // tries again.
  virtual absl::Status Tick() = 0;

  // When the next lease ends unless it is kept alive, on the scale of the
  // clock's Monotonic(); infinite if there is none. It may be early, never
  // late.
  virtual absl::Duration NextLeaseDeadline() = 0;

  // Forgets the changes up to `revision` (and including it), so that they
  // cannot be read or resumed from any more; state is not touched. A revision
  // that is compacted already is success.
  //
  // OutOfRange (kReasonFutureRevision).
  virtual absl::Status Compact(int64_t revision) = 0;

  // The newest revision that is forgotten: the oldest to resume from.
  virtual int64_t CompactRevision() = 0;

  // A random id made with the store; revisions of different epochs are not
  // comparable.
  virtual std::string Epoch() = 0;

  // The newest committed revision; 0 in an empty store.
  virtual int64_t Revision() = 0;

  virtual StoreSnapshot Snapshot() = 0;
  virtual StoreStats Stats() = 0;
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_STORE_STORE_H_
