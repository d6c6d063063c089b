// Commands that show and change what should run.

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/spore/manifest.h"
#include "tools/meshctl/commands.h"
#include "tools/meshctl/description.h"
#include "tools/meshctl/failure.h"
#include "tools/meshctl/mesh_client.h"
#include "tools/meshctl/plan_diff.h"
#include "tools/meshctl/publish.h"
#include "tools/meshctl/rollout.h"
#include "tools/meshctl/session.h"
#include "tools/meshctl/views.h"

namespace mycelium::meshctl {
namespace {

using fabric::v1::Plan;
using fabric::v1::PutPlanRequest;
using fabric::v1::PutPlanResponse;

constexpr absl::Duration kWaitTimeout = absl::Minutes(5);

// A number of 32 bits, so that a larger one is refused here and not cut.
template <typename Message>
absl::Status SetNumber(const Invocation& call, const char* flag,
                       Message& message, void (Message::*set)(int32_t)) {
  if (!call.Has(flag)) return absl::OkStatus();
  int32_t value = 0;
  if (!absl::SimpleAtoi(call.Get(flag), &value)) {
    return UsageError(
        absl::StrCat("--", flag, " is out of range: ", Quoted(call.Get(flag))));
  }
  (message.*set)(value);
  return absl::OkStatus();
}

absl::Status SetStrategy(const Invocation& call, Plan& plan) {
  if (call.Has("strategy")) {
    const std::string kind = call.Get("strategy");
    plan.mutable_strategy()->set_kind(
        kind == "canary"       ? fabric::v1::Strategy::KIND_CANARY
        : kind == "blue-green" ? fabric::v1::Strategy::KIND_BLUE_GREEN
                               : fabric::v1::Strategy::KIND_ROLLING);
  }
  if (call.Has("max-surge")) {
    MYC_RETURN_IF_ERROR(SetNumber(call, "max-surge", *plan.mutable_strategy(),
                                  &fabric::v1::Strategy::set_max_surge));
  }
  const auto set = [&call, &plan](const char* flag, auto mutable_field) {
    if (!call.Has(flag)) return;
    SetDuration(call.GetDuration(flag, absl::ZeroDuration()),
                *(plan.mutable_strategy()->*mutable_field)());
  };
  set("min-ready", &fabric::v1::Strategy::mutable_min_ready);
  set("drain-timeout", &fabric::v1::Strategy::mutable_drain_timeout);
  set("stop-timeout", &fabric::v1::Strategy::mutable_stop_timeout);
  set("progress-deadline", &fabric::v1::Strategy::mutable_progress_deadline);
  if (call.Has("require-label")) {
    plan.mutable_placement()->clear_required_labels();
    for (const std::string& label : call.GetAll("require-label")) {
      const size_t equals = label.find('=');
      if (equals == std::string::npos) {
        return UsageError(absl::StrCat("--require-label takes KEY=VALUE, not ",
                                       Quoted(label)));
      }
      (*plan.mutable_placement()
            ->mutable_required_labels())[label.substr(0, equals)] =
          label.substr(equals + 1);
    }
  }
  if (call.Has("spread-label")) {
    plan.mutable_placement()->set_spread_label(call.Get("spread-label"));
  }
  return absl::OkStatus();
}

// `RATE[:BURST]`; nothing for a rate of 0.
absl::StatusOr<std::optional<fabric::v1::RateLimit>> ParseRateLimit(
    const Invocation& call, const char* flag) {
  const std::vector<std::string> parts = absl::StrSplit(call.Get(flag), ':');
  double rate = 0;
  int32_t burst = 0;
  if (parts.size() > 2 || !absl::SimpleAtod(parts[0], &rate) ||
      (parts.size() == 2 && !absl::SimpleAtoi(parts[1], &burst))) {
    return UsageError(absl::StrCat(
        "--", flag,
        " takes requests a second and how many may come at once, such as 100 "
        "or 100:200, not ",
        Quoted(call.Get(flag))));
  }
  if (rate == 0) return std::nullopt;
  fabric::v1::RateLimit limit;
  limit.set_requests_per_second(rate);
  limit.set_burst(burst);
  return limit;
}

absl::Status SetTraffic(const Invocation& call, Plan& plan) {
  const auto traffic = [&plan] { return plan.mutable_traffic(); };
  if (call.Has("balancing")) {
    const std::string kind = call.Get("balancing");
    traffic()->set_balancing(
        kind == "least-request" ? fabric::v1::Traffic::BALANCING_LEAST_REQUEST
        : kind == "peak-ewma"   ? fabric::v1::Traffic::BALANCING_PEAK_EWMA
                                : fabric::v1::Traffic::BALANCING_ROUND_ROBIN);
  }
  if (call.Has("slow-start")) {
    SetDuration(call.GetDuration("slow-start", absl::ZeroDuration()),
                *traffic()->mutable_slow_start());
  }
  if (call.Has("hold")) {
    const absl::Duration wait = call.GetDuration("hold", absl::ZeroDuration());
    if (wait == absl::ZeroDuration()) {
      traffic()->clear_hold();
    } else {
      SetDuration(wait, *traffic()->mutable_hold()->mutable_max_wait());
    }
  }
  if (call.Has("hold-requests")) {
    if (!plan.traffic().has_hold()) {
      return UsageError(
          "--hold-requests says how many wait; --hold DURATION "
          "lets them wait at all");
    }
    MYC_RETURN_IF_ERROR(SetNumber(call, "hold-requests",
                                  *traffic()->mutable_hold(),
                                  &fabric::v1::Hold::set_max_requests));
  }
  if (call.Has("rate-limit")) {
    MYC_ASSIGN_OR_RETURN(const auto limit, ParseRateLimit(call, "rate-limit"));
    traffic()->clear_rate_limit();
    if (limit) *traffic()->mutable_rate_limit() = *limit;
  }
  if (call.Has("client-rate-limit")) {
    MYC_ASSIGN_OR_RETURN(const auto limit,
                         ParseRateLimit(call, "client-rate-limit"));
    traffic()->clear_client_rate_limit();
    if (limit) *traffic()->mutable_client_rate_limit() = *limit;
  }
  if (call.Has("max-in-flight")) {
    MYC_RETURN_IF_ERROR(SetNumber(call, "max-in-flight", *traffic(),
                                  &fabric::v1::Traffic::set_max_in_flight));
  }
  if (call.Has("max-in-flight-per-endpoint")) {
    MYC_RETURN_IF_ERROR(
        SetNumber(call, "max-in-flight-per-endpoint", *traffic(),
                  &fabric::v1::Traffic::set_max_in_flight_per_endpoint));
  }
  if (call.Has("max-request-body-bytes")) {
    traffic()->set_max_request_body_bytes(
        call.GetInteger("max-request-body-bytes", 0));
  }
  if (call.Has("retry-server-errors")) {
    traffic()->set_retry_server_errors(call.Get("retry-server-errors") == "on");
  }
  // One that says nothing would still be a change of the plan.
  if (plan.traffic().ByteSizeLong() == 0) plan.clear_traffic();
  return absl::OkStatus();
}

// The plan that an app has, or a first one for it.
absl::StatusOr<Plan> PresentPlan(MeshClient& mesh, const std::string& app) {
  absl::StatusOr<Plan> plan = mesh.GetPlan(app);
  if (!absl::IsNotFound(plan.status())) return plan;
  Plan fresh;
  fresh.set_app_name(app);
  fresh.set_min(1);
  return fresh;
}

// The plan that the arguments describe; `sources` beside what the app has.
absl::StatusOr<Plan> DescribedPlan(Session& session, MeshClient& mesh) {
  const std::string what = session.Arg(0);
  if (absl::EndsWith(what, ".json")) {
    MYC_ASSIGN_OR_RETURN(const std::string text,
                         ReadFile(what, int64_t{1} << 20));
    absl::StatusOr<Plan> plan = ParsePlanJson(text);
    if (!plan.ok()) {
      return UsageError(absl::StrCat(what, ": ", plan.status().message()));
    }
    return plan;
  }
  if (absl::EndsWith(what, ".toml")) {
    MYC_ASSIGN_OR_RETURN(const Description description,
                         ReadDescription(what, session.environment.variables));
    const std::string app(spore::ManifestApp(description.name()));
    if (app.empty()) return UsageError(absl::StrCat(what, ": it has no name"));
    MYC_ASSIGN_OR_RETURN(Plan plan, PresentPlan(mesh, app));
    if (description.plan) {
      MYC_RETURN_IF_ERROR(ApplyPlanTable(*description.plan, plan));
    }
    return plan;
  }
  if (absl::EndsWith(what, ".spore")) {
    MYC_ASSIGN_OR_RETURN(const SporeFile spore,
                         ReadSporeFile(what, session.Now()));
    MYC_ASSIGN_OR_RETURN(Plan plan, PresentPlan(mesh, spore.app));
    plan.set_digest(spore.digest);
    return plan;
  }
  if (!IsAppName(what)) {
    return UsageError(
        absl::StrCat(Quoted(what), " is no app: it ", kAppNameRule));
  }
  return PresentPlan(mesh, what);
}

absl::StatusOr<Plan> WantedPlan(Session& session, MeshClient& mesh) {
  MYC_ASSIGN_OR_RETURN(Plan plan, DescribedPlan(session, mesh));
  const Invocation& call = session.call;
  if (call.Has("digest") && call.Has("spore")) {
    return UsageError("--digest and --spore say the same; give one of them");
  }
  if (call.Has("digest")) plan.set_digest(call.Get("digest"));
  if (call.Has("spore")) {
    MYC_ASSIGN_OR_RETURN(const SporeFile spore,
                         ReadSporeFile(call.Get("spore"), session.Now()));
    plan.set_digest(spore.digest);
  }
  MYC_RETURN_IF_ERROR(SetNumber(call, "min", plan, &Plan::set_min));
  MYC_RETURN_IF_ERROR(SetNumber(call, "max", plan, &Plan::set_max));
  MYC_RETURN_IF_ERROR(SetNumber(call, "port", plan, &Plan::set_port));
  MYC_RETURN_IF_ERROR(SetStrategy(call, plan));
  MYC_RETURN_IF_ERROR(SetTraffic(call, plan));
  // Who only says how many there should be at least has not forbidden it.
  if (plan.max() == 0 && !call.Has("max") && plan.revision() == 0) {
    plan.set_max(std::max(plan.min(), 1));
  }
  if (plan.digest().empty()) {
    return UsageError(absl::StrCat("no spore is named for ", plan.app_name()),
                      {"name it:  --digest SHA256, or --spore FILE",
                       "see what there is:  meshctl list spores"});
  }
  return plan;
}

PutPlanRequest RequestFor(const Session& session, const Plan& plan) {
  PutPlanRequest request;
  *request.mutable_plan() = plan;
  if (session.call.Has("check-revision")) {
    request.set_expected_revision(session.call.GetInteger("check-revision", 0));
  }
  return request;
}

// A mismatch of revisions, with what to do about it.
absl::Status PutFailure(const absl::Status& status, const Plan& plan,
                        absl::string_view verb) {
  const std::string what = absl::StrCat("cannot ", verb, " ", plan.app_name());
  if (ReasonOf(status) != "REVISION_MISMATCH") return Explain(status, what);
  Failure failure = ToFailure(status);
  failure.message = absl::StrCat(
      what, ": its revision is ", MetadataOf(status, "current_revision"),
      ", you planned on ", MetadataOf(status, "expected_revision"));
  failure.fixes = {
      absl::StrCat("see what changed:  meshctl plan ", plan.app_name())};
  return ToStatus(failure);
}

std::string WarningText(const google::rpc::Status& warning) {
  for (const auto& detail : warning.details()) {
    google::rpc::ErrorInfo info;
    if (detail.UnpackTo(&info)) {
      return absl::StrCat(info.reason(), ": ", warning.message());
    }
  }
  return warning.message();
}

void NoteWarnings(Console& console, const PutPlanResponse& response) {
  for (const google::rpc::Status& warning : response.warnings()) {
    console.Note(absl::StrCat(console.ToneErr("!", Tone::kBusy), " ",
                              WarningText(warning)));
  }
}

Json ChangesJson(const std::vector<PlanChange>& changes) {
  Json list = Json::Array();
  for (const PlanChange& change : changes) {
    if (!change.changed) continue;
    Json item = Json::Object();
    item.Set("field", change.field)
        .Set("from", change.before)
        .Set("to", change.after)
        .Set("replacesInstances", change.replaces);
    list.Add(std::move(item));
  }
  return list;
}

// How wide the column of names is in what is shown of a plan.
int NameWidth(const std::vector<std::pair<std::string, std::string>>& fields) {
  size_t width = 17;
  for (const auto& [name, value] : fields) width = std::max(width, name.size());
  return static_cast<int>(width);
}

std::string PlanText(Console& console, const std::string& context,
                     const PutPlanResponse& response,
                     const std::vector<PlanChange>& changes,
                     const std::string& apply) {
  const bool existed = response.has_previous();
  std::string text = absl::StrCat("Plan for ", response.plan().app_name());
  if (!context.empty()) absl::StrAppend(&text, " in ", context);
  if (existed) {
    absl::StrAppend(&text, " at revision ", response.previous().revision());
  }
  absl::StrAppend(
      &text, "\n\n",
      existed ? (response.changed() ? "~ app " : "  app ") : "+ app ",
      response.plan().app_name(), "\n");
  const auto arrow = console.Glyph("→", "->");
  std::vector<std::pair<std::string, std::string>> fields;
  for (const PlanChange& change : changes) {
    fields.emplace_back(change.field, change.after);
  }
  const int width = NameWidth(fields);
  for (const PlanChange& change : changes) {
    std::string line = absl::StrFormat("  %s %-*s ",
                                       !change.changed ? " "
                                       : existed       ? "~"
                                                       : "+",
                                       width, change.field);
    if (change.changed && existed) {
      absl::StrAppend(
          &line, change.before.empty() ? "(default)" : change.before, " ",
          arrow, " ", change.after.empty() ? "(default)" : change.after);
    } else {
      absl::StrAppend(&line, change.after);
    }
    if (change.replaces) absl::StrAppend(&line, "  (new instances)");
    const Tone tone = !change.changed ? Tone::kFaint
                      : existed       ? Tone::kBusy
                                      : Tone::kGood;
    absl::StrAppend(&text, console.ToneOut(line, tone), "\n");
  }
  if (!response.warnings().empty()) text += "\n";
  for (const google::rpc::Status& warning : response.warnings()) {
    absl::StrAppend(&text, console.ToneOut("!", Tone::kBusy), " ",
                    WarningText(warning), "\n");
  }
  if (!response.changed()) {
    return text + "\nNothing would change.\n";
  }
  return absl::StrCat(text, "\nNo change was made. To apply exactly this:\n  ",
                      apply, "\n");
}

absl::Status ShowPlan(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  MYC_ASSIGN_OR_RETURN(const Plan plan, WantedPlan(session, *mesh));
  PutPlanRequest request = RequestFor(session, plan);
  request.set_validate_only(true);
  const absl::StatusOr<PutPlanResponse> response = mesh->PutPlan(request);
  if (!response.ok()) return PutFailure(response.status(), plan, "plan");

  const Plan* before =
      response->has_previous() ? &response->previous() : nullptr;
  const std::vector<PlanChange> changes = DiffPlans(before, plan);
  const int64_t revision = before == nullptr ? 0 : before->revision();
  const std::string apply = ApplyLine(before, plan, revision);
  MYC_ASSIGN_OR_RETURN(const Context* const context, session.context());
  Json json = Json::Object();
  json.Set("schema", "meshctl.plan/v1")
      .Set("appName", plan.app_name())
      .Set("changed", response->changed())
      .Set("checkRevision", revision)
      .Set("changes", ChangesJson(changes))
      .Set("plan", FromProto(response->plan()));
  json.Set("previous",
           before == nullptr ? Json() : FromProto(response->previous()));
  Json warnings = Json::Array();
  for (const google::rpc::Status& warning : response->warnings()) {
    warnings.Add(FromProto(warning));
  }
  json.Set("warnings", std::move(warnings)).Set("apply", apply);
  session.console.Emit(
      PlanText(session.console, context->name(), *response, changes, apply),
      json, plan.app_name());
  return response->changed() && session.call.Has("detailed-exitcode")
             ? QuietExit(ExitCode::kChanges)
             : absl::OkStatus();
}

// How many instances a stored plan asks for.
int WantedCount(const Plan& plan) { return std::max(plan.count(), plan.min()); }

// Follows a change and prints the plan and what came of it.
absl::Status FollowAndEmit(Session& session, MeshClient& mesh, const Plan& plan,
                           bool changed) {
  Console& console = session.console;
  const int wanted = WantedCount(plan);
  const absl::Duration start = session.environment.clock->Monotonic();
  const bool detached = session.call.Has("detach");
  if (!detached) {
    FollowOptions options;
    options.timeout = session.TimeoutOr(kWaitTimeout);
    MYC_RETURN_IF_ERROR(FollowRollout(mesh, console, plan, wanted, options));
  }
  const absl::Duration took = session.environment.clock->Monotonic() - start;
  Json json = Json::Object();
  json.Set("schema", "meshctl.apply/v1")
      .Set("appName", plan.app_name())
      .Set("changed", changed)
      .Set("ready", !detached)
      .Set("instances", wanted)
      .Set("plan", FromProto(plan));
  std::string text = absl::StrCat(console.ToneOut(console.Good(), Tone::kGood),
                                  " ", plan.app_name(), " ");
  if (detached) {
    absl::StrAppend(&text, "is stored at revision ", plan.revision(), "\n");
  } else {
    absl::StrAppend(&text, wanted, "/", wanted, " ready at revision ",
                    plan.revision(), ", ", ShortDuration(took), "\n");
    MYC_ASSIGN_OR_RETURN(const Context* const context, session.context());
    if (context->local()) {
      absl::StrAppend(&text, "  ", context->local()->url, "/", plan.app_name(),
                      "/\n");
    }
  }
  console.Emit(text, json, plan.app_name());
  return absl::OkStatus();
}

// Asks a person; everybody else has said it by calling.
absl::Status Confirm(const Session& session, const std::string& question) {
  if (session.call.Has("yes") || session.call.Has("no-input") ||
      !session.environment.interactive || session.console.structured()) {
    return absl::OkStatus();
  }
  session.environment.err->Write(question + " [y/N] ");
  std::string answer;
  std::getline(std::cin, answer);
  if (answer == "y" || answer == "Y" || answer == "yes")
    return absl::OkStatus();
  return ToStatus({.exit = ExitCode::kError, .message = "not confirmed"});
}

absl::Status EmitBudget(Session& session, const fabric::v1::Budget& budget) {
  session.console.Emit(
      session.console.Render(BudgetTable(session.console, {budget})),
      FromProto(budget), budget.app_name());
  return absl::OkStatus();
}

}  // namespace

absl::Status PlanCommand(Session& session) { return ShowPlan(session); }

absl::Status Apply(Session& session) {
  if (session.call.Has("dry-run")) return ShowPlan(session);
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  MYC_ASSIGN_OR_RETURN(const Plan plan, WantedPlan(session, *mesh));
  PutPlanRequest request = RequestFor(session, plan);
  request.set_request_id(RandomHex(16));
  const absl::StatusOr<PutPlanResponse> response = mesh->PutPlan(request);
  if (!response.ok()) return PutFailure(response.status(), plan, "apply");
  NoteWarnings(session.console, *response);
  Json json = Json::Object();
  json.Set("type", "stored").Set("revision", response->plan().revision());
  session.console.Progress(
      absl::StrCat(response->changed() ? "Rolling out " : "Checking ",
                   plan.app_name(), "   revision ", response->plan().revision(),
                   "   ", ShortDigest(plan.digest())),
      json);
  return FollowAndEmit(session, *mesh, response->plan(), response->changed());
}

absl::Status Get(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  MYC_ASSIGN_OR_RETURN(const Plan plan, mesh->GetPlan(session.Arg(0)));
  const auto fields = PlanFields(plan);
  const int width = NameWidth(fields);
  std::string text;
  const auto line = [&](absl::string_view name, absl::string_view value) {
    absl::StrAppendFormat(&text, "%-*s %s\n", width, name, value);
  };
  line("app", plan.app_name());
  if (!plan.spore().version().empty()) {
    line("spore",
         absl::StrCat(plan.spore().name(), " ", plan.spore().version()));
  }
  for (const auto& [field, value] : fields) line(field, value);
  line("wanted", absl::StrCat(plan.count()));
  line("revision", absl::StrCat(plan.revision()));
  line("generation", absl::StrCat(plan.generation()));
  line("created", session.console.Age(TimeOf(plan.create_time())));
  line("changed", session.console.Age(TimeOf(plan.update_time())));
  session.console.Emit(text, FromProto(plan), plan.app_name());
  return absl::OkStatus();
}

absl::Status List(Session& session) {
  if (session.Arg(0) == "spores") {
    MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"repo"}));
    MYC_ASSIGN_OR_RETURN(const std::vector<spore::v1::SporeInfo> spores,
                         mesh->ListSpores(""));
    EmitSpores(session.console, spores);
    return absl::OkStatus();
  }
  if (session.Arg(0) == "budgets") return BudgetList(session);
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  MYC_ASSIGN_OR_RETURN(const Listed<Plan> plans, mesh->ListPlans());
  MYC_ASSIGN_OR_RETURN(const Listed<fabric::v1::Slot> slots,
                       mesh->ListSlots(""));
  std::vector<std::string> names;
  for (const Plan& plan : plans.items) names.push_back(plan.app_name());
  session.console.Emit(
      PlanTable(session.console, plans.items, ReadyCounts(slots.items)),
      ListJson("meshctl.plans/v1", "plans", plans.items, plans.revision,
               plans.epoch),
      "plans", names);
  if (names.empty()) session.console.Hint("no plans: meshctl apply --help");
  return absl::OkStatus();
}

