#include "services/fabric/store/engine.h"

#include <algorithm>
#include <iterator>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "lib/base/error.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "services/fabric/store/codec.h"

namespace mycelium::fabric {
namespace {

// Bounds of a group: beyond them the next group begins, so that no answer
// waits for more than so much work.
constexpr size_t kMaxGroupRequests = 1024;
constexpr size_t kMaxGroupBytes = size_t{8} << 20;
constexpr size_t kMaxLeaseEndsPerGroup = 256;

constexpr absl::Duration kMinTtl = absl::Milliseconds(1);
constexpr absl::Duration kMaxTtl = absl::Hours(24);

// How long there must be nothing to commit before the journal's housekeeping
// takes its next step.
constexpr absl::Duration kIdleDelay = absl::Milliseconds(20);

// How long the store waits before it tries again what the disk refused and
// nobody waits for: ends of leases, and housekeeping.
constexpr absl::Duration kRetryDelay = absl::Milliseconds(250);

absl::Status NoLeaseError(absl::StatusCode code, LeaseId id) {
  return MakeError(
      code, kStoreErrorDomain, kReasonNoLease,
      absl::StrCat("lease ", id, " has expired, was revoked, or never existed"),
      {{"lease", absl::StrCat(id)}});
}

absl::Status TooLargeError(absl::string_view what, size_t size, size_t limit) {
  return MakeError(
      absl::StatusCode::kResourceExhausted, kStoreErrorDomain, kReasonTooLarge,
      absl::StrCat(what, " ", size, ", and at most ", limit, " are allowed"),
      {{"limit", absl::StrCat(limit)}});
}

absl::Status FullError(absl::string_view what, int64_t limit) {
  return MakeError(absl::StatusCode::kResourceExhausted, kStoreErrorDomain,
                   kReasonFull,
                   absl::StrCat("the store is full: it may hold ", limit, " ",
                                what, " at most"),
                   {{"limit", absl::StrCat(limit)}});
}

absl::Status ClosingError() {
  return MakeError(absl::StatusCode::kUnavailable, kStoreErrorDomain,
                   kReasonClosing, "the store is being closed");
}

LeaseId RandomLeaseId() {
  uint64_t id = 0;
  if (!absl::SimpleHexAtoi(RandomHex(8), &id)) return 1;
  return std::max<LeaseId>(
      1, static_cast<LeaseId>(id & std::numeric_limits<int64_t>::max()));
}

}  // namespace

class StoreEngine::Listener final : public StoreListener {
 public:
  Listener(StoreEngine* engine, std::shared_ptr<ListenerSlot> slot)
      : engine_(*engine), slot_(std::move(slot)) {}

  ~Listener() override {
    MutexLock lock(engine_.mutex_);
    slot_->removed = true;
    engine_.listeners_.erase(std::remove(engine_.listeners_.begin(),
                                         engine_.listeners_.end(), slot_),
                             engine_.listeners_.end());
    while (slot_->calls_in_progress > 0) {
      engine_.listener_idle_.Wait(engine_.mutex_);
    }
  }

 private:
  StoreEngine& engine_;
  const std::shared_ptr<ListenerSlot> slot_;
};

StoreEngine::StoreEngine(const StoreOptions& options,
                         std::unique_ptr<Journal> journal, JournalState state)
    : options_(options),
      clock_(*options.clock),
      inline_(options.threads == StoreOptions::Threads::kNone),
      epoch_(std::move(state.epoch)),
      opened_at_(state.revision),
      journal_(std::move(journal)),
      log_(options.max_log_batches, options.max_log_bytes) {
  {
    MutexLock lock(mutex_);
    const absl::Duration now = clock_.Monotonic();
    for (const auto& [id, ttl] : state.leases) leases_.Add(id, ttl, now);
    for (std::shared_ptr<const Entry>& entry : state.entries) {
      state_bytes_ += CostOf(*entry);
      if (entry->lease != kNoLease) leases_.Bind(entry->lease, entry->key);
      // The hint makes loading in order of keys linear.
      state_.emplace_hint(state_.end(), entry->key, std::move(entry));
    }
    log_.Reset(state.compact_revision);
    for (std::shared_ptr<const Batch>& batch : state.batches) {
      log_.Append(std::move(batch));
    }
    notified_revision_ = log_.revision();
    maintenance_wanted_ =
        journal_ != nullptr && log_.compact_revision() > state.compact_revision;
  }
  if (!inline_) {
    writer_ = std::thread([this] { WriterLoop(); });
    notifier_ = std::thread([this] { NotifierLoop(); });
  }
}

StoreEngine::~StoreEngine() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    work_.NotifyAll();
  }
  if (writer_.joinable()) writer_.join();
  {
    MutexLock lock(mutex_);
    writer_stopped_ = true;
    notifications_.NotifyAll();
  }
  if (notifier_.joinable()) notifier_.join();
}

