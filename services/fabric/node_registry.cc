#include "services/fabric/node_registry.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/random/random.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "glog/logging.h"
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

// Whoever knows a lease's id can use it, so it is not to be guessed.
LeaseId RandomLease() {
  const LeaseId id = ParseLease(absl::StrCat("0", RandomHex(8).substr(1)));
  return std::max<LeaseId>(id, 1);
}

absl::Status NodeNotFound(absl::string_view node) {
  return FabricError(absl::StatusCode::kNotFound, "NODE_NOT_FOUND",
                     absl::StrCat("no node ", Quoted(node), " has ever joined"),
                     {{"node_id", std::string(node)}});
}

absl::Status LeaseMismatch(absl::string_view node) {
  return FabricError(
      absl::StatusCode::kFailedPrecondition, "LEASE_MISMATCH",
      absl::StrCat("node ", Quoted(node), " is held by another lease"),
      {{"node_id", std::string(node)}});
}

std::string AliveValue(v1::Node::State state, absl::Time since) {
  v1::Node alive;
  alive.set_state(state);
  *alive.mutable_state_time() = FromTime(since);
  return alive.SerializeAsString();
}

v1::Event NodeEvent(const std::string& node, std::string message) {
  v1::Event event;
  event.set_node_id(node);
  event.set_message(std::move(message));
  return event;
}

absl::Duration HeartbeatInterval(absl::Duration ttl) {
  return std::min(NodeRegistry::kHeartbeatInterval, ttl / 4);
}

}  // namespace

void NodeRegistry::Join(const v1::JoinNodeRequest& request,
                        Done<v1::JoinNodeResponse> done) {
  FieldViolations violations;
  CheckNode(request.node(), &violations);
  if (request.has_lease_ttl()) {
    CheckDuration("leaseTtl", request.lease_ttl(), absl::Seconds(1),
                  absl::Minutes(5), &violations);
  }
  if (!request.previous_lease_id().empty()) {
    CheckLease("previousLeaseId", request.previous_lease_id(), &violations);
  }
  absl::Status valid = violations.ToStatus(kErrorDomain, "NODE_INVALID");
  if (!valid.ok()) {
    done(std::move(valid));
    return;
  }
  const absl::StatusOr<EntryPtr> alive =
      Get(store_, KeyOf(kAlive, request.node().node_id()));
  if (!alive.ok()) {
    done(alive.status());
    return;
  }
  const LeaseId previous = ParseLease(request.previous_lease_id());
  if (*alive != nullptr && (*alive)->lease == previous) {
    const absl::StatusOr<absl::Duration> ttl = store_.KeepAlive(previous);
    if (ttl.ok()) {
      {
        // As good as a heartbeat.
        MutexLock lock(mutex_);
        const auto holder = holders_.find(request.node().node_id());
        if (holder != holders_.end()) {
          holder->second.last_heartbeat = clock_.Monotonic();
        }
      }
      Write<v1::JoinNodeResponse>(
          &store_,
          [this, request, previous, ttl = *ttl] {
            return DraftJoin(request, previous, ttl, /*resumed=*/true);
          },
          std::move(done));
      return;
    }
    // It lapsed just now; what was bound to it is gone.
  }
  JoinNew(request, std::move(done));
}

void NodeRegistry::JoinNew(const v1::JoinNodeRequest& request,
                           Done<v1::JoinNodeResponse> done) {
  const absl::Duration ttl = request.has_lease_ttl()
                                 ? ToDuration(request.lease_ttl())
                                 : kDefaultLeaseTtl;
  // Asked first with no lease, so that an agent that is refused again and again
  // makes none.
  const absl::StatusOr<Draft<v1::JoinNodeResponse>> rehearsal =
      DraftJoin(request, kNoLease, ttl, /*resumed=*/false);
  if (!rehearsal.ok()) {
    done(rehearsal.status());
    return;
  }
  store_.GrantAsync(
      ttl, RandomLease(),
      [this, request, ttl,
       done = std::move(done)](absl::StatusOr<LeaseId> lease) mutable {
        if (!lease.ok()) {
          done(FromStore(lease.status()));
          return;
        }
        Write<v1::JoinNodeResponse>(
            &store_,
            [this, request, ttl, lease = *lease] {
              return DraftJoin(request, lease, ttl, /*resumed=*/false);
            },
            [this, lease = *lease, done = std::move(done)](
                absl::StatusOr<v1::JoinNodeResponse> response) mutable {
              if (!response.ok()) {
                store_.RevokeAsync(lease,
                                   [](const absl::StatusOr<int64_t>&) {});
              }
              done(std::move(response));
            });
      });
}

