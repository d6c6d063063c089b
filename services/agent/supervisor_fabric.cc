// The side of the supervisor that faces the fabric.

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "glog/logging.h"
#include "lib/base/error.h"
#include "lib/base/ids.h"
#include "services/agent/supervisor.h"
#include "services/agent/utf8_text.h"

namespace mycelium::agent {
namespace {

constexpr absl::Duration kDrainPoll = absl::Milliseconds(50);
constexpr absl::Duration kFirstRetry = absl::Milliseconds(100);
constexpr absl::Duration kMaxRetry = absl::Seconds(2);
// A new text alone is not worth more calls than this.
constexpr absl::Duration kMessagePause = absl::Seconds(5);
constexpr size_t kMaxEvents = 1000;
constexpr int kEventsPerCall = 100;
constexpr size_t kMaxMessageBytes = 4096;
constexpr size_t kMaxDetailBytes = 1024;
constexpr size_t kMaxReasonBytes = 63;
// Claims that are tried at once.
constexpr int kClaimsPerRound = 8;

fabric::v1::Slot::State SlotStateOf(v1::Instance::State state) {
  switch (state) {
    case v1::Instance::STATE_PULLING:
      return fabric::v1::Slot::STATE_PULLING;
    case v1::Instance::STATE_STARTING:
      return fabric::v1::Slot::STATE_STARTING;
    case v1::Instance::STATE_READY:
      return fabric::v1::Slot::STATE_READY;
    case v1::Instance::STATE_UNHEALTHY:
      return fabric::v1::Slot::STATE_UNHEALTHY;
    case v1::Instance::STATE_BACKOFF:
      return fabric::v1::Slot::STATE_BACKOFF;
    case v1::Instance::STATE_DRAINING:
    case v1::Instance::STATE_STOPPING:
    case v1::Instance::STATE_STOPPED:
      return fabric::v1::Slot::STATE_STOPPING;
    case v1::Instance::STATE_REFUSED:
      return fabric::v1::Slot::STATE_REFUSED;
    default:
      return fabric::v1::Slot::STATE_CLAIMED;
  }
}

fabric::v1::Endpoint::State EndpointStateOf(
    InstanceMachine::EndpointWish wish) {
  switch (wish) {
    case InstanceMachine::EndpointWish::kReady:
      return fabric::v1::Endpoint::STATE_READY;
    case InstanceMachine::EndpointWish::kUnready:
      return fabric::v1::Endpoint::STATE_UNREADY;
    case InstanceMachine::EndpointWish::kDraining:
      return fabric::v1::Endpoint::STATE_DRAINING;
    case InstanceMachine::EndpointWish::kNone:
      break;
  }
  return fabric::v1::Endpoint::STATE_UNSPECIFIED;
}

void SetDuration(absl::Duration duration, google::protobuf::Duration* proto) {
  proto->set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
}

// Whether a call that ended so may have been carried out.
bool OutcomeUnknown(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsCancelled(status) || absl::IsUnknown(status);
}

// `text` as the fabric takes it: not too long, and without control characters
// other than tabs and line ends.
std::string MessageText(absl::string_view text) {
  std::string message = ToValidUtf8(text.substr(0, kMaxMessageBytes));
  for (char& c : message) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c)) && c != '\t' &&
        c != '\n') {
      c = '?';
    }
  }
  return message;
}

// `app` cut so that with a dash and `suffix` it makes a valid id.
std::string NewInstanceId(absl::string_view app) {
  return absl::StrCat(app.substr(0, 50), "-", RandomHex(5));
}

}  // namespace

void Supervisor::OnSlots(
    const fabric_client::WatchUpdate<fabric::v1::Slot>& update) {
  if (update.epoch != slots_epoch_) {
    // Revisions, and with them claims, count anew.
    slots_epoch_ = update.epoch;
    for (auto& [id, held] : held_) {
      if (held.claim == Held::Claim::kHeld) held.claim = Held::Claim::kLapsed;
    }
  }
  slots_revision_ = update.revision;
  if (update.reset) view_.ClearSlots();
  for (const fabric::v1::Slot& slot : update.puts) view_.PutSlot(slot);
  for (const std::string& key : update.deletes) view_.DeleteSlot(key);
  if (update.reset) slots_synced_ = true;
  if (!update.reset && update.puts.empty() && update.deletes.empty()) return;
  needed_changed_ = true;
  for (auto& [id, held] : held_) {
    CompareWithSlot(held, update.epoch, update.revision);
  }
  ReleaseUnknownClaims();
}

