#include "lib/crypto/trust_store.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/crypto/base64.h"
#include "lib/crypto/ed25519.h"
#include "lib/spore/json.h"
#include "lib/spore/refusal.h"
#include "lib/spore/rfc3339.h"

namespace mycelium::crypto {
namespace {

using spore::JsonValue;
using spore::Refuse;

constexpr absl::string_view kFormat = "mycelium.trust/v1";
constexpr absl::string_view kSporeUsage = "spore";
constexpr absl::string_view kDigestPrefix = "sha256:";
constexpr int64_t kMaxThreshold = 64;
constexpr spore::JsonLimits kLimits = {
    .max_bytes = size_t{4} << 20, .max_depth = 8, .max_values = 200'000};

absl::Status Bad(absl::string_view member, absl::string_view rule) {
  return absl::InvalidArgumentError(
      absl::StrCat("trust store: ", member, " ", rule));
}

bool Contains(const std::vector<std::string>& list, absl::string_view value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

// Reads the members of one object of the trust store; `path` names it in
// errors. Remembers the first error.
class ObjectReader {
 public:
  ObjectReader(const JsonValue& object, std::string path)
      : object_(object), path_(std::move(path)) {
    if (!object.is_object()) {
      status_ = Bad(
          path_, absl::StrCat("must be an object, not ", object.type_name()));
    }
  }

  const absl::Status& status() const { return status_; }

  // Refuses members that are not listed.
  void AllowOnly(std::initializer_list<absl::string_view> members) {
    if (!status_.ok()) return;
    for (const auto& [name, value] : object_.object()) {
      if (std::find(members.begin(), members.end(), name) == members.end()) {
        Fail(Quoted(name),
             "is unknown, and what is unknown is not skipped here");
      }
    }
  }

  const JsonValue* Find(absl::string_view member, bool required = false) {
    if (!status_.ok()) return nullptr;
    const JsonValue* value = object_.Find(member);
    if (value == nullptr && required) Fail(member, "is missing");
    return value;
  }

  std::string String(absl::string_view member, absl::string_view fallback,
                     bool required = false) {
    const JsonValue* value = Find(member, required);
    if (value == nullptr) return std::string(fallback);
    if (!value->is_string()) {
      FailType(member, *value, "a string");
      return "";
    }
    return value->string();
  }

  std::vector<std::string> Strings(absl::string_view member,
                                   bool required = false) {
    std::vector<std::string> strings;
    const JsonValue* value = Find(member, required);
    if (value == nullptr) return strings;
    if (!value->is_array()) {
      FailType(member, *value, "an array of strings");
      return strings;
    }
    for (const JsonValue& element : value->array()) {
      if (!element.is_string()) {
        FailType(member, element, "an array of strings");
        return strings;
      }
      strings.push_back(element.string());
    }
    return strings;
  }

  bool Bool(absl::string_view member) {
    const JsonValue* value = Find(member);
    if (value == nullptr) return false;
    if (!value->is_bool()) {
      FailType(member, *value, "a boolean");
      return false;
    }
    return value->boolean();
  }

  int64_t Integer(absl::string_view member, int64_t fallback, int64_t max,
                  bool required = false) {
    const JsonValue* value = Find(member, required);
    if (value == nullptr) return fallback;
    const std::optional<int64_t> integer = value->integer();
    if (!integer.has_value() || *integer < 1 || *integer > max) {
      Fail(member, absl::StrCat("must be an integer from 1 to ", max));
      return fallback;
    }
    return *integer;
  }

  std::optional<absl::Time> Time(absl::string_view member) {
    const JsonValue* value = Find(member);
    if (value == nullptr) return std::nullopt;
    const std::optional<absl::Time> time =
        value->is_string() ? spore::ParseRfc3339(value->string())
                           : std::nullopt;
    if (!time.has_value()) {
      Fail(member, "must be an RFC 3339 time with zone");
    }
    return time;
  }

  void Fail(absl::string_view member, absl::string_view rule) {
    if (status_.ok()) status_ = Bad(absl::StrCat(path_, ".", member), rule);
  }

 private:
  void FailType(absl::string_view member, const JsonValue& value,
                absl::string_view wanted) {
    Fail(member, absl::StrCat("must be ", wanted, ", not ", value.type_name()));
  }

  const JsonValue& object_;
  const std::string path_;
  absl::Status status_;
};

bool IsPattern(absl::string_view pattern) {
  constexpr size_t kMaxBytes = 128;
  if (pattern.size() > kMaxBytes) return false;
  const std::vector<absl::string_view> segments = absl::StrSplit(pattern, '/');
  for (size_t i = 0; i < segments.size(); ++i) {
    const absl::string_view segment = segments[i];
    if (segment == "*" || (segment == "**" && i + 1 == segments.size())) {
      continue;
    }
    if (segment.empty() ||
        !std::all_of(segment.begin(), segment.end(), [](unsigned char c) {
          return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '.' ||
                 c == '_' || c == '-';
        })) {
      return false;
    }
  }
  return true;
}

absl::Status CheckPattern(absl::string_view pattern) {
  if (IsPattern(pattern)) return absl::OkStatus();
  return Bad(absl::StrCat("name pattern ", Quoted(pattern)),
             "must be segments of a-z, 0-9, '.', '_' and '-', '*' for one "
             "whole segment, or '**' at the end for one or more");
}

absl::StatusOr<TrustedKey> ReadKey(const std::string& id,
                                   const JsonValue& json) {
  const std::string path = absl::StrCat("keys.", Quoted(id));
  ObjectReader reader(json, path);
  reader.AllowOnly({"comment", "not_after", "not_before", "public_key", "state",
                    "type", "usages"});
  TrustedKey key;
  key.id = id;
  key.comment = reader.String("comment", "");
  key.not_before = reader.Time("not_before");
  key.not_after = reader.Time("not_after");
  key.usages = reader.Strings("usages");
  if (reader.String("type", "ed25519") != "ed25519") {
    reader.Fail("type", "must be 'ed25519'");
  }
  const std::string state = reader.String("state", "active");
  if (state == "active") {
    key.state = KeyState::kActive;
  } else if (state == "retired") {
    key.state = KeyState::kRetired;
  } else if (state == "revoked") {
    key.state = KeyState::kRevoked;
  } else {
    reader.Fail("state", "must be 'active', 'retired' or 'revoked'");
  }
  const std::string encoded = reader.String("public_key", "", true);
  MYC_RETURN_IF_ERROR(reader.status());
  const std::optional<std::string> public_key = Base64Decode(encoded);
  if (!public_key.has_value() || !IsUsablePublicKey(*public_key)) {
    return Bad(absl::StrCat(path, ".public_key"),
               "must be the base64 of the 32 bytes of an Ed25519 key");
  }
  if (KeyId(*public_key) != id) {
    return Bad(path,
               absl::StrCat("holds the key whose id is ", KeyId(*public_key)));
  }
  key.public_key = *public_key;
  return key;
}

absl::StatusOr<TrustRule> ReadRule(size_t index, const JsonValue& json) {
  const std::string path = absl::StrCat("rules[", index, "]");
  ObjectReader reader(json, path);
  reader.AllowOnly({"comment", "enforcement", "keyids", "names", "require_sbom",
                    "threshold"});
  TrustRule rule;
  rule.comment = reader.String("comment", "");
  rule.names = reader.Strings("names", true);
  rule.key_ids = reader.Strings("keyids", true);
  rule.require_sbom = reader.Bool("require_sbom");
  rule.threshold =
      static_cast<int>(reader.Integer("threshold", 1, kMaxThreshold));
  const std::string enforcement = reader.String("enforcement", "enforce");
  if (enforcement == "audit") {
    rule.enforcement = Enforcement::kAudit;
  } else if (enforcement != "enforce") {
    reader.Fail("enforcement", "must be 'enforce' or 'audit'");
  }
  MYC_RETURN_IF_ERROR(reader.status());
  for (const std::string& name : rule.names) {
    MYC_RETURN_IF_ERROR(Annotate(CheckPattern(name), path));
  }
  return rule;
}

// The 64 hex digits of a digest with or without "sha256:".
absl::StatusOr<std::string> ReadDigest(absl::string_view text) {
  absl::string_view digest = text;
  absl::ConsumePrefix(&digest, kDigestPrefix);
  if (IsDigest(digest)) return std::string(digest);
  return Bad(absl::StrCat("revoked spore ", Quoted(text)),
             "must be 64 lower-case hex digits");
}

// With the fraction of the second, if there is one: a time that is written back
// must not move.
std::string FormatExactly(absl::Time time) {
  return absl::FormatTime("%E4Y-%m-%d%ET%H:%M:%E*SZ", time,
                          absl::UTCTimeZone());
}

JsonValue ToJson(const std::vector<std::string>& strings) {
  JsonValue::Array array;
  for (const std::string& string : strings) array.emplace_back(string);
  return JsonValue(std::move(array));
}

JsonValue ToJson(const TrustedKey& key) {
  JsonValue json = JsonValue::MakeObject();
  json.Set("type", "ed25519");
  json.Set("public_key", Base64Encode(key.public_key));
  json.Set("state", KeyStateName(key.state));
  if (!key.comment.empty()) json.Set("comment", key.comment);
  if (key.not_before.has_value()) {
    json.Set("not_before", FormatExactly(*key.not_before));
  }
  if (key.not_after.has_value()) {
    json.Set("not_after", FormatExactly(*key.not_after));
  }
  if (!key.usages.empty()) json.Set("usages", ToJson(key.usages));
  return json;
}

JsonValue ToJson(const TrustRule& rule) {
  JsonValue json = JsonValue::MakeObject();
  json.Set("names", ToJson(rule.names));
  json.Set("keyids", ToJson(rule.key_ids));
  if (!rule.comment.empty()) json.Set("comment", rule.comment);
  if (rule.threshold != 1) json.Set("threshold", rule.threshold);
  if (rule.enforcement == Enforcement::kAudit) {
    json.Set("enforcement", "audit");
  }
  if (rule.require_sbom) json.Set("require_sbom", true);
  return json;
}

bool Matches(const TrustRule& rule, absl::string_view name) {
  return std::any_of(
      rule.names.begin(), rule.names.end(),
      [&](const std::string& pattern) { return NameMatches(pattern, name); });
}

absl::Status UnknownKey(absl::string_view key_id) {
  return absl::NotFoundError(absl::StrCat(
      "the trust store has no key ", Quoted(key_id), "; see meshctl trust ls"));
}

}  // namespace

absl::string_view KeyStateName(KeyState state) {
  switch (state) {
    case KeyState::kActive:
      return "active";
    case KeyState::kRetired:
      return "retired";
    case KeyState::kRevoked:
      return "revoked";
  }
  return "unknown";
}

bool NameMatches(absl::string_view pattern, absl::string_view name) {
  const std::vector<absl::string_view> wanted = absl::StrSplit(pattern, '/');
  const std::vector<absl::string_view> segments = absl::StrSplit(name, '/');
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (i >= segments.size()) return false;
    if (wanted[i] == "**" && i + 1 == wanted.size()) return true;
    if (wanted[i] != "*" && wanted[i] != segments[i]) return false;
  }
  return wanted.size() == segments.size();
}

absl::StatusOr<TrustStore> TrustStore::Parse(absl::string_view json) {
  absl::StatusOr<JsonValue> parsed = spore::ParseJson(json, kLimits);
  if (!parsed.ok()) return Bad("the file", parsed.status().message());
  ObjectReader reader(*parsed, "$");
  reader.AllowOnly({"comment", "expires", "format", "keys", "revoked_spores",
                    "rules", "version"});
  if (reader.String("format", "", true) != kFormat) {
    reader.Fail("format", absl::StrCat("must be '", kFormat, "'"));
  }
  TrustStore store;
  store.version_ = reader.Integer("version", 1, int64_t{1} << 52, true);
  store.expires_ = reader.Time("expires");
  store.comment_ = reader.String("comment", "");
  const JsonValue* keys = reader.Find("keys", true);
  if (keys != nullptr && !keys->is_object()) {
    reader.Fail("keys", "must be an object");
  }
  const JsonValue* rules = reader.Find("rules", true);
  if (rules != nullptr && !rules->is_array()) {
    reader.Fail("rules", "must be an array");
  }
  const std::vector<std::string> revoked = reader.Strings("revoked_spores");
  MYC_RETURN_IF_ERROR(reader.status());

  for (const auto& [id, value] : keys->object()) {
    MYC_ASSIGN_OR_RETURN(TrustedKey key, ReadKey(id, value));
    store.keys_.push_back(std::move(key));
  }
  for (const JsonValue& value : rules->array()) {
    MYC_ASSIGN_OR_RETURN(TrustRule rule, ReadRule(store.rules_.size(), value));
    for (const std::string& id : rule.key_ids) {
      if (store.FindKey(id) == nullptr) {
        return Bad(
            absl::StrCat("rules[", store.rules_.size(), "].keyids"),
            absl::StrCat("names ", Quoted(id), ", which is not in keys"));
      }
    }
    store.rules_.push_back(std::move(rule));
  }
  for (const std::string& text : revoked) {
    MYC_ASSIGN_OR_RETURN(std::string digest, ReadDigest(text));
    store.revoked_spores_.push_back(std::move(digest));
  }
  return store;
}

absl::StatusOr<TrustStore> TrustStore::Load(const std::string& path) {
  MYC_ASSIGN_OR_RETURN(const std::string text,
                       ReadFile(path, int64_t{kLimits.max_bytes}));
  absl::StatusOr<TrustStore> store = Parse(text);
  if (!store.ok()) return Annotate(store.status(), path);
  return store;
}

std::string TrustStore::Serialize() const {
  JsonValue json = JsonValue::MakeObject();
  json.Set("format", kFormat);
  json.Set("version", version_);
  if (expires_.has_value()) {
    json.Set("expires", FormatExactly(*expires_));
  }
  if (!comment_.empty()) json.Set("comment", comment_);
  JsonValue keys = JsonValue::MakeObject();
  for (const TrustedKey& key : keys_) keys.Set(key.id, ToJson(key));
  json.Set("keys", std::move(keys));
  JsonValue::Array rules;
  for (const TrustRule& rule : rules_) rules.push_back(ToJson(rule));
  json.Set("rules", JsonValue(std::move(rules)));
  JsonValue::Array revoked;
  for (const std::string& digest : revoked_spores_) {
    revoked.emplace_back(absl::StrCat(kDigestPrefix, digest));
  }
  json.Set("revoked_spores", JsonValue(std::move(revoked)));
  return spore::PrettyPrint(json);
}

const TrustedKey* TrustStore::FindKey(absl::string_view key_id) const {
  const auto found =
      std::find_if(keys_.begin(), keys_.end(),
                   [&](const TrustedKey& key) { return key.id == key_id; });
  return found == keys_.end() ? nullptr : &*found;
}

TrustedKey* TrustStore::MutableKey(absl::string_view key_id) {
  const auto found =
      std::find_if(keys_.begin(), keys_.end(),
                   [&](const TrustedKey& key) { return key.id == key_id; });
  return found == keys_.end() ? nullptr : &*found;
}

absl::Status TrustStore::CheckNotOlderThan(int64_t version) const {
  if (version_ >= version) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "the trust store has version ", version_, ", but version ", version,
      " has been in use: an old one is not taken back; restore the newer "
      "file"));
}

