#include "lib/spore/manifest.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/crypto/base64.h"
#include "lib/crypto/ed25519.h"
#include "lib/crypto/sha256.h"
#include "lib/spore/entry_path.h"
#include "lib/spore/refusal.h"
#include "lib/spore/rfc3339.h"

namespace mycelium::spore {
namespace {

constexpr size_t kMaxStrings = 1024;
constexpr size_t kMaxStringBytes = size_t{128} << 10;
constexpr size_t kMaxProvides = 64;
constexpr int64_t kMaxCpuMilli = 1'000'000;
constexpr int64_t kMaxMemoryMb = int64_t{1} << 24;
constexpr int64_t kMaxIntervalMs = 24LL * 60 * 60 * 1000;

// Every member of the manifest that this verifier understands.
constexpr std::array<absl::string_view, 23> kMembers = {
    "args",       "binary",   "binary_sha256", "command",    "config",
    "created_at", "critical", "env",           "expires_at", "files",
    "format",     "health",   "kind",          "labels",     "name",
    "nutrients",  "provides", "public_key",    "secrets",    "security",
    "signature",  "slo",      "version"};

// Variables by which whoever sets them takes over the dynamic loader, the C
// library or a shell, before the program that was signed has run at all.
constexpr std::array<absl::string_view, 18> kHookVariables = {
    "BASHOPTS",    "BASH_ENV",       "ENV",          "GCONV_PATH",
    "GETCONF_DIR", "GLIBC_TUNABLES", "HOSTALIASES",  "IFS",
    "LOCALDOMAIN", "LOCPATH",        "MALLOC_TRACE", "NIS_PATH",
    "NLSPATH",     "PROMPT_COMMAND", "PS4",          "RESOLV_HOST_CONF",
    "RES_OPTIONS", "SHELLOPTS"};

bool Contains(const auto& range, absl::string_view value) {
  return std::find(range.begin(), range.end(), value) != range.end();
}

absl::Status Bad(absl::string_view member, absl::string_view rule) {
  return Refuse("E_MANIFEST",
                absl::StrCat("manifest member ", member, " ", rule));
}

absl::Status WrongType(absl::string_view member, const JsonValue& value,
                       absl::string_view wanted) {
  return Bad(member,
             absl::StrCat("must be ", wanted, ", not ", value.type_name()));
}

// The string `member` of `object`; null if it is not there.
absl::StatusOr<const std::string*> FindString(const JsonValue& object,
                                              absl::string_view member) {
  const JsonValue* value = object.Find(member);
  if (value == nullptr) return nullptr;
  if (!value->is_string()) return WrongType(member, *value, "a string");
  return &value->string();
}

absl::StatusOr<std::string> RequiredString(const JsonValue& object,
                                           absl::string_view member) {
  MYC_ASSIGN_OR_RETURN(const std::string* value, FindString(object, member));
  if (value == nullptr) return Bad(member, "is missing");
  return *value;
}

// The object `member`; null if it is not there.
absl::StatusOr<const JsonValue*> FindObject(const JsonValue& object,
                                            absl::string_view member) {
  const JsonValue* value = object.Find(member);
  if (value != nullptr && !value->is_object()) {
    return WrongType(member, *value, "an object");
  }
  return value;
}

// Sets `out` to the integer `member` of `object`, called `path` in errors; one
// that is not there changes nothing.
absl::Status ReadInteger(const JsonValue& object, absl::string_view member,
                         absl::string_view path, int64_t min, int64_t max,
                         int64_t& out) {
  const JsonValue* value = object.Find(member);
  if (value == nullptr) return absl::OkStatus();
  const std::optional<int64_t> integer = value->integer();
  if (!integer.has_value() || *integer < min || *integer > max) {
    return Bad(path, absl::StrCat(
                         "must be an integer from ", min, " to ", max, ", not ",
                         value->is_number() ? FormatNumber(value->number())
                                            : value->type_name()));
  }
  out = *integer;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ReadStrings(const JsonValue& value,
                                                     absl::string_view member) {
  if (!value.is_array()) {
    return WrongType(member, value, "an array of strings");
  }
  std::vector<std::string> strings;
  for (const JsonValue& element : value.array()) {
    if (!element.is_string()) {
      return WrongType(absl::StrCat(member, "[", strings.size(), "]"), element,
                       "a string");
    }
    strings.push_back(element.string());
  }
  return strings;
}

bool HasNul(absl::string_view text) {
  return text.find('\0') != absl::string_view::npos;
}

bool IsVersion(absl::string_view version) {
  return !version.empty() && version.size() <= 64 &&
         absl::ascii_isalnum(static_cast<unsigned char>(version[0])) &&
         std::all_of(version.begin(), version.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '.' || c == '+' || c == '_' ||
                  c == '-';
         });
}

// Names of isolation profiles and layers: the agent makes file names of them.
bool IsToken(absl::string_view token) {
  return !token.empty() && token.size() <= 64 &&
         absl::ascii_isalnum(static_cast<unsigned char>(token[0])) &&
         std::all_of(token.begin(), token.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
         });
}

bool IsVariableName(absl::string_view name) {
  return !name.empty() && name.size() <= 128 &&
         !absl::ascii_isdigit(static_cast<unsigned char>(name[0])) &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '_';
         });
}