void Supervisor::OnNodes(
    const fabric_client::WatchUpdate<fabric::v1::Node>& update) {
  if (update.reset) view_.ClearNodes();
  for (const fabric::v1::Node& node : update.puts) view_.PutNode(node);
  for (const std::string& key : update.deletes) view_.DeleteNode(key);
}

void Supervisor::OnJoined(const fabric::v1::JoinNodeResponse& response) {
  ForgetRegistrations();
  joined_ = true;
  lease_id_ = response.lease_id();
  RemoveStaleEndpoints();
  ReleaseUnknownClaims();
}

void Supervisor::OnLeaseLost() {
  joined_ = false;
  ForgetRegistrations();
}

void Supervisor::ClaimSlots() {
  if (!joined_ || !slots_synced_ || shutting_down_) return;
  const absl::Duration now = clock_.Monotonic();
  const std::vector<fabric::v1::Slot> slots = claimer_.TakeDue(
      view_, Self(), kClaimsPerRound,
      [](int32_t port) { return PortAllocator::IsFree(port); },
      [this, now](const std::string& app_name) {
        return starts_.MayStart(app_name, now);
      });
  for (const fabric::v1::Slot& slot : slots) Claim(slot);
}

void Supervisor::Claim(const fabric::v1::Slot& slot) {
  const std::string id = NewInstanceId(slot.app_name());
  const std::string key = SlotKey::Of(slot).ToString();
  const absl::Status reserved = ledger_.Reserve(
      slot.app_name(), id, Nutrients::FromProto(slot.nutrients()));
  if (!reserved.ok()) {
    claimer_.OnFailed(key, reserved);
    return;
  }
  starts_.Begin(slot.app_name(), id, clock_.Monotonic());
  Held& held = held_
                   .try_emplace(id, id, key, slot,
                                InstanceMachine(options_.instance, parts_.clock,
                                                parts_.random))
                   .first->second;

  fabric::v1::ClaimSlotRequest request;
  request.set_app_name(slot.app_name());
  request.set_index(slot.index());
  request.set_generation(slot.generation());
  request.set_node_id(options_.node_id);
  request.set_lease_id(lease_id_);
  request.set_instance_id(id);
  held.calling = true;
  auto response =
      std::make_shared<absl::StatusOr<fabric::v1::ClaimSlotResponse>>(
          absl::UnknownError("not called"));
  parts_.calls->Run(
      [response, request, fabric = parts_.fabric] {
        *response = fabric->ClaimSlot(request);
      },
      [this, response, id, lease = lease_id_] {
        OnClaimed(id, lease, *response);
      });
}

void Supervisor::OnClaimed(
    const std::string& id, const std::string& lease,
    const absl::StatusOr<fabric::v1::ClaimSlotResponse>& response) {
  const auto entry = held_.find(id);
  if (entry == held_.end()) return;
  Held& held = entry->second;
  held.calling = false;
  if (!response.ok()) {
    VLOG(1) << "did not get slot " << held.key << ": " << response.status();
    // The lease that the answer is about may have been replaced meanwhile.
    if (ReasonOf(response.status()) == "LEASE_NOT_FOUND" &&
        lease == lease_id_) {
      parts_.lease_not_found(lease);
    }
    claimer_.OnFailed(held.key, response.status());
    ledger_.Release(id);
    starts_.Done(id);
    held_.erase(entry);
    return;
  }
  LOG(INFO) << "claimed slot " << held.key << " for " << id;
  held.slot = response->slot();
  held.claim = Held::Claim::kHeld;
  held.claim_revision = response->slot().claim_revision();
  held.claim_epoch = slots_epoch_;
  CompareWithSlot(held, slots_epoch_, slots_revision_);
  if (shutting_down_) {
    RequestStop(held, "NODE_STOPS", "the agent of the node stops");
  }
  Advance(held);
}