absl::StatusOr<RangeResponse> StoreEngine::Range(const RangeRequest& request) {
  const bool one = request.scope == RangeRequest::Scope::kKey;
  const auto in_range = [&](absl::string_view key) {
    return one ? key == request.key : absl::StartsWith(key, request.key);
  };

  RangeResponse response;
  MutexLock lock(mutex_);
  response.revision = log_.revision();
  // What the keys that have changed since `at_revision` held then.
  absl::btree_map<std::string, std::shared_ptr<const Entry>> past;
  if (request.at_revision != 0 && request.at_revision != log_.revision()) {
    MYC_RETURN_IF_ERROR(log_.Check(request.at_revision));
    if (request.at_revision < opened_at_) {
      return MakeError(
          absl::StatusCode::kOutOfRange, kStoreErrorDomain, kReasonCompacted,
          absl::StrCat("revision ", request.at_revision,
                       " is from before the store was opened, at revision ",
                       opened_at_, ": list again"),
          {{"compact_revision", absl::StrCat(opened_at_)}});
    }
    response.revision = request.at_revision;
    for (int64_t r = request.at_revision + 1; r <= log_.revision(); ++r) {
      for (const Change& change : log_.At(r).changes) {
        if (in_range(change.key())) past.emplace(change.key(), change.previous);
      }
    }
  }

  const std::string start = std::max(request.key, request.after_key);
  auto now_it = state_.lower_bound(start);
  auto past_it = past.lower_bound(start);
  while (true) {
    const bool has_now = now_it != state_.end() && in_range(now_it->first);
    const bool has_past = past_it != past.end();
    if (!has_now && !has_past) break;
    const bool use_past =
        has_past && (!has_now || past_it->first <= now_it->first);
    const std::shared_ptr<const Entry>& entry =
        use_past ? past_it->second : now_it->second;
    if (use_past && has_now && past_it->first == now_it->first) ++now_it;
    if (use_past) {
      ++past_it;
    } else {
      ++now_it;
    }
    if (entry == nullptr ||
        (!request.after_key.empty() && entry->key <= request.after_key)) {
      continue;
    }
    if (request.limit != 0 && response.entries.size() == request.limit) {
      response.more = true;
      break;
    }
    response.entries.push_back(entry);
  }
  return response;
}

absl::Status StoreEngine::CheckTxn(const TxnRequest& request) const {
  size_t bytes = 0;
  const size_t ops = request.compares.size() + request.then_ops.size() +
                     request.else_ops.size();
  if (ops > options_.max_txn_ops) {
    return TooLargeError("operations and compares in the transaction:", ops,
                         options_.max_txn_ops);
  }
  for (const Compare& compare : request.compares) {
    if (compare.kind == Compare::Kind::kLeaseAlive) continue;
    if (compare.key.empty()) {
      return absl::InvalidArgumentError("the key of a compare is empty");
    }
    bytes += compare.key.size();
  }
  for (const std::vector<Op>* branch : {&request.then_ops, &request.else_ops}) {
    for (const Op& op : *branch) {
      if (op.key.empty()) {
        return absl::InvalidArgumentError("the key of an operation is empty");
      }
      if (op.key.size() > options_.max_key_bytes) {
        return TooLargeError(
            absl::StrCat("bytes in the key ", Quoted(op.key), ":"),
            op.key.size(), options_.max_key_bytes);
      }
      if (op.value.size() > options_.max_value_bytes) {
        return TooLargeError(
            absl::StrCat("bytes in the value of ", Quoted(op.key), ":"),
            op.value.size(), options_.max_value_bytes);
      }
      bytes += op.key.size() + op.value.size();
    }
  }
  if (bytes > options_.max_txn_bytes) {
    return TooLargeError("bytes in the transaction:", bytes,
                         options_.max_txn_bytes);
  }
  return absl::OkStatus();
}

