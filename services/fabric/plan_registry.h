#ifndef SERVICES_FABRIC_PLAN_REGISTRY_H_
#define SERVICES_FABRIC_PLAN_REGISTRY_H_

#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lib/base/clock.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "mycelium/spore/v1/spore.pb.h"
#include "services/fabric/event_log.h"
#include "services/fabric/node_ledger.h"
#include "services/fabric/request_log.h"
#include "services/fabric/store/store.h"
#include "services/fabric/store_txn.h"

namespace mycelium::fabric {

// Knows spores; in a mesh, the repo does. Thread-safe.
class SporeCatalog {
 public:
  using Callback =
      absl::AnyInvocable<void(absl::StatusOr<mycelium::spore::v1::SporeInfo>)>;

  virtual ~SporeCatalog() = default;

  // Calls back once, on any thread, within a second or so.
  //
  // NotFound: there is no such spore. Any other error: it cannot be known now.
  virtual void Find(const std::string& digest, Callback callback) = 0;
};

// Plans and their counts. Answers requests as the API says; see
// mycelium/fabric/v1/fabric.proto. Thread-safe.
class PlanRegistry {
 public:
  // All must outlive the registry; `catalog` may be null, if no repo is known.
  PlanRegistry(Store* store, Clock* clock, EventLog* events,
               RequestLog* requests, NodeLedger* nodes, SporeCatalog* catalog)
      : store_(*store),
        clock_(*clock),
        events_(*events),
        requests_(*requests),
        nodes_(*nodes),
        catalog_(catalog) {}

  void Put(const v1::PutPlanRequest& request, Done<v1::PutPlanResponse> done);
  absl::StatusOr<v1::GetPlanResponse> Get(const v1::GetPlanRequest& request);
  absl::StatusOr<v1::ListPlansResponse> List(
      const v1::ListPlansRequest& request);
  void Delete(const v1::DeletePlanRequest& request,
              Done<v1::DeletePlanResponse> done);
  void Scale(const v1::ScaleAppRequest& request,
             Done<v1::ScaleAppResponse> done);

 private:
  void PutChecked(const v1::PutPlanRequest& request,
                  absl::StatusOr<mycelium::spore::v1::SporeInfo> spore,
                  Done<v1::PutPlanResponse> done);
  absl::StatusOr<Draft<v1::PutPlanResponse>> DraftPut(
      const v1::PutPlanRequest& request,
      const absl::StatusOr<mycelium::spore::v1::SporeInfo>& spore);
  absl::StatusOr<Draft<v1::DeletePlanResponse>> DraftDelete(
      const v1::DeletePlanRequest& request);
  absl::StatusOr<Draft<v1::ScaleAppResponse>> DraftScale(
      const v1::ScaleAppRequest& request);
  // What is doubtful about a plan that is otherwise accepted.
  absl::Status AddWarnings(
      const absl::StatusOr<mycelium::spore::v1::SporeInfo>& spore,
      v1::PutPlanResponse* response);

  Store& store_;
  Clock& clock_;
  EventLog& events_;
  RequestLog& requests_;
  NodeLedger& nodes_;
  SporeCatalog* const catalog_;
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_PLAN_REGISTRY_H_