absl::Status TrustStore::AddKey(absl::string_view public_key,
                                absl::string_view comment,
                                const std::vector<std::string>& names) {
  if (!IsUsablePublicKey(public_key)) {
    return absl::InvalidArgumentError(
        "the public key is not a usable Ed25519 key of 32 bytes");
  }
  if (names.empty()) {
    return absl::InvalidArgumentError(
        "a key is trusted for names: give at least one pattern, such as "
        "'billing' or 'demo/*'");
  }
  for (const std::string& name : names) {
    MYC_RETURN_IF_ERROR(CheckPattern(name));
  }
  const std::string id = KeyId(public_key);
  TrustedKey* key = MutableKey(id);
  if (key != nullptr && key->state == KeyState::kRevoked) {
    return absl::FailedPreconditionError(
        absl::StrCat("key ", id, " is revoked, and what is revoked stays so"));
  }
  if (key == nullptr) {
    key = &keys_.emplace_back();
    key->id = id;
    key->public_key = std::string(public_key);
  }
  key->state = KeyState::kActive;
  key->not_after.reset();
  if (!comment.empty()) key->comment = std::string(comment);

  const auto own_rule =
      std::find_if(rules_.begin(), rules_.end(), [&](const TrustRule& rule) {
        return rule.key_ids == std::vector<std::string>{id} &&
               rule.threshold == 1 && !rule.require_sbom;
      });
  if (own_rule == rules_.end()) {
    rules_.push_back({.names = names, .key_ids = {id}, .comment = ""});
  } else {
    for (const std::string& name : names) {
      if (!Contains(own_rule->names, name)) own_rule->names.push_back(name);
    }
  }
  ++version_;
  return absl::OkStatus();
}

