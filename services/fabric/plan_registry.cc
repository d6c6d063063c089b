#include "services/fabric/plan_registry.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "google/rpc/status.pb.h"
#include "lib/base/error.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "services/fabric/errors.h"
#include "services/fabric/keys.h"
#include "services/fabric/paging.h"
#include "services/fabric/reconciler.h"
#include "services/fabric/resources.h"
#include "services/fabric/validate.h"

namespace mycelium::fabric {
namespace {

using SporeOr = absl::StatusOr<mycelium::spore::v1::SporeInfo>;

absl::Status PlanNotFound(absl::string_view app) {
  return FabricError(absl::StatusCode::kNotFound, "PLAN_NOT_FOUND",
                     absl::StrCat("app ", Quoted(app), " has no plan"),
                     {{"app_name", std::string(app)}});
}

// What the operator said, without what the fabric sets.
v1::Plan SpecOf(v1::Plan plan) {
  plan.clear_revision();
  plan.clear_generation();
  plan.clear_create_time();
  plan.clear_update_time();
  plan.clear_count();
  plan.clear_spore();
  return plan;
}

bool SameSpec(const v1::Plan& a, const v1::Plan& b) {
  return Serialize(SpecOf(a)) == Serialize(SpecOf(b));
}

// Whether instances of `before` are no instances of `after`. Bounds, the
// strategy and the traffic policy change how many there are and how they are
// treated, not what they are.
bool NeedsNewInstances(const v1::Plan& before, const v1::Plan& after) {
  return before.digest() != after.digest() || before.port() != after.port() ||
         Serialize(before.placement()) != Serialize(after.placement());
}

// What the fabric knows of the spore, as plans keep it.
mycelium::spore::v1::SporeInfo Brief(mycelium::spore::v1::SporeInfo spore) {
  spore.clear_manifest_json();
  return spore;
}

void AddWarning(const absl::Status& status, v1::PutPlanResponse* response) {
  google::rpc::Status* warning = response->add_warnings();
  warning->set_code(static_cast<int>(status.code()));
  warning->set_message(std::string(status.message()));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    google::protobuf::Any* detail = warning->add_details();
    detail->set_type_url(std::string(url));
    detail->set_value(std::string(payload));
  });
}

}  // namespace

void PlanRegistry::Put(const v1::PutPlanRequest& request,
                       Done<v1::PutPlanResponse> done) {
  FieldViolations violations;
  CheckPlan(request.plan(), &violations);
  if (request.has_expected_revision()) {
    CheckExpectedRevision(request.expected_revision(), &violations);
  }
  CheckRequestId(request.request_id(), &violations);
  absl::Status valid = violations.ToStatus(kErrorDomain, "PLAN_INVALID");
  if (!valid.ok()) {
    done(std::move(valid));
    return;
  }
  if (catalog_ == nullptr) {
    PutChecked(request,
               absl::UnavailableError("the fabric knows no repo (flag --repo)"),
               std::move(done));
    return;
  }
  // The catalog calls back after this call, when `request` may be gone.
  catalog_->Find(
      request.plan().digest(),
      [this, request, done = std::move(done)](SporeOr spore) mutable {
        PutChecked(request, std::move(spore), std::move(done));
      });
}

void PlanRegistry::PutChecked(const v1::PutPlanRequest& request, SporeOr spore,
                              Done<v1::PutPlanResponse> done) {
  Write<v1::PutPlanResponse>(
      &store_,
      [this, request, spore = std::move(spore)] {
        return DraftPut(request, spore);
      },
      std::move(done));
}