absl::Status Delete(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  const std::string app = session.Arg(0);
  MYC_ASSIGN_OR_RETURN(const Plan plan, mesh->GetPlan(app));
  MYC_RETURN_IF_ERROR(
      Confirm(session, absl::StrCat("Delete ", app, " and stop its ",
                                    WantedCount(plan), " instances?")));
  fabric::v1::DeletePlanRequest request;
  request.set_app_name(app);
  request.set_request_id(RandomHex(16));
  if (session.call.Has("check-revision")) {
    request.set_expected_revision(session.call.GetInteger("check-revision", 0));
  }
  const auto response = mesh->DeletePlan(request);
  if (!response.ok()) return PutFailure(response.status(), plan, "delete");
  if (!session.call.Has("detach")) {
    MYC_RETURN_IF_ERROR(FollowRemoval(*mesh, session.console, app,
                                      session.TimeoutOr(kWaitTimeout)));
  }
  Json json = Json::Object();
  json.Set("appName", app).Set("revision", response->revision());
  session.console.Emit(
      absl::StrCat(session.console.Good(), " ", app, " is deleted\n"), json,
      app);
  return absl::OkStatus();
}

absl::Status Scale(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  int count = 0;
  if (!absl::SimpleAtoi(session.Arg(1), &count)) {
    return UsageError(
        absl::StrCat("scale takes a number, not ", Quoted(session.Arg(1))));
  }
  const absl::StatusOr<Plan> plan = mesh->ScaleApp(session.Arg(0), count);
  if (!plan.ok()) {
    return Explain(plan.status(),
                   absl::StrCat("cannot scale ", session.Arg(0)));
  }
  return FollowAndEmit(session, *mesh, *plan, true);
}

