// Commands about meshctl itself.

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/base/version.h"
#include "tools/meshctl/commands.h"
#include "tools/meshctl/failure.h"
#include "tools/meshctl/help.h"
#include "tools/meshctl/mesh_client.h"
#include "tools/meshctl/parser.h"
#include "tools/meshctl/session.h"

namespace mycelium::meshctl {
namespace {

Json SettingsJson(const std::vector<Setting>& settings) {
  Json json = Json::Object();
  for (const Setting& setting : settings) {
    Json value = Json::Object();
    value.Set("value", setting.value).Set("source", setting.source);
    json.Set(setting.name, std::move(value));
  }
  return json;
}

// Words that only the mesh knows; nothing when it does not answer at once.
std::vector<std::string> AskMesh(Session& session, absl::string_view what) {
  std::vector<std::string> words;
  const auto mesh = session.mesh({what == ":digests" ? "repo" : "fabric"});
  if (!mesh.ok()) return words;
  if (what == ":apps") {
    if (const auto plans = (*mesh)->ListPlans(); plans.ok()) {
      for (const auto& plan : plans->items) words.push_back(plan.app_name());
    }
  } else if (what == ":nodes") {
    if (const auto nodes = (*mesh)->ListNodes(); nodes.ok()) {
      for (const auto& node : nodes->items) words.push_back(node.node_id());
    }
  } else if (what == ":digests") {
    if (const auto spores = (*mesh)->ListSpores(""); spores.ok()) {
      for (const auto& spore : *spores) words.push_back(spore.digest());
    }
  }
  return words;
}

}  // namespace

absl::Status Help(Session& session) {
  if (session.call.Has("markdown")) {
    session.console.Raw(MarkdownReference());
    return absl::OkStatus();
  }
  const std::string what = absl::StrJoin(session.call.args, " ");
  if (what.empty()) {
    session.console.Raw(OverviewText());
    return absl::OkStatus();
  }
  // `trust` is both: a command, and what one must know to use it.
  const Command* command = FindCommand(what);
  const std::string topic = TopicHelp(what);
  if (command != nullptr || !topic.empty()) {
    session.console.Raw(
        absl::StrCat(topic, topic.empty() || command == nullptr ? "" : "\n",
                     command == nullptr ? "" : CommandHelp(*command)));
    return absl::OkStatus();
  }
  std::vector<std::string> known;
  for (const Command& command : Commands()) {
    if (!command.hidden) known.push_back(command.path);
  }
  for (const Topic& topic : Topics()) known.push_back(topic.name);
  std::string message =
      absl::StrCat("there is no command or topic ", Quoted(what));
  if (const auto meant = DidYouMean(what, known)) {
    absl::StrAppend(&message, " — did you mean \"", *meant, "\"?");
  }
  return ToStatus({.exit = ExitCode::kNotFound,
                   .message = message,
                   .fixes = {"see them all:  meshctl help"}});
}

absl::Status Version(Session& session) {
  if (session.call.Has("short")) {
    session.console.Raw(absl::StrCat(kVersion, "\n"));
    return absl::OkStatus();
  }
  std::string text = absl::StrCat("meshctl ", kVersion, "\n");
  Json json = Json::Object();
  json.Set("version", kVersion);
  if (const auto mesh = session.mesh({"fabric"}); mesh.ok()) {
    if (const auto fabric = (*mesh)->FabricStatus(); fabric.ok()) {
      absl::StrAppend(&text, "fabric ", fabric->version(), "\n");
      json.Set("fabric_version", fabric->version());
    }
  }
  session.console.Emit(text, json, kVersion);
  return absl::OkStatus();
}

absl::Status Completion(Session& session) {
  session.console.Raw(CompletionScript(session.Arg(0)));
  return absl::OkStatus();
}

absl::Status CompleteWords(Session& session) {
  std::vector<std::string> words = session.call.passthrough;
  if (words.empty()) words.emplace_back();
  const std::string current = words.back();
  for (const std::string& candidate : Complete(words)) {
    if (candidate == ":apps" || candidate == ":nodes" ||
        candidate == ":digests") {
      for (const std::string& word : AskMesh(session, candidate)) {
        if (word.rfind(current, 0) == 0) session.console.Raw(word + "\n");
      }
    } else {
      session.console.Raw(candidate + "\n");
    }
  }
  return absl::OkStatus();
}

absl::Status ContextList(Session& session) {
  MYC_ASSIGN_OR_RETURN(const Context::Known known,
                       Context::List(session.environment.variables));
  MYC_ASSIGN_OR_RETURN(const Context* const context, session.context());
  Table table({{"CONTEXT"}, {"FABRIC"}, {"REPO"}, {"IN USE"}});
  Json list = Json::Array();
  std::vector<std::string> names;
  const auto add = [&](const std::string& name, const std::string& fabric,
                       const std::string& repo) {
    const bool used = name == context->name();
    table.AddRow({name, fabric.empty() ? "-" : fabric,
                  repo.empty() ? "-" : repo,
                  Cell(used ? "yes" : "-", used ? Tone::kGood : Tone::kPlain)});
    Json item = Json::Object();
    item.Set("name", name)
        .Set("fabric", fabric)
        .Set("repo", repo)
        .Set("in_use", used);
    list.Add(std::move(item));
    names.push_back(name);
  };
  for (size_t i = 0; i < known.names.size(); ++i) {
    std::string fabric;
    std::string repo;
    for (const Setting& setting : known.contexts[i]) {
      if (setting.name == "fabric") fabric = setting.value;
      if (setting.name == "repo") repo = setting.value;
    }
    add(known.names[i], fabric, repo);
  }
  if (context->local()) {
    add(context->name(), context->local()->fabric, context->local()->repo);
  }
  Json json = Json::Object();
  json.Set("schema", "meshctl.contexts/v1")
      .Set("file", known.file)
      .Set("contexts", std::move(list));
  session.console.Emit(table, json, "contexts", names);
  if (names.empty()) {
    session.console.Hint(absl::StrCat(
        "no contexts: start a local mesh with meshctl run, or describe one in ",
        known.file, " (meshctl help environment)"));
  }
  return absl::OkStatus();
}

absl::Status ContextShow(Session& session) {
  MYC_ASSIGN_OR_RETURN(const Context* const context, session.context());
  Table table({{"SETTING"}, {"VALUE"}, {"FROM"}});
  for (const Setting& setting : context->settings()) {
    table.AddRow({setting.name, setting.value.empty() ? "-" : setting.value,
                  setting.source.empty() ? "-" : setting.source});
  }
  Json json = Json::Object();
  json.Set("schema", "meshctl.context/v1")
      .Set("name", context->name())
      .Set("settings", SettingsJson(context->settings()));
  session.console.Emit(
      absl::StrCat("context  ",
                   context->name().empty() ? "none" : context->name(), "\n\n",
                   session.console.Render(table)),
      json, context->name());
  return absl::OkStatus();
}

}  // namespace mycelium::meshctl