absl::Status StoreEngine::CheckTtl(absl::Duration ttl, LeaseId id) {
  if (ttl < kMinTtl || ttl > kMaxTtl) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the time to live of a lease is ", absl::FormatDuration(ttl),
        ", and must be ", absl::FormatDuration(kMinTtl), " to ",
        absl::FormatDuration(kMaxTtl)));
  }
  if (id < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the lease id ", id, " is negative"));
  }
  return absl::OkStatus();
}

absl::Status StoreEngine::Enqueue(Request& request) {
  MutexLock lock(mutex_);
  if (stopping_) return ClosingError();
  if (in_flight_ >= options_.max_in_flight &&
      request.kind != Request::Kind::kTick) {
    return MakeError(
        absl::StatusCode::kResourceExhausted, kStoreErrorDomain,
        kReasonOverloaded,
        absl::StrCat(in_flight_,
                     " requests wait for the store already: try again later"),
        {{"limit", absl::StrCat(options_.max_in_flight)}});
  }
  ++in_flight_;
  queue_.push_back(std::move(request));
  work_.NotifyOne();
  return absl::OkStatus();
}

absl::StatusOr<StoreEngine::Outcome> StoreEngine::Call(Request request) {
  const auto waiter = std::make_shared<Waiter>();
  request.waiter = waiter;
  MYC_RETURN_IF_ERROR(Enqueue(request));
  if (inline_) RunInline();
  MutexLock lock(waiter->mutex);
  while (!waiter->answer.has_value()) waiter->answered.Wait(waiter->mutex);
  return *std::move(waiter->answer);
}

void StoreEngine::CallAsync(Request request) {
  if (absl::Status status = Enqueue(request); !status.ok()) {
    request.done(std::move(status));
    return;
  }
  if (inline_) RunInline();
}

absl::StatusOr<TxnResponse> StoreEngine::Txn(TxnRequest request) {
  MYC_RETURN_IF_ERROR(CheckTxn(request));
  Request call;
  call.kind = Request::Kind::kTxn;
  call.txn = std::move(request);
  MYC_ASSIGN_OR_RETURN(Outcome outcome, Call(std::move(call)));
  return std::move(outcome.txn);
}

void StoreEngine::TxnAsync(TxnRequest request, TxnCallback callback) {
  if (absl::Status status = CheckTxn(request); !status.ok()) {
    callback(std::move(status));
    return;
  }
  Request call;
  call.kind = Request::Kind::kTxn;
  call.txn = std::move(request);
  call.done = [callback = std::move(callback)](
                  absl::StatusOr<Outcome> outcome) mutable {
    if (outcome.ok()) {
      callback(std::move(outcome->txn));
    } else {
      callback(std::move(outcome).status());
    }
  };
  CallAsync(std::move(call));
}

absl::StatusOr<LeaseId> StoreEngine::Grant(absl::Duration ttl, LeaseId id) {
  MYC_RETURN_IF_ERROR(CheckTtl(ttl, id));
  Request call;
  call.kind = Request::Kind::kGrant;
  call.ttl = ttl;
  call.lease = id;
  MYC_ASSIGN_OR_RETURN(const Outcome outcome, Call(std::move(call)));
  return outcome.lease;
}

void StoreEngine::GrantAsync(absl::Duration ttl, LeaseId id,
                             GrantCallback callback) {
  if (absl::Status status = CheckTtl(ttl, id); !status.ok()) {
    callback(std::move(status));
    return;
  }
  Request call;
  call.kind = Request::Kind::kGrant;
  call.ttl = ttl;
  call.lease = id;
  call.done = [callback = std::move(callback)](
                  absl::StatusOr<Outcome> outcome) mutable {
    if (outcome.ok()) {
      callback(outcome->lease);
    } else {
      callback(std::move(outcome).status());
    }
  };
  CallAsync(std::move(call));
}

