#include "tools/meshctl/failure.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "google/rpc/error_details.pb.h"
#include "lib/base/error.h"
#include "tools/meshctl/json.h"

namespace mycelium::meshctl {
namespace {

constexpr absl::string_view kDomain = "meshctl.mycelium";
constexpr absl::string_view kQuiet = "QUIET";
constexpr absl::string_view kErrorInfoUrl =
    "type.googleapis.com/google.rpc.ErrorInfo";
constexpr absl::string_view kBadRequestUrl =
    "type.googleapis.com/google.rpc.BadRequest";

// A code by which code that knows absl::Status alone may judge a failure.
absl::StatusCode StatusCodeOf(ExitCode exit) {
  switch (exit) {
    case ExitCode::kUsage:
      return absl::StatusCode::kInvalidArgument;
    case ExitCode::kNotFound:
      return absl::StatusCode::kNotFound;
    case ExitCode::kUntrusted:
      return absl::StatusCode::kPermissionDenied;
    case ExitCode::kConflict:
      return absl::StatusCode::kAborted;
    case ExitCode::kUnavailable:
      return absl::StatusCode::kUnavailable;
    case ExitCode::kTimeout:
      return absl::StatusCode::kDeadlineExceeded;
    case ExitCode::kNoCapacity:
      return absl::StatusCode::kResourceExhausted;
    case ExitCode::kInterrupted:
    case ExitCode::kTerminated:
      return absl::StatusCode::kCancelled;
    default:
      return absl::StatusCode::kUnknown;
  }
}

template <typename T>
T Detail(const absl::Status& status, absl::string_view url) {
  T detail;
  if (const auto payload = status.GetPayload(url)) {
    detail.ParseFromString(std::string(*payload));
  }
  return detail;
}

// The exit code of an error that some other code made.
ExitCode ExitCodeOf(const absl::Status& status, absl::string_view reason) {
  if (absl::StartsWith(reason, "E_") || reason == "SPORE_REFUSED" ||
      reason == "SPORE_UNTRUSTED") {
    return ExitCode::kUntrusted;
  }
  if (reason == "NO_CAPACITY" || reason == "BUDGET_EXCEEDED") {
    return ExitCode::kNoCapacity;
  }
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return ExitCode::kUsage;
    case absl::StatusCode::kNotFound:
      return ExitCode::kNotFound;
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return ExitCode::kUntrusted;
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
      return ExitCode::kConflict;
    case absl::StatusCode::kUnavailable:
      return ExitCode::kUnavailable;
    case absl::StatusCode::kDeadlineExceeded:
      return ExitCode::kTimeout;
    case absl::StatusCode::kCancelled:
      return ExitCode::kInterrupted;
    default:
      return ExitCode::kError;
  }
}

// What to do about errors of the services, by their reasons.
void AddAdvice(absl::string_view reason, Failure& failure) {
  if (failure.exit == ExitCode::kUntrusted) {
    failure.more = "meshctl help trust";
  }
  if (reason == "SPORE_UNTRUSTED" || reason == "E_UNTRUSTED_KEY" ||
      reason == "E_NOT_AUTHORIZED") {
    failure.fixes = {
        "sign with a trusted key:  meshctl build --key-file FILE",
        "trust this key:  meshctl trust add KEY.pub --name PATTERN "
        "--trust-store FILE"};
  } else if (reason == "PLAN_NOT_FOUND") {
    failure.fixes = {"see what there is:  meshctl list"};
  } else if (reason == "SPORE_NOT_FOUND") {
    failure.fixes = {"see what there is:  meshctl list spores"};
  } else if (reason == "BUDGET_NOT_FOUND") {
    failure.fixes = {"see what there is:  meshctl budget ls"};
  } else if (reason == "NODE_NOT_FOUND") {
    failure.fixes = {"see what there is:  meshctl nodes"};
  }
}

}  // namespace

const std::vector<ExitCodeInfo>& ExitCodes() {
  static const auto& codes = *new std::vector<ExitCodeInfo>{
      {ExitCode::kOk, "OK", "done; also `plan` that found changes"},
      {ExitCode::kError, "ERROR", "anything that has no code of its own"},
      {ExitCode::kUsage, "USAGE", "a wrong flag, argument, value or file"},
      {ExitCode::kNotFound, "NOT_FOUND",
       "an app, node, instance, spore or file is unknown"},
      {ExitCode::kUntrusted, "UNTRUSTED",
       "a signature, key or spore is refused, or a permission is missing"},
      {ExitCode::kConflict, "CONFLICT",
       "the state is not what was expected: --check-revision differs, a name "
       "or a lock is taken"},
      {ExitCode::kUnavailable, "UNAVAILABLE",
       "fabric, repo, edge or agent cannot be reached"},
      {ExitCode::kTimeout, "TIMEOUT",
       "the time is up and the outcome is open; says how to look"},
      {ExitCode::kRolloutFailed, "ROLLOUT_FAILED",
       "the plan is stored, but its instances do not come up"},
      {ExitCode::kNoCapacity, "NO_CAPACITY",
       "no node or budget has room for the instances"},
      {ExitCode::kChanges, "CHANGES",
       "`plan --detailed-exitcode` found changes"},
      {ExitCode::kUnhealthy, "UNHEALTHY",
       "`status --exit-code` found a problem"},
      {ExitCode::kInterrupted, "INTERRUPTED", "stopped by SIGINT (Ctrl-C)"},
      {ExitCode::kTerminated, "TERMINATED", "stopped by SIGTERM"},
  };
  return codes;
}