bool IsReservedVariable(absl::string_view name) {
  return absl::StartsWith(name, "LD_") || absl::StartsWith(name, "MYCELIUM_") ||
         absl::StartsWith(name, "BASH_FUNC_") || name == "PORT" ||
         Contains(kHookVariables, name);
}

absl::Status BadPath(absl::string_view member, absl::string_view path) {
  return Refuse(
      "E_PATH",
      absl::StrCat("manifest member ", member, " has the path ", Quoted(path),
                   ", which cannot be that of a file in a spore"));
}

// What args or env may hold.
class StringBudget {
 public:
  explicit StringBudget(absl::string_view member) : member_(member) {}

  absl::Status Take(size_t bytes) {
    bytes_ += bytes;
    if (++strings_ > kMaxStrings) {
      return Bad(member_,
                 absl::StrCat("may have at most ", kMaxStrings, " strings"));
    }
    if (bytes_ > kMaxStringBytes) {
      return Bad(member_, absl::StrCat("may have at most ", kMaxStringBytes,
                                       " bytes in all"));
    }
    return absl::OkStatus();
  }

 private:
  const absl::string_view member_;
  size_t strings_ = 0;
  size_t bytes_ = 0;
};

absl::Status ReadIdentity(const JsonValue& json, Manifest& manifest) {
  MYC_ASSIGN_OR_RETURN(const std::string kind, RequiredString(json, "kind"));
  if (kind != "Spore") {
    return Bad("kind", absl::StrCat("must be 'Spore', not ", Quoted(kind)));
  }
  MYC_ASSIGN_OR_RETURN(const std::string* format, FindString(json, "format"));
  if (format != nullptr && *format != kFormatName) {
    return Bad("format", absl::StrCat("must be '", kFormatName, "', not ",
                                      Quoted(*format)));
  }
  MYC_ASSIGN_OR_RETURN(manifest.name, RequiredString(json, "name"));
  if (!IsSporeName(manifest.name)) {
    return Bad("name", absl::StrCat("must be up to 4 segments of a-z, 0-9, "
                                    "'.', '_' and '-', not ",
                                    Quoted(manifest.name)));
  }
  MYC_ASSIGN_OR_RETURN(manifest.version, RequiredString(json, "version"));
  if (!IsVersion(manifest.version)) {
    return Bad("version",
               absl::StrCat("must be 1 to 64 of A-Z, a-z, 0-9, '.', '+', '_' "
                            "and '-', starting with a letter or digit, not ",
                            Quoted(manifest.version)));
  }
  return absl::OkStatus();
}

absl::Status ReadPaths(const JsonValue& json, Manifest& manifest) {
  MYC_ASSIGN_OR_RETURN(const std::string command,
                       RequiredString(json, "command"));
  absl::string_view path = command;
  absl::ConsumePrefix(&path, "./");
  if (!IsEntryPath(path)) return BadPath("command", command);
  manifest.command = std::string(path);

  MYC_ASSIGN_OR_RETURN(const std::string* binary, FindString(json, "binary"));
  manifest.binary = binary == nullptr ? manifest.command : *binary;
  if (!IsEntryPath(manifest.binary)) return BadPath("binary", manifest.binary);

  MYC_ASSIGN_OR_RETURN(manifest.binary_sha256,
                       RequiredString(json, "binary_sha256"));
  if (!IsDigest(manifest.binary_sha256)) {
    return Bad("binary_sha256", absl::StrCat("must be 64 lower-case hex "
                                             "digits, not ",
                                             Quoted(manifest.binary_sha256)));
  }
  return absl::OkStatus();
}