absl::StatusOr<int64_t> StoreEngine::Revoke(LeaseId id) {
  Request call;
  call.kind = Request::Kind::kRevoke;
  call.lease = id;
  MYC_ASSIGN_OR_RETURN(const Outcome outcome, Call(std::move(call)));
  return outcome.txn.revision;
}

void StoreEngine::RevokeAsync(LeaseId id, RevokeCallback callback) {
  Request call;
  call.kind = Request::Kind::kRevoke;
  call.lease = id;
  call.done = [callback = std::move(callback)](
                  absl::StatusOr<Outcome> outcome) mutable {
    if (outcome.ok()) {
      callback(outcome->txn.revision);
    } else {
      callback(std::move(outcome).status());
    }
  };
  CallAsync(std::move(call));
}

absl::StatusOr<absl::Duration> StoreEngine::KeepAlive(LeaseId id) {
  MutexLock lock(mutex_);
  const LeaseTable::Lease* lease = leases_.Find(id);
  if (lease == nullptr || committing_leases_.contains(id)) {
    return NoLeaseError(absl::StatusCode::kNotFound, id);
  }
  leases_.Renew(id, clock_.Monotonic());
  return lease->ttl;
}

absl::StatusOr<LeaseInfo> StoreEngine::TimeToLive(LeaseId id) {
  MutexLock lock(mutex_);
  const LeaseTable::Lease* lease = leases_.Find(id);
  if (lease == nullptr) return NoLeaseError(absl::StatusCode::kNotFound, id);
  return LeaseInfo{.id = id,
                   .ttl = lease->ttl,
                   .remaining = std::max(lease->deadline - clock_.Monotonic(),
                                         absl::ZeroDuration()),
                   .key_count = lease->keys.size()};
}

std::vector<LeaseInfo> StoreEngine::ListLeases() {
  MutexLock lock(mutex_);
  return leases_.List(clock_.Monotonic());
}

absl::Status StoreEngine::Tick() {
  MYC_RETURN_IF_ERROR(EndDueLeases());
  if (!inline_ || journal_ == nullptr) return absl::OkStatus();
  while (true) {
    MYC_RETURN_IF_ERROR(Maintain());
    MutexLock lock(mutex_);
    if (!maintenance_wanted_) return absl::OkStatus();
  }
}

absl::Status StoreEngine::EndDueLeases() {
  while (true) {
    {
      MutexLock lock(mutex_);
      if (leases_.NextDeadline() > clock_.Monotonic()) return absl::OkStatus();
    }
    Request call;
    call.kind = Request::Kind::kTick;
    MYC_RETURN_IF_ERROR(Call(std::move(call)).status());
  }
}

absl::Duration StoreEngine::NextLeaseDeadline() {
  MutexLock lock(mutex_);
  return leases_.NextDeadline();
}

absl::Status StoreEngine::Compact(int64_t revision) {
  {
    MutexLock lock(mutex_);
    if (revision > log_.revision()) return log_.Check(revision);
    log_.Compact(revision);
    maintenance_wanted_ = journal_ != nullptr;
    work_.NotifyOne();
  }
  return absl::OkStatus();
}

int64_t StoreEngine::CompactRevision() {
  MutexLock lock(mutex_);
  return log_.compact_revision();
}

int64_t StoreEngine::Revision() {
  MutexLock lock(mutex_);
  return log_.revision();
}

absl::StatusOr<Changes> StoreEngine::ReadChanges(int64_t after_revision,
                                                 size_t max_bytes) {
  MutexLock lock(mutex_);
  Changes changes;
  MYC_ASSIGN_OR_RETURN(changes.batches, log_.Read(after_revision, max_bytes));
  changes.revision = log_.revision();
  return changes;
}

std::unique_ptr<StoreListener> StoreEngine::OnRevision(
    std::function<void(int64_t)> listener) {
  auto slot = std::make_shared<ListenerSlot>();
  slot->call = std::move(listener);
  MutexLock lock(mutex_);
  listeners_.push_back(slot);
  return std::make_unique<Listener>(this, std::move(slot));
}