void Supervisor::Reclaim(Held& held) {
  fabric::v1::ClaimSlotRequest request;
  request.set_app_name(held.slot.app_name());
  request.set_index(held.slot.index());
  request.set_generation(held.slot.generation());
  request.set_node_id(options_.node_id);
  request.set_lease_id(lease_id_);
  request.set_instance_id(held.id);
  auto response = std::make_shared<fabric::v1::ClaimSlotResponse>();
  Call(
      held,
      [response, request, fabric = parts_.fabric] {
        absl::StatusOr<fabric::v1::ClaimSlotResponse> answer =
            fabric->ClaimSlot(request);
        if (!answer.ok()) return answer.status();
        *response = *std::move(answer);
        return absl::OkStatus();
      },
      [this, response](Held& claimed, const absl::Status& status) {
        const std::string reason = ReasonOf(status);
        if (status.ok()) {
          claimed.claim = Held::Claim::kHeld;
          claimed.claim_revision = response->slot().claim_revision();
          claimed.claim_epoch = slots_epoch_;
          claimed.slot = response->slot();
          claimed.slot_reported = false;
          CompareWithSlot(claimed, slots_epoch_, slots_revision_);
        } else if (reason == "SLOT_CLAIMED" || reason == "SLOT_SURPLUS") {
          claimed.claim = Held::Claim::kLost;
          RequestStop(claimed, reason, status.message());
        }
        // Anything else is tried again, or settled by the watch.
      });
}

void Supervisor::ReleaseUnknownClaims() {
  if (!joined_) return;
  // What an agent before this one, or a claim whose answer was lost, has left.
  for (const auto& [key, slot] : view_.slots()) {
    if (slot.claim_revision() == 0 || slot.node_id() != options_.node_id ||
        held_.contains(slot.instance_id()) ||
        !releasing_.insert(slot.instance_id()).second) {
      continue;
    }
    LOG(INFO) << "releasing slot " << key << " of unknown instance "
              << slot.instance_id();
    fabric::v1::ReleaseSlotRequest request;
    request.set_app_name(slot.app_name());
    request.set_index(slot.index());
    request.set_generation(slot.generation());
    request.set_claim_revision(slot.claim_revision());
    request.set_reason("AGENT_RESTARTED");
    auto status = std::make_shared<absl::Status>();
    parts_.calls->Run(
        [status, request, fabric = parts_.fabric] {
          *status = fabric->ReleaseSlot(request);
        },
        [this, status, id = slot.instance_id()] {
          // A failure is tried again with the next change of the slots.
          if (!status->ok()) releasing_.erase(id);
        });
  }
  if (releasing_.size() > kMaxEvents) releasing_.clear();
}

void Supervisor::CompareWithSlot(Held& held, const std::string& epoch,
                                 int64_t revision) {
  if (held.claim == Held::Claim::kClaiming ||
      held.claim == Held::Claim::kLost) {
    return;
  }
  const bool same_epoch = held.claim_epoch == epoch;
  // What the watch tells may be older than what the claim told.
  if (same_epoch && revision < held.claim_revision) return;

  const fabric::v1::Slot* const slot = view_.FindSlot(held.key);
  if (slot == nullptr) {
    // A fabric that lost its store knows nothing of the app: no reason to stop
    // what works. Once the app is planned again, what is not wanted goes.
    if (!same_epoch && !view_.HasSlotOf(held.slot.app_name())) return;
    held.claim = Held::Claim::kLost;
    RequestStop(held, "SLOT_GONE", "the slot is no longer wanted");
    return;
  }
  if (same_epoch && slot->revision() < held.claim_revision) return;
  *held.slot.mutable_drain_timeout() = slot->drain_timeout();
  *held.slot.mutable_stop_timeout() = slot->stop_timeout();
  if (!slot->has_drain_timeout()) held.slot.clear_drain_timeout();
  if (!slot->has_stop_timeout()) held.slot.clear_stop_timeout();
  held.slot.set_surplus(slot->surplus());
  if (slot->claim_revision() == 0) {
    if (held.machine.refused()) {
      // Another node may run what this one does not.
      held.claim = Held::Claim::kLost;
      RequestStop(held, "REOFFERED", "the slot is offered to other nodes");
      return;
    }
    if (held.claim == Held::Claim::kHeld && !held.machine.stopping()) {
      held.claim = Held::Claim::kLapsed;
    }
  } else if (slot->instance_id() != held.id) {
    held.claim = Held::Claim::kLost;
    RequestStop(held, "CLAIM_LOST",
                absl::StrCat("the slot was claimed by ", slot->instance_id(),
                             " on node ", slot->node_id()));
    return;
  }
  if (slot->surplus()) {
    RequestStop(held, "SURPLUS", "the slot is no longer wanted");
  }
}

