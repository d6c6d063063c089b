#include "tools/meshctl/plan_diff.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "tools/meshctl/views.h"

namespace mycelium::meshctl {
namespace {

using Fields = std::vector<std::pair<std::string, std::string>>;

// The fields whose change makes the fabric replace instances.
bool Replaces(const std::string& field) {
  return field == "digest" || field == "port" || field == "require-label" ||
         field == "spread-label";
}

std::string Text(const google::protobuf::Duration& duration) {
  return absl::FormatDuration(absl::Seconds(duration.seconds()) +
                              absl::Nanoseconds(duration.nanos()));
}

const std::string* Find(const Fields& fields, const std::string& name) {
  for (const auto& [field, value] : fields) {
    if (field == name) return &value;
  }
  return nullptr;
}

// What the flag `field` takes to say that there is none; null if it can't.
const char* NoneOf(const std::string& field) {
  static const std::map<std::string, const char*> none = {
      {"slow-start", "0s"},
      {"hold", "0s"},
      {"hold-requests", "0"},
      {"rate-limit", "0"},
      {"client-rate-limit", "0"},
      {"max-in-flight", "0"},
      {"max-in-flight-per-endpoint", "0"},
      {"max-request-body-bytes", "0"},
      {"retry-server-errors", "off"},
  };
  const auto it = none.find(field);
  return it == none.end() ? nullptr : it->second;
}

// Words of a shell, quoted where they must be.
std::string ShellWord(const std::string& word) {
  const bool plain = !word.empty() &&
                     word.find_first_not_of(
                         "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                         "0123456789_-./:=,@%+") == std::string::npos;
  return plain ? word
               : absl::StrCat("'", absl::StrReplaceAll(word, {{"'", "'\\''"}}),
                              "'");
}

// The shortest text that is read as exactly `number`.
std::string Text(double number) {
  for (int digits = 6; digits < 17; ++digits) {
    std::string text = absl::StrFormat("%.*g", digits, number);
    double read = 0;
    if (absl::SimpleAtod(text, &read) && read == number) return text;
  }
  return absl::StrFormat("%.17g", number);
}

// As --rate-limit takes it.
std::string Text(const fabric::v1::RateLimit& limit) {
  const std::string rate = Text(limit.requests_per_second());
  return limit.burst() == 0 ? rate : absl::StrCat(rate, ":", limit.burst());
}

void AddTraffic(const fabric::v1::Traffic& traffic, Fields* fields) {
  const auto number = [fields](const char* name, int64_t value) {
    if (value != 0) fields->emplace_back(name, absl::StrCat(value));
  };
  if (traffic.balancing() != fabric::v1::Traffic::BALANCING_UNSPECIFIED) {
    fields->emplace_back(
        "balancing",
        absl::StrReplaceAll(
            StateWord(fabric::v1::Traffic::Balancing_Name(traffic.balancing())),
            {{"_", "-"}}));
  }
  if (traffic.has_slow_start()) {
    fields->emplace_back("slow-start", Text(traffic.slow_start()));
  }
  if (traffic.has_hold()) {
    fields->emplace_back("hold", traffic.hold().has_max_wait()
                                     ? Text(traffic.hold().max_wait())
                                     : "10s");
    number("hold-requests", traffic.hold().max_requests());
  }
  if (traffic.has_rate_limit()) {
    fields->emplace_back("rate-limit", Text(traffic.rate_limit()));
  }
  if (traffic.has_client_rate_limit()) {
    fields->emplace_back("client-rate-limit",
                         Text(traffic.client_rate_limit()));
  }
  number("max-in-flight", traffic.max_in_flight());
  number("max-in-flight-per-endpoint", traffic.max_in_flight_per_endpoint());
  number("max-request-body-bytes", traffic.max_request_body_bytes());
  if (traffic.retry_server_errors()) {
    fields->emplace_back("retry-server-errors", "on");
  }
}

}  // namespace

std::vector<std::pair<std::string, std::string>> PlanFields(
    const fabric::v1::Plan& plan) {
  Fields fields = {{"digest", plan.digest()},
                   {"min", absl::StrCat(plan.min())},
                   {"max", absl::StrCat(plan.max())},
                   {"port", absl::StrCat(plan.port())}};
  const fabric::v1::Strategy& strategy = plan.strategy();
  if (strategy.kind() != fabric::v1::Strategy::KIND_UNSPECIFIED) {
    fields.emplace_back(
        "strategy",
        absl::StrReplaceAll(
            StateWord(fabric::v1::Strategy::Kind_Name(strategy.kind())),
            {{"_", "-"}}));
  }
  if (strategy.has_max_surge()) {
    fields.emplace_back("max-surge", absl::StrCat(strategy.max_surge()));
  }
  const auto add = [&fields](const char* name, bool has,
                             const google::protobuf::Duration& value) {
    if (has) fields.emplace_back(name, Text(value));
  };
  add("min-ready", strategy.has_min_ready(), strategy.min_ready());
  add("drain-timeout", strategy.has_drain_timeout(), strategy.drain_timeout());
  add("stop-timeout", strategy.has_stop_timeout(), strategy.stop_timeout());
  add("progress-deadline", strategy.has_progress_deadline(),
      strategy.progress_deadline());
  const std::map<std::string, std::string> labels(
      plan.placement().required_labels().begin(),
      plan.placement().required_labels().end());
  for (const auto& [key, value] : labels) {
    fields.emplace_back("require-label", absl::StrCat(key, "=", value));
  }
  if (!plan.placement().spread_label().empty()) {
    fields.emplace_back("spread-label", plan.placement().spread_label());
  }
  AddTraffic(plan.traffic(), &fields);
  return fields;
}

std::vector<PlanChange> DiffPlans(const fabric::v1::Plan* before,
                                  const fabric::v1::Plan& after) {
  const Fields now = PlanFields(after);
  const Fields old = before == nullptr ? Fields() : PlanFields(*before);
  std::vector<PlanChange> changes;
  for (const auto& [field, value] : now) {
    PlanChange change;
    change.field = field;
    change.after = value;
    // A label is the same as before if any of those before was it.
    const std::string* found = Find(old, field);
    if (field == "require-label") {
      found = nullptr;
      for (const auto& entry : old) {
        if (entry.first == field && entry.second == value)
          found = &entry.second;
      }
    }
    if (found != nullptr) change.before = *found;
    change.changed = change.before != change.after;
    change.replaces = before != nullptr && change.changed && Replaces(field);
    changes.push_back(std::move(change));
  }
  for (const auto& [field, value] : old) {
    const bool kept =
        std::any_of(now.begin(), now.end(),
                    [&field = field, &value = value](const auto& at) {
                      return at.first == field &&
                             (field != "require-label" || at.second == value);
                    });
    if (kept) continue;
    changes.push_back({.field = field,
                       .before = value,
                       .after = "",
                       .changed = true,
                       .replaces = Replaces(field)});
  }
  return changes;
}

std::string ApplyLine(const fabric::v1::Plan* before,
                      const fabric::v1::Plan& plan, int64_t revision) {
  std::string line = absl::StrCat("meshctl apply ", plan.app_name());
  const Fields now = PlanFields(plan);
  for (const auto& [field, value] : now) {
    absl::StrAppend(&line, " --", field, " ", ShellWord(value));
  }
  // What flags do not say stays as it is, so what is gone must be said, too.
  const Fields old = before == nullptr ? Fields() : PlanFields(*before);
  for (const auto& [field, value] : old) {
    const char* const none = NoneOf(field);
    if (none == nullptr || Find(now, field) != nullptr) continue;
    if (field == "hold-requests" && Find(now, "hold") == nullptr) continue;
    absl::StrAppend(&line, " --", field, " ", none);
  }
  absl::StrAppend(&line, " --check-revision ", revision);
  return line;
}

}  // namespace mycelium::meshctl