StoreSnapshot StoreEngine::Snapshot() {
  StoreSnapshot snapshot;
  snapshot.epoch = epoch_;
  MutexLock lock(mutex_);
  snapshot.revision = log_.revision();
  snapshot.entries.reserve(state_.size());
  for (const auto& [key, entry] : state_) snapshot.entries.push_back(entry);
  snapshot.leases = leases_.List(clock_.Monotonic());
  return snapshot;
}

StoreStats StoreEngine::Stats() {
  MutexLock lock(mutex_);
  return {.keys = state_.size(),
          .state_bytes = static_cast<size_t>(state_bytes_),
          .leases = leases_.size(),
          .log_batches = log_.size(),
          .log_bytes = log_.size_bytes(),
          .in_flight = in_flight_,
          .commits = commits_,
          .committed_requests = committed_requests_,
          .failed_commits = failed_commits_};
}

std::shared_ptr<const Entry> StoreEngine::Lookup(const std::string& key,
                                                 const Group& group) const {
  const auto changed = group.entries.find(key);
  if (changed != group.entries.end()) return changed->second;
  const auto found = state_.find(key);
  return found == state_.end() ? nullptr : found->second;
}

bool StoreEngine::LeaseAlive(LeaseId id, const Group& group) const {
  const auto changed = group.journal.leases.find(id);
  if (changed != group.journal.leases.end()) return changed->second.has_value();
  return leases_.Find(id) != nullptr;
}

bool StoreEngine::Holds(const Compare& compare, const Group& group,
                        TxnResponse& response) {
  if (compare.kind == Compare::Kind::kLeaseAlive) {
    return LeaseAlive(compare.lease, group);
  }
  std::shared_ptr<const Entry> entry = Lookup(compare.key, group);
  int64_t revision = 0;
  if (entry != nullptr) {
    revision = compare.kind == Compare::Kind::kModRevision
                   ? entry->mod_revision
                   : entry->create_revision;
  }
  if (revision == compare.revision) return true;
  response.current = std::move(entry);
  return false;
}

absl::StatusOr<bool> StoreEngine::AddBatch(const EntryMap& writes,
                                           Group& group) {
  auto batch = std::make_shared<Batch>();
  batch->revision = group.revision + 1;
  int64_t delta = 0;
  for (const auto& [key, entry] : writes) {
    std::shared_ptr<const Entry> previous = Lookup(key, group);
    if (entry == nullptr && previous == nullptr) continue;
    if (entry != nullptr) delta += CostOf(*entry);
    if (previous != nullptr) delta -= CostOf(*previous);
    batch->size_bytes +=
        static_cast<size_t>((entry != nullptr ? CostOf(*entry) : 0) +
                            (previous != nullptr ? CostOf(*previous) : 0));
    batch->changes.push_back({entry, std::move(previous)});
  }
  if (batch->changes.empty()) return false;
  const int64_t limit = static_cast<int64_t>(std::min<size_t>(
      options_.max_state_bytes, std::numeric_limits<int64_t>::max()));
  if (delta > 0 && state_bytes_ + group.state_bytes + delta > limit) {
    return FullError("bytes", limit);
  }
  for (const auto& [key, entry] : writes) {
    if (entry != nullptr && entry->lease != kNoLease) {
      group.bound_keys[entry->lease].push_back(key);
    }
    group.entries[key] = entry;
  }
  group.state_bytes += delta;
  group.batch_bytes += batch->size_bytes;
  group.revision = batch->revision;
  group.journal.batches.push_back(std::move(batch));
  return true;
}

