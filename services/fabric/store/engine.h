#ifndef SERVICES_FABRIC_STORE_ENGINE_H_
#define SERVICES_FABRIC_STORE_ENGINE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/mutex.h"
#include "services/fabric/store/change_log.h"
#include "services/fabric/store/journal.h"
#include "services/fabric/store/lease_table.h"
#include "services/fabric/store/store.h"

namespace mycelium::fabric {

// A store that serves everything from memory, and makes it durable through a
// journal if it has one.
//
// Requests queue up; one thread at a time takes all that wait as a group,
// evaluates them one after the other on top of the committed state, commits
// the group to the journal (where the time goes: no lock is held meanwhile, so
// readers see the state before the group and the next group gathers), then
// applies it to memory and answers. If the journal refuses, the group is
// dropped and nobody has seen any of it.
class StoreEngine final : public Store {
 public:
  // Begins with what `state` holds. `journal` may be null.
  StoreEngine(const StoreOptions& options, std::unique_ptr<Journal> journal,
              JournalState state);
  ~StoreEngine() override;

  absl::StatusOr<RangeResponse> Range(const RangeRequest& request) override;
  absl::StatusOr<TxnResponse> Txn(TxnRequest request) override;
  void TxnAsync(TxnRequest request, TxnCallback callback) override;
  absl::StatusOr<Changes> ReadChanges(int64_t after_revision,
                                      size_t max_bytes) override;
  std::unique_ptr<StoreListener> OnRevision(
      std::function<void(int64_t)> listener) override;
  absl::StatusOr<LeaseId> Grant(absl::Duration ttl, LeaseId id) override;
  void GrantAsync(absl::Duration ttl, LeaseId id,
                  GrantCallback callback) override;
  absl::StatusOr<absl::Duration> KeepAlive(LeaseId id) override;
  absl::StatusOr<int64_t> Revoke(LeaseId id) override;
  void RevokeAsync(LeaseId id, RevokeCallback callback) override;
  absl::StatusOr<LeaseInfo> TimeToLive(LeaseId id) override;
  std::vector<LeaseInfo> ListLeases() override;
  absl::Status Tick() override;
  absl::Duration NextLeaseDeadline() override;
  absl::Status Compact(int64_t revision) override;
  int64_t CompactRevision() override;
  std::string Epoch() override { return epoch_; }
  int64_t Revision() override;
  StoreSnapshot Snapshot() override;
  StoreStats Stats() override;

 private:
  struct Outcome {
    TxnResponse txn;
    LeaseId lease = kNoLease;
  };
  using Done = absl::AnyInvocable<void(absl::StatusOr<Outcome>)>;

  // Where a blocked caller waits for its answer. With a lock of its own, so
  // that callers who wake up do not queue for that of the store.
  struct Waiter {
    Mutex mutex;
    CondVar answered;
    std::optional<absl::StatusOr<Outcome>> answer ABSL_GUARDED_BY(mutex);
  };

  struct Request {
    enum class Kind { kTxn, kGrant, kRevoke, kTick };

    Kind kind = Kind::kTxn;
    TxnRequest txn;
    LeaseId lease = kNoLease;
    absl::Duration ttl;
    // Who is told: one of them, or nobody.
    Done done;
    std::shared_ptr<Waiter> waiter;
  };

  struct Answer {
    Request request;
    absl::StatusOr<Outcome> outcome;
  };

  using EntryMap = absl::btree_map<std::string, std::shared_ptr<const Entry>>;

  // The requests taken together, and what they will have changed. In `entries`
  // a null entry is a deleted key.
  struct Group {
    std::vector<Answer> answers;
    JournalGroup journal;
    EntryMap entries;
    // Keys that the group put under a lease; they may have moved on since.
    absl::flat_hash_map<LeaseId, std::vector<std::string>> bound_keys;
    int64_t revision = 0;
    int64_t state_bytes = 0;
    int64_t lease_count = 0;
    size_t batch_bytes = 0;
    bool empty_for_journal() const {
      return journal.batches.empty() && journal.leases.empty();
    }
  };

