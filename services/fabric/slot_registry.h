#ifndef SERVICES_FABRIC_SLOT_REGISTRY_H_
#define SERVICES_FABRIC_SLOT_REGISTRY_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "lib/base/clock.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "services/fabric/event_log.h"
#include "services/fabric/store/store.h"
#include "services/fabric/store_txn.h"

namespace mycelium::fabric {

// Slots as agents use them: claims and what their holders report. Answers
// requests as the API says. Thread-safe.
//
// A claim is bound to its node's lease, so it goes with the node. The revision
// that created it is its fencing token: whoever names another one holds
// nothing.
class SlotRegistry {
 public:
  // All must outlive the registry.
  SlotRegistry(Store* store, Clock* clock, EventLog* events)
      : store_(*store), clock_(*clock), events_(*events) {}

  void Claim(const v1::ClaimSlotRequest& request,
             Done<v1::ClaimSlotResponse> done);
  void Update(const v1::UpdateSlotRequest& request,
              Done<v1::UpdateSlotResponse> done);
  void Release(const v1::ReleaseSlotRequest& request,
               Done<v1::ReleaseSlotResponse> done);
  absl::StatusOr<v1::ListSlotsResponse> List(
      const v1::ListSlotsRequest& request);

 private:
  absl::StatusOr<Draft<v1::ClaimSlotResponse>> DraftClaim(
      const v1::ClaimSlotRequest& request);
  absl::StatusOr<Draft<v1::UpdateSlotResponse>> DraftUpdate(
      const v1::UpdateSlotRequest& request);
  absl::StatusOr<Draft<v1::ReleaseSlotResponse>> DraftRelease(
      const v1::ReleaseSlotRequest& request);
  // Adds to `draft` what keeps claims within the budget of an app, whoever else
  // claims at the same time. FailedPrecondition (BUDGET_EXCEEDED).
  absl::Status Admit(const v1::Slot& slot, Draft<v1::ClaimSlotResponse>* draft);

  Store& store_;
  Clock& clock_;
  EventLog& events_;
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_SLOT_REGISTRY_H_