absl::StatusOr<StoreEngine::Outcome> StoreEngine::EvaluateTxn(
    TxnRequest& request, Group& group) {
  Outcome outcome;
  TxnResponse& response = outcome.txn;
  response.succeeded = true;
  for (size_t i = 0; i < request.compares.size(); ++i) {
    if (Holds(request.compares[i], group, response)) continue;
    response.succeeded = false;
    response.failed_compare = i;
    break;
  }

  std::vector<Op>& ops =
      response.succeeded ? request.then_ops : request.else_ops;
  const int64_t revision = group.revision + 1;
  EntryMap writes;
  for (Op& op : ops) {
    if (op.kind == Op::Kind::kDelete) {
      writes[op.key] = nullptr;
      continue;
    }
    if (op.kind == Op::Kind::kDeletePrefix) {
      const auto in_prefix = [&](auto& map, const auto& visit) {
        for (auto it = map.lower_bound(op.key);
             it != map.end() && absl::StartsWith(it->first, op.key); ++it) {
          visit(it);
        }
      };
      in_prefix(writes, [](auto it) { it->second = nullptr; });
      in_prefix(state_, [&](auto it) { writes[it->first] = nullptr; });
      in_prefix(group.entries, [&](auto it) { writes[it->first] = nullptr; });
      continue;
    }
    if (op.lease != kNoLease && !LeaseAlive(op.lease, group)) {
      return NoLeaseError(absl::StatusCode::kFailedPrecondition, op.lease);
    }
    auto entry = std::make_shared<Entry>();
    entry->key = op.key;
    entry->value = std::move(op.value);
    entry->create_revision = revision;
    entry->mod_revision = revision;
    entry->version = 1;
    // What this transaction has done to the key counts first: a key that it
    // deleted begins anew, and a second put is still the same version.
    const auto written = writes.find(op.key);
    const bool again = written != writes.end();
    const std::shared_ptr<const Entry> before =
        again ? written->second : Lookup(op.key, group);
    if (before != nullptr) {
      entry->create_revision = before->create_revision;
      entry->version = before->version + (again ? 0 : 1);
    }
    entry->lease = op.lease;
    writes[std::move(op.key)] = std::move(entry);
  }
  MYC_ASSIGN_OR_RETURN(response.changed, AddBatch(writes, group));
  response.revision = group.revision;
  return outcome;
}

absl::StatusOr<StoreEngine::Outcome> StoreEngine::EvaluateGrant(
    const Request& request, Group& group) {
  Outcome outcome;
  outcome.lease = request.lease;
  while (outcome.lease == kNoLease ||
         (request.lease == kNoLease && LeaseAlive(outcome.lease, group))) {
    outcome.lease = RandomLeaseId();
  }
  if (LeaseAlive(outcome.lease, group)) {
    return MakeError(absl::StatusCode::kAlreadyExists, kStoreErrorDomain,
                     kReasonLeaseExists,
                     absl::StrCat("lease ", outcome.lease, " exists already"),
                     {{"lease", absl::StrCat(outcome.lease)}});
  }
  const auto count =
      static_cast<int64_t>(leases_.size()) + group.lease_count + 1;
  if (count > static_cast<int64_t>(options_.max_leases)) {
    return FullError("leases", static_cast<int64_t>(options_.max_leases));
  }
  ++group.lease_count;
  group.journal.leases[outcome.lease] = request.ttl;
  outcome.txn.revision = group.revision;
  return outcome;
}

absl::StatusOr<StoreEngine::Outcome> StoreEngine::EvaluateLeaseEnd(
    LeaseId id, Group& group) {
  if (!LeaseAlive(id, group)) {
    return NoLeaseError(absl::StatusCode::kNotFound, id);
  }
  std::vector<std::string> candidates;
  if (const LeaseTable::Lease* lease = leases_.Find(id); lease != nullptr) {
    candidates.assign(lease->keys.begin(), lease->keys.end());
  }
  const auto bound = group.bound_keys.find(id);
  if (bound != group.bound_keys.end()) {
    candidates.insert(candidates.end(), bound->second.begin(),
                      bound->second.end());
  }
  EntryMap writes;
  for (std::string& key : candidates) {
    const std::shared_ptr<const Entry> entry = Lookup(key, group);
    if (entry != nullptr && entry->lease == id) {
      writes[std::move(key)] = nullptr;
    }
  }

  Outcome outcome;
  MYC_ASSIGN_OR_RETURN(outcome.txn.changed, AddBatch(writes, group));
  outcome.txn.revision = group.revision;
  --group.lease_count;
  group.journal.leases[id] = std::nullopt;
  return outcome;
}

