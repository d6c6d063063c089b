#include "tools/meshctl/context.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/spore/json.h"
#include "tools/meshctl/failure.h"
#include "tools/meshctl/toml.h"

namespace mycelium::meshctl {
namespace {

using spore::JsonValue;

struct SettingRow {
  absl::string_view name;  // Of the setting, and of its flag.
  absl::string_view variable;
  absl::string_view key;  // In config.toml.
};

constexpr std::array<SettingRow, 8> kSettings = {{
    {"fabric", "MESHCTL_FABRIC", "fabric"},
    {"repo", "MESHCTL_REPO", "repo"},
    {"edge", "MESHCTL_EDGE", "edge"},
    {"key-file", "MESHCTL_KEY_FILE", "key_file"},
    {"trust-store", "MESHCTL_TRUST_STORE", "trust_store"},
    {"tls-cert", "MESHCTL_TLS_CERT", "tls_cert"},
    {"tls-key", "MESHCTL_TLS_KEY", "tls_key"},
    {"tls-ca", "MESHCTL_TLS_CA", "ca"},
}};

std::string ConfigFile(const Variables& variables) {
  if (variables.Has("MESHCTL_CONFIG")) return variables.Get("MESHCTL_CONFIG");
  std::string base = variables.Get("XDG_CONFIG_HOME");
  if (base.empty()) {
    const std::string home = variables.Get("HOME");
    if (home.empty()) return "";
    base = JoinPath(home, ".config");
  }
  return JoinPath(base, "mycelium/config.toml");
}

// The contexts of config.toml; an empty object when there is no such file.
absl::StatusOr<JsonValue> ReadConfig(const std::string& file) {
  if (file.empty()) return JsonValue::MakeObject();
  const absl::StatusOr<std::string> text = ReadFile(file, int64_t{1} << 20);
  if (absl::IsNotFound(text.status())) return JsonValue::MakeObject();
  if (!text.ok()) return text.status();
  absl::StatusOr<JsonValue> config = ParseToml(*text);
  if (!config.ok())
    return Explain(config.status(), absl::StrCat("cannot read ", file));
  return config;
}

std::string StringMember(const JsonValue& object, absl::string_view name) {
  const JsonValue* member = object.Find(name);
  return member != nullptr && member->is_string() ? member->string() : "";
}

std::string LocalValue(const LocalMesh& mesh, absl::string_view setting) {
  if (setting == "fabric") return mesh.fabric;
  if (setting == "repo") return mesh.repo;
  if (setting == "edge") return mesh.edge;
  if (setting == "key-file") return mesh.key_file;
  if (setting == "trust-store") return mesh.trust_store;
  return "";
}

// Paths in config.toml may begin with `~/`.
std::string ExpandHome(const std::string& value, const Variables& variables) {
  if (value.rfind("~/", 0) != 0) return value;
  return JoinPath(variables.Get("HOME"), value.substr(2));
}

}  // namespace

std::string Variables::Get(absl::string_view name) const {
  const auto found = values_.find(std::string(name));
  return found == values_.end() ? "" : found->second;
}

bool Variables::Has(absl::string_view name) const {
  const auto found = values_.find(std::string(name));
  return found != values_.end() && !found->second.empty();
}

absl::StatusOr<Context> Context::Resolve(const Invocation& call,
                                         const Variables& variables,
                                         const std::string& directory) {
  const std::string file = ConfigFile(variables);
  MYC_ASSIGN_OR_RETURN(const JsonValue config, ReadConfig(file));
  Context context;
  context.name_ = call.Get("context", variables.Get("MESHCTL_CONTEXT"));
  std::string chosen_by = call.Has("context") ? "--context" : "MESHCTL_CONTEXT";
  if (context.name_.empty()) {
    context.name_ = StringMember(config, "current");
    chosen_by = file;
  }

  const JsonValue* found = nullptr;
  if (!context.name_.empty()) {
    const JsonValue* contexts = config.Find("context");
    if (contexts != nullptr) found = contexts->Find(context.name_);
    if (found == nullptr || !found->is_object()) {
      return ToStatus(
          {.exit = ExitCode::kUsage,
           .message =
               absl::StrCat("there is no context ", Quoted(context.name_),
                            ", which ", chosen_by, " names"),
           .fixes = {
               "see the contexts there are: meshctl context ls",
               absl::StrCat("add [context.", context.name_, "] to ", file)}});
    }
  } else if (const std::string mesh = FindMeshDirectory(directory);
             !mesh.empty()) {
    absl::StatusOr<LocalMesh> local = ReadLocalMesh(mesh);
    if (local.ok()) {
      context.local_ = *std::move(local);
      context.name_ = "dev (local)";
    } else {
      context.stopped_local_ = mesh;
    }
  }

  // A fabric of its own choice has nothing to do with the rest of a context
  // that was found by chance.
  const bool overridden =
      context.local_ && (call.Has("fabric") || variables.Has("MESHCTL_FABRIC"));
  for (const SettingRow& known : kSettings) {
    Setting setting = {std::string(known.name), "", ""};
    if (call.Has(known.name)) {
      setting.value = call.Get(known.name);
      setting.source = absl::StrCat("--", known.name);
    } else if (variables.Has(known.variable)) {
      setting.value = variables.Get(known.variable);
      setting.source = std::string(known.variable);
    } else if (found != nullptr) {
      setting.value = ExpandHome(StringMember(*found, known.key), variables);
      setting.source = file;
    } else if (context.local_ && !overridden) {
      setting.value = LocalValue(*context.local_, known.name);
      setting.source = JoinPath(context.local_->directory, "mesh.json");
    }
    if (setting.value.empty()) setting.source.clear();
    context.settings_.push_back(std::move(setting));
  }
  if (overridden) {
    context.local_.reset();
    context.name_.clear();
  }
  return context;
}

std::string Context::Get(absl::string_view name) const {
  for (const Setting& setting : settings_) {
    if (setting.name == name) return setting.value;
  }
  return "";
}

absl::StatusOr<std::string> Context::Require(absl::string_view name) const {
  std::string value = Get(name);
  if (!value.empty()) return value;
  Failure failure;
  failure.exit = ExitCode::kUnavailable;
  failure.message = absl::StrCat("no mesh is chosen: the address of the ", name,
                                 " is not known");
  if (!stopped_local_.empty()) {
    failure.why =
        absl::StrCat("the local mesh of ", stopped_local_, " does not run");
  }
  failure.fixes = {"start a local mesh:  meshctl run",
                   absl::StrCat("name the address:  --", name,
                                " HOST:PORT, or a context: "
                                "meshctl context ls")};
  return ToStatus(failure);
}

absl::StatusOr<Context::Known> Context::List(const Variables& variables) {
  Known known;
  known.file = ConfigFile(variables);
  MYC_ASSIGN_OR_RETURN(const JsonValue config, ReadConfig(known.file));
  known.current = StringMember(config, "current");
  const JsonValue* contexts = config.Find("context");
  if (contexts == nullptr || !contexts->is_object()) return known;
  for (const auto& [name, value] : contexts->object()) {
    std::vector<Setting> settings;
    for (const auto& setting : kSettings) {
      settings.push_back({std::string(setting.name),
                          StringMember(value, setting.key), known.file});
    }
    known.names.push_back(name);
    known.contexts.push_back(std::move(settings));
  }
  return known;
}

std::string FindMeshDirectory(const std::string& directory) {
  std::string at = directory;
  while (!at.empty()) {
    std::string candidate = JoinPath(at, ".mesh");
    struct stat info = {};
    if (stat(candidate.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
      return candidate;
    }
    if (at == "/") break;
    const size_t slash = at.rfind('/');
    at = slash == 0 ? "/" : at.substr(0, slash);
    if (slash == std::string::npos) break;
  }
  return "";
}

bool IsMeshLocked(const std::string& mesh_directory) {
  const UniqueFd lock(
      open(JoinPath(mesh_directory, "lock").c_str(), O_RDONLY | O_CLOEXEC));
  if (!lock.valid()) return false;
  if (flock(lock.get(), LOCK_SH | LOCK_NB) == 0) return false;
  return errno == EWOULDBLOCK;
}

absl::StatusOr<LocalMesh> ReadLocalMesh(const std::string& mesh_directory) {
  if (!IsMeshLocked(mesh_directory)) {
    return absl::NotFoundError(
        absl::StrCat("no mesh runs in ", mesh_directory));
  }
  const std::string file = JoinPath(mesh_directory, "mesh.json");
  MYC_ASSIGN_OR_RETURN(const std::string text, ReadFile(file, 65536));
  MYC_ASSIGN_OR_RETURN(const JsonValue json, spore::ParseJson(text));
  LocalMesh mesh;
  mesh.directory = mesh_directory;
  if (const JsonValue* pid = json.Find("pid"); pid != nullptr) {
    mesh.pid = pid->integer().value_or(0);
  }
  mesh.fabric = StringMember(json, "fabric");
  mesh.repo = StringMember(json, "repo");
  mesh.edge = StringMember(json, "edge");
  mesh.url = StringMember(json, "url");
  mesh.key_file = StringMember(json, "keyFile");
  mesh.trust_store = StringMember(json, "trustStore");
  return mesh;
}

}  // namespace mycelium::meshctl