absl::StatusOr<Draft<v1::JoinNodeResponse>> NodeRegistry::DraftJoin(
    const v1::JoinNodeRequest& request, LeaseId lease, absl::Duration ttl,
    bool resumed) {
  const std::string& id = request.node().node_id();
  const std::string key = KeyOf(kNodes, id);
  const std::string alive_key = KeyOf(kAlive, id);
  MYC_ASSIGN_OR_RETURN(const EntryPtr stored, Get(store_, key));
  MYC_ASSIGN_OR_RETURN(const EntryPtr alive, Get(store_, alive_key));
  if (alive != nullptr && alive->lease != lease) {
    const std::string address =
        stored == nullptr ? "" : NodeOf(*stored, nullptr).address();
    return FabricError(
        absl::StatusCode::kAlreadyExists, "NODE_ACTIVE",
        absl::StrCat("node.nodeID: ", Quoted(id), " is held by the agent at ",
                     Quoted(address),
                     ", whose lease is alive; choose another id, or stop that "
                     "agent and wait until its lease has lapsed"),
        {{"node_id", id}, {"address", address}});
  }
  if (resumed && alive == nullptr) {
    return LeaseNotFound(request.previous_lease_id(),
                         absl::StrCat("node ", Quoted(id)));
  }
  const absl::Time now = clock_.Now();
  v1::Node node = request.node();
  node.set_state(v1::Node::STATE_READY);
  *node.mutable_state_time() = FromTime(now);
  node.set_scheduling(v1::Node::SCHEDULING_ENABLED);
  node.clear_revision();
  node.clear_reserved();
  if (stored != nullptr) {
    node.set_scheduling(NodeOf(*stored, nullptr).scheduling());
  }

  Draft<v1::JoinNodeResponse> draft;
  draft.compares.push_back(Compare::ModRevision(key, RevisionOf(stored)));
  draft.compares.push_back(Compare::ModRevision(alive_key, RevisionOf(alive)));
  draft.ops.push_back(Op::Put(key, Serialize(node)));
  draft.ops.push_back(
      Op::Put(alive_key, AliveValue(v1::Node::STATE_READY, now), lease));
  draft.ops.push_back(events_.Record(
      "NODE_JOINED", v1::Event::SEVERITY_INFO,
      NodeEvent(id, absl::StrCat("node ", id, resumed ? " resumed" : " joined",
                                 ", agent at ", node.address()))));
  v1::JoinNodeResponse& response = draft.response;
  *response.mutable_node() = std::move(node);
  response.set_lease_id(FormatLease(lease));
  *response.mutable_lease_ttl() = FromDuration(ttl);
  *response.mutable_heartbeat_interval() = FromDuration(HeartbeatInterval(ttl));
  response.set_epoch(store_.Epoch());
  response.set_resumed(resumed);
  draft.stamp = [](int64_t revision, v1::JoinNodeResponse* stamped) {
    stamped->mutable_node()->set_revision(revision);
  };
  return draft;
}