absl::Status ReadProcess(const JsonValue& json, Manifest& manifest) {
  if (const JsonValue* args = json.Find("args"); args != nullptr) {
    MYC_ASSIGN_OR_RETURN(manifest.args, ReadStrings(*args, "args"));
    StringBudget budget("args");
    for (const std::string& arg : manifest.args) {
      MYC_RETURN_IF_ERROR(budget.Take(arg.size()));
      if (HasNul(arg)) return Bad("args", "must not contain NUL");
    }
  }
  MYC_ASSIGN_OR_RETURN(const JsonValue* env, FindObject(json, "env"));
  if (env != nullptr) {
    StringBudget budget("env");
    for (const auto& [name, value] : env->object()) {
      const std::string member = absl::StrCat("env.", Quoted(name));
      if (!IsVariableName(name)) {
        return Bad(member,
                   "must have a name of 1 to 128 letters, digits and '_'");
      }
      if (IsReservedVariable(name)) {
        return Bad(member,
                   "is reserved: LD_*, MYCELIUM_*, PORT and the hooks of the "
                   "loader and of shells cannot be set");
      }
      if (!value.is_string()) return WrongType(member, value, "a string");
      if (HasNul(value.string())) return Bad(member, "must not contain NUL");
      MYC_RETURN_IF_ERROR(budget.Take(name.size() + value.string().size()));
      manifest.env.emplace(name, value.string());
    }
  }
  if (const JsonValue* provides = json.Find("provides"); provides != nullptr) {
    MYC_ASSIGN_OR_RETURN(manifest.provides, ReadStrings(*provides, "provides"));
    if (manifest.provides.size() > kMaxProvides) {
      return Bad("provides",
                 absl::StrCat("may have at most ", kMaxProvides, " strings"));
    }
    const std::set<std::string> distinct(manifest.provides.begin(),
                                         manifest.provides.end());
    if (distinct.size() != manifest.provides.size()) {
      return Bad("provides", "names something twice");
    }
    if (distinct.count("") > 0) return Bad("provides", "has an empty string");
  }
  return absl::OkStatus();
}

absl::Status ReadHealth(const JsonValue& json, Health& health) {
  MYC_ASSIGN_OR_RETURN(const JsonValue* object, FindObject(json, "health"));
  if (object == nullptr) return absl::OkStatus();
  if (const JsonValue* path = object->Find("path"); path != nullptr) {
    if (!path->is_string()) return WrongType("health.path", *path, "a string");
    const std::string& text = path->string();
    // It goes into the request line of the probe.
    if (text.size() > 2048 || !absl::StartsWith(text, "/") ||
        !std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return absl::ascii_isgraph(c); })) {
      return Bad("health.path",
                 absl::StrCat("must begin with '/' and be at most 2048 visible "
                              "ASCII characters, not ",
                              Quoted(text)));
    }
    health.path = text;
  }
  if (const JsonValue* type = object->Find("type"); type != nullptr) {
    if (!type->is_string() ||
        (type->string() != "http" && type->string() != "tcp")) {
      return Bad("health.type", "must be 'http' or 'tcp'");
    }
    health.type =
        type->string() == "tcp" ? Health::Type::kTcp : Health::Type::kHttp;
  }
  MYC_RETURN_IF_ERROR(ReadInteger(*object, "interval_ms", "health.interval_ms",
                                  1, kMaxIntervalMs, health.interval_ms));
  return ReadInteger(*object, "timeout_ms", "health.timeout_ms", 1,
                     kMaxIntervalMs, health.timeout_ms);
}

absl::Status ReadResources(const JsonValue& json, Manifest& manifest) {
  MYC_ASSIGN_OR_RETURN(const JsonValue* nutrients,
                       FindObject(json, "nutrients"));
  if (nutrients != nullptr) {
    MYC_RETURN_IF_ERROR(ReadInteger(*nutrients, "cpu_milli",
                                    "nutrients.cpu_milli", 1, kMaxCpuMilli,
                                    manifest.nutrients.cpu_milli));
    MYC_RETURN_IF_ERROR(ReadInteger(*nutrients, "memory_mb",
                                    "nutrients.memory_mb", 1, kMaxMemoryMb,
                                    manifest.nutrients.memory_mb));
  }
  MYC_ASSIGN_OR_RETURN(const JsonValue* slo, FindObject(json, "slo"));
  if (slo == nullptr) return absl::OkStatus();
  const JsonValue* budget = slo->Find("p99_budget_ms");
  if (budget == nullptr) return absl::OkStatus();
  if (!budget->is_number() || !(budget->number() > 0)) {
    return Bad("slo.p99_budget_ms", "must be a number above 0");
  }
  manifest.slo.p99_budget_ms = budget->number();
  return absl::OkStatus();
}

