#include "services/fabric/edge_registry.h"

#include <memory>
#include <utility>

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

absl::Status CheckReport(const v1::ReportEdgeRequest& request, bool with_edge) {
  FieldViolations violations;
  if (with_edge) CheckEdge(request.edge(), &violations);
  CheckRange("appliedRevision", request.applied_revision(), 0, INT64_MAX,
             &violations);
  CheckText("epoch", request.epoch(), 64, &violations);
  if (request.draining_size() > EdgeRegistry::kMaxLoads) {
    violations.Add(
        "draining",
        absl::StrCat(request.draining_size(), " endpoints are more than the ",
                     EdgeRegistry::kMaxLoads, " allowed"));
  } else {
    for (int i = 0; i < request.draining_size(); ++i) {
      const v1::EndpointLoad& load = request.draining(i);
      const std::string path = absl::StrCat("draining[", i, "].");
      CheckAppName(absl::StrCat(path, "appName"), load.app_name(), &violations);
      CheckId(absl::StrCat(path, "instanceId"), load.instance_id(),
              &violations);
      CheckRange(absl::StrCat(path, "inFlight"), load.in_flight(), 0, INT64_MAX,
                 &violations);
    }
  }
  return violations.ToStatus(kErrorDomain, "EDGE_INVALID");
}

}  // namespace

void EdgeRegistry::Open(const v1::ReportEdgeRequest& request,
                        Done<LeaseId> done) {
  absl::Status valid = CheckReport(request, /*with_edge=*/true);
  if (!valid.ok()) {
    done(std::move(valid));
    return;
  }
  store_.GrantAsync(
      kLeaseTtl, kNoLease,
      [this, request,
       done = std::move(done)](absl::StatusOr<LeaseId> lease) mutable {
        if (!lease.ok()) {
          done(FromStore(lease.status()));
          return;
        }
        auto replaced = std::make_shared<LeaseId>(kNoLease);
        Write<LeaseId>(
            &store_,
            [this, edge = request.edge(), lease = *lease, replaced] {
              return DraftOpen(edge, lease, replaced.get());
            },
            [this, request, lease = *lease, replaced,
             done = std::move(done)](absl::StatusOr<LeaseId> written) mutable {
              // The key is bound to the new lease now; the old one holds
              // nothing any more.
              const LeaseId useless = written.ok() ? *replaced : lease;
              if (useless != kNoLease) {
                store_.RevokeAsync(useless,
                                   [](const absl::StatusOr<int64_t>&) {});
              }
              if (written.ok()) {
                const std::string& id = request.edge().edge_id();
                {
                  MutexLock lock(mutex_);
                  Edge& edge = edges_[id];
                  edge.lease = lease;
                  edge.reporter = lease;
                  edge.applied_revision = 0;
                  edge.in_flight.clear();
                }
                const absl::Status taken = Take(id, lease, request);
                if (!taken.ok()) {
                  done(taken);
                  return;
                }
                Evaluate();
              }
              done(std::move(written));
            });
      });
}

absl::StatusOr<Draft<LeaseId>> EdgeRegistry::DraftOpen(const v1::EdgeInfo& edge,
                                                       LeaseId lease,
                                                       LeaseId* replaced) {
  const std::string key = KeyOf(kEdges, edge.edge_id());
  MYC_ASSIGN_OR_RETURN(const EntryPtr stored, Get(store_, key));
  *replaced = stored == nullptr ? kNoLease : stored->lease;
  v1::EdgeInfo info = edge;
  info.clear_revision();
  info.clear_applied_revision();
  Draft<LeaseId> draft;
  draft.response = lease;
  draft.compares.push_back(Compare::ModRevision(key, RevisionOf(stored)));
  draft.ops.push_back(Op::Put(key, info.SerializeAsString(), lease));
  return draft;
}

absl::Status EdgeRegistry::Report(const std::string& edge_id, LeaseId lease,
                                  const v1::ReportEdgeRequest& request) {
  MYC_RETURN_IF_ERROR(CheckReport(request, /*with_edge=*/false));
  if (!store_.KeepAlive(lease).ok()) {
    return LeaseNotFound(FormatLease(lease),
                         absl::StrCat("edge ", Quoted(edge_id)));
  }
  MYC_RETURN_IF_ERROR(Take(edge_id, lease, request));
  Evaluate();
  return absl::OkStatus();
}

absl::Status EdgeRegistry::Take(const std::string& edge_id, LeaseId lease,
                                const v1::ReportEdgeRequest& request) {
  const std::string epoch = store_.Epoch();
  MutexLock lock(mutex_);
  // An edge that is not known must not be made known by its report: nothing
  // would ever remove it, and drains would wait for it.
  const auto known = edges_.find(edge_id);
  if (known == edges_.end() || known->second.reporter != lease) {
    return LeaseNotFound(FormatLease(lease),
                         absl::StrCat("edge ", Quoted(edge_id)));
  }
  Edge& edge = known->second;
  // Revisions of another epoch say nothing about this store.
  edge.applied_revision =
      request.epoch() == epoch ? request.applied_revision() : 0;
  edge.in_flight.clear();
  for (const v1::EndpointLoad& load : request.draining()) {
    edge.in_flight[EndpointName(load.app_name(), load.instance_id())] +=
        load.in_flight();
  }
  return absl::OkStatus();
}

void EdgeRegistry::Close(const std::string& edge_id, LeaseId lease) {
  store_.RevokeAsync(lease, [edge_id](const absl::StatusOr<int64_t>& revision) {
    if (!revision.ok() && ReasonOf(revision.status()) != kReasonNoLease) {
      LOG(WARNING) << "cannot end the lease of edge " << edge_id << ": "
                   << revision.status();
    }
  });
}