absl::StatusOr<v1::HeartbeatResponse> NodeRegistry::Heartbeat(
    const v1::HeartbeatRequest& request) {
  FieldViolations violations;
  CheckId("nodeID", request.node_id(), &violations);
  CheckLease("leaseId", request.lease_id(), &violations);
  MYC_RETURN_IF_ERROR(violations.ToStatus(kErrorDomain, "REQUEST_INVALID"));
  const LeaseId lease = ParseLease(request.lease_id());
  const std::string holder = absl::StrCat("node ", Quoted(request.node_id()));
  {
    MutexLock lock(mutex_);
    const auto it = holders_.find(request.node_id());
    if (it != holders_.end() && it->second.lease == lease) {
      it->second.last_heartbeat = clock_.Monotonic();
    } else {
      // The feed may not have told of a node that has just joined.
      const absl::StatusOr<EntryPtr> alive =
          Get(store_, KeyOf(kAlive, request.node_id()));
      MYC_RETURN_IF_ERROR(alive.status());
      if (*alive == nullptr) return LeaseNotFound(request.lease_id(), holder);
      if ((*alive)->lease != lease) return LeaseMismatch(request.node_id());
    }
  }
  const absl::StatusOr<absl::Duration> ttl = store_.KeepAlive(lease);
  if (!ttl.ok()) return LeaseNotFound(request.lease_id(), holder);
  bool was_suspect = false;
  {
    MutexLock lock(mutex_);
    const auto it = holders_.find(request.node_id());
    if (it != holders_.end() && it->second.lease == lease) {
      was_suspect = std::exchange(it->second.suspect, false);
    }
  }
  if (was_suspect) SetSuspect(request.node_id(), lease, /*suspect=*/false);
  v1::HeartbeatResponse response;
  response.set_revision(store_.Revision());
  *response.mutable_lease_ttl() = FromDuration(*ttl);
  return response;
}

void NodeRegistry::SetSuspect(const std::string& node, LeaseId lease,
                              bool suspect) {
  struct None {};
  Write<None>(
      &store_,
      [this, node, lease, suspect]() -> absl::StatusOr<Draft<None>> {
        const std::string key = KeyOf(kAlive, node);
        MYC_ASSIGN_OR_RETURN(const EntryPtr alive, Get(store_, key));
        Draft<None> draft;
        if (alive == nullptr || alive->lease != lease) return draft;
        const v1::Node::State state =
            suspect ? v1::Node::STATE_SUSPECT : v1::Node::STATE_READY;
        v1::Node stored;
        stored.ParseFromString(alive->value);
        if (stored.state() == state) return draft;
        draft.compares.push_back(
            Compare::ModRevision(key, alive->mod_revision));
        draft.ops.push_back(
            Op::Put(key, AliveValue(state, clock_.Now()), lease));
        draft.ops.push_back(
            suspect
                ? events_.Record(
                      "NODE_SUSPECT", v1::Event::SEVERITY_WARNING,
                      NodeEvent(node, absl::StrCat(
                                          "node ", node,
                                          " has sent no heartbeat for ",
                                          absl::FormatDuration(kSuspectAfter))))
                : events_.Record(
                      "NODE_READY", v1::Event::SEVERITY_INFO,
                      NodeEvent(node, absl::StrCat("node ", node,
                                                   " reports again"))));
        return draft;
      },
      [node, running = scope_.Enter()](const absl::StatusOr<None>& done) {
        if (!done.ok()) {
          LOG(WARNING) << "cannot write the state of node " << node << ": "
                       << done.status();
        }
      });
}

void NodeRegistry::Tick() {
  std::vector<std::pair<std::string, LeaseId>> silent;
  std::vector<std::string> lost;
  {
    MutexLock lock(mutex_);
    const absl::Duration now = clock_.Monotonic();
    for (auto& [node, holder] : holders_) {
      const absl::Duration limit = std::min(kSuspectAfter, holder.ttl / 2);
      if (holder.suspect || now - holder.last_heartbeat < limit) continue;
      holder.suspect = true;
      silent.emplace_back(node, holder.lease);
    }
    lost.assign(lost_.begin(), lost_.end());
    lost_.clear();
  }
  for (const auto& [node, lease] : silent) {
    SetSuspect(node, lease, /*suspect=*/true);
  }
  for (const std::string& node : lost) RecordLoss(node);
}