absl::Status TrustStore::RemoveKey(absl::string_view key_id) {
  const TrustedKey* key = FindKey(key_id);
  if (key == nullptr) return UnknownKey(key_id);
  for (TrustRule& rule : rules_) {
    rule.key_ids.erase(
        std::remove(rule.key_ids.begin(), rule.key_ids.end(), key->id),
        rule.key_ids.end());
  }
  // A rule may have lost its last key and still ask for an SBOM of its names.
  rules_.erase(std::remove_if(rules_.begin(), rules_.end(),
                              [](const TrustRule& rule) {
                                return rule.key_ids.empty() &&
                                       rule.threshold == 1 &&
                                       !rule.require_sbom;
                              }),
               rules_.end());
  keys_.erase(keys_.begin() + (key - keys_.data()));
  ++version_;
  return absl::OkStatus();
}

absl::Status TrustStore::RetireKey(absl::string_view key_id, absl::Time at) {
  TrustedKey* key = MutableKey(key_id);
  if (key == nullptr) return UnknownKey(key_id);
  if (key->state == KeyState::kRevoked) {
    return absl::FailedPreconditionError(absl::StrCat(
        "key ", key->id, " is revoked, and what is revoked stays so"));
  }
  key->state = KeyState::kRetired;
  key->not_after = at;
  ++version_;
  return absl::OkStatus();
}

