#ifndef SERVICES_FABRIC_BUDGET_REGISTRY_H_
#define SERVICES_FABRIC_BUDGET_REGISTRY_H_

#include "absl/status/statusor.h"
#include "lib/base/clock.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "services/fabric/event_log.h"
#include "services/fabric/request_log.h"
#include "services/fabric/store/store.h"
#include "services/fabric/store_txn.h"

namespace mycelium::fabric {

// Budgets. Answers requests as the API says. Thread-safe.
class BudgetRegistry {
 public:
  // All must outlive the registry.
  BudgetRegistry(Store* store, Clock* clock, EventLog* events,
                 RequestLog* requests)
      : store_(*store),
        clock_(*clock),
        events_(*events),
        requests_(*requests) {}

  void Put(const v1::PutBudgetRequest& request,
           Done<v1::PutBudgetResponse> done);
  absl::StatusOr<v1::GetBudgetResponse> Get(
      const v1::GetBudgetRequest& request);
  absl::StatusOr<v1::ListBudgetsResponse> List(
      const v1::ListBudgetsRequest& request);
  void Delete(const v1::DeleteBudgetRequest& request,
              Done<v1::DeleteBudgetResponse> done);

 private:
  absl::StatusOr<Draft<v1::PutBudgetResponse>> DraftPut(
      const v1::PutBudgetRequest& request);
  absl::StatusOr<Draft<v1::DeleteBudgetResponse>> DraftDelete(
      const v1::DeleteBudgetRequest& request);

  Store& store_;
  Clock& clock_;
  EventLog& events_;
  RequestLog& requests_;
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_BUDGET_REGISTRY_H_