void NodeRegistry::RecordLoss(const std::string& node) {
  struct None {};
  Write<None>(
      &store_,
      [this, node]() -> absl::StatusOr<Draft<None>> {
        const std::string key = KeyOf(kNodes, node);
        const std::string alive_key = KeyOf(kAlive, node);
        MYC_ASSIGN_OR_RETURN(const EntryPtr stored, Get(store_, key));
        MYC_ASSIGN_OR_RETURN(const EntryPtr alive, Get(store_, alive_key));
        Draft<None> draft;
        if (stored == nullptr || alive != nullptr) return draft;
        v1::Node record;
        record.ParseFromString(stored->value);
        if (record.state() == v1::Node::STATE_LOST ||
            record.state() == v1::Node::STATE_LEFT) {
          return draft;
        }
        record.set_state(v1::Node::STATE_LOST);
        *record.mutable_state_time() = FromTime(clock_.Now());
        draft.compares.push_back(
            Compare::ModRevision(key, stored->mod_revision));
        draft.compares.push_back(Compare::Absent(alive_key));
        draft.ops.push_back(Op::Put(key, Serialize(record)));
        draft.ops.push_back(events_.Record(
            "NODE_LOST", v1::Event::SEVERITY_ERROR,
            NodeEvent(node,
                      absl::StrCat("node ", node,
                                   " is lost: its lease has lapsed, its claims "
                                   "and endpoints are gone"))));
        return draft;
      },
      [this, node, running = scope_.Enter()](const absl::StatusOr<None>& done) {
        if (done.ok()) return;
        LOG(WARNING) << "cannot record the loss of node " << node << ": "
                     << done.status();
        MutexLock lock(mutex_);
        lost_.insert(node);
      });
}

void NodeRegistry::Leave(const v1::LeaveNodeRequest& request,
                         Done<v1::LeaveNodeResponse> done) {
  FieldViolations violations;
  CheckId("nodeID", request.node_id(), &violations);
  CheckLease("leaseId", request.lease_id(), &violations);
  absl::Status valid = violations.ToStatus(kErrorDomain, "REQUEST_INVALID");
  if (!valid.ok()) {
    done(std::move(valid));
    return;
  }
  const LeaseId lease = ParseLease(request.lease_id());
  Write<v1::LeaveNodeResponse>(
      &store_,
      [this, request, lease]() -> absl::StatusOr<Draft<v1::LeaveNodeResponse>> {
        const std::string key = KeyOf(kNodes, request.node_id());
        const std::string alive_key = KeyOf(kAlive, request.node_id());
        Draft<v1::LeaveNodeResponse> draft;
        draft.response.set_revision(store_.Revision());
        MYC_ASSIGN_OR_RETURN(const EntryPtr stored, Get(store_, key));
        MYC_ASSIGN_OR_RETURN(const EntryPtr alive, Get(store_, alive_key));
        if (alive != nullptr && alive->lease != lease) {
          return LeaseMismatch(request.node_id());
        }
        if (stored == nullptr || alive == nullptr) return draft;
        v1::Node record;
        record.ParseFromString(stored->value);
        if (record.state() == v1::Node::STATE_LEFT) return draft;
        record.set_state(v1::Node::STATE_LEFT);
        *record.mutable_state_time() = FromTime(clock_.Now());
        draft.compares.push_back(
            Compare::ModRevision(key, stored->mod_revision));
        draft.compares.push_back(
            Compare::CreateRevision(alive_key, alive->create_revision));
        draft.ops.push_back(Op::Put(key, Serialize(record)));
        draft.ops.push_back(events_.Record(
            "NODE_LEFT", v1::Event::SEVERITY_INFO,
            NodeEvent(request.node_id(),
                      absl::StrCat("node ", request.node_id(), " left"))));
        draft.stamp = [](int64_t revision, v1::LeaveNodeResponse* response) {
          response->set_revision(revision);
        };
        return draft;
      },
      [this, lease, done = std::move(done)](
          absl::StatusOr<v1::LeaveNodeResponse> response) mutable {
        if (!response.ok()) {
          done(std::move(response));
          return;
        }
        store_.RevokeAsync(
            lease, [response = *std::move(response), done = std::move(done)](
                       absl::StatusOr<int64_t> revision) mutable {
              if (revision.ok()) response.set_revision(*revision);
              // A lease that is gone already is what was wanted.
              if (!revision.ok() &&
                  ReasonOf(revision.status()) != kReasonNoLease) {
                done(FromStore(revision.status()));
                return;
              }
              done(std::move(response));
            });
      });
}

