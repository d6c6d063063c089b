// How resources of a mesh look to people.

#ifndef TOOLS_MESHCTL_VIEWS_H_
#define TOOLS_MESHCTL_VIEWS_H_

#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "lib/spore/json.h"
#include "mycelium/agent/v1/agent.pb.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "mycelium/spore/v1/spore.pb.h"
#include "tools/meshctl/console.h"
#include "tools/meshctl/json.h"
#include "tools/meshctl/table.h"

namespace mycelium::meshctl {

absl::Time TimeOf(const google::protobuf::Timestamp& time);
void SetTime(absl::Time time, google::protobuf::Timestamp& out);
void SetDuration(absl::Duration duration, google::protobuf::Duration& out);

// A value of the spore library as ours.
Json FromJsonValue(const spore::JsonValue& value);

// `STATE_READY` as `ready`.
std::string StateWord(absl::string_view enum_name);
Cell StateCell(fabric::v1::Slot::State state);
Cell StateCell(fabric::v1::Endpoint::State state);
Cell StateCell(fabric::v1::Node::State state);
Cell StateCell(agent::v1::Instance::State state);

// How many instances of an app are ready in its slots.
std::map<std::string, int> ReadyCounts(
    const std::vector<fabric::v1::Slot>& slots);

Table PlanTable(const Console& console,
                const std::vector<fabric::v1::Plan>& plans,
                const std::map<std::string, int>& ready);
Table BudgetTable(const Console& console,
                  const std::vector<fabric::v1::Budget>& budgets);
Table EndpointTable(const Console& console,
                    const std::vector<fabric::v1::Endpoint>& endpoints);
Table NodeTable(const Console& console,
                const std::vector<fabric::v1::Node>& nodes,
                const std::vector<fabric::v1::Slot>& slots);
Table SlotTable(const Console& console,
                const std::vector<fabric::v1::Slot>& slots);
Table InstanceTable(
    const Console& console,
    const std::vector<std::pair<std::string, agent::v1::Instance>>& instances);

// One event as a line.
std::string EventLine(const Console& console, const fabric::v1::Event& event);

void EmitSpores(Console& console,
                const std::vector<spore::v1::SporeInfo>& spores);

// An object with a schema, the revision that `items` are true at, and them.
template <typename T>
Json ListJson(absl::string_view schema, absl::string_view name,
              const std::vector<T>& items, int64_t revision,
              absl::string_view epoch) {
  Json list = Json::Array();
  for (const T& item : items) list.Add(FromProto(item));
  Json json = Json::Object();
  json.Set("schema", schema)
      .Set("revision", revision)
      .Set("epoch", epoch)
      .Set(name, std::move(list));
  return json;
}

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_VIEWS_H_
