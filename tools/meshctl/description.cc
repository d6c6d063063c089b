#include "tools/meshctl/description.h"

#include <sys/stat.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "google/protobuf/util/json_util.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/spore/manifest.h"
#include "tools/meshctl/failure.h"
#include "tools/meshctl/toml.h"

namespace mycelium::meshctl {
namespace {

using spore::JsonValue;

constexpr int64_t kMaxDescriptionBytes = int64_t{1} << 20;

std::string BaseName(absl::string_view path) {
  const size_t slash = path.rfind('/');
  return std::string(slash == absl::string_view::npos ? path
                                                      : path.substr(slash + 1));
}

std::string Relative(const std::string& file, const std::string& path) {
  if (absl::StartsWith(path, "/")) return path;
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? path
                                    : JoinPath(file.substr(0, slash), path);
}

bool IsExecutable(const std::string& path) {
  struct stat info = {};
  return stat(path.c_str(), &info) == 0 && (info.st_mode & 0111U) != 0;
}

std::string StringMember(const JsonValue& object, absl::string_view name) {
  const JsonValue* member = object.Find(name);
  return member != nullptr && member->is_string() ? member->string() : "";
}

absl::Status WrongType(absl::string_view member, absl::string_view want,
                       const JsonValue& value) {
  return UsageError(
      absl::StrCat(member, " must be ", want, ", not ", value.type_name()));
}

// `${MESH_NAME}` and `${MESH_NAME:-otherwise}` replaced from the environment.
// Other names belong to the agent, or to the app, and stay.
absl::StatusOr<std::string> Expanded(const std::string& text,
                                     const Variables& variables) {
  std::string out;
  absl::string_view rest = text;
  while (!rest.empty()) {
    const size_t start = rest.find("${MESH_");
    absl::StrAppend(&out, rest.substr(0, start));
    if (start == absl::string_view::npos) break;
    rest.remove_prefix(start + 2);
    const size_t end = rest.find('}');
    if (end == absl::string_view::npos) {
      return UsageError(absl::StrCat("env: '}' is missing in ", Quoted(text)));
    }
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(rest.substr(0, end), absl::MaxSplits(":-", 1));
    if (variables.Has(parts.first)) {
      out += variables.Get(parts.first);
    } else if (absl::StrContains(rest.substr(0, end), ":-")) {
      absl::StrAppend(&out, parts.second);
    } else {
      return UsageError(absl::StrCat("env: ", parts.first,
                                     " is not set, and has no default"));
    }
    rest.remove_prefix(end + 1);
  }
  return out;
}

absl::StatusOr<JsonValue> ExpandEnv(const JsonValue& env,
                                    const Variables& variables) {
  if (!env.is_object()) return WrongType("env", "a table", env);
  JsonValue expanded = JsonValue::MakeObject();
  for (const auto& [name, value] : env.object()) {
    if (!value.is_string()) {
      return WrongType(absl::StrCat("env.", name), "a string", value);
    }
    MYC_ASSIGN_OR_RETURN(std::string text, Expanded(value.string(), variables));
    expanded.Set(name, std::move(text));
  }
  return expanded;
}

absl::StatusOr<std::vector<spore::PackFile>> ReadFiles(
    const JsonValue& files, const std::string& file) {
  if (!files.is_array()) return WrongType("files", "a list", files);
  std::vector<spore::PackFile> result;
  for (const JsonValue& entry : files.array()) {
    spore::PackFile pack_file;
    pack_file.path = StringMember(entry, "path");
    std::string source = StringMember(entry, "source");
    if (source.empty()) source = pack_file.path;
    if (pack_file.path.empty()) pack_file.path = BaseName(source);
    if (source.empty()) {
      return UsageError("files: each needs a path and a source");
    }
    pack_file.source = Relative(file, source);
    const JsonValue* exec = entry.Find("exec");
    pack_file.exec = exec != nullptr && exec->is_bool()
                         ? exec->boolean()
                         : IsExecutable(pack_file.source);
    result.push_back(std::move(pack_file));
  }
  return result;
}

// The member of `object`, made if it is missing, so that it can be added to.
JsonValue ObjectMember(const JsonValue& object, absl::string_view name) {
  const JsonValue* member = object.Find(name);
  return member != nullptr && member->is_object() ? *member
                                                  : JsonValue::MakeObject();
}

absl::StatusOr<absl::Time> CreationTime(const Variables& variables,
                                        absl::Time now) {
  if (!variables.Has("SOURCE_DATE_EPOCH")) return now;
  int64_t seconds = 0;
  if (!absl::SimpleAtoi(variables.Get("SOURCE_DATE_EPOCH"), &seconds) ||
      seconds < 0) {
    return UsageError(absl::StrCat("SOURCE_DATE_EPOCH is ",
                                   Quoted(variables.Get("SOURCE_DATE_EPOCH")),
                                   "; it must be seconds since 1970"));
  }
  return absl::FromUnixSeconds(seconds);
}

void ApplyFlags(const Invocation& call, Description& description) {
  JsonValue& manifest = description.pack.manifest;
  for (const char* name : {"name", "version", "command"}) {
    if (call.Has(name)) manifest.Set(name, call.Get(name));
  }
  if (call.Has("binary")) description.pack.binary_path = call.Get("binary");
  std::vector<std::string> args = call.GetAll("args");
  args.insert(args.end(), call.passthrough.begin(), call.passthrough.end());
  if (!args.empty()) {
    manifest.Set("args", JsonValue::Array(args.begin(), args.end()));
  }
  if (call.Has("health")) {
    JsonValue health = ObjectMember(manifest, "health");
    if (call.Get("health") == "tcp") {
      health.Set("type", "tcp");
      health.Remove("path");
    } else {
      health.Set("path", call.Get("health"));
    }
    manifest.Set("health", health);
  }
  if (call.Has("cpu-milli") || call.Has("memory-mb")) {
    JsonValue nutrients = ObjectMember(manifest, "nutrients");
    if (call.Has("cpu-milli")) {
      nutrients.Set("cpu_milli", call.GetInteger("cpu-milli", 0));
    }
    if (call.Has("memory-mb")) {
      nutrients.Set("memory_mb", call.GetInteger("memory-mb", 0));
    }
    manifest.Set("nutrients", nutrients);
  }
}

}  // namespace

std::string Description::name() const {
  return StringMember(pack.manifest, "name");
}

std::string Description::version() const {
  return StringMember(pack.manifest, "version");
}

std::string DescriptionFile(const std::string& path) {
  struct stat info = {};
  if (stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
    return JoinPath(path, "mesh.toml");
  }
  return path;
}

absl::StatusOr<Description> ReadDescription(const std::string& path,
                                            const Variables& variables) {
  const std::string file = DescriptionFile(path);
  MYC_ASSIGN_OR_RETURN(const std::string text,
                       ReadFile(file, kMaxDescriptionBytes));
  const absl::StatusOr<JsonValue> json =
      absl::EndsWith(file, ".json") ? spore::ParseJson(text) : ParseToml(text);
  const auto wrong = [&file](const absl::Status& status) {
    return ToStatus({.exit = ExitCode::kUsage,
                     .message = absl::StrCat(file, ": ", status.message())});
  };
  if (!json.ok()) return wrong(json.status());
  if (!json->is_object()) return wrong(WrongType("it", "a table", *json));

  Description description;
  description.pack.manifest = JsonValue::MakeObject();
  for (const auto& [name, value] : json->object()) {
    if (name == "binary") {
      if (!value.is_string()) return wrong(WrongType(name, "a path", value));
      description.pack.binary_path = Relative(file, value.string());
    } else if (name == "files") {
      absl::StatusOr<std::vector<spore::PackFile>> files =
          ReadFiles(value, file);
      if (!files.ok()) return wrong(files.status());
      description.pack.files = *std::move(files);
    } else if (name == "plan") {
      if (!value.is_object()) return wrong(WrongType(name, "a table", value));
      description.plan = value;
    } else if (name == "run") {
      description.open_path = StringMember(value, "path");
      if (!absl::StartsWith(description.open_path, "/")) {
        return wrong(UsageError("run.path must begin with /"));
      }
    } else if (name == "env") {
      absl::StatusOr<JsonValue> env = ExpandEnv(value, variables);
      if (!env.ok()) return wrong(env.status());
      description.pack.manifest.Set(name, *std::move(env));
    } else {
      description.pack.manifest.Set(name, value);
    }
  }
  return description;
}

absl::Status CompleteDescription(const Invocation& call,
                                 const Variables& variables, absl::Time now,
                                 Description& description) {
  ApplyFlags(call, description);
  spore::PackOptions& pack = description.pack;
  JsonValue& manifest = pack.manifest;
  if (call.Has("env")) {
    JsonValue env = ObjectMember(manifest, "env");
    for (const std::string& pair : call.GetAll("env")) {
      const size_t equals = pair.find('=');
      if (equals == std::string::npos || equals == 0) {
        return UsageError(
            absl::StrCat("--env takes NAME=VALUE, not ", Quoted(pair)));
      }
      MYC_ASSIGN_OR_RETURN(std::string value,
                           Expanded(pair.substr(equals + 1), variables));
      env.Set(pair.substr(0, equals), std::move(value));
    }
    manifest.Set("env", env);
  }
  for (const std::string& value : call.GetAll("file")) {
    spore::PackFile file;
    const size_t equals = value.find('=');
    file.source =
        equals == std::string::npos ? value : value.substr(equals + 1);
    file.path =
        equals == std::string::npos ? BaseName(value) : value.substr(0, equals);
    file.exec = IsExecutable(file.source);
    pack.files.push_back(std::move(file));
  }

  if (pack.binary_path.empty()) {
    return UsageError("nothing to pack: no binary is named",
                      {"name it:  --binary FILE, or `binary` in mesh.toml"});
  }
  const std::string entry = BaseName(pack.binary_path);
  std::string command = StringMember(manifest, "command");
  if (command.empty()) {
    command = entry;
    manifest.Set("command", command);
  }
  // A command that is one of the files, a script say, starts the binary itself,
  // which then keeps its own name.
  absl::string_view command_path = command;
  absl::ConsumePrefix(&command_path, "./");
  for (const spore::PackFile& file : pack.files) {
    if (file.path == command_path) manifest.Set("binary", entry);
  }
  if (description.name().empty()) {
    return UsageError("the spore has no name",
                      {"name it:  --name NAME, or `name` in mesh.toml"});
  }
  if (description.version().empty()) {
    return UsageError("the spore has no version",
                      {"name it:  --version VERSION, or `version` in "
                       "mesh.toml"});
  }
  MYC_ASSIGN_OR_RETURN(pack.created_at, CreationTime(variables, now));
  return absl::OkStatus();
}

absl::Status ApplyPlanTable(const JsonValue& table, fabric::v1::Plan& plan) {
  fabric::v1::Plan said;
  const auto parsed = google::protobuf::util::JsonStringToMessage(
      spore::Canonicalize(table), &said);
  if (!parsed.ok()) {
    return UsageError(absl::StrCat("[plan]: ", parsed.message().as_string()));
  }
  // Members that are there count even when they are 0.
  if (table.Find("min") != nullptr) plan.set_min(said.min());
  if (table.Find("max") != nullptr) plan.set_max(said.max());
  if (table.Find("port") != nullptr) plan.set_port(said.port());
  if (!said.digest().empty()) plan.set_digest(said.digest());
  if (said.has_strategy()) *plan.mutable_strategy() = said.strategy();
  if (said.has_placement()) *plan.mutable_placement() = said.placement();
  if (said.has_traffic()) *plan.mutable_traffic() = said.traffic();
  return absl::OkStatus();
}

absl::StatusOr<fabric::v1::Plan> ParsePlanJson(const std::string& text) {
  fabric::v1::Plan plan;
  const auto parsed = google::protobuf::util::JsonStringToMessage(text, &plan);
  if (!parsed.ok()) {
    return UsageError(
        absl::StrCat("not a plan: ", parsed.message().as_string()));
  }
  if (plan.app_name().empty()) return UsageError("the plan has no appName");
  return plan;
}

}  // namespace mycelium::meshctl