void Supervisor::Sync(Held& held) {
  if (!joined_ || held.calling || clock_.Monotonic() < held.next_call) return;
  if (held.claim == Held::Claim::kLapsed && !held.machine.stopping() &&
      !shutting_down_) {
    if (view_.FindSlot(held.key) != nullptr) Reclaim(held);
    return;
  }
  if (SyncEndpoint(held)) return;
  if (held.claim != Held::Claim::kHeld) return;
  if (!held.machine.stopped()) {
    SyncSlot(held);
    return;
  }
  fabric::v1::ReleaseSlotRequest request;
  request.set_app_name(held.slot.app_name());
  request.set_index(held.slot.index());
  request.set_generation(held.slot.generation());
  request.set_claim_revision(held.claim_revision);
  request.set_reason(held.machine.reason().substr(0, kMaxReasonBytes));
  Call(
      held,
      [request, fabric = parts_.fabric] {
        return fabric->ReleaseSlot(request);
      },
      [](Held& released, const absl::Status& status) {
        if (status.ok()) released.claim = Held::Claim::kLost;
      });
}

bool Supervisor::SyncEndpoint(Held& held) {
  using Wish = InstanceMachine::EndpointWish;
  const Wish wish = held.machine.endpoint_wish();
  const fabric::v1::Endpoint::State state = EndpointStateOf(wish);

  if (wish == Wish::kNone) {
    if (!held.endpoint_known) return false;
    fabric::v1::DeregisterEndpointRequest request;
    request.set_app_name(held.slot.app_name());
    request.set_instance_id(held.id);
    request.set_lease_id(lease_id_);
    Call(
        held,
        [request, fabric = parts_.fabric] {
          return fabric->DeregisterEndpoint(request);
        },
        [](Held& gone, const absl::Status& status) {
          if (status.ok() || ReasonOf(status) == "LEASE_MISMATCH") {
            gone.endpoint_known = false;
          }
        });
    return true;
  }

  if (wish == Wish::kDraining && !held.endpoint_known) {
    if (held.machine.state() != v1::Instance::STATE_DRAINING) return false;
    // No edge can know it, or the fabric has forgotten it.
    held.machine.OnDrained();
    parts_.post([this, id = held.id] {
      const auto entry = held_.find(id);
      if (entry != held_.end()) Advance(entry->second);
    });
    return false;
  }

  if (!held.endpoint_known ||
      (held.endpoint_url != held.url && wish != Wish::kDraining)) {
    if (held.claim != Held::Claim::kHeld) return false;
    fabric::v1::RegisterEndpointRequest request;
    request.set_lease_id(lease_id_);
    fabric::v1::Endpoint& endpoint = *request.mutable_endpoint();
    endpoint.set_app_name(held.slot.app_name());
    endpoint.set_url(held.url);
    endpoint.set_node_id(options_.node_id);
    endpoint.set_instance_id(held.id);
    endpoint.set_digest(held.slot.digest());
    endpoint.set_state(state);
    endpoint.set_generation(held.slot.generation());
    endpoint.set_index(held.slot.index());
    endpoint.set_claim_revision(held.claim_revision);
    Call(
        held,
        [request, fabric = parts_.fabric] {
          return fabric->RegisterEndpoint(request);
        },
        [state, url = held.url](Held& registered, const absl::Status& status) {
          if (!status.ok()) {
            if (OutcomeUnknown(status)) {
              // The fabric may have it, so a stop has to drain it. No URL is
              // the right one: it is registered again.
              registered.endpoint_known = true;
              registered.endpoint_state =
                  fabric::v1::Endpoint::STATE_UNSPECIFIED;
              registered.endpoint_url.clear();
            }
            return;
          }
          registered.endpoint_known = true;
          registered.endpoint_state = state;
          registered.endpoint_url = url;
        });
    return true;
  }

  if (held.endpoint_state == state) return false;
  fabric::v1::UpdateEndpointRequest request;
  request.set_app_name(held.slot.app_name());
  request.set_instance_id(held.id);
  request.set_lease_id(lease_id_);
  request.set_state(state);
  if (wish == Wish::kDraining) {
    SetDuration(held.machine.drain_timeout(), request.mutable_drain_timeout());
  }
  Call(
      held,
      [request, fabric = parts_.fabric] {
        return fabric->UpdateEndpoint(request);
      },
      [state](Held& updated, const absl::Status& status) {
        if (status.ok()) {
          updated.endpoint_state = state;
        } else if (absl::IsNotFound(status) &&
                   ReasonOf(status) != "LEASE_NOT_FOUND") {
          updated.endpoint_known = false;
        }
      });
  return true;
}

