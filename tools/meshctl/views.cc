#include "tools/meshctl/views.h"

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"

namespace mycelium::meshctl {
namespace {

using agent::v1::Instance;
using fabric::v1::Endpoint;
using fabric::v1::Node;
using fabric::v1::Slot;

std::string OrDash(const std::string& text) {
  return text.empty() ? "-" : text;
}

std::string Digest(const Console& console, const std::string& digest) {
  if (digest.empty()) return "-";
  return console.out_is_terminal() ? ShortDigest(digest) : digest;
}

std::string Cores(int64_t cpu_milli) {
  return absl::StrFormat("%.1f", static_cast<double>(cpu_milli) / 1000);
}

std::string Gibibytes(int64_t memory_mb) {
  return memory_mb < 10240
             ? absl::StrCat(memory_mb, "M")
             : absl::StrFormat("%.1fG", static_cast<double>(memory_mb) / 1024);
}

// `REASON: message`, of whatever there is.
std::string ReasonText(const std::string& reason, const std::string& message) {
  if (reason.empty()) return OrDash(message);
  return message.empty() ? reason : absl::StrCat(reason, ": ", message);
}

std::string Until(const Console& console,
                  const google::protobuf::Timestamp& time) {
  if (TimeOf(time) <= absl::UnixEpoch()) return "-";
  if (!console.out_is_terminal()) return console.Age(TimeOf(time));
  return absl::StrCat("in ",
                      ShortDuration(TimeOf(time) - console.options().now));
}

Cell Worded(absl::string_view name, Tone tone) {
  return {StateWord(name), tone};
}

}  // namespace

absl::Time TimeOf(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) +
         absl::Nanoseconds(time.nanos());
}