template <typename Response>
void NodeRegistry::SetScheduling(const std::string& node,
                                 v1::Node::Scheduling scheduling,
                                 absl::string_view type, Done<Response> done) {
  FieldViolations violations;
  CheckId("nodeID", node, &violations);
  absl::Status valid = violations.ToStatus(kErrorDomain, "REQUEST_INVALID");
  if (!valid.ok()) {
    done(std::move(valid));
    return;
  }
  Write<Response>(
      &store_,
      [this, node, scheduling,
       type = std::string(type)]() -> absl::StatusOr<Draft<Response>> {
        const std::string key = KeyOf(kNodes, node);
        Draft<Response> draft;
        MYC_ASSIGN_OR_RETURN(const EntryPtr stored, Get(store_, key));
        if (stored == nullptr) return NodeNotFound(node);
        MYC_ASSIGN_OR_RETURN(const EntryPtr alive,
                             Get(store_, KeyOf(kAlive, node)));
        v1::Node record;
        record.ParseFromString(stored->value);
        const bool changes = record.scheduling() != scheduling;
        record.set_scheduling(scheduling);
        const std::string value = Serialize(record);
        Entry updated = *stored;
        updated.value = value;
        *draft.response.mutable_node() = NodeOf(updated, alive.get());
        if (!changes) return draft;
        draft.compares.push_back(
            Compare::ModRevision(key, stored->mod_revision));
        draft.ops.push_back(Op::Put(key, value));
        draft.ops.push_back(events_.Record(
            type, v1::Event::SEVERITY_INFO,
            NodeEvent(node,
                      absl::StrCat("node ", node, ": ",
                                   v1::Node::Scheduling_Name(scheduling)))));
        draft.stamp = [](int64_t revision, Response* response) {
          response->mutable_node()->set_revision(revision);
        };
        return draft;
      },
      std::move(done));
}

void NodeRegistry::Drain(const v1::DrainNodeRequest& request,
                         Done<v1::DrainNodeResponse> done) {
  SetScheduling(request.node_id(), v1::Node::SCHEDULING_DRAINING,
                "NODE_DRAINING", std::move(done));
}

void NodeRegistry::Cordon(const v1::CordonNodeRequest& request,
                          Done<v1::CordonNodeResponse> done) {
  SetScheduling(request.node_id(), v1::Node::SCHEDULING_CORDONED,
                "NODE_CORDONED", std::move(done));
}

void NodeRegistry::Undrain(const v1::UndrainNodeRequest& request,
                           Done<v1::UndrainNodeResponse> done) {
  SetScheduling(request.node_id(), v1::Node::SCHEDULING_ENABLED, "NODE_ENABLED",
                std::move(done));
}

