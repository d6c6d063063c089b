#include "services/fabric/endpoint_registry.h"

#include <cstdint>
#include <string>
#include <utility>

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

absl::Status LeaseMismatch(absl::string_view app, absl::string_view instance) {
  return FabricError(
      absl::StatusCode::kFailedPrecondition, "LEASE_MISMATCH",
      absl::StrCat("the endpoint of instance ", Quoted(instance), " of ",
                   Quoted(app), " belongs to another lease"));
}

}  // namespace

void EndpointRegistry::Register(const v1::RegisterEndpointRequest& request,
                                Done<v1::RegisterEndpointResponse> done) {
  FieldViolations violations;
  CheckEndpoint(request.endpoint(), &violations);
  CheckLease("leaseId", request.lease_id(), &violations);
  absl::Status valid = violations.ToStatus(kErrorDomain, "ENDPOINT_INVALID");
  if (!valid.ok()) {
    done(std::move(valid));
    return;
  }
  Write<v1::RegisterEndpointResponse>(
      &store_, [this, request] { return DraftRegister(request); },
      std::move(done));
}

absl::StatusOr<Draft<v1::RegisterEndpointResponse>>
EndpointRegistry::DraftRegister(const v1::RegisterEndpointRequest& request) {
  v1::Endpoint endpoint = request.endpoint();
  const LeaseId lease = ParseLease(request.lease_id());
  const SlotId id = {endpoint.app_name(), endpoint.index(),
                     endpoint.generation()};
  const std::string claim_key = KeyOf(kClaims, SlotName(id));
  const std::string key = KeyOf(
      kEndpoints, EndpointName(endpoint.app_name(), endpoint.instance_id()));
  MYC_ASSIGN_OR_RETURN(const EntryPtr alive,
                       Get(store_, KeyOf(kAlive, endpoint.node_id())));
  if (alive == nullptr || alive->lease != lease) {
    return LeaseNotFound(request.lease_id(),
                         absl::StrCat("node ", Quoted(endpoint.node_id())));
  }
  MYC_ASSIGN_OR_RETURN(const EntryPtr claim, Get(store_, claim_key));
  v1::Slot held;
  if (claim != nullptr) held.ParseFromString(claim->value);
  if (claim == nullptr || claim->lease != lease ||
      claim->create_revision != endpoint.claim_revision() ||
      held.instance_id() != endpoint.instance_id()) {
    return FabricError(
        absl::StatusCode::kFailedPrecondition, "CLAIM_LOST",
        absl::StrCat("slot ", id.ToString(), " is not claimed at revision ",
                     endpoint.claim_revision(), " by instance ",
                     Quoted(endpoint.instance_id()), " under this lease"),
        {{"slot", id.ToString()}});
  }
  MYC_ASSIGN_OR_RETURN(const EntryPtr stored, Get(store_, key));

  if (endpoint.state() == v1::Endpoint::STATE_UNSPECIFIED) {
    endpoint.set_state(v1::Endpoint::STATE_READY);
  }
  if (endpoint.state() != v1::Endpoint::STATE_DRAINING) {
    endpoint.clear_drain_deadline();
  } else if (!endpoint.has_drain_deadline()) {
    *endpoint.mutable_drain_deadline() =
        FromTime(clock_.Now() + kDefaultDrainTimeout);
  }
  endpoint.clear_revision();
  *endpoint.mutable_state_time() = FromTime(clock_.Now());
  Draft<v1::RegisterEndpointResponse> draft;
  if (stored != nullptr) {
    const v1::Endpoint before = EndpointOf(*stored);
    if (before.state() == endpoint.state()) {
      *endpoint.mutable_state_time() = before.state_time();
    }
    v1::Endpoint comparable = before;
    comparable.clear_revision();
    if (stored->lease == lease &&
        Serialize(comparable) == Serialize(endpoint)) {
      *draft.response.mutable_endpoint() = before;
      return draft;
    }
  }
  draft.compares.push_back(
      Compare::CreateRevision(claim_key, claim->create_revision));
  draft.compares.push_back(Compare::ModRevision(key, RevisionOf(stored)));
  draft.ops.push_back(Op::Put(key, Serialize(endpoint), lease));
  *draft.response.mutable_endpoint() = std::move(endpoint);
  draft.stamp = [](int64_t revision, v1::RegisterEndpointResponse* response) {
    response->mutable_endpoint()->set_revision(revision);
  };
  return draft;
}

void EndpointRegistry::Update(const v1::UpdateEndpointRequest& request,
                              Done<v1::UpdateEndpointResponse> done) {
  FieldViolations violations;
  CheckAppName("appName", request.app_name(), &violations);
  CheckId("instanceId", request.instance_id(), &violations);
  CheckLease("leaseId", request.lease_id(), &violations);
  if (request.state() != v1::Endpoint::STATE_READY &&
      request.state() != v1::Endpoint::STATE_UNREADY &&
      request.state() != v1::Endpoint::STATE_DRAINING) {
    violations.Add("state",
                   absl::StrCat(static_cast<int>(request.state()),
                                " must be STATE_READY, STATE_UNREADY or "
                                "STATE_DRAINING"));
  }
  if (request.has_drain_timeout()) {
    CheckDuration("drainTimeout", request.drain_timeout(), absl::ZeroDuration(),
                  absl::Hours(1), &violations);
  }
  absl::Status valid = violations.ToStatus(kErrorDomain, "REQUEST_INVALID");
  if (!valid.ok()) {
    done(std::move(valid));
    return;
  }
  Write<v1::UpdateEndpointResponse>(
      &store_, [this, request] { return DraftUpdate(request); },
      std::move(done));
}

