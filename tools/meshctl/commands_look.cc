// Commands that show what is, and those that act on nodes and instances.

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "tools/meshctl/commands.h"
#include "tools/meshctl/failure.h"
#include "tools/meshctl/instances.h"
#include "tools/meshctl/mesh_client.h"
#include "tools/meshctl/session.h"
#include "tools/meshctl/views.h"

namespace mycelium::meshctl {
namespace {

using fabric::v1::Node;
using fabric::v1::Plan;
using fabric::v1::Slot;

constexpr absl::Duration kStopTimeout = absl::Minutes(5);

// Everything that `status` shows.
struct Picture {
  fabric::v1::StatusResponse fabric;
  std::vector<Plan> plans;
  std::vector<Slot> slots;
  std::vector<Node> nodes;
  std::vector<fabric::v1::EdgeInfo> edges;
  std::map<std::string, int> ready;
};

// What is not as it should be, and the command that tells more.
struct Attention {
  std::string what;
  std::string command;
};

absl::StatusOr<Picture> TakePicture(MeshClient& mesh, const std::string& app) {
  Picture picture;
  MYC_ASSIGN_OR_RETURN(picture.fabric, mesh.FabricStatus());
  if (app.empty()) {
    MYC_ASSIGN_OR_RETURN(Listed<Plan> plans, mesh.ListPlans());
    picture.plans = std::move(plans.items);
  } else {
    MYC_ASSIGN_OR_RETURN(Plan plan, mesh.GetPlan(app));
    picture.plans.push_back(std::move(plan));
  }
  MYC_ASSIGN_OR_RETURN(Listed<Slot> slots, mesh.ListSlots(app));
  picture.slots = std::move(slots.items);
  MYC_ASSIGN_OR_RETURN(Listed<Node> nodes, mesh.ListNodes());
  picture.nodes = std::move(nodes.items);
  MYC_ASSIGN_OR_RETURN(Listed<fabric::v1::EdgeInfo> edges, mesh.ListEdges());
  picture.edges = std::move(edges.items);
  picture.ready = ReadyCounts(picture.slots);
  return picture;
}

std::vector<Attention> Judge(const Picture& picture) {
  std::vector<Attention> attention;
  for (const Plan& plan : picture.plans) {
    const auto found = picture.ready.find(plan.app_name());
    const int ready = found == picture.ready.end() ? 0 : found->second;
    if (ready >= plan.count()) continue;
    std::string why;
    for (const Slot& slot : picture.slots) {
      if (slot.app_name() != plan.app_name() || slot.surplus() ||
          slot.state() == Slot::STATE_READY) {
        continue;
      }
      why = absl::StrCat(": ", StateWord(Slot::State_Name(slot.state())),
                         slot.reason().empty() ? "" : " ", slot.reason());
    }
    attention.push_back({absl::StrCat(plan.app_name(), " has ", ready, " of ",
                                      plan.count(), " instances ready", why),
                         absl::StrCat("meshctl why ", plan.app_name())});
  }
  for (const Node& node : picture.nodes) {
    if (node.state() == Node::STATE_READY || node.state() == Node::STATE_LEFT) {
      continue;
    }
    attention.push_back(
        {absl::StrCat(node.node_id(), " is ",
                      StateWord(Node::State_Name(node.state()))),
         "meshctl nodes"});
  }
  if (picture.edges.empty()) {
    attention.push_back(
        {"no edge reports: nothing is routed", "meshctl help run"});
  }
  return attention;
}

int ReadyNodes(const std::vector<Node>& nodes) {
  int ready = 0;
  for (const Node& node : nodes) ready += node.state() == Node::STATE_READY;
  return ready;
}

std::string StatusText(Session& session, const std::string& name,
                       const Picture& picture,
                       const std::vector<Attention>& attention, bool one_app) {
  Console& console = session.console;
  const std::string health =
      attention.empty()
          ? console.ToneOut(console.Glyph("●", "*") + " healthy", Tone::kGood)
          : console.ToneOut(
                absl::StrCat(console.Glyph("◐", "~"), " ", attention.size(),
                             attention.size() == 1 ? " thing needs attention"
                                                   : " things need attention"),
                Tone::kBusy);
  std::string text = absl::StrCat(
      name.empty() ? "mesh" : name, "  ", health, "   rev ",
      picture.fabric.revision(), "   nodes ", ReadyNodes(picture.nodes), "/",
      picture.nodes.size(), " ready   edges ", picture.edges.size(), "\n\n");
  absl::StrAppend(
      &text, console.Render(PlanTable(console, picture.plans, picture.ready)));
  if (one_app) {
    absl::StrAppend(&text, "\n",
                    console.Render(SlotTable(console, picture.slots)));
  } else {
    absl::StrAppend(
        &text, "\n",
        console.Render(NodeTable(console, picture.nodes, picture.slots)));
    Table edges({{"EDGE"}, {"URL"}, {"APPLIED", true}, {"ADDRESS"}});
    for (const auto& edge : picture.edges) {
      edges.AddRow({edge.edge_id(), edge.url(),
                    absl::StrCat(edge.applied_revision()), edge.address()});
    }
    if (!edges.empty()) absl::StrAppend(&text, "\n", console.Render(edges));
  }
  if (!attention.empty()) text += "\n";
  for (const Attention& item : attention) {
    absl::StrAppend(
        &text, &item == attention.data() ? "Attention  " : "           ",
        item.what, "  ", console.Glyph("→", "->"), " ", item.command, "\n");
  }
  return text;
}

Json StatusJson(const std::string& name, const Picture& picture,
                const std::vector<Attention>& attention) {
  Json json = Json::Object();
  json.Set("schema", "meshctl.status/v1")
      .Set("context", name)
      .Set("healthy", attention.empty())
      .Set("fabric", FromProto(picture.fabric));
  Json apps = Json::Array();
  for (const Plan& plan : picture.plans) {
    const auto found = picture.ready.find(plan.app_name());
    Json app = Json::Object();
    app.Set("appName", plan.app_name())
        .Set("wanted", plan.count())
        .Set("ready", found == picture.ready.end() ? 0 : found->second)
        .Set("plan", FromProto(plan));
    Json slots = Json::Array();
    for (const Slot& slot : picture.slots) {
      if (slot.app_name() == plan.app_name()) slots.Add(FromProto(slot));
    }
    app.Set("slots", std::move(slots));
    apps.Add(std::move(app));
  }
  json.Set("apps", std::move(apps));
  Json nodes = Json::Array();
  for (const Node& node : picture.nodes) nodes.Add(FromProto(node));
  Json edges = Json::Array();
  for (const auto& edge : picture.edges) edges.Add(FromProto(edge));
  Json problems = Json::Array();
  for (const Attention& item : attention) {
    Json problem = Json::Object();
    problem.Set("message", item.what).Set("fix", item.command);
    problems.Add(std::move(problem));
  }
  json.Set("nodes", std::move(nodes))
      .Set("edges", std::move(edges))
      .Set("attention", std::move(problems));
  return json;
}

absl::Status EmitNode(Session& session, const Node& node,
                      absl::string_view what) {
  session.console.Emit(absl::StrCat(session.console.Good(), " ", node.node_id(),
                                    " ", what, "\n"),
                       FromProto(node), node.node_id());
  return absl::OkStatus();
}

// Waits until no slot is claimed by `node`.
absl::Status WaitEmpty(Session& session, MeshClient& mesh,
                       const std::string& node) {
  const absl::Duration timeout = session.TimeoutOr(kStopTimeout);
  Clock& clock = *session.environment.clock;
  const absl::Duration start = clock.Monotonic();
  while (true) {
    MYC_ASSIGN_OR_RETURN(const Listed<Slot> slots, mesh.ListSlots(""));
    std::vector<std::string> left;
    for (const Slot& slot : slots.items) {
      if (slot.node_id() == node) left.push_back(slot.instance_id());
    }
    if (left.empty()) return absl::OkStatus();
    if (clock.Monotonic() - start > timeout) {
      return ToStatus(
          {.exit = ExitCode::kTimeout,
           .message = absl::StrCat("the time is up: ", node, " still has ",
                                   absl::StrJoin(left, ", ")),
           .fixes = {"look again:  meshctl nodes"}});
    }
    session.console.Transient(
        absl::StrCat(node, ": ", left.size(), " instances left to move"));
    absl::SleepFor(absl::Milliseconds(200));
  }
}

}  // namespace

absl::Status Status(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  const std::string app = session.Arg(0);
  MYC_ASSIGN_OR_RETURN(const Picture picture, TakePicture(*mesh, app));
  MYC_ASSIGN_OR_RETURN(const Context* const context, session.context());
  const std::vector<Attention> attention = Judge(picture);
  std::vector<std::string> names;
  for (const Plan& plan : picture.plans) names.push_back(plan.app_name());
  session.console.Emit(
      StatusText(session, context->name(), picture, attention, !app.empty()),
      StatusJson(context->name(), picture, attention),
      absl::StrJoin(names, "\n"));
  return !attention.empty() && session.call.Has("exit-code")
             ? QuietExit(ExitCode::kUnhealthy)
             : absl::OkStatus();
}

absl::Status Why(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  MYC_ASSIGN_OR_RETURN(const Plan plan, mesh->GetPlan(session.Arg(0)));
  MYC_ASSIGN_OR_RETURN(const Listed<Slot> slots,
                       mesh->ListSlots(plan.app_name()));
  const std::map<std::string, int> ready = ReadyCounts(slots.items);
  const auto found = ready.find(plan.app_name());
  const int count = found == ready.end() ? 0 : found->second;
  std::string text = absl::StrCat(
      plan.app_name(), " wants ", plan.count(), " (min ", plan.min(), ", max ",
      plan.max(), ") and has ", count, " ready, at generation ",
      plan.generation(), "\n\n",
      session.console.Render(SlotTable(session.console, slots.items)));
  if (slots.items.empty()) text += "no slots: no instance is wanted\n";
  Json json = Json::Object();
  json.Set("schema", "meshctl.why/v1")
      .Set("appName", plan.app_name())
      .Set("wanted", plan.count())
      .Set("ready", count)
      .Set("plan", FromProto(plan));
  Json list = Json::Array();
  std::vector<std::string> names;
  for (const Slot& slot : slots.items) {
    list.Add(FromProto(slot));
    names.push_back(slot.instance_id());
  }
  json.Set("slots", std::move(list));
  session.console.Emit(text, json, absl::StrJoin(names, "\n"));
  return absl::OkStatus();
}

absl::Status EndpointList(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  MYC_ASSIGN_OR_RETURN(const Listed<fabric::v1::Endpoint> endpoints,
                       mesh->ListEndpoints(session.Arg(0)));
  std::vector<std::string> urls;
  for (const auto& endpoint : endpoints.items) urls.push_back(endpoint.url());
  session.console.Emit(
      EndpointTable(session.console, endpoints.items),
      ListJson("meshctl.endpoints/v1", "endpoints", endpoints.items,
               endpoints.revision, endpoints.epoch),
      "endpoints", urls);
  return absl::OkStatus();
}

absl::Status NodeList(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  MYC_ASSIGN_OR_RETURN(const Listed<Node> nodes, mesh->ListNodes());
  MYC_ASSIGN_OR_RETURN(const Listed<Slot> slots, mesh->ListSlots(""));
  std::vector<std::string> names;
  for (const Node& node : nodes.items) names.push_back(node.node_id());
  session.console.Emit(NodeTable(session.console, nodes.items, slots.items),
                       ListJson("meshctl.nodes/v1", "nodes", nodes.items,
                                nodes.revision, nodes.epoch),
                       "nodes", names);
  return absl::OkStatus();
}

absl::Status NodeDrain(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  MYC_ASSIGN_OR_RETURN(const Node node, mesh->DrainNode(session.Arg(0)));
  if (session.call.Has("wait")) {
    MYC_RETURN_IF_ERROR(WaitEmpty(session, *mesh, node.node_id()));
    return EmitNode(session, node, "is drained");
  }
  return EmitNode(session, node, "drains");
}

absl::Status NodeUndrain(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  MYC_ASSIGN_OR_RETURN(const Node node, mesh->UndrainNode(session.Arg(0)));
  return EmitNode(session, node, "takes instances again");
}

absl::Status NodeCordon(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  MYC_ASSIGN_OR_RETURN(const Node node, mesh->CordonNode(session.Arg(0)));
  return EmitNode(session, node, "takes no new instances");
}

absl::Status NodeRemove(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  const std::string node = session.Arg(0);
  MYC_RETURN_IF_ERROR(mesh->DeleteNode(node));
  Json json = Json::Object();
  json.Set("nodeID", node);
  session.console.Emit(
      absl::StrCat(session.console.Good(), " ", node, " is forgotten\n"), json,
      node);
  return absl::OkStatus();
}

absl::Status InstanceList(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  MYC_ASSIGN_OR_RETURN(const std::vector<NodeInstance> instances,
                       AllInstances(*mesh, session.console, session.Arg(0)));
  std::vector<std::pair<std::string, agent::v1::Instance>> rows;
  Json list = Json::Array();
  std::vector<std::string> names;
  for (const NodeInstance& found : instances) {
    rows.emplace_back(found.node_id, found.instance);
    Json item = FromProto(found.instance);
    item.Set("nodeID", found.node_id);
    list.Add(std::move(item));
    names.push_back(found.instance.instance_id());
  }
  Json json = Json::Object();
  json.Set("schema", "meshctl.instances/v1").Set("instances", std::move(list));
  session.console.Emit(InstanceTable(session.console, rows), json, "instances",
                       names);
  return absl::OkStatus();
}

absl::Status StopInstance(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  MYC_ASSIGN_OR_RETURN(const NodeInstance found,
                       FindInstance(*mesh, session.console, session.Arg(0)));
  agent::v1::StopInstanceRequest request;
  request.set_instance_id(found.instance.instance_id());
  session.console.Transient(
      absl::StrCat("stopping ", request.instance_id(), " on ", found.node_id));
  MYC_ASSIGN_OR_RETURN(const agent::v1::Instance instance,
                       mesh->StopInstance(found.address, request,
                                          session.TimeoutOr(kStopTimeout)));
  session.console.Emit(
      absl::StrCat(session.console.Good(), " ", instance.instance_id(), " on ",
                   found.node_id, " is stopped\n"),
      FromProto(instance), instance.instance_id());
  return absl::OkStatus();
}

absl::Status RestartInstance(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"fabric"}));
  MYC_ASSIGN_OR_RETURN(const NodeInstance found,
                       FindInstance(*mesh, session.console, session.Arg(0)));
  agent::v1::RestartInstanceRequest request;
  request.set_instance_id(found.instance.instance_id());
  session.console.Transient(absl::StrCat("restarting ", request.instance_id(),
                                         " on ", found.node_id));
  MYC_ASSIGN_OR_RETURN(const agent::v1::Instance instance,
                       mesh->RestartInstance(found.address, request,
                                             session.TimeoutOr(kStopTimeout)));
  session.console.Emit(
      absl::StrCat(session.console.Good(), " ", instance.instance_id(), " on ",
                   found.node_id, " runs again, pid ", instance.pid(), "\n"),
      FromProto(instance), instance.instance_id());
  return absl::OkStatus();
}

}  // namespace mycelium::meshctl