absl::StatusOr<Draft<v1::PutPlanResponse>> PlanRegistry::DraftPut(
    const v1::PutPlanRequest& request, const SporeOr& spore) {
  Draft<v1::PutPlanResponse> draft;
  v1::PutPlanResponse& response = draft.response;
  MYC_ASSIGN_OR_RETURN(
      const std::optional<RequestLog::Answer> answer,
      requests_.Find("PutPlan", request.request_id(), request));
  if (answer.has_value()) {
    response.ParseFromString(answer->bytes);
    if (response.plan().revision() == 0) {
      response.mutable_plan()->set_revision(answer->revision);
    }
    return draft;
  }

  const std::string& app = request.plan().app_name();
  const std::string key = KeyOf(kPlans, app);
  const std::string generation_key = KeyOf(kGenerations, app);
  MYC_ASSIGN_OR_RETURN(const EntryPtr stored, fabric::Get(store_, key));
  MYC_ASSIGN_OR_RETURN(const EntryPtr count,
                       fabric::Get(store_, KeyOf(kCounts, app)));
  MYC_ASSIGN_OR_RETURN(const EntryPtr last_generation,
                       fabric::Get(store_, generation_key));
  if (request.has_expected_revision() &&
      request.expected_revision() != RevisionOf(stored)) {
    return RevisionMismatch(absl::StrCat("the plan of ", Quoted(app)),
                            request.expected_revision(), RevisionOf(stored));
  }
  if (spore.ok() && spore->app_name() != app) {
    return FabricError(
        absl::StatusCode::kFailedPrecondition, "NAME_MISMATCH",
        absl::StrCat("spore ", spore->digest(), " was signed as ",
                     Quoted(spore->name()), " and runs as app ",
                     Quoted(spore->app_name()), " only, not as ", Quoted(app)),
        {{"spore_name", spore->name()}});
  }

  v1::Plan plan = SpecOf(request.plan());
  const google::protobuf::Timestamp now = FromTime(clock_.Now());
  int64_t generation = NumberOf(last_generation.get(), 0) + 1;
  *plan.mutable_create_time() = now;
  std::optional<v1::Plan> previous;
  if (stored != nullptr) {
    previous = PlanOf(*stored, count.get());
    *response.mutable_previous() = *previous;
    if (!NeedsNewInstances(*previous, plan)) {
      generation = previous->generation();
    }
    *plan.mutable_create_time() = previous->create_time();
  }
  plan.set_generation(generation);
  if (spore.ok()) {
    *plan.mutable_spore() = Brief(*spore);
  } else if (previous.has_value() && previous->has_spore() &&
             previous->digest() == plan.digest()) {
    *plan.mutable_spore() = previous->spore();
  }

  response.set_changed(!previous.has_value() || !SameSpec(*previous, plan));
  const bool learned =
      previous.has_value() && !previous->has_spore() && plan.has_spore();
  if (response.changed() || learned) {
    *plan.mutable_update_time() = now;
  } else {
    *plan.mutable_update_time() = previous->update_time();
  }
  *response.mutable_plan() = plan;
  response.mutable_plan()->set_count(static_cast<int32_t>(std::clamp<int64_t>(
      NumberOf(count.get(), plan.min()), plan.min(), plan.max())));
  if (!response.changed() && !learned) {
    response.mutable_plan()->set_revision(previous->revision());
  }
  MYC_RETURN_IF_ERROR(AddWarnings(spore, &response));
  if (request.validate_only()) {
    response.mutable_plan()->set_revision(RevisionOf(stored));
    return draft;
  }

  draft.compares.push_back(Compare::ModRevision(key, RevisionOf(stored)));
  draft.compares.push_back(
      Compare::ModRevision(generation_key, RevisionOf(last_generation)));
  if (response.changed() || learned) {
    draft.ops.push_back(Op::Put(key, Serialize(plan)));
    if (generation != NumberOf(last_generation.get(), 0)) {
      draft.ops.push_back(Op::Put(generation_key, absl::StrCat(generation)));
    }
    v1::Event event;
    event.set_app_name(app);
    event.set_message(absl::StrCat(
        "plan put: ", plan.min(), " to ", plan.max(), " instances of ",
        plan.digest().substr(0, 12), ", generation ", generation));
    (*event.mutable_details())["digest"] = plan.digest();
    (*event.mutable_details())["generation"] = absl::StrCat(generation);
    draft.ops.push_back(
        events_.Record("PLAN_PUT", v1::Event::SEVERITY_INFO, std::move(event)));
  }
  requests_.Append("PutPlan", request.request_id(), request, response,
                   &draft.compares, &draft.ops);
  draft.stamp = [](int64_t revision, v1::PutPlanResponse* stamped) {
    if (stamped->plan().revision() == 0) {
      stamped->mutable_plan()->set_revision(revision);
    }
  };
  return draft;
}