absl::Status ReadSecurity(const JsonValue& json, Security& security) {
  MYC_ASSIGN_OR_RETURN(const JsonValue* object, FindObject(json, "security"));
  if (object == nullptr) return absl::OkStatus();
  for (const auto& [name, value] : object->object()) {
    const std::string member = absl::StrCat("security.", name);
    if (name == "lsm_profile") {
      if (!value.is_string() || !IsToken(value.string())) {
        return Bad(member,
                   "must be the name of a profile: 1 to 64 of A-Z, a-z, 0-9, "
                   "'.', '_' and '-'");
      }
      security.lsm_profile = value.string();
    } else if (name == "read_only_fs") {
      if (!value.is_bool()) return WrongType(member, value, "a boolean");
      security.read_only_fs = value.boolean();
    } else if (name == "require") {
      MYC_ASSIGN_OR_RETURN(security.require, ReadStrings(value, member));
      for (const std::string& layer : security.require) {
        if (!IsToken(layer)) {
          return Bad(member, absl::StrCat("has ", Quoted(layer),
                                          ", which cannot be a layer's name"));
        }
      }
    } else {
      return Bad(absl::StrCat("security.", Quoted(name)),
                 "is unknown, and what is unknown here is not skipped");
    }
  }
  return absl::OkStatus();
}

absl::Status ReadTimes(const JsonValue& json, Manifest& manifest) {
  MYC_ASSIGN_OR_RETURN(const std::string created,
                       RequiredString(json, "created_at"));
  const std::optional<absl::Time> created_at = ParseRfc3339(created);
  if (!created_at.has_value()) {
    return Bad("created_at",
               absl::StrCat("must be an RFC 3339 time with zone, not ",
                            Quoted(created)));
  }
  manifest.created_at = *created_at;
  MYC_ASSIGN_OR_RETURN(const std::string* expires,
                       FindString(json, "expires_at"));
  if (expires == nullptr) return absl::OkStatus();
  manifest.expires_at = ParseRfc3339(*expires);
  if (!manifest.expires_at.has_value()) {
    return Bad("expires_at",
               absl::StrCat("must be an RFC 3339 time with zone, not ",
                            Quoted(*expires)));
  }
  if (*manifest.expires_at <= manifest.created_at) {
    return Bad("expires_at",
               absl::StrCat(Quoted(*expires), " is not after created_at ",
                            Quoted(created)));
  }
  return absl::OkStatus();
}

absl::StatusOr<FileInfo> ReadFileInfo(const std::string& path,
                                      const JsonValue& value) {
  const std::string member = absl::StrCat("files.", Quoted(path));
  if (!value.is_object()) return WrongType(member, value, "an object");
  FileInfo info;
  const JsonValue* sha256 = value.Find("sha256");
  if (sha256 == nullptr || !sha256->is_string() ||
      !IsDigest(sha256->string())) {
    return Bad(absl::StrCat(member, ".sha256"),
               "must be 64 lower-case hex digits");
  }
  info.sha256 = sha256->string();
  const JsonValue* size = value.Find("size");
  const std::optional<int64_t> bytes =
      size == nullptr ? std::nullopt : size->integer();
  if (!bytes.has_value() || *bytes < 0) {
    return Bad(absl::StrCat(member, ".size"),
               "must be an integer of at least 0");
  }
  info.size = *bytes;
  if (const JsonValue* exec = value.Find("exec"); exec != nullptr) {
    if (!exec->is_bool()) {
      return WrongType(absl::StrCat(member, ".exec"), *exec, "a boolean");
    }
    info.exec = exec->boolean();
  }
  return info;
}

absl::Status ReadFiles(const JsonValue& json, Manifest& manifest) {
  MYC_ASSIGN_OR_RETURN(const JsonValue* files, FindObject(json, "files"));
  if (files == nullptr) return absl::OkStatus();
  manifest.files.emplace();
  for (const auto& [path, value] : files->object()) {
    if (!IsEntryPath(path)) return BadPath("files", path);
    if (path == kManifestPath) {
      return Bad("files",
                 "lists manifest.json, which cannot hold its own hash");
    }
    MYC_ASSIGN_OR_RETURN(FileInfo info, ReadFileInfo(path, value));
    manifest.files->emplace(path, std::move(info));
  }
  return absl::OkStatus();
}

// Members whose insides belong to others: only their type is checked.
absl::Status CheckOpaque(const JsonValue& json) {
  MYC_RETURN_IF_ERROR(FindObject(json, "labels").status());
  for (const absl::string_view member : {"config", "secrets"}) {
    const JsonValue* value = json.Find(member);
    if (value != nullptr && !value->is_object() && !value->is_array()) {
      return WrongType(member, *value, "an object or an array");
    }
  }
  return absl::OkStatus();
}