absl::Status BudgetPut(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  fabric::v1::PutBudgetRequest request;
  request.mutable_budget()->set_app_name(session.Arg(0));
  const int64_t max_instances = session.call.GetInteger("max-instances", 0);
  if (max_instances < 0 || max_instances > 1000) {
    return UsageError("--max-instances must be 0 to 1000");
  }
  request.mutable_budget()->set_max_instances(
      static_cast<int32_t>(max_instances));
  request.mutable_budget()->set_cpu_milli(
      session.call.GetInteger("cpu-milli", 0));
  request.mutable_budget()->set_memory_mb(
      session.call.GetInteger("memory-mb", 0));
  if (session.call.Has("check-revision")) {
    request.set_expected_revision(session.call.GetInteger("check-revision", 0));
  }
  request.set_request_id(RandomHex(16));
  MYC_ASSIGN_OR_RETURN(const fabric::v1::Budget budget,
                       mesh->PutBudget(request));
  return EmitBudget(session, budget);
}

absl::Status BudgetGet(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  MYC_ASSIGN_OR_RETURN(const fabric::v1::Budget budget,
                       mesh->GetBudget(session.Arg(0)));
  return EmitBudget(session, budget);
}

absl::Status BudgetList(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  MYC_ASSIGN_OR_RETURN(const Listed<fabric::v1::Budget> budgets,
                       mesh->ListBudgets());
  std::vector<std::string> names;
  for (const auto& budget : budgets.items) names.push_back(budget.app_name());
  session.console.Emit(BudgetTable(session.console, budgets.items),
                       ListJson("meshctl.budgets/v1", "budgets", budgets.items,
                                budgets.revision, budgets.epoch),
                       "budgets", names);
  return absl::OkStatus();
}

absl::Status BudgetRemove(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  fabric::v1::DeleteBudgetRequest request;
  request.set_app_name(session.Arg(0));
  request.set_request_id(RandomHex(16));
  MYC_ASSIGN_OR_RETURN(const fabric::v1::DeleteBudgetResponse response,
                       mesh->DeleteBudget(request));
  Json json = Json::Object();
  json.Set("appName", request.app_name()).Set("revision", response.revision());
  session.console.Emit(absl::StrCat(session.console.Good(), " the budget of ",
                                    request.app_name(), " is deleted\n"),
                       json, request.app_name());
  return absl::OkStatus();
}

}  // namespace mycelium::meshctl