bool Supervisor::SyncSlot(Held& held) {
  const InstanceMachine& machine = held.machine;
  const absl::Duration now = clock_.Monotonic();
  const fabric::v1::Slot::State state = SlotStateOf(machine.state());
  const bool matters = !held.slot_reported || held.reported_state != state ||
                       held.reported_reason != machine.reason() ||
                       held.reported_restarts != machine.restarts();
  const bool new_text = held.reported_message != machine.message() &&
                        now - held.reported_at >= kMessagePause;
  if (!matters && !new_text) return false;

  fabric::v1::UpdateSlotRequest request;
  request.set_app_name(held.slot.app_name());
  request.set_index(held.slot.index());
  request.set_generation(held.slot.generation());
  request.set_claim_revision(held.claim_revision);
  request.set_state(state);
  request.set_reason(machine.reason().substr(0, kMaxReasonBytes));
  request.set_message(MessageText(machine.message()));
  request.set_restarts(machine.restarts());
  if (const std::optional<absl::Time> until = machine.until()) {
    request.mutable_until_time()->set_seconds(absl::ToUnixSeconds(*until));
  }
  held.reported_at = now;
  Call(
      held,
      [request, fabric = parts_.fabric] { return fabric->UpdateSlot(request); },
      [this, state, reason = machine.reason(), message = machine.message(),
       restarts = machine.restarts()](Held& told, const absl::Status& status) {
        const std::string why = ReasonOf(status);
        if (status.ok()) {
          told.slot_reported = true;
          told.reported_state = state;
          told.reported_reason = reason;
          told.reported_message = message;
          told.reported_restarts = restarts;
        } else if (why == "CLAIM_LOST" || why == "SLOT_NOT_FOUND") {
          // The watch, or a new claim, tells whether that is for good.
          told.claim = Held::Claim::kLapsed;
          CompareWithSlot(told, slots_epoch_, slots_revision_);
        }
      });
  return true;
}

void Supervisor::Call(Held& held, std::function<absl::Status()> call,
                      AfterCall after) {
  held.calling = true;
  auto status = std::make_shared<absl::Status>();
  parts_.calls->Run([status, call = std::move(call)] { *status = call(); },
                    [this, status, id = held.id, lease = lease_id_,
                     after = std::move(after)] {
                      const auto entry = held_.find(id);
                      if (entry == held_.end()) return;
                      Held& called = entry->second;
                      called.calling = false;
                      // What was done under another lease is worth nothing now.
                      if (lease != lease_id_ || !joined_) {
                        Advance(called);
                        return;
                      }
                      if (status->ok()) {
                        called.failed_calls = 0;
                        called.next_call = absl::ZeroDuration();
                      } else {
                        OnCallFailed(called, *status);
                      }
                      after(called, *status);
                      Advance(called);
                    });
}

