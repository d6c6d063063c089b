#include "services/fabric/reconcile_driver.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "glog/logging.h"
#include "lib/base/status_macros.h"
#include "services/fabric/errors.h"
#include "services/fabric/keys.h"
#include "services/fabric/resources.h"
#include "services/fabric/validate.h"

namespace mycelium::fabric {
namespace {

constexpr absl::Duration kRetryAfterError = absl::Seconds(1);

// Compares and writes after which a transaction is cut short, so that what is
// added to it at last still fits into what a store takes.
constexpr size_t kFullTxn = 3500;
constexpr size_t kFullTxnBytes = size_t{5} << 19;  // 2.5 MiB

// What a plan says about a slot of its generation, beside its identity.
void ApplyPlan(const v1::Plan& plan, bool claimed, v1::Slot* slot) {
  slot->set_digest(plan.digest());
  slot->set_port(plan.port());
  slot->clear_placement();
  if (plan.has_placement()) *slot->mutable_placement() = plan.placement();
  *slot->mutable_drain_timeout() = plan.strategy().has_drain_timeout()
                                       ? plan.strategy().drain_timeout()
                                       : FromDuration(kDefaultDrainTimeout);
  *slot->mutable_stop_timeout() = plan.strategy().has_stop_timeout()
                                      ? plan.strategy().stop_timeout()
                                      : FromDuration(kDefaultStopTimeout);
  // What an instance reserves was settled when it was claimed.
  if (!claimed) *slot->mutable_nutrients() = NutrientsOf(plan);
}

// Whether ApplyPlan would change `slot`; `made` is what it makes of an empty
// one.
bool IsOutdated(const v1::Slot& slot, const v1::Slot& made, bool claimed) {
  const auto same = [](const auto& a, const auto& b) {
    return a.seconds() == b.seconds() && a.nanos() == b.nanos();
  };
  return slot.digest() != made.digest() || slot.port() != made.port() ||
         slot.has_placement() != made.has_placement() ||
         !slot.has_drain_timeout() || !slot.has_stop_timeout() ||
         !same(slot.drain_timeout(), made.drain_timeout()) ||
         !same(slot.stop_timeout(), made.stop_timeout()) ||
         (made.has_placement() &&
          Serialize(slot.placement()) != Serialize(made.placement())) ||
         (!claimed &&
          (!slot.has_nutrients() ||
           slot.nutrients().cpu_milli() != made.nutrients().cpu_milli() ||
           slot.nutrients().memory_mb() != made.nutrients().memory_mb()));
}

std::string NameOf(const std::string& app, const SlotRef& ref) {
  return SlotName({app, ref.index, ref.generation});
}

}  // namespace

void ReconcileDriver::Start() {
  thread_ = std::thread([this] { Run(); });
}

void ReconcileDriver::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

void ReconcileDriver::Run() {
  while (true) {
    {
      MutexLock lock(mutex_);
      while (!stopping_) {
        const absl::Duration now = clock_.Monotonic();
        if (!due_.empty() && due_.begin()->first <= now) break;
        const absl::Duration wait =
            due_.empty() ? absl::Seconds(60) : due_.begin()->first - now;
        changed_.WaitFor(mutex_, std::min(wait, absl::Seconds(60)));
      }
      if (stopping_) return;
    }
    RunDue(clock_.Monotonic());
  }
}

void ReconcileDriver::RunDue(absl::Duration time) {
  std::vector<std::string> apps;
  {
    MutexLock lock(mutex_);
    while (!due_.empty() && due_.begin()->first <= time) {
      apps.push_back(due_.begin()->second);
      apps_[apps.back()].due = absl::InfiniteDuration();
      due_.erase(due_.begin());
    }
  }
  for (const std::string& app : apps) {
    const absl::Duration begin = clock_.Monotonic();
    const absl::StatusOr<bool> done = ReconcileApp(app);
    Rest(app, (clock_.Monotonic() - begin) * static_cast<double>(apps.size()));
    if (!done.ok()) {
      LOG(WARNING) << "cannot reconcile app " << app << ": " << done.status();
    }
    if (done.ok() && *done) continue;
    MutexLock lock(mutex_);
    MakeDue(app,
            clock_.Monotonic() + (done.ok() ? kDebounce : kRetryAfterError));
  }
}

void ReconcileDriver::Rest(const std::string& app, absl::Duration took) {
  MutexLock lock(mutex_);
  const auto it = apps_.find(app);
  if (it == apps_.end()) return;
  App& state = it->second;
  state.rests_until =
      clock_.Monotonic() + std::min(took * kRestFactor, kMaxRest);
  // It may have been made due while it was looked at.
  if (state.due >= state.rests_until) return;
  due_.erase({state.due, app});
  state.due = state.rests_until;
  due_.insert({state.due, app});
}

void ReconcileDriver::MakeDue(absl::string_view app, absl::Duration at) {
  auto it = apps_.find(app);
  if (it == apps_.end()) it = apps_.emplace(std::string(app), App()).first;
  at = std::max(at, it->second.rests_until);
  if (at >= it->second.due) return;
  due_.erase({it->second.due, it->first});
  it->second.due = at;
  due_.insert({at, it->first});
}

void ReconcileDriver::MakePendingDue(absl::Duration at) {
  for (const std::string& app : pending_) MakeDue(app, at);
}

void ReconcileDriver::Reset(const StoreSnapshot& snapshot) {
  MutexLock lock(mutex_);
  const absl::Duration now = clock_.Monotonic();
  for (const EntryPtr& entry : snapshot.entries) {
    const absl::string_view key = entry->key;
    for (const absl::string_view prefix : {kPlans, kSlots}) {
      if (absl::StartsWith(key, prefix)) {
        MakeDue(AppOf(key.substr(prefix.size())), now);
      }
    }
  }
}

void ReconcileDriver::Apply(const Batch& batch) {
  const absl::Duration soon = clock_.Monotonic() + kDebounce;
  for (const Change& change : batch.changes) {
    const absl::string_view key = change.key();
    std::vector<std::string> moved;
    if (absl::StartsWith(key, kNodes)) {
      moved = ledger_.AppsOn(key.substr(kNodes.size()));
    }
    MutexLock lock(mutex_);
    for (const absl::string_view prefix :
         {kPlans, kCounts, kBudgets, kSlots, kClaims}) {
      if (absl::StartsWith(key, prefix)) {
        MakeDue(AppOf(key.substr(prefix.size())), soon);
      }
    }
    if (absl::StartsWith(key, kClaims)) {
      if (change.deleted()) {
        const absl::string_view name = key.substr(kClaims.size());
        apps_.find(AppOf(name))->second.freed[std::string(name)] = clock_.Now();
      }
      MakePendingDue(clock_.Monotonic() + kPendingInterval);
    } else if (absl::StartsWith(key, kNodes) || absl::StartsWith(key, kAlive)) {
      for (const std::string& app : moved) MakeDue(app, soon);
      MakePendingDue(soon);
    }
  }
}

void ReconcileDriver::Flush() {
  MutexLock lock(mutex_);
  if (!due_.empty()) changed_.NotifyOne();
}

absl::StatusOr<bool> ReconcileDriver::ReconcileApp(const std::string& app) {
  // All parts as of one revision.
  int64_t revision = 0;
  const auto read =
      [&](const RangeRequest& wanted) -> absl::StatusOr<std::vector<EntryPtr>> {
    RangeRequest request = wanted;
    request.at_revision = revision;
    absl::StatusOr<RangeResponse> range = store_.Range(request);
    if (!range.ok()) return FromStore(range.status());
    revision = range->revision;
    return std::move(range->entries);
  };
  const auto first = [](const std::vector<EntryPtr>& entries) {
    return entries.empty() ? EntryPtr() : entries.front();
  };
  const std::string plan_key = KeyOf(kPlans, app);
  const std::string budget_key = KeyOf(kBudgets, app);
  MYC_ASSIGN_OR_RETURN(const std::vector<EntryPtr> plans,
                       read(RangeRequest::Key(plan_key)));
  MYC_ASSIGN_OR_RETURN(const std::vector<EntryPtr> counts,
                       read(RangeRequest::Key(KeyOf(kCounts, app))));
  MYC_ASSIGN_OR_RETURN(const std::vector<EntryPtr> budgets,
                       read(RangeRequest::Key(budget_key)));
  MYC_ASSIGN_OR_RETURN(
      const std::vector<EntryPtr> slot_entries,
      read(RangeRequest::Prefix(absl::StrCat(kSlots, app, "/"))));
  MYC_ASSIGN_OR_RETURN(
      const std::vector<EntryPtr> claim_entries,
      read(RangeRequest::Prefix(absl::StrCat(kClaims, app, "/"))));
  const EntryPtr plan = first(plans);
  const EntryPtr budget = first(budgets);
  const std::shared_ptr<const std::vector<NodeInput>> nodes = ledger_.Nodes();

  AppInput input;
  input.now = clock_.Now();
  input.nodes = nodes.get();
  if (plan != nullptr) input.plan = PlanOf(*plan, first(counts).get());
  if (budget != nullptr) input.budget = BudgetOf(*budget);

  // What is stored of each slot, and what the plan makes of it.
  struct Known {
    EntryPtr entry;
    EntryPtr claim;
    v1::Slot spec;
    bool outdated = false;
  };
  std::map<std::string, Known, std::less<>> known;
  v1::Slot made;
  if (input.plan.has_value()) {
    ApplyPlan(*input.plan, /*claimed=*/false, &made);
  }
  // Slots and claims have the same names and come in the same order.
  auto next_claim = claim_entries.begin();
  const auto claim_of = [&](absl::string_view name) {
    for (; next_claim != claim_entries.end(); ++next_claim) {
      const absl::string_view claimed =
          absl::string_view((*next_claim)->key).substr(kClaims.size());
      if (claimed == name) return *next_claim;
      if (claimed > name) break;
    }
    return EntryPtr();
  };
  input.slots.reserve(slot_entries.size());
  {
    MutexLock lock(mutex_);
    App& state = apps_[app];
    for (const EntryPtr& entry : slot_entries) {
      const std::string name = entry->key.substr(kSlots.size());
      Known& slot = known.emplace_hint(known.end(), name, Known())->second;
      slot.entry = entry;
      slot.claim = claim_of(name);
      slot.spec.ParseFromString(entry->value);
      if (input.plan.has_value() &&
          slot.spec.generation() == input.plan->generation() &&
          IsOutdated(slot.spec, made, slot.claim != nullptr)) {
        ApplyPlan(*input.plan, slot.claim != nullptr, &slot.spec);
        slot.outdated = true;
      }
      SlotInput item;
      item.index = slot.spec.index();
      item.generation = slot.spec.generation();
      item.surplus = slot.spec.surplus();
      item.port = slot.spec.port();
      item.refused_by = {slot.spec.refused_by().begin(),
                         slot.spec.refused_by().end()};
      item.claimed = slot.claim != nullptr;
      v1::Slot held;
      if (item.claimed) held.ParseFromString(slot.claim->value);
      item.node = held.node_id();
      item.state = item.claimed ? held.state() : v1::Slot::STATE_PENDING;
      item.since =
          ToTime(item.claimed ? held.since_time() : slot.spec.since_time());
      const spore::v1::Nutrients& reserves =
          held.has_nutrients() ? held.nutrients() : slot.spec.nutrients();
      item.reserves = {reserves.cpu_milli(), reserves.memory_mb()};
      if (!item.claimed) {
        item.reason = slot.spec.reason();
        item.message = slot.spec.message();
        const auto written = state.reason_times.find(name);
        if (written != state.reason_times.end()) {
          item.reason_time = written->second;
        }
        // Since when nobody holds it is written with its next reason.
        const auto freed = state.freed.find(name);
        if (freed != state.freed.end() && freed->second > item.since) {
          item.since = freed->second;
          item.reason.clear();
        }
      }
      input.slots.push_back(std::move(item));
    }
  }

  const Decision decision = Reconcile(input);

  TxnRequest txn;
  absl::flat_hash_set<std::string> written;
  absl::flat_hash_set<std::string> freed;
  const auto put = [&](const std::string& name, const v1::Slot& slot) {
    txn.then_ops.push_back(Op::Put(KeyOf(kSlots, name), Serialize(slot)));
    written.insert(name);
  };
  const auto expect = [&](const std::string& name) {
    txn.compares.push_back(Compare::ModRevision(
        KeyOf(kSlots, name), RevisionOf(known.find(name)->second.entry)));
  };
  // A large app is brought to its plan in several transactions; those to come
  // see what this one did. A reoffer is also told.
  size_t reoffered = 0;
  size_t bytes = 0;
  size_t counted_compares = 0;
  size_t counted_ops = 0;
  bool cut = false;
  const auto full = [&] {
    for (; counted_compares < txn.compares.size(); ++counted_compares) {
      bytes += txn.compares[counted_compares].key.size();
    }
    for (; counted_ops < txn.then_ops.size(); ++counted_ops) {
      const Op& op = txn.then_ops[counted_ops];
      bytes += op.key.size() + op.value.size();
    }
    cut = cut || bytes >= kFullTxnBytes ||
          txn.compares.size() + txn.then_ops.size() + reoffered >= kFullTxn;
    return cut;
  };
  size_t removed = 0;
  for (const SlotRef& ref : decision.remove) {
    if (full()) break;
    const std::string name = NameOf(app, ref);
    expect(name);
    txn.compares.push_back(Compare::Absent(KeyOf(kClaims, name)));
    txn.then_ops.push_back(Op::Delete(KeyOf(kSlots, name)));
    written.insert(name);
    ++removed;
  }
  size_t drained = 0;
  for (const SlotRef& ref : decision.mark_surplus) {
    if (full()) break;
    const std::string name = NameOf(app, ref);
    expect(name);
    v1::Slot slot = known[name].spec;
    slot.set_surplus(true);
    put(name, slot);
    ++drained;
  }
  for (const Reoffer& reoffer : decision.reoffer) {
    if (full()) break;
    const std::string name = NameOf(app, reoffer.slot);
    Known& slot = known[name];
    expect(name);
    const std::string claim_key = KeyOf(kClaims, name);
    txn.compares.push_back(
        Compare::ModRevision(claim_key, RevisionOf(slot.claim)));
    if (slot.claim != nullptr) txn.then_ops.push_back(Op::Delete(claim_key));
    slot.spec.clear_refused_by();
    for (const std::string& node : reoffer.refused_by) {
      slot.spec.add_refused_by(node);
      bytes += node.size() + 2;  // In the event that tells.
    }
    *slot.spec.mutable_since_time() = FromTime(input.now);
    put(name, slot.spec);
    ++reoffered;
  }
  const auto explain = [](const PendingReason& reason, absl::Time begin,
                          v1::Slot* slot) {
    slot->set_reason(reason.reason);
    slot->set_message(reason.message);
    *slot->mutable_since_time() = FromTime(begin);
  };
  size_t created_count = 0;
  for (const PendingReason& created : decision.create) {
    if (full()) break;
    const std::string name = NameOf(app, created.slot);
    v1::Slot slot;
    slot.set_app_name(app);
    slot.set_index(created.slot.index);
    slot.set_generation(created.slot.generation);
    ApplyPlan(*input.plan, /*claimed=*/false, &slot);
    explain(created, input.now, &slot);
    txn.compares.push_back(Compare::Absent(KeyOf(kSlots, name)));
    put(name, slot);
    ++created_count;
  }
  absl::flat_hash_map<std::pair<int32_t, int64_t>, absl::Time> since;
  if (!decision.reasons.empty()) {
    for (const SlotInput& slot : input.slots) {
      since[{slot.index, slot.generation}] = slot.since;
    }
  }
  for (const PendingReason& reason : decision.reasons) {
    const std::string name = NameOf(app, reason.slot);
    if (written.contains(name)) continue;
    if (full()) break;
    expect(name);
    txn.compares.push_back(Compare::Absent(KeyOf(kClaims, name)));
    v1::Slot slot = known[name].spec;
    explain(reason, since[{reason.slot.index, reason.slot.generation}], &slot);
    put(name, slot);
    freed.insert(name);
  }
  for (const auto& [name, slot] : known) {
    if (!slot.outdated || written.contains(name)) continue;
    if (full()) break;
    expect(name);
    put(name, slot.spec);
  }

  // What the operator may want to know, told once.
  std::string bound_by;
  std::string in_place;
  {
    MutexLock lock(mutex_);
    bound_by = apps_[app].bound_by;
    in_place = apps_[app].in_place_because;
  }
  const auto tell = [&](absl::string_view type, v1::Event::Severity severity,
                        std::string message) {
    v1::Event event;
    event.set_app_name(app);
    event.set_message(std::move(message));
    txn.then_ops.push_back(events_.Record(type, severity, std::move(event)));
  };
  if (!cut && decision.bound_by != bound_by && !decision.bound_by.empty()) {
    tell("BUDGET_BINDS", v1::Event::SEVERITY_WARNING,
         absl::StrCat("the budget (", decision.bound_by, ") allows ",
                      decision.wanted, " instances, fewer than the ",
                      input.plan->count(), " that are wanted"));
  }
  if (!cut && decision.in_place_because != in_place &&
      !decision.in_place_because.empty()) {
    tell("REPLACING_IN_PLACE", v1::Event::SEVERITY_WARNING,
         absl::StrCat("old instances are stopped before new ones start: ",
                      decision.in_place_because));
  }
  if (created_count + drained + removed > 0) {
    tell("SLOTS_CHANGED", v1::Event::SEVERITY_INFO,
         absl::StrCat(decision.wanted, " instances are wanted: ", created_count,
                      " slots created, ", drained, " to be drained, ", removed,
                      " removed"));
  }
  for (size_t i = 0; i < reoffered; ++i) {
    const Reoffer& reoffer = decision.reoffer[i];
    tell(
        "SLOT_REOFFERED", v1::Event::SEVERITY_WARNING,
        absl::StrCat("slot ", reoffer.slot.index, " of generation ",
                     reoffer.slot.generation, " is offered again, but not to: ",
                     absl::StrJoin(reoffer.refused_by, ", ")));
  }

  bool succeeded = true;
  if (!txn.then_ops.empty()) {
    txn.compares.push_back(Compare::ModRevision(plan_key, RevisionOf(plan)));
    txn.compares.push_back(
        Compare::ModRevision(budget_key, RevisionOf(budget)));
    const absl::StatusOr<TxnResponse> response = store_.Txn(std::move(txn));
    if (!response.ok()) return FromStore(response.status());
    succeeded = response->succeeded;
  }
  if (!succeeded) return false;

  MutexLock lock(mutex_);
  App& state = apps_[app];
  for (const auto* reasons : {&decision.create, &decision.reasons}) {
    for (const PendingReason& reason : *reasons) {
      const std::string name = NameOf(app, reason.slot);
      if (written.contains(name)) state.reason_times[name] = input.now;
    }
  }
  if (cut) return false;
  state.bound_by = decision.bound_by;
  state.in_place_because = decision.in_place_because;
  // What somebody holds waits no longer.
  const auto gone = [&](const auto& entry) {
    const auto it = known.find(entry.first);
    return !written.contains(entry.first) &&
           (it == known.end() || it->second.claim != nullptr);
  };
  absl::erase_if(state.reason_times, gone);
  for (const std::string& name : freed) state.freed.erase(name);
  absl::erase_if(state.freed, [&](const auto& entry) {
    const auto it = known.find(entry.first);
    return it == known.end() || it->second.claim != nullptr;
  });
  const bool has_pending = !decision.create.empty() ||
                           std::any_of(input.slots.begin(), input.slots.end(),
                                       [](const SlotInput& slot) {
                                         return !slot.claimed && !slot.surplus;
                                       });
  if (has_pending) {
    pending_.insert(app);
  } else {
    pending_.erase(app);
  }
  if (decision.wake_up != absl::InfiniteFuture()) {
    MakeDue(app, clock_.Monotonic() +
                     std::max(kDebounce, decision.wake_up - input.now));
  }
  if (plan == nullptr && known.empty() &&
      state.due == absl::InfiniteDuration()) {
    apps_.erase(app);
    pending_.erase(app);
  }
  return true;
}

}  // namespace mycelium::fabric
