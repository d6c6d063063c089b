#include "services/fabric/slot_registry.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "lib/base/error.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "services/fabric/errors.h"
#include "services/fabric/keys.h"
#include "services/fabric/paging.h"
#include "services/fabric/resources.h"
#include "services/fabric/validate.h"

namespace mycelium::fabric {
namespace {

template <typename Request>
SlotId IdOf(const Request& request) {
  return {request.app_name(), request.index(), request.generation()};
}

absl::Status SlotNotFound(const SlotId& id) {
  return FabricError(
      absl::StatusCode::kNotFound, "SLOT_NOT_FOUND",
      absl::StrCat("slot ", id.ToString(), " is not wanted (any more)"),
      {{"slot", id.ToString()}});
}

absl::Status ClaimLost(const SlotId& id, int64_t claim_revision,
                       const EntryPtr& claim) {
  return FabricError(
      absl::StatusCode::kFailedPrecondition, "CLAIM_LOST",
      absl::StrCat("slot ", id.ToString(), " is ",
                   claim == nullptr ? std::string("not claimed")
                                    : absl::StrCat("claimed at revision ",
                                                   claim->create_revision),
                   ", not at ", claim_revision, "; stop the instance"),
      {{"slot", id.ToString()}});
}

}  // namespace

void SlotRegistry::Claim(const v1::ClaimSlotRequest& request,
                         Done<v1::ClaimSlotResponse> done) {
  FieldViolations violations;
  CheckSlotId(request.app_name(), request.index(), request.generation(),
              &violations);
  CheckId("nodeID", request.node_id(), &violations);
  CheckId("instanceId", request.instance_id(), &violations);
  CheckLease("leaseId", request.lease_id(), &violations);
  absl::Status valid = violations.ToStatus(kErrorDomain, "REQUEST_INVALID");
  if (!valid.ok()) {
    done(std::move(valid));
    return;
  }
  Write<v1::ClaimSlotResponse>(
      &store_, [this, request] { return DraftClaim(request); },
      std::move(done));
}

absl::StatusOr<Draft<v1::ClaimSlotResponse>> SlotRegistry::DraftClaim(
    const v1::ClaimSlotRequest& request) {
  const SlotId id = IdOf(request);
  const std::string name = SlotName(id);
  const std::string slot_key = KeyOf(kSlots, name);
  const std::string claim_key = KeyOf(kClaims, name);
  const std::string node_key = KeyOf(kNodes, request.node_id());
  const LeaseId lease = ParseLease(request.lease_id());
  MYC_ASSIGN_OR_RETURN(const EntryPtr slot, Get(store_, slot_key));
  MYC_ASSIGN_OR_RETURN(const EntryPtr claim, Get(store_, claim_key));
  MYC_ASSIGN_OR_RETURN(const EntryPtr node, Get(store_, node_key));
  MYC_ASSIGN_OR_RETURN(const EntryPtr alive,
                       Get(store_, KeyOf(kAlive, request.node_id())));
  if (node == nullptr || alive == nullptr || alive->lease != lease) {
    return LeaseNotFound(request.lease_id(),
                         absl::StrCat("node ", Quoted(request.node_id())));
  }
  if (slot == nullptr) return SlotNotFound(id);

  Draft<v1::ClaimSlotResponse> draft;
  if (claim != nullptr) {
    const v1::Slot held = SlotOf(*slot, claim.get());
    if (held.instance_id() == request.instance_id() &&
        held.node_id() == request.node_id() && claim->lease == lease) {
      *draft.response.mutable_slot() = held;
      return draft;
    }
    return FabricError(
        absl::StatusCode::kAborted, "SLOT_CLAIMED",
        absl::StrCat("slot ", id.ToString(), " is claimed by node ",
                     Quoted(held.node_id()), " for instance ",
                     Quoted(held.instance_id())),
        {{"node_id", held.node_id()}, {"instance_id", held.instance_id()}});
  }
  v1::Slot wanted = SlotOf(*slot, nullptr);
  if (wanted.surplus()) {
    return FabricError(
        absl::StatusCode::kFailedPrecondition, "SLOT_SURPLUS",
        absl::StrCat("slot ", id.ToString(), " is surplus and about to go"),
        {{"slot", id.ToString()}});
  }
  const v1::Node record = NodeOf(*node, alive.get());
  if (record.scheduling() != v1::Node::SCHEDULING_ENABLED) {
    return FabricError(
        absl::StatusCode::kFailedPrecondition, "NODE_NOT_SCHEDULABLE",
        absl::StrCat("node ", Quoted(request.node_id()), " is ",
                     record.scheduling() == v1::Node::SCHEDULING_DRAINING
                         ? "being drained"
                         : "cordoned",
                     " and takes no new instances"),
        {{"node_id", request.node_id()}});
  }
  if (std::find(wanted.refused_by().begin(), wanted.refused_by().end(),
                request.node_id()) != wanted.refused_by().end()) {
    return FabricError(
        absl::StatusCode::kFailedPrecondition, "SLOT_REFUSED",
        absl::StrCat("node ", Quoted(request.node_id()),
                     " has refused the spore of slot ", id.ToString(),
                     "; it is left to other nodes"),
        {{"slot", id.ToString()}, {"node_id", request.node_id()}});
  }

  draft.compares.push_back(Compare::ModRevision(slot_key, slot->mod_revision));
  draft.compares.push_back(Compare::Absent(claim_key));
  draft.compares.push_back(Compare::ModRevision(node_key, node->mod_revision));
  draft.compares.push_back(Compare::LeaseAlive(lease));
  MYC_RETURN_IF_ERROR(Admit(wanted, &draft));

  v1::Slot held;
  held.set_node_id(request.node_id());
  held.set_instance_id(request.instance_id());
  held.set_state(v1::Slot::STATE_CLAIMED);
  *held.mutable_since_time() = FromTime(clock_.Now());
  *held.mutable_nutrients() = wanted.nutrients();
  draft.ops.push_back(Op::Put(claim_key, held.SerializeAsString(), lease));
  v1::Event event;
  event.set_app_name(id.app);
  event.set_node_id(request.node_id());
  event.set_instance_id(request.instance_id());
  event.set_message(absl::StrCat("slot ", id.ToString(), " claimed by node ",
                                 request.node_id()));
  draft.ops.push_back(events_.Record("SLOT_CLAIMED", v1::Event::SEVERITY_INFO,
                                     std::move(event)));

  wanted.set_node_id(held.node_id());
  wanted.set_instance_id(held.instance_id());
  wanted.set_state(held.state());
  wanted.clear_reason();
  wanted.clear_message();
  wanted.clear_until_time();
  *wanted.mutable_since_time() = held.since_time();
  *draft.response.mutable_slot() = std::move(wanted);
  draft.stamp = [](int64_t revision, v1::ClaimSlotResponse* response) {
    response->mutable_slot()->set_claim_revision(revision);
    response->mutable_slot()->set_revision(revision);
  };
  return draft;
}

absl::Status SlotRegistry::Admit(const v1::Slot& slot,
                                 Draft<v1::ClaimSlotResponse>* draft) {
  const std::string budget_key = KeyOf(kBudgets, slot.app_name());
  const std::string admission_key = KeyOf(kAdmissions, slot.app_name());
  // Read before the claims: claims that go meanwhile only make room.
  MYC_ASSIGN_OR_RETURN(const EntryPtr admission, Get(store_, admission_key));
  MYC_ASSIGN_OR_RETURN(const EntryPtr entry, Get(store_, budget_key));
  draft->compares.push_back(
      Compare::ModRevision(budget_key, RevisionOf(entry)));
  if (entry == nullptr) return absl::OkStatus();

  absl::StatusOr<RangeResponse> claims = store_.Range(
      RangeRequest::Prefix(absl::StrCat(kClaims, slot.app_name(), "/")));
  if (!claims.ok()) return FromStore(claims.status());
  const int64_t used_instances = static_cast<int64_t>(claims->entries.size());
  int64_t used_cpu = 0;
  int64_t used_memory = 0;
  for (const EntryPtr& claim : claims->entries) {
    v1::Slot held;
    held.ParseFromString(claim->value);
    used_cpu += held.nutrients().cpu_milli();
    used_memory += held.nutrients().memory_mb();
  }
  const v1::Budget budget = BudgetOf(*entry);
  const struct {
    absl::string_view dimension;
    int64_t limit;
    int64_t used;
    int64_t wanted;
  } dimensions[] = {
      {"maxInstances", budget.max_instances(), used_instances, 1},
      {"cpu_milli", budget.cpu_milli(), used_cpu, slot.nutrients().cpu_milli()},
      {"memory_mb", budget.memory_mb(), used_memory,
       slot.nutrients().memory_mb()},
  };
  for (const auto& d : dimensions) {
    if (d.limit == 0 || d.used + d.wanted <= d.limit) continue;
    return FabricError(
        absl::StatusCode::kFailedPrecondition, "BUDGET_EXCEEDED",
        absl::StrCat("the budget of ", Quoted(slot.app_name()), " allows ",
                     d.dimension, " ", d.limit, "; ", d.used,
                     " are used and the slot needs ", d.wanted),
        {{"dimension", std::string(d.dimension)},
         {"limit", absl::StrCat(d.limit)},
         {"used", absl::StrCat(d.used)},
         {"wanted", absl::StrCat(d.wanted)}});
  }
  draft->compares.push_back(
      Compare::ModRevision(admission_key, RevisionOf(admission)));
  draft->ops.push_back(Op::Put(admission_key, ""));
  return absl::OkStatus();
}

void SlotRegistry::Update(const v1::UpdateSlotRequest& request,
                          Done<v1::UpdateSlotResponse> done) {
  FieldViolations violations;
  CheckSlotId(request.app_name(), request.index(), request.generation(),
              &violations);
  CheckRange("claimRevision", request.claim_revision(), 1, INT64_MAX,
             &violations);
  if (!v1::Slot::State_IsValid(request.state()) ||
      request.state() == v1::Slot::STATE_UNSPECIFIED ||
      request.state() == v1::Slot::STATE_PENDING) {
    violations.Add("state",
                   absl::StrCat(static_cast<int>(request.state()),
                                " must be a state after STATE_PENDING"));
  }
  CheckConstant("reason", request.reason(), /*optional=*/true, &violations);
  CheckText("message", request.message(), 4096, &violations);
  if (request.has_until_time()) {
    CheckTimestamp("untilTime", request.until_time(), &violations);
  }
  CheckRange("restarts", request.restarts(), 0, INT64_MAX, &violations);
  absl::Status valid = violations.ToStatus(kErrorDomain, "REQUEST_INVALID");
  if (!valid.ok()) {
    done(std::move(valid));
    return;
  }
  Write<v1::UpdateSlotResponse>(
      &store_, [this, request] { return DraftUpdate(request); },
      std::move(done));
}

absl::StatusOr<Draft<v1::UpdateSlotResponse>> SlotRegistry::DraftUpdate(
    const v1::UpdateSlotRequest& request) {
  const SlotId id = IdOf(request);
  const std::string name = SlotName(id);
  const std::string claim_key = KeyOf(kClaims, name);
  MYC_ASSIGN_OR_RETURN(const EntryPtr slot, Get(store_, KeyOf(kSlots, name)));
  MYC_ASSIGN_OR_RETURN(const EntryPtr claim, Get(store_, claim_key));
  if (slot == nullptr) return SlotNotFound(id);
  if (claim == nullptr || claim->create_revision != request.claim_revision()) {
    return ClaimLost(id, request.claim_revision(), claim);
  }
  v1::Slot held;
  held.ParseFromString(claim->value);
  const std::string before = Serialize(held);
  const v1::Slot::State old_state = held.state();
  held.set_state(request.state());
  held.set_reason(request.reason());
  held.set_message(request.message());
  held.clear_until_time();
  if (request.has_until_time()) {
    *held.mutable_until_time() = request.until_time();
  }
  held.set_restarts(request.restarts());
  if (request.state() != old_state) {
    *held.mutable_since_time() = FromTime(clock_.Now());
  }

  Draft<v1::UpdateSlotResponse> draft;
  const std::string after = Serialize(held);
  Entry updated = *claim;
  updated.value = after;
  *draft.response.mutable_slot() = SlotOf(*slot, &updated);
  if (after == before) return draft;
  draft.compares.push_back(
      Compare::ModRevision(claim_key, claim->mod_revision));
  draft.ops.push_back(Op::Put(claim_key, after, claim->lease));
  draft.stamp = [](int64_t revision, v1::UpdateSlotResponse* response) {
    response->mutable_slot()->set_revision(revision);
  };
  return draft;
}

void SlotRegistry::Release(const v1::ReleaseSlotRequest& request,
                           Done<v1::ReleaseSlotResponse> done) {
  FieldViolations violations;
  CheckSlotId(request.app_name(), request.index(), request.generation(),
              &violations);
  CheckRange("claimRevision", request.claim_revision(), 1, INT64_MAX,
             &violations);
  CheckConstant("reason", request.reason(), /*optional=*/true, &violations);
  absl::Status valid = violations.ToStatus(kErrorDomain, "REQUEST_INVALID");
  if (!valid.ok()) {
    done(std::move(valid));
    return;
  }
  Write<v1::ReleaseSlotResponse>(
      &store_, [this, request] { return DraftRelease(request); },
      std::move(done));
}

absl::StatusOr<Draft<v1::ReleaseSlotResponse>> SlotRegistry::DraftRelease(
    const v1::ReleaseSlotRequest& request) {
  const SlotId id = IdOf(request);
  const std::string name = SlotName(id);
  const std::string slot_key = KeyOf(kSlots, name);
  const std::string claim_key = KeyOf(kClaims, name);
  Draft<v1::ReleaseSlotResponse> draft;
  draft.response.set_revision(store_.Revision());
  MYC_ASSIGN_OR_RETURN(const EntryPtr slot, Get(store_, slot_key));
  MYC_ASSIGN_OR_RETURN(const EntryPtr claim, Get(store_, claim_key));
  if (claim == nullptr || claim->create_revision != request.claim_revision()) {
    return draft;
  }
  v1::Slot held;
  held.ParseFromString(claim->value);
  draft.compares.push_back(
      Compare::CreateRevision(claim_key, claim->create_revision));
  draft.compares.push_back(Compare::ModRevision(slot_key, RevisionOf(slot)));
  draft.ops.push_back(Op::Delete(claim_key));
  // An endpoint without a claim would send requests to what is gone.
  draft.ops.push_back(
      Op::Delete(KeyOf(kEndpoints, EndpointName(id.app, held.instance_id()))));
  if (slot != nullptr) {
    v1::Slot wanted;
    wanted.ParseFromString(slot->value);
    if (wanted.surplus()) {
      draft.ops.push_back(Op::Delete(slot_key));
    } else {
      wanted.set_reason(request.reason().empty() ? "RELEASED"
                                                 : request.reason());
      wanted.set_message(absl::StrCat("released by node ", held.node_id(),
                                      held.message().empty() ? "" : ": ",
                                      held.message()));
      *wanted.mutable_since_time() = FromTime(clock_.Now());
      draft.ops.push_back(Op::Put(slot_key, Serialize(wanted)));
    }
  }
  draft.stamp = [](int64_t revision, v1::ReleaseSlotResponse* response) {
    response->set_revision(revision);
  };
  return draft;
}

absl::StatusOr<v1::ListSlotsResponse> SlotRegistry::List(
    const v1::ListSlotsRequest& request) {
  FieldViolations violations;
  CheckAppFilter("appName", request.app_name(), &violations);
  CheckIdFilter("nodeID", request.node_id(), &violations);
  MYC_RETURN_IF_ERROR(violations.ToStatus(kErrorDomain, "REQUEST_INVALID"));
  const std::string prefix =
      request.app_name().empty()
          ? std::string(kSlots)
          : absl::StrCat(kSlots, request.app_name(), "/");
  v1::ListSlotsResponse response;
  MYC_ASSIGN_OR_RETURN(
      const PageEnd end,
      ReadPage(
          store_,
          absl::StrCat("slots,", request.app_name(), ",", request.node_id()),
          prefix, request.page_size(), request.page_token(),
          [&](const Entry& entry, int64_t revision) -> absl::StatusOr<bool> {
            RangeRequest claim = RangeRequest::Key(
                KeyOf(kClaims, entry.key.substr(kSlots.size())));
            claim.at_revision = revision;
            absl::StatusOr<RangeResponse> range = store_.Range(claim);
            if (!range.ok()) return FromStore(range.status());
            v1::Slot slot =
                SlotOf(entry, range->entries.empty() ? nullptr
                                                     : range->entries[0].get());
            if (!request.node_id().empty() &&
                slot.node_id() != request.node_id()) {
              return false;
            }
            *response.add_slots() = std::move(slot);
            return true;
          }));
  response.set_next_page_token(end.next_page_token);
  response.set_revision(end.revision);
  response.set_epoch(end.epoch);
  return response;
}

}  // namespace mycelium::fabric