absl::Status TrustStore::RevokeKey(absl::string_view key_id) {
  TrustedKey* key = MutableKey(key_id);
  if (key == nullptr) return UnknownKey(key_id);
  key->state = KeyState::kRevoked;
  ++version_;
  return absl::OkStatus();
}

absl::Status TrustStore::RevokeSpore(absl::string_view digest) {
  MYC_ASSIGN_OR_RETURN(std::string hex, ReadDigest(digest));
  if (!Contains(revoked_spores_, hex)) {
    revoked_spores_.push_back(std::move(hex));
  }
  ++version_;
  return absl::OkStatus();
}

void TrustStore::SetExpires(std::optional<absl::Time> expires) {
  expires_ = expires;
  ++version_;
}

absl::Status TrustStore::EvaluateSigner(absl::string_view key_id,
                                        absl::string_view name,
                                        absl::Time created_at,
                                        absl::Time at) const {
  if (expires_.has_value() && at >= *expires_) {
    return Refuse(
        "E_TRUST_EXPIRED",
        absl::StrCat("the trust store (version ", version_, ") expired at ",
                     spore::FormatRfc3339(*expires_)));
  }
  const TrustedKey* key = FindKey(key_id);
  if (key == nullptr) {
    return Refuse("E_UNTRUSTED_KEY",
                  absl::StrCat("key ", key_id, " is not in the trust store"));
  }
  if (key->state == KeyState::kRevoked) {
    return Refuse("E_KEY_REVOKED", absl::StrCat("key ", key_id, " is revoked"));
  }
  if (key->state == KeyState::kRetired && !key->not_after.has_value()) {
    return Refuse("E_KEY_RETIRED", absl::StrCat("key ", key_id, " is retired"));
  }
  if (key->not_after.has_value() && created_at > *key->not_after) {
    return Refuse("E_KEY_RETIRED",
                  absl::StrCat("key ", key_id, " was retired at ",
                               spore::FormatRfc3339(*key->not_after),
                               ", before the spore was created at ",
                               spore::FormatRfc3339(created_at)));
  }
  if (key->not_before.has_value() && created_at < *key->not_before) {
    return Refuse("E_KEY_NOT_YET_VALID",
                  absl::StrCat("key ", key_id, " is valid from ",
                               spore::FormatRfc3339(*key->not_before),
                               ", after the spore was created at ",
                               spore::FormatRfc3339(created_at)));
  }
  const bool allowed =
      (key->usages.empty() || Contains(key->usages, kSporeUsage)) &&
      std::any_of(rules_.begin(), rules_.end(), [&](const TrustRule& rule) {
        return Matches(rule, name) && Contains(rule.key_ids, key_id);
      });
  if (!allowed) {
    return Refuse("E_NOT_AUTHORIZED",
                  absl::StrCat("no rule lets key ", key_id,
                               " sign spores named ", Quoted(name)));
  }
  return absl::OkStatus();
}