absl::StatusOr<StoreEngine::Outcome> StoreEngine::Evaluate(Request& request,
                                                           Group& group) {
  switch (request.kind) {
    case Request::Kind::kTxn:
      return EvaluateTxn(request.txn, group);
    case Request::Kind::kGrant:
      return EvaluateGrant(request, group);
    case Request::Kind::kRevoke:
      return EvaluateLeaseEnd(request.lease, group);
    case Request::Kind::kTick:
      break;
  }
  return Outcome{};
}

void StoreEngine::Gather(Group& group) {
  group.revision = log_.revision();
  const absl::Duration now = clock_.Monotonic();
  const bool tick =
      !queue_.empty() &&
      std::any_of(queue_.begin(), queue_.end(), [](const Request& request) {
        return request.kind == Request::Kind::kTick;
      });
  if (tick || (!inline_ && now >= retry_leases_at_)) {
    for (const LeaseId id : leases_.Due(now, kMaxLeaseEndsPerGroup)) {
      if (group.batch_bytes >= kMaxGroupBytes) break;
      // A deletion cannot be refused, and the lease is there.
      EvaluateLeaseEnd(id, group).IgnoreError();
    }
  }
  while (!queue_.empty() && group.answers.size() < kMaxGroupRequests &&
         group.batch_bytes < kMaxGroupBytes) {
    Request request = std::move(queue_.front());
    queue_.pop_front();
    absl::StatusOr<Outcome> outcome = Evaluate(request, group);
    group.answers.push_back({std::move(request), std::move(outcome)});
  }
  group.journal.compact_revision = log_.compact_revision();
  committing_leases_ = group.journal.leases;
}

void StoreEngine::Apply(Group& group) {
  for (const std::shared_ptr<const Batch>& batch : group.journal.batches) {
    for (const Change& change : batch->changes) {
      if (change.previous != nullptr && change.previous->lease != kNoLease) {
        leases_.Unbind(change.previous->lease, change.previous->key);
      }
    }
    log_.Append(batch);
  }
  const absl::Duration now = clock_.Monotonic();
  for (const auto& [id, ttl] : group.journal.leases) {
    leases_.Remove(id);
    if (ttl.has_value()) leases_.Add(id, *ttl, now);
  }
  for (auto& [key, entry] : group.entries) {
    if (entry == nullptr) {
      state_.erase(key);
      continue;
    }
    if (entry->lease != kNoLease) leases_.Bind(entry->lease, key);
    state_[key] = std::move(entry);
  }
  state_bytes_ += group.state_bytes;
  maintenance_wanted_ = journal_ != nullptr;
  ++commits_;
  committed_requests_ += static_cast<int64_t>(group.answers.size());
}

void StoreEngine::HandToNotifier(Group& group) {
  const auto callbacks = std::stable_partition(
      group.answers.begin(), group.answers.end(),
      [](const Answer& answer) { return answer.request.waiter != nullptr; });
  answers_.insert(answers_.end(), std::make_move_iterator(callbacks),
                  std::make_move_iterator(group.answers.end()));
  group.answers.erase(callbacks, group.answers.end());
  in_flight_ -= group.answers.size();
  if (listeners_.empty()) notified_revision_ = log_.revision();
  if (!answers_.empty() || notified_revision_ < log_.revision()) {
    notifications_.NotifyOne();
  }
}

void StoreEngine::WakeWaiters(Group& group) {
  for (Answer& answer : group.answers) {
    Waiter& waiter = *answer.request.waiter;
    {
      MutexLock lock(waiter.mutex);
      waiter.answer = std::move(answer.outcome);
    }
    waiter.answered.NotifyOne();
  }
}

void StoreEngine::RunGroup() {
  Group group;
  {
    MutexLock lock(mutex_);
    Gather(group);
  }
  absl::Status status;
  if (journal_ != nullptr && !group.empty_for_journal()) {
    status = journal_->Commit(group.journal);
  }
  {
    MutexLock lock(mutex_);
    committing_leases_.clear();
    if (status.ok()) {
      Apply(group);
    } else {
      ++failed_commits_;
      retry_leases_at_ = clock_.Monotonic() + kRetryDelay;
      for (Answer& answer : group.answers) answer.outcome = status;
    }
    HandToNotifier(group);
  }
  WakeWaiters(group);
  if (journal_ != nullptr) journal_->Settle();
}

