// Commands that follow what happens.

#include <unistd.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "tools/meshctl/commands.h"
#include "tools/meshctl/failure.h"
#include "tools/meshctl/instances.h"
#include "tools/meshctl/log_follower.h"
#include "tools/meshctl/mesh_client.h"
#include "tools/meshctl/parser.h"
#include "tools/meshctl/session.h"
#include "tools/meshctl/views.h"

namespace mycelium::meshctl {
namespace {

using agent::v1::LogLine;
using fabric::v1::Event;

// Until a signal ends the process.
[[noreturn]] void FollowForEver() {
  while (true) pause();
}

Json LogJson(const std::string& node, const LogLine& line) {
  Json json = Json::Object();
  json.Set("time", FromProto(line.time()))
      .Set("nodeID", node)
      .Set("instanceId", line.instance_id())
      .Set("appName", line.app_name())
      .Set("stream", LogLine::Stream_Name(line.stream()))
      .Set("text", line.text());
  return json;
}

std::string KeyOf(const fabric::v1::Plan& plan) { return plan.app_name(); }
std::string KeyOf(const fabric::v1::Node& node) { return node.node_id(); }
std::string KeyOf(const Event& event) { return event.event_id(); }
std::string KeyOf(const fabric::v1::Endpoint& endpoint) {
  return absl::StrCat(endpoint.app_name(), "/", endpoint.instance_id());
}
std::string KeyOf(const fabric::v1::Slot& slot) {
  return absl::StrCat(slot.app_name(), "/", slot.index(), "/",
                      slot.generation());
}

// Prints the updates of one watch: as NDJSON, or on a terminal as a table that
// is drawn anew.
template <typename T>
class UpdatePrinter {
 public:
  using Render = std::function<std::string(const std::vector<T>&)>;

  UpdatePrinter(Console& console, std::string name, bool bookmarks,
                Render render)
      : console_(console),
        name_(std::move(name)),
        bookmarks_(bookmarks),
        render_(std::move(render)) {}

  void Take(const fabric_client::WatchUpdate<T>& update) {
    if (console_.out_is_terminal() && !console_.structured()) {
      Redraw(update);
    } else {
      PrintLines(update);
    }
  }

 private:
  void PrintLines(const fabric_client::WatchUpdate<T>& update) {
    std::string lines;
    if (update.reset) {
      Json snapshot = Json::Object();
      snapshot.Set("type", "snapshot")
          .Set("revision", update.revision)
          .Set("epoch", update.epoch)
          .Set("count", static_cast<int64_t>(update.puts.size()));
      absl::StrAppend(&lines, snapshot.Compact(), "\n");
    }
    for (const T& item : update.puts) {
      Json put = Json::Object();
      put.Set("type", "put")
          .Set("revision", update.revision)
          .Set(name_, FromProto(item));
      absl::StrAppend(&lines, put.Compact(), "\n");
    }
    for (const std::string& key : update.deletes) {
      Json removed = Json::Object();
      removed.Set("type", "delete")
          .Set("revision", update.revision)
          .Set("key", key);
      absl::StrAppend(&lines, removed.Compact(), "\n");
    }
    if (lines.empty() && bookmarks_) {
      Json bookmark = Json::Object();
      bookmark.Set("type", "bookmark").Set("revision", update.revision);
      absl::StrAppend(&lines, bookmark.Compact(), "\n");
    }
    if (!lines.empty()) console_.Raw(lines);
  }

  void Redraw(const fabric_client::WatchUpdate<T>& update) {
    if (update.reset) items_.clear();
    for (const T& item : update.puts) items_[KeyOf(item)] = item;
    for (const std::string& key : update.deletes) items_.erase(key);
    if (!update.reset && update.puts.empty() && update.deletes.empty()) return;
    std::vector<T> items;
    for (const auto& [key, item] : items_) items.push_back(item);
    console_.Raw(absl::StrCat("\x1b[H\x1b[2J", render_(items), "\nrevision ",
                              update.revision, ", Ctrl-C to stop\n"));
  }