absl::Status PlanRegistry::AddWarnings(const SporeOr& spore,
                                       v1::PutPlanResponse* response) {
  const v1::Plan& plan = response->plan();
  if (spore.status().code() == absl::StatusCode::kNotFound) {
    AddWarning(
        FabricError(absl::StatusCode::kNotFound, "SPORE_NOT_FOUND",
                    absl::StrCat("the repo has no spore ", plan.digest(),
                                 " (plan.digest); publish it, or no instance "
                                 "can start"),
                    {{"digest", plan.digest()}}),
        response);
  } else if (!spore.ok()) {
    AddWarning(
        FabricError(absl::StatusCode::kUnavailable, "REPO_UNAVAILABLE",
                    absl::StrCat("the repo could not be asked for spore ",
                                 plan.digest(),
                                 " (plan.digest): ", spore.status().message()),
                    {{"digest", plan.digest()}}),
        response);
  }
  MYC_ASSIGN_OR_RETURN(const EntryPtr entry,
                       fabric::Get(store_, KeyOf(kBudgets, plan.app_name())));
  if (entry != nullptr) {
    const v1::Budget budget = BudgetOf(*entry);
    const BudgetBound bound = BoundOf(plan, &budget);
    if (bound.instances < plan.min()) {
      AddWarning(
          FabricError(
              absl::StatusCode::kFailedPrecondition, "BUDGET_EXCEEDED",
              absl::StrCat("the budget allows ", bound.instances,
                           " instances (", bound.dimension, " is ", bound.limit,
                           "), fewer than plan.min, ", plan.min()),
              {{"dimension", bound.dimension},
               {"limit", absl::StrCat(bound.limit)},
               {"instances", absl::StrCat(bound.instances)}}),
          response);
    }
  }
  if (plan.count() > 0) {
    const std::optional<Obstacle> obstacle =
        FindObstacle(plan, *nodes_.Nodes());
    if (obstacle.has_value()) {
      AddWarning(
          FabricError(absl::StatusCode::kResourceExhausted, "NO_CAPACITY",
                      absl::StrCat("no node has room for an instance "
                                   "now: ",
                                   obstacle->message)),
          response);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::GetPlanResponse> PlanRegistry::Get(
    const v1::GetPlanRequest& request) {
  FieldViolations violations;
  CheckAppName("appName", request.app_name(), &violations);
  MYC_RETURN_IF_ERROR(violations.ToStatus(kErrorDomain, "REQUEST_INVALID"));
  MYC_ASSIGN_OR_RETURN(const EntryPtr plan,
                       fabric::Get(store_, KeyOf(kPlans, request.app_name())));
  if (plan == nullptr) return PlanNotFound(request.app_name());
  MYC_ASSIGN_OR_RETURN(const EntryPtr count,
                       fabric::Get(store_, KeyOf(kCounts, request.app_name())));
  v1::GetPlanResponse response;
  *response.mutable_plan() = PlanOf(*plan, count.get());
  return response;
}

absl::StatusOr<v1::ListPlansResponse> PlanRegistry::List(
    const v1::ListPlansRequest& request) {
  v1::ListPlansResponse response;
  MYC_ASSIGN_OR_RETURN(
      const PageEnd end,
      ReadPage(
          store_, "plans", kPlans, request.page_size(), request.page_token(),
          [&](const Entry& entry, int64_t revision) -> absl::StatusOr<bool> {
            RangeRequest count = RangeRequest::Key(
                KeyOf(kCounts, entry.key.substr(kPlans.size())));
            count.at_revision = revision;
            absl::StatusOr<RangeResponse> range = store_.Range(count);
            if (!range.ok()) return FromStore(range.status());
            *response.add_plans() = PlanOf(
                entry, range->entries.empty() ? nullptr
                                              : range->entries.front().get());
            return true;
          }));
  response.set_next_page_token(end.next_page_token);
  response.set_revision(end.revision);
  response.set_epoch(end.epoch);
  return response;
}

void PlanRegistry::Delete(const v1::DeletePlanRequest& request,
                          Done<v1::DeletePlanResponse> done) {
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
  Write<v1::DeletePlanResponse>(
      &store_, [this, request] { return DraftDelete(request); },
      std::move(done));
}

absl::StatusOr<Draft<v1::DeletePlanResponse>> PlanRegistry::DraftDelete(
    const v1::DeletePlanRequest& request) {
  Draft<v1::DeletePlanResponse> draft;
  MYC_ASSIGN_OR_RETURN(
      const std::optional<RequestLog::Answer> answer,
      requests_.Find("DeletePlan", request.request_id(), request));
  if (answer.has_value()) {
    draft.response.set_revision(answer->revision);
    return draft;
  }
  const std::string& app = request.app_name();
  const std::string key = KeyOf(kPlans, app);
  MYC_ASSIGN_OR_RETURN(const EntryPtr stored, fabric::Get(store_, key));
  if (request.has_expected_revision() &&
      request.expected_revision() != RevisionOf(stored)) {
    return RevisionMismatch(absl::StrCat("the plan of ", Quoted(app)),
                            request.expected_revision(), RevisionOf(stored));
  }
  if (stored == nullptr) return PlanNotFound(app);
  draft.compares.push_back(Compare::ModRevision(key, RevisionOf(stored)));
  draft.ops.push_back(Op::Delete(key));
  draft.ops.push_back(Op::Delete(KeyOf(kCounts, app)));
  v1::Event event;
  event.set_app_name(app);
  event.set_message("plan deleted; its instances are drained and stopped");
  draft.ops.push_back(events_.Record("PLAN_DELETED", v1::Event::SEVERITY_INFO,
                                     std::move(event)));
  requests_.Append("DeletePlan", request.request_id(), request, draft.response,
                   &draft.compares, &draft.ops);
  draft.stamp = [](int64_t revision, v1::DeletePlanResponse* response) {
    response->set_revision(revision);
  };
  return draft;
}

void PlanRegistry::Scale(const v1::ScaleAppRequest& request,
                         Done<v1::ScaleAppResponse> done) {
  FieldViolations violations;
  CheckAppName("appName", request.app_name(), &violations);
  CheckRequestId(request.request_id(), &violations);
  absl::Status valid = violations.ToStatus(kErrorDomain, "REQUEST_INVALID");
  if (!valid.ok()) {
    done(std::move(valid));
    return;
  }
  Write<v1::ScaleAppResponse>(
      &store_, [this, request] { return DraftScale(request); },
      std::move(done));
}

absl::StatusOr<Draft<v1::ScaleAppResponse>> PlanRegistry::DraftScale(
    const v1::ScaleAppRequest& request) {
  Draft<v1::ScaleAppResponse> draft;
  MYC_ASSIGN_OR_RETURN(
      const std::optional<RequestLog::Answer> answer,
      requests_.Find("ScaleApp", request.request_id(), request));
  if (answer.has_value()) {
    draft.response.ParseFromString(answer->bytes);
    return draft;
  }
  const std::string& app = request.app_name();
  const std::string key = KeyOf(kPlans, app);
  const std::string count_key = KeyOf(kCounts, app);
  MYC_ASSIGN_OR_RETURN(const EntryPtr stored, fabric::Get(store_, key));
  if (stored == nullptr) return PlanNotFound(app);
  MYC_ASSIGN_OR_RETURN(const EntryPtr count, fabric::Get(store_, count_key));
  v1::Plan plan = PlanOf(*stored, count.get());
  if (request.count() < plan.min() || request.count() > plan.max()) {
    return FabricError(
        absl::StatusCode::kOutOfRange, "COUNT_OUT_OF_RANGE",
        absl::StrCat("count: ", request.count(),
                     " must be between the plan's "
                     "min, ",
                     plan.min(), ", and max, ", plan.max(),
                     "; change the plan first"),
        {{"min", absl::StrCat(plan.min())}, {"max", absl::StrCat(plan.max())}});
  }
  const int before = plan.count();
  plan.set_count(request.count());
  *draft.response.mutable_plan() = plan;
  draft.compares.push_back(Compare::ModRevision(key, RevisionOf(stored)));
  if (NumberOf(count.get(), -1) != request.count()) {
    draft.ops.push_back(Op::Put(count_key, absl::StrCat(request.count())));
    v1::Event event;
    event.set_app_name(app);
    event.set_message(
        absl::StrCat("scaled from ", before, " to ", request.count()));
    (*event.mutable_details())["count"] = absl::StrCat(request.count());
    draft.ops.push_back(events_.Record("APP_SCALED", v1::Event::SEVERITY_INFO,
                                       std::move(event)));
  }
  requests_.Append("ScaleApp", request.request_id(), request, draft.response,
                   &draft.compares, &draft.ops);
  return draft;
}

}  // namespace mycelium::fabric