void Supervisor::OnCallFailed(Held& held, const absl::Status& status) {
  VLOG(1) << held.id << ": " << status;
  if (ReasonOf(status) == "LEASE_NOT_FOUND") parts_.lease_not_found(lease_id_);
  absl::Duration retry = kFirstRetry;
  for (int i = 0; i < held.failed_calls && retry < kMaxRetry; ++i) retry *= 2;
  ++held.failed_calls;
  held.next_call = clock_.Monotonic() + std::min(retry, kMaxRetry);
}

void Supervisor::PollDrains() {
  if (!joined_ || polling_drains_ || clock_.Monotonic() < next_drain_poll_) {
    return;
  }
  const bool any = std::any_of(held_.begin(), held_.end(), [](const auto& e) {
    return e.second.machine.state() == v1::Instance::STATE_DRAINING &&
           e.second.endpoint_known &&
           e.second.endpoint_state == fabric::v1::Endpoint::STATE_DRAINING;
  });
  if (!any) return;
  polling_drains_ = true;
  fabric::v1::ListEndpointsRequest request;
  request.set_node_id(options_.node_id);
  request.set_page_size(1000);
  auto states =
      std::make_shared<std::map<std::string, fabric::v1::Endpoint::State>>();
  auto status = std::make_shared<absl::Status>();
  parts_.calls->Run(
      [states, status, request, fabric = parts_.fabric]() mutable {
        do {
          const absl::StatusOr<fabric::v1::ListEndpointsResponse> page =
              fabric->ListEndpoints(request);
          *status = page.status();
          if (!page.ok()) return;
          for (const fabric::v1::Endpoint& endpoint : page->endpoints()) {
            (*states)[endpoint.instance_id()] = endpoint.state();
          }
          request.set_page_token(page->next_page_token());
        } while (!request.page_token().empty());
      },
      [this, states, status] {
        polling_drains_ = false;
        next_drain_poll_ = clock_.Monotonic() + kDrainPoll;
        if (!status->ok()) return;
        for (auto& [id, held] : held_) {
          if (held.machine.state() != v1::Instance::STATE_DRAINING ||
              held.endpoint_state != fabric::v1::Endpoint::STATE_DRAINING) {
            continue;
          }
          const auto state = states->find(id);
          if (state != states->end() &&
              state->second != fabric::v1::Endpoint::STATE_DRAINED) {
            continue;
          }
          held.machine.OnDrained();
          Advance(held);
        }
      });
}

void Supervisor::RemoveStaleEndpoints() {
  fabric::v1::ListEndpointsRequest request;
  request.set_node_id(options_.node_id);
  request.set_page_size(1000);
  auto found = std::make_shared<std::vector<fabric::v1::Endpoint>>();
  parts_.calls->Run(
      [found, request, fabric = parts_.fabric]() mutable {
        do {
          const absl::StatusOr<fabric::v1::ListEndpointsResponse> page =
              fabric->ListEndpoints(request);
          if (!page.ok()) return;
          found->insert(found->end(), page->endpoints().begin(),
                        page->endpoints().end());
          request.set_page_token(page->next_page_token());
        } while (!request.page_token().empty());
      },
      [this, found] {
        for (const fabric::v1::Endpoint& endpoint : *found) {
          if (held_.contains(endpoint.instance_id())) continue;
          fabric::v1::DeregisterEndpointRequest stale;
          stale.set_app_name(endpoint.app_name());
          stale.set_instance_id(endpoint.instance_id());
          stale.set_lease_id(lease_id_);
          parts_.calls->Run(
              [stale, fabric = parts_.fabric] {
                const absl::Status status = fabric->DeregisterEndpoint(stale);
                if (!status.ok()) {
                  LOG(WARNING) << "cannot remove the endpoint of "
                               << stale.instance_id() << ": " << status;
                }
              },
              [] {});
        }
      });
}

void Supervisor::ForgetRegistrations() {
  for (auto& [id, held] : held_) {
    if (held.claim == Held::Claim::kHeld) held.claim = Held::Claim::kLapsed;
    held.endpoint_known = false;
    held.slot_reported = false;
    held.next_call = absl::ZeroDuration();
    held.failed_calls = 0;
  }
}

