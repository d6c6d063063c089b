#include "services/fabric/budget_registry.h"

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

absl::Status BudgetNotFound(absl::string_view app) {
  return FabricError(absl::StatusCode::kNotFound, "BUDGET_NOT_FOUND",
                     absl::StrCat("app ", Quoted(app), " has no budget"),
                     {{"app_name", std::string(app)}});
}

bool SameLimits(const v1::Budget& a, const v1::Budget& b) {
  return a.max_instances() == b.max_instances() &&
         a.cpu_milli() == b.cpu_milli() && a.memory_mb() == b.memory_mb();
}

}  // namespace

void BudgetRegistry::Put(const v1::PutBudgetRequest& request,
                         Done<v1::PutBudgetResponse> done) {
  FieldViolations violations;
  CheckBudget(request.budget(), &violations);
  if (request.has_expected_revision()) {
    CheckExpectedRevision(request.expected_revision(), &violations);
  }
  CheckRequestId(request.request_id(), &violations);
  absl::Status valid = violations.ToStatus(kErrorDomain, "BUDGET_INVALID");
  if (!valid.ok()) {
    done(std::move(valid));
    return;
  }
  Write<v1::PutBudgetResponse>(
      &store_, [this, request] { return DraftPut(request); }, std::move(done));
}

absl::StatusOr<Draft<v1::PutBudgetResponse>> BudgetRegistry::DraftPut(
    const v1::PutBudgetRequest& request) {
  Draft<v1::PutBudgetResponse> draft;
  MYC_ASSIGN_OR_RETURN(
      const std::optional<RequestLog::Answer> answer,
      requests_.Find("PutBudget", request.request_id(), request));
  if (answer.has_value()) {
    draft.response.ParseFromString(answer->bytes);
    if (draft.response.budget().revision() == 0) {
      draft.response.mutable_budget()->set_revision(answer->revision);
    }
    return draft;
  }
  const std::string& app = request.budget().app_name();
  const std::string key = KeyOf(kBudgets, app);
  MYC_ASSIGN_OR_RETURN(const EntryPtr stored, fabric::Get(store_, key));
  if (request.has_expected_revision() &&
      request.expected_revision() != RevisionOf(stored)) {
    return RevisionMismatch(absl::StrCat("the budget of ", Quoted(app)),
                            request.expected_revision(), RevisionOf(stored));
  }
  draft.compares.push_back(Compare::ModRevision(key, RevisionOf(stored)));
  if (stored != nullptr && SameLimits(BudgetOf(*stored), request.budget())) {
    *draft.response.mutable_budget() = BudgetOf(*stored);
  } else {
    v1::Budget budget = request.budget();
    budget.clear_revision();
    *budget.mutable_update_time() = FromTime(clock_.Now());
    draft.ops.push_back(Op::Put(key, budget.SerializeAsString()));
    v1::Event event;
    event.set_app_name(app);
    event.set_message(absl::StrCat("budget put: maxInstances ",
                                   budget.max_instances(), ", cpu_milli ",
                                   budget.cpu_milli(), ", memory_mb ",
                                   budget.memory_mb(), " (0 is no limit)"));
    draft.ops.push_back(events_.Record("BUDGET_PUT", v1::Event::SEVERITY_INFO,
                                       std::move(event)));
    *draft.response.mutable_budget() = std::move(budget);
  }
  requests_.Append("PutBudget", request.request_id(), request, draft.response,
                   &draft.compares, &draft.ops);
  draft.stamp = [](int64_t revision, v1::PutBudgetResponse* response) {
    if (response->budget().revision() == 0) {
      response->mutable_budget()->set_revision(revision);
    }
  };
  return draft;
}

absl::StatusOr<v1::GetBudgetResponse> BudgetRegistry::Get(
    const v1::GetBudgetRequest& request) {
  FieldViolations violations;
  CheckAppName("appName", request.app_name(), &violations);
  MYC_RETURN_IF_ERROR(violations.ToStatus(kErrorDomain, "REQUEST_INVALID"));
  MYC_ASSIGN_OR_RETURN(
      const EntryPtr stored,
      fabric::Get(store_, KeyOf(kBudgets, request.app_name())));
  if (stored == nullptr) return BudgetNotFound(request.app_name());
  v1::GetBudgetResponse response;
  *response.mutable_budget() = BudgetOf(*stored);
  return response;
}

absl::StatusOr<v1::ListBudgetsResponse> BudgetRegistry::List(
    const v1::ListBudgetsRequest& request) {
  v1::ListBudgetsResponse response;
  MYC_ASSIGN_OR_RETURN(
      const PageEnd end,
      ReadPage(store_, "budgets", kBudgets, request.page_size(),
               request.page_token(),
               [&](const Entry& entry, int64_t) -> absl::StatusOr<bool> {
                 *response.add_budgets() = BudgetOf(entry);
                 return true;
               }));
  response.set_next_page_token(end.next_page_token);
  response.set_revision(end.revision);
  response.set_epoch(end.epoch);
  return response;
}

void BudgetRegistry::Delete(const v1::DeleteBudgetRequest& request,
                            Done<v1::DeleteBudgetResponse> done) {
  FieldViolations violations;
  CheckAppName("appName", request.app_name(), &violations);
  if (request.has_expected_revision()) {
    CheckExpectedRevision(request.expected_revision(), &violations);
  }
  CheckRequestId(request.request_id(), &violations);
  absl::Status valid = violations.ToStatus(kErrorDomain, "REQUEST_INVALID");
  if (!valid.ok()) {
    done(std::move(valid));
    return;
  }
  Write<v1::DeleteBudgetResponse>(
      &store_, [this, request] { return DraftDelete(request); },
      std::move(done));
}

absl::StatusOr<Draft<v1::DeleteBudgetResponse>> BudgetRegistry::DraftDelete(
    const v1::DeleteBudgetRequest& request) {
  Draft<v1::DeleteBudgetResponse> draft;
  MYC_ASSIGN_OR_RETURN(
      const std::optional<RequestLog::Answer> answer,
      requests_.Find("DeleteBudget", request.request_id(), request));
  if (answer.has_value()) {
    draft.response.set_revision(answer->revision);
    return draft;
  }
  const std::string& app = request.app_name();
  const std::string key = KeyOf(kBudgets, app);
  MYC_ASSIGN_OR_RETURN(const EntryPtr stored, fabric::Get(store_, key));
  if (request.has_expected_revision() &&
      request.expected_revision() != RevisionOf(stored)) {
    return RevisionMismatch(absl::StrCat("the budget of ", Quoted(app)),
                            request.expected_revision(), RevisionOf(stored));
  }
  if (stored == nullptr) return BudgetNotFound(app);
  draft.compares.push_back(Compare::ModRevision(key, RevisionOf(stored)));
  draft.ops.push_back(Op::Delete(key));
  v1::Event event;
  event.set_app_name(app);
  event.set_message("budget deleted");
  draft.ops.push_back(events_.Record("BUDGET_DELETED", v1::Event::SEVERITY_INFO,
                                     std::move(event)));
  requests_.Append("DeleteBudget", request.request_id(), request,
                   draft.response, &draft.compares, &draft.ops);
  draft.stamp = [](int64_t revision, v1::DeleteBudgetResponse* response) {
    response->set_revision(revision);
  };
  return draft;
}

}  // namespace mycelium::fabric