absl::Status ReadCritical(const JsonValue& json, Manifest& manifest) {
  const JsonValue* critical = json.Find("critical");
  if (critical == nullptr) return absl::OkStatus();
  MYC_ASSIGN_OR_RETURN(manifest.critical, ReadStrings(*critical, "critical"));
  for (const std::string& member : manifest.critical) {
    if (!Contains(kMembers, member)) {
      return Bad("critical",
                 absl::StrCat("demands that ", Quoted(member),
                              " be understood, which this version does not"));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadKeyAndSignature(const JsonValue& json, Manifest& manifest) {
  const auto decode = [&](absl::string_view member) {
    const JsonValue* value = json.Find(member);
    return value != nullptr && value->is_string()
               ? crypto::Base64Decode(value->string())
               : std::nullopt;
  };
  const std::optional<std::string> key = decode("public_key");
  if (!key.has_value() || !crypto::IsUsablePublicKey(*key)) {
    return Refuse("E_KEY",
                  "manifest member public_key must be the base64 of the 32 "
                  "bytes of an Ed25519 key that is not of small order");
  }
  manifest.public_key = *key;
  const std::optional<std::string> signature = decode("signature");
  if (!signature.has_value() || signature->size() != crypto::kSignatureBytes) {
    return Refuse("E_SIG",
                  "manifest member signature must be the base64 of the 64 "
                  "bytes of an Ed25519 signature");
  }
  manifest.signature = *signature;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Manifest> ParseManifest(absl::string_view text) {
  if (text.size() > kMaxManifestBytes) {
    return Refuse("E_SIZE", absl::StrCat("the manifest has ", text.size(),
                                         " bytes; at most ", kMaxManifestBytes,
                                         " are allowed"));
  }
  MYC_ASSIGN_OR_RETURN(JsonValue json, ParseJson(text));
  if (!json.is_object()) {
    return Refuse("E_MANIFEST", absl::StrCat("the manifest must be an object, "
                                             "not ",
                                             json.type_name()));
  }
  Manifest manifest;
  MYC_RETURN_IF_ERROR(ReadIdentity(json, manifest));
  MYC_RETURN_IF_ERROR(ReadCritical(json, manifest));
  MYC_RETURN_IF_ERROR(ReadPaths(json, manifest));
  MYC_RETURN_IF_ERROR(ReadProcess(json, manifest));
  MYC_RETURN_IF_ERROR(ReadHealth(json, manifest.health));
  MYC_RETURN_IF_ERROR(ReadResources(json, manifest));
  MYC_RETURN_IF_ERROR(ReadSecurity(json, manifest.security));
  MYC_RETURN_IF_ERROR(ReadTimes(json, manifest));
  MYC_RETURN_IF_ERROR(ReadFiles(json, manifest));
  MYC_RETURN_IF_ERROR(CheckOpaque(json));
  MYC_RETURN_IF_ERROR(ReadKeyAndSignature(json, manifest));
  manifest.json = json;
  json.Remove("signature");
  manifest.signed_json = Canonicalize(json);
  return manifest;
}

std::string StatementDigest(const Manifest& manifest) {
  crypto::Sha256 hash;
  hash.Update(manifest.signed_json);
  hash.Update(absl::HexStringToBytes(manifest.binary_sha256));
  return hash.Finish();
}

absl::string_view ManifestApp(absl::string_view name) {
  return name.substr(name.rfind('/') + 1);
}

bool IsSporeName(absl::string_view name) {
  constexpr size_t kMaxBytes = 128;
  constexpr size_t kMaxSegments = 4;
  if (name.size() > kMaxBytes) return false;
  const std::vector<absl::string_view> segments = absl::StrSplit(name, '/');
  const auto is_alphanumeric = [](unsigned char c) {
    return absl::ascii_islower(c) || absl::ascii_isdigit(c);
  };
  return segments.size() <= kMaxSegments &&
         std::all_of(
             segments.begin(), segments.end(), [&](absl::string_view segment) {
               return !segment.empty() && is_alphanumeric(segment.front()) &&
                      is_alphanumeric(segment.back()) &&
                      std::all_of(segment.begin(), segment.end(),
                                  [&](unsigned char c) {
                                    return is_alphanumeric(c) || c == '.' ||
                                           c == '_' || c == '-';
                                  });
             });
}

}  // namespace mycelium::spore