  class Listener;
  struct ListenerSlot {
    std::function<void(int64_t)> call;
    int calls_in_progress = 0;
    bool removed = false;
  };

  absl::Status CheckTxn(const TxnRequest& request) const;
  static absl::Status CheckTtl(absl::Duration ttl, LeaseId id);

  // Queues a request, or returns why it was refused, with `request` untouched.
  absl::Status Enqueue(Request& request);
  absl::StatusOr<Outcome> Call(Request request);
  void CallAsync(Request request);

  // Evaluation: reads through the group to the committed state, and writes to
  // the group only.
  absl::StatusOr<Outcome> Evaluate(Request& request, Group& group)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Outcome> EvaluateTxn(TxnRequest& request, Group& group)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Outcome> EvaluateGrant(const Request& request, Group& group)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Outcome> EvaluateLeaseEnd(LeaseId id, Group& group)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Holds(const Compare& compare, const Group& group, TxnResponse& response)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool LeaseAlive(LeaseId id, const Group& group) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<const Entry> Lookup(const std::string& key,
                                      const Group& group) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Turns final states per key into the group's next batch, if anything
  // changes. Returns whether it does.
  //
  // ResourceExhausted: the state would outgrow its bound.
  absl::StatusOr<bool> AddBatch(const EntryMap& writes, Group& group)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // One group from gathering to answers, by the writer.
  void RunGroup();
  void Gather(Group& group) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Apply(Group& group) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Hands the notifier what is its business: answers with callbacks, which are
  // taken out of the group, and new revisions.
  void HandToNotifier(Group& group) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Gives blocked callers their answers.
  static void WakeWaiters(Group& group);
  // Calls listeners and callbacks that are due. Returns false if none was.
  bool Notify();
  void CallListeners(int64_t revision);

  bool LeaseDue() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status EndDueLeases();
  // One step of the journal's housekeeping, by the writer.
  absl::Status Maintain();
  // Returns true if a group should run, or the store stops, and false if
  // there has been nothing to do for long enough to call Maintain.
  bool WaitForWork() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriterLoop();
  void NotifierLoop();
  // The work of both loops, by the calling thread, until there is none.
  void RunInline();

  const StoreOptions options_;
  Clock& clock_;
  const bool inline_;
  const std::string epoch_;
  // The oldest revision whose state can be rebuilt from the log.
  const int64_t opened_at_;
  // Used by the writer only.
  const std::unique_ptr<Journal> journal_;

  Mutex mutex_;
  CondVar work_;           // For the writer.
  CondVar notifications_;  // For the notifier.
  CondVar listener_idle_;
  EntryMap state_ ABSL_GUARDED_BY(mutex_);
  int64_t state_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  LeaseTable leases_ ABSL_GUARDED_BY(mutex_);
  // Leases whose end is being committed: KeepAlive comes too late for them.
  std::map<LeaseId, std::optional<absl::Duration>> committing_leases_
      ABSL_GUARDED_BY(mutex_);
  ChangeLog log_ ABSL_GUARDED_BY(mutex_);
  std::deque<Request> queue_ ABSL_GUARDED_BY(mutex_);
  std::vector<Answer> answers_ ABSL_GUARDED_BY(mutex_);
  int64_t notified_revision_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::shared_ptr<ListenerSlot>> listeners_ ABSL_GUARDED_BY(mutex_);
  size_t in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  // When leases are looked at again after the journal refused their end.
  absl::Duration retry_leases_at_ ABSL_GUARDED_BY(mutex_) =
      -absl::InfiniteDuration();
  bool maintenance_wanted_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration maintenance_delay_ ABSL_GUARDED_BY(mutex_);
  // Without threads: a caller is at work as the writer.
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool writer_stopped_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t commits_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t committed_requests_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t failed_commits_ ABSL_GUARDED_BY(mutex_) = 0;

  std::thread writer_;
  std::thread notifier_;
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_STORE_ENGINE_H_