  Console& console_;
  const std::string name_;
  const bool bookmarks_;
  const Render render_;
  std::map<std::string, T> items_;
};

template <typename T>
fabric_client::WatchCallback<T> Printing(
    Session& session, std::string name,
    typename UpdatePrinter<T>::Render render) {
  auto printer = std::make_shared<UpdatePrinter<T>>(
      session.console, std::move(name), session.call.Has("bookmarks"),
      std::move(render));
  return [printer](fabric_client::WatchUpdate<T> update) {
    printer->Take(update);
  };
}

absl::StatusOr<MeshClient::Watch> StartWatch(Session& session,
                                             MeshClient& mesh) {
  const std::string kind = session.Arg(0);
  const std::string app = session.Arg(1);
  Console& console = session.console;
  if (kind == "plans") {
    return mesh.WatchPlans(
        app, Printing<fabric::v1::Plan>(
                 session, "plan", [&console, &mesh](const auto& plans) {
                   const auto slots = mesh.ListSlots("");
                   return console.Render(
                       PlanTable(console, plans,
                                 slots.ok() ? ReadyCounts(slots->items)
                                            : std::map<std::string, int>()));
                 }));
  }
  if (kind == "endpoints") {
    return mesh.WatchEndpoints(
        app, Printing<fabric::v1::Endpoint>(
                 session, "endpoint", [&console](const auto& endpoints) {
                   return console.Render(EndpointTable(console, endpoints));
                 }));
  }
  if (kind == "nodes") {
    if (!app.empty()) return UsageError("watch nodes takes no app");
    return mesh.WatchNodes(Printing<fabric::v1::Node>(
        session, "node", [&console](const auto& nodes) {
          return console.Render(NodeTable(console, nodes, {}));
        }));
  }
  if (kind == "slots") {
    return mesh.WatchSlots(
        app, Printing<fabric::v1::Slot>(
                 session, "slot", [&console](const auto& slots) {
                   return console.Render(SlotTable(console, slots));
                 }));
  }
  return mesh.WatchEvents(
      app, Printing<Event>(session, "event", [&console](auto events) {
        std::sort(events.begin(), events.end(),
                  [](const Event& a, const Event& b) {
                    return a.revision() < b.revision();
                  });
        std::string text;
        const size_t first = events.size() > 30 ? events.size() - 30 : 0;
        for (size_t i = first; i < events.size(); ++i) {
          absl::StrAppend(&text, EventLine(console, events[i]), "\n");
        }
        return text;
      }));
}

// Prints events as they come, each once.
class EventPrinter {
 public:
  EventPrinter(Session& session, size_t tail, absl::Time since)
      : console_(session.console),
        node_(session.call.Get("node")),
        tail_(tail),
        since_(since) {}

  void Take(fabric_client::WatchUpdate<Event> update) {
    std::vector<Event> events = std::move(update.puts);
    events.erase(
        std::remove_if(events.begin(), events.end(),
                       [this](const Event& event) {
                         return event.revision() <= last_ ||
                                TimeOf(event.time()) < since_ ||
                                (!node_.empty() && event.node_id() != node_);
                       }),
        events.end());
    std::sort(events.begin(), events.end(), [](const Event& a, const Event& b) {
      return a.revision() < b.revision();
    });
    const size_t skip =
        last_ == 0 && events.size() > tail_ ? events.size() - tail_ : 0;
    for (size_t i = skip; i < events.size(); ++i) {
      console_.EmitLine(EventLine(console_, events[i]), FromProto(events[i]));
    }
    last_ = std::max(last_, update.revision);
  }