absl::Status TrustStore::EvaluateSpore(
    const VerifiedSpore& spore, absl::Time at,
    std::vector<std::string>& warnings) const {
  if (Contains(revoked_spores_, spore.digest) ||
      Contains(revoked_spores_, spore.statement_digest)) {
    return Refuse("E_REVOKED",
                  absl::StrCat("spore ", spore.digest, " is revoked"));
  }
  if (spore.expires_at.has_value() && at >= *spore.expires_at) {
    return Refuse("E_EXPIRED",
                  absl::StrCat("the spore expired at ",
                               spore::FormatRfc3339(*spore.expires_at)));
  }
  for (size_t i = 0; i < rules_.size(); ++i) {
    const TrustRule& rule = rules_[i];
    if (!Matches(rule, spore.name)) continue;
    std::vector<std::string> missed;
    if (rule.threshold > 1) {
      missed.push_back(absl::StrCat("asks for ", rule.threshold,
                                    " signatures, and there is one"));
    }
    if (rule.require_sbom && !spore.has_sbom) {
      missed.emplace_back("asks for an SBOM (sbom.cdx.json)");
    }
    if (missed.empty()) continue;
    const std::string message = absl::StrCat(
        "rule ", i, " of the trust store (", absl::StrJoin(rule.names, ", "),
        ") ", absl::StrJoin(missed, "; "));
    if (rule.enforcement == Enforcement::kEnforce) {
      return Refuse("E_POLICY", message);
    }
    warnings.push_back(message);
  }
  return absl::OkStatus();
}

}  // namespace mycelium::crypto