absl::StatusOr<v1::ListEdgesResponse> EdgeRegistry::List(
    const v1::ListEdgesRequest& request) {
  v1::ListEdgesResponse response;
  MYC_ASSIGN_OR_RETURN(
      const PageEnd end,
      ReadPage(store_, "edges", kEdges, request.page_size(),
               request.page_token(),
               [&](const Entry& entry, int64_t) -> absl::StatusOr<bool> {
                 v1::EdgeInfo* edge = response.add_edges();
                 *edge = EdgeOf(entry);
                 MutexLock lock(mutex_);
                 const auto it = edges_.find(edge->edge_id());
                 if (it != edges_.end()) {
                   edge->set_applied_revision(it->second.applied_revision);
                 }
                 return true;
               }));
  response.set_next_page_token(end.next_page_token);
  response.set_revision(end.revision);
  response.set_epoch(end.epoch);
  return response;
}

void EdgeRegistry::Reset(const StoreSnapshot& snapshot) {
  MutexLock lock(mutex_);
  drains_.clear();
  absl::flat_hash_set<std::string> present;
  for (const EntryPtr& entry : snapshot.entries) {
    Put(entry->key, entry);
    if (absl::StartsWith(entry->key, kEdges)) {
      present.insert(entry->key.substr(kEdges.size()));
    }
  }
  absl::erase_if(
      edges_, [&](const auto& edge) { return !present.contains(edge.first); });
}

void EdgeRegistry::Apply(const Batch& batch) {
  MutexLock lock(mutex_);
  for (const Change& change : batch.changes) {
    const absl::string_view key = change.key();
    if (change.deleted() && absl::StartsWith(key, kEdges)) {
      // The end of an older registration says nothing about the stream that
      // Open() has put in its place already.
      const auto it = edges_.find(key.substr(kEdges.size()));
      if (it != edges_.end() && it->second.reporter != kNoLease &&
          it->second.reporter != change.previous->lease) {
        continue;
      }
    }
    Put(change.key(), change.entry);
  }
}

void EdgeRegistry::Put(const std::string& key, const EntryPtr& entry) {
  const absl::string_view text = key;
  if (absl::StartsWith(text, kEdges)) {
    const std::string id(text.substr(kEdges.size()));
    if (entry == nullptr) {
      edges_.erase(id);
    } else {
      edges_[id].lease = entry->lease;
    }
  } else if (absl::StartsWith(text, kEndpoints)) {
    const std::string name(text.substr(kEndpoints.size()));
    drains_.erase(name);
    if (entry == nullptr) return;
    const v1::Endpoint endpoint = EndpointOf(*entry);
    if (endpoint.state() != v1::Endpoint::STATE_DRAINING) return;
    Drain& drain = drains_[name];
    drain.revision = entry->mod_revision;
    drain.deadline = ToTime(endpoint.drain_deadline());
  }
}

std::string EdgeRegistry::WhyDrained(const std::string& name,
                                     const Drain& drain) {
  if (clock_.Now() >= drain.deadline) return "its drain timeout has passed";
  if (edges_.empty()) return "no edge is there";
  for (const auto& [id, edge] : edges_) {
    if (edge.applied_revision < drain.revision) return "";
    const auto load = edge.in_flight.find(name);
    if (load == edge.in_flight.end() || load->second > 0) return "";
  }
  return "every edge has applied it and has nothing in flight there";
}

void EdgeRegistry::Evaluate() {
  struct Ready {
    std::string name;
    int64_t revision;
    std::string why;
  };
  std::vector<Ready> ready;
  {
    MutexLock lock(mutex_);
    for (auto& [name, drain] : drains_) {
      if (drain.writing) continue;
      std::string why = WhyDrained(name, drain);
      if (why.empty()) continue;
      drain.writing = true;
      ready.push_back({name, drain.revision, std::move(why)});
    }
  }
  for (const Ready& drained : ready) {
    SetDrained(drained.name, drained.revision, drained.why);
  }
}

void EdgeRegistry::SetDrained(const std::string& name, int64_t revision,
                              const std::string& why) {
  struct None {};
  Write<None>(
      &store_,
      [this, name, revision, why]() -> absl::StatusOr<Draft<None>> {
        const std::string key = KeyOf(kEndpoints, name);
        Draft<None> draft;
        MYC_ASSIGN_OR_RETURN(const EntryPtr stored, Get(store_, key));
        if (stored == nullptr || stored->mod_revision != revision) {
          return draft;
        }
        v1::Endpoint endpoint;
        endpoint.ParseFromString(stored->value);
        endpoint.set_state(v1::Endpoint::STATE_DRAINED);
        *endpoint.mutable_state_time() = FromTime(clock_.Now());
        draft.compares.push_back(Compare::ModRevision(key, revision));
        draft.ops.push_back(Op::Put(key, Serialize(endpoint), stored->lease));
        v1::Event event;
        event.set_app_name(endpoint.app_name());
        event.set_node_id(endpoint.node_id());
        event.set_instance_id(endpoint.instance_id());
        event.set_message(absl::StrCat("instance ", endpoint.instance_id(),
                                       " is drained: ", why));
        draft.ops.push_back(events_.Record(
            "ENDPOINT_DRAINED", v1::Event::SEVERITY_INFO, std::move(event)));
        return draft;
      },
      [this, name, running = scope_.Enter()](const absl::StatusOr<None>& done) {
        if (done.ok()) return;
        LOG(WARNING) << "cannot mark endpoint " << name
                     << " as drained: " << done.status();
        MutexLock lock(mutex_);
        const auto it = drains_.find(name);
        if (it != drains_.end()) it->second.writing = false;
      });
}

}  // namespace mycelium::fabric