void SetTime(absl::Time time, google::protobuf::Timestamp& out) {
  const int64_t nanos = absl::ToUnixNanos(time);
  out.set_seconds(nanos / 1'000'000'000);
  out.set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
}

void SetDuration(absl::Duration duration, google::protobuf::Duration& out) {
  out.set_seconds(absl::ToInt64Seconds(duration));
  out.set_nanos(static_cast<int32_t>(
      absl::ToInt64Nanoseconds(duration % absl::Seconds(1))));
}

Json FromJsonValue(const spore::JsonValue& value) {
  if (value.is_bool()) return value.boolean();
  if (value.is_string()) return value.string();
  if (value.is_number()) {
    if (const auto integer = value.integer()) return *integer;
    return value.number();
  }
  if (value.is_array()) {
    Json array = Json::Array();
    for (const auto& element : value.array()) array.Add(FromJsonValue(element));
    return array;
  }
  if (value.is_object()) {
    Json object = Json::Object();
    for (const auto& [name, member] : value.object()) {
      object.Set(name, FromJsonValue(member));
    }
    return object;
  }
  return {};
}

std::string StateWord(absl::string_view enum_name) {
  for (const absl::string_view prefix :
       {"STATE_", "SCHEDULING_", "SEVERITY_", "KIND_", "BALANCING_"}) {
    if (absl::ConsumePrefix(&enum_name, prefix)) break;
  }
  return absl::AsciiStrToLower(enum_name);
}

Cell StateCell(Slot::State state) {
  Tone tone = Tone::kBusy;
  if (state == Slot::STATE_READY) tone = Tone::kGood;
  if (state == Slot::STATE_UNHEALTHY || state == Slot::STATE_BACKOFF ||
      state == Slot::STATE_REFUSED) {
    tone = Tone::kBad;
  }
  return Worded(Slot::State_Name(state), tone);
}

Cell StateCell(Endpoint::State state) {
  // Unset means ready.
  if (state == Endpoint::STATE_UNSPECIFIED) state = Endpoint::STATE_READY;
  Tone tone = Tone::kBusy;
  if (state == Endpoint::STATE_READY) tone = Tone::kGood;
  if (state == Endpoint::STATE_UNREADY) tone = Tone::kBad;
  return Worded(Endpoint::State_Name(state), tone);
}

Cell StateCell(Node::State state) {
  Tone tone = Tone::kBad;
  if (state == Node::STATE_READY) tone = Tone::kGood;
  if (state == Node::STATE_LEFT) tone = Tone::kFaint;
  return Worded(Node::State_Name(state), tone);
}

Cell StateCell(Instance::State state) {
  Tone tone = Tone::kBusy;
  if (state == Instance::STATE_READY) tone = Tone::kGood;
  if (state == Instance::STATE_STOPPED) tone = Tone::kFaint;
  if (state == Instance::STATE_UNHEALTHY || state == Instance::STATE_BACKOFF ||
      state == Instance::STATE_REFUSED) {
    tone = Tone::kBad;
  }
  return Worded(Instance::State_Name(state), tone);
}

std::map<std::string, int> ReadyCounts(const std::vector<Slot>& slots) {
  std::map<std::string, int> ready;
  for (const Slot& slot : slots) {
    if (slot.state() == Slot::STATE_READY && !slot.surplus()) {
      ++ready[slot.app_name()];
    }
  }
  return ready;
}

Table PlanTable(const Console& console,
                const std::vector<fabric::v1::Plan>& plans,
                const std::map<std::string, int>& ready) {
  Table table({{"APP"},
               {"VERSION"},
               {"READY", true},
               {"MIN", true},
               {"MAX", true},
               {"PORT", true},
               {"DIGEST"},
               {"CHANGED"},
               {"GENERATION", true, true},
               {"REVISION", true, true}});
  for (const fabric::v1::Plan& plan : plans) {
    const auto found = ready.find(plan.app_name());
    const int count = found == ready.end() ? 0 : found->second;
    const Tone tone = count >= plan.count() ? Tone::kGood
                      : count > 0           ? Tone::kBusy
                                            : Tone::kBad;
    table.AddRow({plan.app_name(), OrDash(plan.spore().version()),
                  Cell(absl::StrCat(count, "/", plan.count()), tone),
                  absl::StrCat(plan.min()), absl::StrCat(plan.max()),
                  plan.port() == 0 ? "any" : absl::StrCat(plan.port()),
                  Digest(console, plan.digest()),
                  console.Age(TimeOf(plan.update_time())),
                  absl::StrCat(plan.generation()),
                  absl::StrCat(plan.revision())});
  }
  return table;
}

Table BudgetTable(const Console& console,
                  const std::vector<fabric::v1::Budget>& budgets) {
  const auto limit = [](int64_t value) {
    return value == 0 ? "no limit" : absl::StrCat(value);
  };
  Table table({{"APP"},
               {"MAX INSTANCES", true},
               {"CPU MILLI", true},
               {"MEMORY MB", true},
               {"CHANGED"},
               {"REVISION", true, true}});
  for (const fabric::v1::Budget& budget : budgets) {
    table.AddRow({budget.app_name(), limit(budget.max_instances()),
                  limit(budget.cpu_milli()), limit(budget.memory_mb()),
                  console.Age(TimeOf(budget.update_time())),
                  absl::StrCat(budget.revision())});
  }
  return table;
}

Table EndpointTable(const Console& console,
                    const std::vector<Endpoint>& endpoints) {
  Table table({{"APP"},
               {"INSTANCE"},
               {"NODE"},
               {"STATE"},
               {"URL"},
               {"SINCE"},
               {"DIGEST", false, true},
               {"GENERATION", true, true}});
  for (const Endpoint& endpoint : endpoints) {
    table.AddRow({endpoint.app_name(), endpoint.instance_id(),
                  endpoint.node_id(), StateCell(endpoint.state()),
                  endpoint.url(), console.Age(TimeOf(endpoint.state_time())),
                  Digest(console, endpoint.digest()),
                  absl::StrCat(endpoint.generation())});
  }
  return table;
}

Table NodeTable(const Console& console, const std::vector<Node>& nodes,
                const std::vector<Slot>& slots) {
  std::map<std::string, int> instances;
  for (const Slot& slot : slots) {
    if (!slot.node_id().empty()) ++instances[slot.node_id()];
  }
  Table table({{"NODE"},
               {"STATE"},
               {"INST", true},
               {"CPU ALLOC/CAP", true},
               {"MEM ALLOC/CAP", true},
               {"ADDRESS"},
               {"SINCE"},
               {"VERSION", false, true},
               {"LABELS", false, true}});
  for (const Node& node : nodes) {
    Cell state = StateCell(node.state());
    if (node.scheduling() == Node::SCHEDULING_CORDONED ||
        node.scheduling() == Node::SCHEDULING_DRAINING) {
      absl::StrAppend(&state.text, ", ",
                      StateWord(Node::Scheduling_Name(node.scheduling())));
      if (state.tone == Tone::kGood) state.tone = Tone::kBusy;
    }
    const std::map<std::string, std::string> labels(node.labels().begin(),
                                                    node.labels().end());
    table.AddRow(
        {node.node_id(), state, absl::StrCat(instances[node.node_id()]),
         absl::StrCat(Cores(node.reserved().cpu_milli()), "/",
                      Cores(node.capacity().cpu_milli())),
         absl::StrCat(Gibibytes(node.reserved().memory_mb()), "/",
                      Gibibytes(node.capacity().memory_mb())),
         OrDash(node.address()), console.Age(TimeOf(node.state_time())),
         OrDash(node.agent_version()),
         labels.empty()
             ? "-"
             : absl::StrJoin(labels, ",", absl::PairFormatter("="))});
  }
  return table;
}

Table SlotTable(const Console& console, const std::vector<Slot>& slots) {
  Table table({{"SLOT"},
               {"STATE"},
               {"NODE"},
               {"INSTANCE"},
               {"SINCE"},
               {"UNTIL"},
               {"RESTARTS", true},
               {"REASON"},
               {"DIGEST", false, true}});
  for (const Slot& slot : slots) {
    Cell state = StateCell(slot.state());
    if (slot.surplus()) state.text += ", leaving";
    table.AddRow({absl::StrCat(slot.app_name(), "/", slot.index(), "@",
                               slot.generation()),
                  state, OrDash(slot.node_id()), OrDash(slot.instance_id()),
                  console.Age(TimeOf(slot.since_time())),
                  Until(console, slot.until_time()),
                  absl::StrCat(slot.restarts()),
                  ReasonText(slot.reason(), slot.message()),
                  Digest(console, slot.digest())});
  }
  return table;
}

Table InstanceTable(
    const Console& console,
    const std::vector<std::pair<std::string, Instance>>& instances) {
  Table table({{"INSTANCE"},
               {"APP"},
               {"NODE"},
               {"STATE"},
               {"PID", true},
               {"RESTARTS", true},
               {"SINCE"},
               {"REASON"},
               {"URL", false, true},
               {"ISOLATION", false, true}});
  for (const auto& [node, instance] : instances) {
    std::vector<std::string> layers;
    for (const auto& layer : instance.isolation_layers()) {
      layers.push_back(absl::StrCat(
          layer.name(), ":",
          StateWord(agent::v1::IsolationLayer::State_Name(layer.state()))));
    }
    table.AddRow({instance.instance_id(), instance.app_name(), node,
                  StateCell(instance.state()),
                  instance.pid() == 0 ? "-" : absl::StrCat(instance.pid()),
                  absl::StrCat(instance.restarts()),
                  console.Age(TimeOf(instance.since_time())),
                  ReasonText(instance.reason(), instance.message()),
                  OrDash(instance.url()),
                  layers.empty() ? "-" : absl::StrJoin(layers, ",")});
  }
  return table;
}

std::string EventLine(const Console& console, const fabric::v1::Event& event) {
  Tone tone = Tone::kFaint;
  if (event.severity() == fabric::v1::Event::SEVERITY_WARNING)
    tone = Tone::kBusy;
  if (event.severity() == fabric::v1::Event::SEVERITY_ERROR) tone = Tone::kBad;
  std::vector<std::string> about;
  for (const std::string& part :
       {event.app_name(), event.node_id(), event.instance_id()}) {
    if (!part.empty()) about.push_back(part);
  }
  const absl::Time time = TimeOf(event.time());
  const std::string when =
      console.out_is_terminal()
          ? absl::FormatTime("%H:%M:%E3S", time, absl::LocalTimeZone())
          : absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", time, absl::UTCTimeZone());
  std::string severity;
  if (event.severity() == fabric::v1::Event::SEVERITY_WARNING) severity = "! ";
  if (event.severity() == fabric::v1::Event::SEVERITY_ERROR) severity = "!! ";
  return absl::StrCat(
      when, "  ", console.ToneOut(absl::StrFormat("%-20s", event.type()), tone),
      "  ", severity,
      about.empty() ? "" : absl::StrCat(absl::StrJoin(about, " "), ": "),
      event.message());
}

void EmitSpores(Console& console,
                const std::vector<spore::v1::SporeInfo>& spores) {
  Table table({{"NAME"},
               {"VERSION"},
               {"SIZE", true},
               {"DIGEST"},
               {"SIGNED BY"},
               {"SINCE"},
               {"STATEMENT", false, true}});
  Json list = Json::Array();
  std::vector<std::string> digests;
  for (const spore::v1::SporeInfo& info : spores) {
    table.AddRow({info.name(), info.version(), ShortBytes(info.size_bytes()),
                  // Whole, since other commands take it.
                  info.digest(),
                  Cell(ShortDigest(info.key_id()),
                       info.trusted() ? Tone::kGood : Tone::kPlain),
                  console.Age(TimeOf(info.put_time())),
                  info.statement_digest()});
    list.Add(FromProto(info));
    digests.push_back(info.digest());
  }
  Json json = Json::Object();
  json.Set("schema", "meshctl.spores/v1").Set("spores", std::move(list));
  console.Emit(table, json, "spores", digests);
}

}  // namespace mycelium::meshctl