void StoreEngine::CallListeners(int64_t revision) {
  std::vector<std::shared_ptr<ListenerSlot>> listeners;
  {
    MutexLock lock(mutex_);
    listeners = listeners_;
  }
  for (const std::shared_ptr<ListenerSlot>& slot : listeners) {
    {
      MutexLock lock(mutex_);
      if (slot->removed) continue;
      ++slot->calls_in_progress;
    }
    slot->call(revision);
    MutexLock lock(mutex_);
    --slot->calls_in_progress;
    listener_idle_.NotifyAll();
  }
}

bool StoreEngine::Notify() {
  std::vector<Answer> answers;
  bool new_revision = false;
  int64_t revision = 0;
  {
    MutexLock lock(mutex_);
    answers.swap(answers_);
    revision = log_.revision();
    new_revision = revision > notified_revision_;
    notified_revision_ = revision;
  }
  if (new_revision) CallListeners(revision);
  for (Answer& answer : answers) {
    answer.request.done(std::move(answer.outcome));
  }
  if (!answers.empty()) {
    MutexLock lock(mutex_);
    in_flight_ -= answers.size();
  }
  return new_revision || !answers.empty();
}

bool StoreEngine::LeaseDue() const {
  const absl::Duration now = clock_.Monotonic();
  return leases_.NextDeadline() <= now && now >= retry_leases_at_;
}

absl::Status StoreEngine::Maintain() {
  int64_t compact_revision = 0;
  {
    MutexLock lock(mutex_);
    compact_revision = log_.compact_revision();
  }
  const absl::StatusOr<bool> more = journal_->Maintain(compact_revision);
  MutexLock lock(mutex_);
  maintenance_delay_ = more.ok() ? kIdleDelay : kRetryDelay;
  maintenance_wanted_ =
      !more.ok() || *more || log_.compact_revision() > compact_revision;
  return more.status();
}

bool StoreEngine::WaitForWork() {
  while (!stopping_ && queue_.empty() && !LeaseDue()) {
    if (maintenance_wanted_) {
      if (!work_.WaitFor(mutex_, maintenance_delay_) && queue_.empty()) {
        return false;
      }
      continue;
    }
    // A fake clock may stand still, so the wait has a floor; a real one is
    // looked at often enough that its range does not matter.
    const absl::Duration wake =
        std::max(leases_.NextDeadline(), retry_leases_at_);
    work_.WaitFor(mutex_, std::clamp(wake - clock_.Monotonic(),
                                     absl::Milliseconds(1), absl::Seconds(60)));
  }
  return true;
}

void StoreEngine::WriterLoop() {
  while (true) {
    bool work = false;
    {
      MutexLock lock(mutex_);
      work = WaitForWork();
      if (stopping_) break;
    }
    if (work) {
      RunGroup();
    } else {
      // What the disk refuses now is tried again, and nobody waits for it.
      Maintain().IgnoreError();
    }
  }
  Group group;
  {
    MutexLock lock(mutex_);
    for (Request& request : queue_) {
      group.answers.push_back({std::move(request), ClosingError()});
    }
    queue_.clear();
    HandToNotifier(group);
  }
  WakeWaiters(group);
}

void StoreEngine::NotifierLoop() {
  while (true) {
    {
      MutexLock lock(mutex_);
      while (!writer_stopped_ && answers_.empty() &&
             notified_revision_ == log_.revision()) {
        notifications_.Wait(mutex_);
      }
      if (writer_stopped_ && answers_.empty()) return;
    }
    Notify();
  }
}

void StoreEngine::RunInline() {
  while (true) {
    {
      MutexLock lock(mutex_);
      if (busy_) return;
      if (queue_.empty()) break;
      busy_ = true;
    }
    RunGroup();
    MutexLock lock(mutex_);
    busy_ = false;
  }
  while (Notify()) {
  }
}

}  // namespace mycelium::fabric