absl::StatusOr<Draft<v1::UpdateEndpointResponse>> EndpointRegistry::DraftUpdate(
    const v1::UpdateEndpointRequest& request) {
  const LeaseId lease = ParseLease(request.lease_id());
  const std::string key = KeyOf(
      kEndpoints, EndpointName(request.app_name(), request.instance_id()));
  MYC_ASSIGN_OR_RETURN(const EntryPtr stored, Get(store_, key));
  if (stored == nullptr || stored->lease != lease) {
    if (!store_.TimeToLive(lease).ok()) {
      return LeaseNotFound(
          request.lease_id(),
          absl::StrCat("instance ", Quoted(request.instance_id())));
    }
    if (stored != nullptr) {
      return LeaseMismatch(request.app_name(), request.instance_id());
    }
    return FabricError(absl::StatusCode::kNotFound, "ENDPOINT_NOT_FOUND",
                       absl::StrCat("instance ", Quoted(request.instance_id()),
                                    " of ", Quoted(request.app_name()),
                                    " has no endpoint; register it again"));
  }
  v1::Endpoint endpoint = EndpointOf(*stored);
  Draft<v1::UpdateEndpointResponse> draft;
  const bool drains = endpoint.state() == v1::Endpoint::STATE_DRAINING ||
                      endpoint.state() == v1::Endpoint::STATE_DRAINED;
  // A repeated DRAINING must neither undo DRAINED nor move the deadline.
  if (endpoint.state() == request.state() ||
      (drains && request.state() == v1::Endpoint::STATE_DRAINING)) {
    *draft.response.mutable_endpoint() = std::move(endpoint);
    return draft;
  }
  endpoint.set_state(request.state());
  *endpoint.mutable_state_time() = FromTime(clock_.Now());
  endpoint.clear_drain_deadline();
  if (request.state() == v1::Endpoint::STATE_DRAINING) {
    *endpoint.mutable_drain_deadline() =
        FromTime(clock_.Now() + (request.has_drain_timeout()
                                     ? ToDuration(request.drain_timeout())
                                     : kDefaultDrainTimeout));
  }
  endpoint.clear_revision();
  draft.compares.push_back(Compare::ModRevision(key, stored->mod_revision));
  draft.ops.push_back(Op::Put(key, Serialize(endpoint), lease));
  *draft.response.mutable_endpoint() = std::move(endpoint);
  draft.stamp = [](int64_t revision, v1::UpdateEndpointResponse* response) {
    response->mutable_endpoint()->set_revision(revision);
  };
  return draft;
}

void EndpointRegistry::Deregister(const v1::DeregisterEndpointRequest& request,
                                  Done<v1::DeregisterEndpointResponse> done) {
  FieldViolations violations;
  CheckAppName("appName", request.app_name(), &violations);
  CheckId("instanceId", request.instance_id(), &violations);
  CheckLease("leaseId", request.lease_id(), &violations);
  absl::Status valid = violations.ToStatus(kErrorDomain, "REQUEST_INVALID");
  if (!valid.ok()) {
    done(std::move(valid));
    return;
  }
  Write<v1::DeregisterEndpointResponse>(
      &store_, [this, request] { return DraftDeregister(request); },
      std::move(done));
}

absl::StatusOr<Draft<v1::DeregisterEndpointResponse>>
EndpointRegistry::DraftDeregister(
    const v1::DeregisterEndpointRequest& request) {
  const std::string key = KeyOf(
      kEndpoints, EndpointName(request.app_name(), request.instance_id()));
  Draft<v1::DeregisterEndpointResponse> draft;
  draft.response.set_revision(store_.Revision());
  MYC_ASSIGN_OR_RETURN(const EntryPtr stored, Get(store_, key));
  if (stored == nullptr) return draft;
  if (stored->lease != ParseLease(request.lease_id())) {
    return LeaseMismatch(request.app_name(), request.instance_id());
  }
  draft.compares.push_back(Compare::ModRevision(key, stored->mod_revision));
  draft.ops.push_back(Op::Delete(key));
  draft.stamp = [](int64_t revision, v1::DeregisterEndpointResponse* response) {
    response->set_revision(revision);
  };
  return draft;
}

absl::StatusOr<v1::ListEndpointsResponse> EndpointRegistry::List(
    const v1::ListEndpointsRequest& request) {
  FieldViolations violations;
  CheckAppFilter("appName", request.app_name(), &violations);
  CheckIdFilter("nodeID", request.node_id(), &violations);
  MYC_RETURN_IF_ERROR(violations.ToStatus(kErrorDomain, "REQUEST_INVALID"));
  v1::ListEndpointsResponse response;
  MYC_ASSIGN_OR_RETURN(
      const PageEnd end,
      ReadPage(store_,
               absl::StrCat("endpoints,", request.app_name(), ",",
                            request.node_id()),
               request.app_name().empty()
                   ? std::string(kEndpoints)
                   : absl::StrCat(kEndpoints, request.app_name(), "/"),
               request.page_size(), request.page_token(),
               [&](const Entry& entry, int64_t) -> absl::StatusOr<bool> {
                 v1::Endpoint endpoint = EndpointOf(entry);
                 if (!request.node_id().empty() &&
                     endpoint.node_id() != request.node_id()) {
                   return false;
                 }
                 *response.add_endpoints() = std::move(endpoint);
                 return true;
               }));
  response.set_next_page_token(end.next_page_token);
  response.set_revision(end.revision);
  response.set_epoch(end.epoch);
  return response;
}

}  // namespace mycelium::fabric