absl::string_view ExitCodeName(ExitCode code) {
  for (const ExitCodeInfo& info : ExitCodes()) {
    if (info.code == code) return info.name;
  }
  return "ERROR";
}

absl::Status ToStatus(const Failure& failure) {
  std::vector<std::pair<std::string, std::string>> metadata = {
      {"exit", absl::StrCat(static_cast<int>(failure.exit))},
  };
  const auto add = [&metadata](absl::string_view key, std::string value) {
    if (!value.empty()) metadata.emplace_back(key, std::move(value));
  };
  add("why", failure.why);
  add("fixes", absl::StrJoin(failure.fixes, "\n"));
  add("more", failure.more);
  add("output", absl::StrJoin(failure.output, "\n"));
  return MakeError(StatusCodeOf(failure.exit), kDomain,
                   ExitCodeName(failure.exit), failure.message, metadata);
}

Failure ToFailure(const absl::Status& status) {
  const auto info = Detail<google::rpc::ErrorInfo>(status, kErrorInfoUrl);
  Failure failure;
  failure.message = std::string(status.message());
  if (info.domain() == kDomain) {
    const auto value = [&info](const char* key) {
      const auto found = info.metadata().find(key);
      return found == info.metadata().end() ? "" : found->second;
    };
    int exit = static_cast<int>(ExitCode::kError);
    if (absl::SimpleAtoi(value("exit"), &exit)) {
      failure.exit = static_cast<ExitCode>(exit);
    }
    failure.why = value("why");
    failure.fixes = absl::StrSplit(value("fixes"), '\n', absl::SkipEmpty());
    failure.more = value("more");
    if (const std::string output = value("output"); !output.empty()) {
      failure.output = absl::StrSplit(output, '\n');
    }
    return failure;
  }

  failure.exit = ExitCodeOf(status, info.reason());
  std::vector<std::string> reasons;
  const auto bad_request =
      Detail<google::rpc::BadRequest>(status, kBadRequestUrl);
  for (const auto& violation : bad_request.field_violations()) {
    // Services name the fields in their message, too: said once is enough.
    if (!absl::StrContains(failure.message, violation.field())) {
      reasons.push_back(
          absl::StrCat(violation.field(), ": ", violation.description()));
    }
  }
  failure.why = absl::StrJoin(reasons, "; ");
  AddAdvice(info.reason(), failure);
  if (failure.message.empty()) {
    failure.message =
        absl::StrCat("failed with ", absl::StatusCodeToString(status.code()));
  }
  return failure;
}

absl::Status QuietExit(ExitCode code) {
  return MakeError(absl::StatusCode::kUnknown, kDomain, kQuiet, "",
                   {{"exit", absl::StrCat(static_cast<int>(code))}});
}

bool IsQuietExit(const absl::Status& status) {
  return ReasonOf(status) == kQuiet;
}

absl::Status UsageError(absl::string_view message,
                        std::vector<std::string> fixes) {
  return ToStatus({.exit = ExitCode::kUsage,
                   .message = std::string(message),
                   .fixes = std::move(fixes)});
}

absl::Status Explain(const absl::Status& status, absl::string_view message) {
  if (status.ok() || IsQuietExit(status)) return status;
  Failure failure = ToFailure(status);
  failure.message = absl::StrCat(message, ": ", failure.message);
  return ToStatus(failure);
}

std::string FormatFailure(const Failure& failure, absl::string_view glyph) {
  std::string text = absl::StrCat(glyph, " ", failure.message, "\n");
  if (!failure.why.empty())
    absl::StrAppend(&text, "  why  ", failure.why, "\n");
  absl::string_view label = "  fix  ";
  for (const std::string& fix : failure.fixes) {
    absl::StrAppend(&text, label, fix, "\n");
    label = "       or ";
  }
  if (!failure.output.empty()) {
    absl::StrAppend(&text, "  last output:\n");
    for (const std::string& line : failure.output) {
      absl::StrAppend(&text, "    | ", line, "\n");
    }
  }
  if (!failure.more.empty()) {
    absl::StrAppend(&text, "  more ", failure.more, "\n");
  }
  return text;
}

std::string FormatFailureJson(const Failure& failure) {
  Json error = Json::Object();
  error.Set("code", ExitCodeName(failure.exit))
      .Set("exit", static_cast<int>(failure.exit))
      .Set("message", failure.message);
  if (!failure.why.empty()) error.Set("why", failure.why);
  error.Set("fix", Json::Strings(failure.fixes));
  if (!failure.output.empty()) {
    error.Set("output", Json::Strings(failure.output));
  }
  if (!failure.more.empty()) error.Set("doc", failure.more);
  Json json = Json::Object();
  json.Set("error", std::move(error));
  return json.Compact() + "\n";
}

}  // namespace mycelium::meshctl