 private:
  Console& console_;
  const std::string node_;
  const size_t tail_;
  const absl::Time since_;
  int64_t last_ = 0;
};

}  // namespace

absl::Status Logs(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  const Invocation& call = session.call;
  LogQuery query;
  query.app = session.Arg(0);
  query.follow = call.Has("follow");
  query.previous = call.Has("previous");
  query.tail_lines = call.GetInteger("tail", 100);
  if (call.Has("since")) {
    query.since =
        ParseTimeFlag(call.Get("since"), session.Now()).value_or(query.since);
    if (!call.Has("tail")) query.tail_lines = -1;
  }
  if (call.Has("stderr") && call.Has("stdout")) {
    return UsageError(
        "--stdout and --stderr exclude each other; both are "
        "shown without them");
  }
  if (call.Has("stderr")) query.stream = LogLine::STREAM_STDERR;
  if (call.Has("stdout")) query.stream = LogLine::STREAM_STDOUT;
  if (call.Has("instance")) {
    MYC_ASSIGN_OR_RETURN(
        const NodeInstance found,
        FindInstance(*mesh, session.console, call.Get("instance")));
    query.instance = found.instance.instance_id();
  }

  Console& console = session.console;
  // One document for those who asked for one; a stream has no end to wait for.
  const bool one_document =
      !query.follow && (console.options().format == Format::kJson ||
                        console.options().format == Format::kYaml);
  Json lines = Json::Array();
  const absl::Status status = ReadLogs(
      *mesh, console, query, nullptr,
      [&](const std::string& node, const LogLine& line) {
        if (one_document) {
          lines.Add(LogJson(node, line));
        } else {
          console.EmitLine(LogText(console, node, line, call.Has("times")),
                           LogJson(node, line));
        }
      });
  MYC_RETURN_IF_ERROR(status);
  if (one_document) {
    Json json = Json::Object();
    json.Set("schema", "meshctl.logs/v1").Set("lines", std::move(lines));
    console.Emit("", json, "");
  }
  return absl::OkStatus();
}

absl::Status Events(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  const Invocation& call = session.call;
  absl::Time since = absl::InfinitePast();
  if (call.Has("since")) {
    since = ParseTimeFlag(call.Get("since"), session.Now()).value_or(since);
  }
  const int64_t tail = std::max<int64_t>(
      0, call.GetInteger("tail", call.Has("since") ? 10000 : 50));
  if (call.Has("follow")) {
    // A fabric that is not there is an error now, and waited for later.
    MYC_RETURN_IF_ERROR(mesh->FabricStatus().status());
    const auto printer = std::make_shared<EventPrinter>(
        session, static_cast<size_t>(tail), since);
    MYC_ASSIGN_OR_RETURN(
        const MeshClient::Watch watch,
        mesh->WatchEvents(call.Get("app"),
                          [printer](fabric_client::WatchUpdate<Event> update) {
                            printer->Take(std::move(update));
                          }));
    FollowForEver();
  }

  fabric::v1::ListEventsRequest request;
  request.set_app_name(call.Get("app"));
  request.set_node_id(call.Get("node"));
  if (since > absl::InfinitePast()) {
    SetTime(since, *request.mutable_since_time());
  }
  Listed<Event> events;
  if (tail > 0) {
    MYC_ASSIGN_OR_RETURN(events, mesh->ListEvents(request, tail));
  }
  std::reverse(events.items.begin(), events.items.end());
  std::string text;
  std::vector<std::string> ids;
  for (const Event& event : events.items) {
    absl::StrAppend(&text, EventLine(session.console, event), "\n");
    ids.push_back(event.event_id());
  }
  if (session.console.structured()) {
    session.console.Emit(Table({}),
                         ListJson("meshctl.events/v1", "events", events.items,
                                  events.revision, events.epoch),
                         "events", ids);
  } else {
    session.console.Print(text);
  }
  return absl::OkStatus();
}

absl::Status Watch(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  // A fabric that is not there is an error now, and waited for later.
  MYC_RETURN_IF_ERROR(mesh->FabricStatus().status());
  MYC_ASSIGN_OR_RETURN(const MeshClient::Watch watch,
                       StartWatch(session, *mesh));
  FollowForEver();
}

}  // namespace mycelium::meshctl