void Supervisor::AddEvent(const Held& held, absl::string_view type,
                          fabric::v1::Event::Severity severity,
                          absl::string_view message,
                          const std::map<std::string, std::string>& details) {
  // The oldest go when the fabric is away for long.
  if (events_.size() >= kMaxEvents) events_.pop_front();
  fabric::v1::Event& event = events_.emplace_back();
  event.set_event_id(RandomHex(12));
  const absl::Time now = clock_.Now();
  event.mutable_time()->set_seconds(absl::ToUnixSeconds(now));
  event.mutable_time()->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(
      now - absl::FromUnixSeconds(absl::ToUnixSeconds(now)))));
  event.set_type(std::string(type));
  event.set_severity(severity);
  event.set_app_name(held.slot.app_name());
  event.set_node_id(options_.node_id);
  event.set_instance_id(held.id);
  event.set_message(MessageText(message));
  for (const auto& [name, value] : details) {
    (*event.mutable_details())[name] =
        ToValidUtf8(value.substr(0, kMaxDetailBytes));
  }
}

void Supervisor::SendEvents() {
  if (events_.empty() || sending_events_ || !joined_ ||
      clock_.Monotonic() < next_events_) {
    return;
  }
  fabric::v1::RecordEventsRequest request;
  for (const fabric::v1::Event& event : events_) {
    if (request.events_size() >= kEventsPerCall) break;
    *request.add_events() = event;
  }
  sending_events_ = true;
  auto status = std::make_shared<absl::Status>();
  parts_.calls->Run(
      [status, request, fabric = parts_.fabric] {
        *status = fabric->RecordEvents(request);
      },
      [this, status,
       last = request.events(request.events_size() - 1).event_id()] {
        sending_events_ = false;
        if (absl::IsUnavailable(*status) || absl::IsDeadlineExceeded(*status) ||
            absl::IsResourceExhausted(*status)) {
          next_events_ = clock_.Monotonic() + kMaxRetry;
          return;
        }
        if (!status->ok()) LOG(WARNING) << "events are refused: " << *status;
        // Some of them may have been dropped from the front meanwhile.
        const auto end = std::find_if(
            events_.begin(), events_.end(),
            [&](const auto& event) { return event.event_id() == last; });
        if (end != events_.end()) events_.erase(events_.begin(), end + 1);
      });
}

void Supervisor::UpdateNeeded() {
  needed_changed_ = false;
  std::set<std::string> needed;
  for (const auto& [key, slot] : view_.slots()) needed.insert(slot.digest());
  for (const auto& [id, held] : held_) needed.insert(held.slot.digest());
  parts_.spores->SetNeeded(std::move(needed));
  parts_.pulls->Run([spores = parts_.spores] { spores->Trim(); }, [] {});
}

void Supervisor::FinishShutdown() {
  if (!held_.empty() || leaving_) return;
  leaving_ = true;
  if (!joined_) {
    shutdown_done_();
    return;
  }
  fabric::v1::LeaveNodeRequest request;
  request.set_node_id(options_.node_id);
  request.set_lease_id(lease_id_);
  parts_.calls->Run(
      [request, events = events_, fabric = parts_.fabric,
       leaving = parts_.leaving] {
        fabric::v1::RecordEventsRequest last;
        for (const fabric::v1::Event& event : events) {
          if (last.events_size() < kEventsPerCall) *last.add_events() = event;
        }
        if (last.events_size() > 0) {
          fabric->RecordEvents(last).IgnoreError();
        }
        leaving();
        const absl::Status status = fabric->LeaveNode(request);
        if (!status.ok()) LOG(WARNING) << "cannot leave the mesh: " << status;
      },
      [this] { shutdown_done_(); });
}

OwnNode Supervisor::Self() const {
  OwnNode self = {.node_id = options_.node_id,
                  .capacity = options_.capacity,
                  .reserved = ledger_.reserved(),
                  .labels = options_.labels};
  for (const auto& [id, held] : held_) {
    ++self.instances[held.slot.app_name()];
    if (held.slot.port() != 0) self.ports.insert(held.slot.port());
  }
  return self;
}

}  // namespace mycelium::agent