void NodeRegistry::Delete(const v1::DeleteNodeRequest& request,
                          Done<v1::DeleteNodeResponse> done) {
  FieldViolations violations;
  CheckId("nodeID", request.node_id(), &violations);
  absl::Status valid = violations.ToStatus(kErrorDomain, "REQUEST_INVALID");
  if (!valid.ok()) {
    done(std::move(valid));
    return;
  }
  Write<v1::DeleteNodeResponse>(
      &store_,
      [this, request]() -> absl::StatusOr<Draft<v1::DeleteNodeResponse>> {
        const std::string key = KeyOf(kNodes, request.node_id());
        const std::string alive_key = KeyOf(kAlive, request.node_id());
        MYC_ASSIGN_OR_RETURN(const EntryPtr stored, Get(store_, key));
        MYC_ASSIGN_OR_RETURN(const EntryPtr alive, Get(store_, alive_key));
        if (stored == nullptr) return NodeNotFound(request.node_id());
        if (alive != nullptr) {
          return FabricError(
              absl::StatusCode::kFailedPrecondition, "NODE_ACTIVE",
              absl::StrCat("the agent of node ", Quoted(request.node_id()),
                           " holds a live lease; stop it first"),
              {{"node_id", request.node_id()}});
        }
        Draft<v1::DeleteNodeResponse> draft;
        draft.compares.push_back(
            Compare::ModRevision(key, stored->mod_revision));
        draft.compares.push_back(Compare::Absent(alive_key));
        draft.ops.push_back(Op::Delete(key));
        draft.stamp = [](int64_t revision, v1::DeleteNodeResponse* response) {
          response->set_revision(revision);
        };
        return draft;
      },
      std::move(done));
}

absl::StatusOr<v1::ListNodesResponse> NodeRegistry::List(
    const v1::ListNodesRequest& request) {
  v1::ListNodesResponse response;
  MYC_ASSIGN_OR_RETURN(
      const PageEnd end,
      ReadPage(
          store_, "nodes", kNodes, request.page_size(), request.page_token(),
          [&](const Entry& entry, int64_t revision) -> absl::StatusOr<bool> {
            const std::string id = entry.key.substr(kNodes.size());
            RangeRequest alive = RangeRequest::Key(KeyOf(kAlive, id));
            alive.at_revision = revision;
            absl::StatusOr<RangeResponse> range = store_.Range(alive);
            if (!range.ok()) return FromStore(range.status());
            v1::Node* node = response.add_nodes();
            *node =
                NodeOf(entry, range->entries.empty() ? nullptr
                                                     : range->entries[0].get());
            const Resources reserved = ledger_.ReservedOn(id);
            node->mutable_reserved()->set_cpu_milli(reserved.cpu_milli);
            node->mutable_reserved()->set_memory_mb(reserved.memory_mb);
            return true;
          }));
  response.set_next_page_token(end.next_page_token);
  response.set_revision(end.revision);
  response.set_epoch(end.epoch);
  return response;
}

void NodeRegistry::Reset(const StoreSnapshot& snapshot) {
  MutexLock lock(mutex_);
  holders_.clear();
  lost_.clear();
  for (const EntryPtr& entry : snapshot.entries) {
    const absl::string_view key = entry->key;
    if (absl::StartsWith(key, kAlive)) {
      Track(std::string(key.substr(kAlive.size())), entry);
    } else if (absl::StartsWith(key, kNodes)) {
      lost_.insert(std::string(key.substr(kNodes.size())));
    }
  }
  for (const auto& [node, holder] : holders_) lost_.erase(node);
}

void NodeRegistry::Apply(const Batch& batch) {
  for (const Change& change : batch.changes) {
    const absl::string_view key = change.key();
    if (!absl::StartsWith(key, kAlive)) continue;
    const std::string node(key.substr(kAlive.size()));
    MutexLock lock(mutex_);
    if (change.deleted()) {
      holders_.erase(node);
      lost_.insert(node);
    } else {
      Track(node, change.entry);
    }
  }
}

void NodeRegistry::Track(const std::string& node, const EntryPtr& alive) {
  Holder& holder = holders_[node];
  v1::Node liveness;
  liveness.ParseFromString(alive->value);
  holder.suspect = liveness.state() == v1::Node::STATE_SUSPECT;
  if (holder.lease == alive->lease) return;
  holder.lease = alive->lease;
  holder.last_heartbeat = clock_.Monotonic();
  const absl::StatusOr<LeaseInfo> info = store_.TimeToLive(alive->lease);
  holder.ttl = info.ok() ? info->ttl : kDefaultLeaseTtl;
}

}  // namespace mycelium::fabric
