// Commands about spores and keys, on disk and in the repo.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/crypto/base64.h"
#include "lib/crypto/ed25519.h"
#include "lib/crypto/trust_store.h"
#include "lib/spore/archive.h"
#include "lib/spore/json.h"
#include "lib/spore/manifest.h"
#include "lib/spore/pack.h"
#include "lib/spore/verify.h"
#include "tools/meshctl/commands.h"
#include "tools/meshctl/description.h"
#include "tools/meshctl/failure.h"
#include "tools/meshctl/mesh_client.h"
#include "tools/meshctl/parser.h"
#include "tools/meshctl/publish.h"
#include "tools/meshctl/session.h"
#include "tools/meshctl/views.h"

namespace mycelium::meshctl {
namespace {

constexpr absl::Duration kUploadTimeout = absl::Minutes(5);

absl::Status CreateNew(const std::string& path, absl::string_view contents,
                       mode_t mode) {
  const UniqueFd fd(
      open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (!fd.valid()) {
    if (errno == EEXIST) {
      return ToStatus({.exit = ExitCode::kConflict,
                       .message = absl::StrCat(path, " exists already"),
                       .why = "it is not overwritten, as it may be needed"});
    }
    return ErrnoStatus(errno, absl::StrCat("cannot write ", path));
  }
  return WriteFully(fd.get(), contents);
}

std::string KeyFileOf(Session& session) {
  if (session.call.Has("out")) return session.call.Get("out");
  const std::string name =
      session.call.args.empty() ? "default" : session.Arg(0);
  const Variables& variables = session.environment.variables;
  std::string base = variables.Get("XDG_CONFIG_HOME");
  if (base.empty()) base = JoinPath(variables.Get("HOME"), ".config");
  return JoinPath(base, absl::StrCat("mycelium/", name, ".key"));
}

std::string SignerOf(const std::string& key_id) {
  return absl::StrCat("ed25519:", ShortDigest(key_id));
}

absl::StatusOr<std::string> TrustStorePath(Session& session) {
  MYC_ASSIGN_OR_RETURN(const Context* const context, session.context());
  std::string path = context->Get("trust-store");
  if (path.empty()) {
    return UsageError("no trust store is named",
                      {"name it:  --trust-store FILE"});
  }
  return path;
}

// A public key from a file as keygen writes it, a file with a private key, or
// base64.
absl::StatusOr<std::string> ReadPublicKey(const std::string& text) {
  if (const auto key = crypto::Base64Decode(text);
      key && key->size() == crypto::kPublicKeyBytes) {
    return *key;
  }
  MYC_ASSIGN_OR_RETURN(const std::string contents, ReadFile(text, 65536));
  if (absl::StrContains(contents, "PRIVATE KEY")) {
    MYC_ASSIGN_OR_RETURN(const crypto::PrivateKey key,
                         crypto::PrivateKey::FromPem(contents));
    return key.public_key();
  }
  const auto key = crypto::Base64Decode(absl::StripAsciiWhitespace(contents));
  if (!key || key->size() != crypto::kPublicKeyBytes) {
    return UsageError(
        absl::StrCat(text,
                     " is no public key: it must be 32 bytes in base64, as "
                     "`meshctl keygen` writes them"));
  }
  return *key;
}

// The one key whose id begins with `prefix`.
absl::StatusOr<std::string> FindKeyId(const crypto::TrustStore& store,
                                      absl::string_view prefix) {
  std::vector<std::string> found;
  for (const crypto::TrustedKey& key : store.keys()) {
    if (absl::StartsWith(key.id, prefix)) found.push_back(key.id);
  }
  if (found.size() == 1) return found[0];
  if (found.empty()) {
    return ToStatus(
        {.exit = ExitCode::kNotFound,
         .message = absl::StrCat("the trust store has no key ", Quoted(prefix)),
         .fixes = {"see its keys:  meshctl trust ls"}});
  }
  return UsageError(absl::StrCat(Quoted(prefix), " stands for ", found.size(),
                                 " keys; give more digits"));
}

std::vector<std::string> NamesOf(const crypto::TrustStore& store,
                                 const std::string& key_id) {
  std::vector<std::string> names;
  for (const crypto::TrustRule& rule : store.rules()) {
    if (std::find(rule.key_ids.begin(), rule.key_ids.end(), key_id) !=
        rule.key_ids.end()) {
      names.insert(names.end(), rule.names.begin(), rule.names.end());
    }
  }
  return names;
}

absl::StatusOr<UniqueFd> OpenSpore(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid())
    return ErrnoStatus(errno, absl::StrCat("cannot read ", path));
  struct stat info = {};
  if (fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return UsageError(absl::StrCat(path, " is no regular file"));
  }
  return fd;
}

Json VerdictJson(const spore::Verdict& verdict) {
  Json json = Json::Object();
  json.Set("verdict", verdict.accept ? "accept" : "refuse")
      .Set("code", verdict.code)
      .Set("message", verdict.message)
      .Set("key_id", verdict.key_id)
      .Set("digest", verdict.digest)
      .Set("statement_digest", verdict.statement_digest)
      .Set("policy_version", verdict.policy_version);
  if (!verdict.warnings.empty()) {
    json.Set("warnings", Json::Strings(verdict.warnings));
  }
  return json;
}

}  // namespace

absl::Status Keygen(Session& session) {
  const std::string path = KeyFileOf(session);
  MYC_ASSIGN_OR_RETURN(const crypto::PrivateKey key,
                       crypto::PrivateKey::Generate());
  if (const size_t slash = path.rfind('/');
      slash != std::string::npos && slash > 0) {
    MYC_RETURN_IF_ERROR(MakeDirectories(path.substr(0, slash), 0700));
  }
  std::string pem = key.ToPem();
  const absl::Status written = CreateNew(path, pem, 0600);
  crypto::Wipe(pem);
  MYC_RETURN_IF_ERROR(written);
  const std::string public_key = crypto::Base64Encode(key.public_key());
  const std::string public_path = path + ".pub";
  MYC_RETURN_IF_ERROR(
      WriteFileAtomically(public_path, public_key + "\n", 0644));

  const std::string key_id = crypto::KeyId(key.public_key());
  Json json = Json::Object();
  json.Set("key_id", key_id)
      .Set("public_key", public_key)
      .Set("key_file", path)
      .Set("public_key_file", public_path);
  session.console.Emit(
      absl::StrCat(session.console.Good(), " key ", SignerOf(key_id), "\n",
                   "  private  ", path, "\n  public   ", public_path, "\n"),
      json, key_id);
  session.console.Hint(absl::StrCat("Trust it:  meshctl trust add ",
                                    public_path,
                                    " --name PATTERN --trust-store FILE"));
  return absl::OkStatus();
}

absl::Status Build(Session& session) {
  Description description;
  description.pack.manifest = spore::JsonValue::MakeObject();
  if (!session.call.args.empty()) {
    MYC_ASSIGN_OR_RETURN(
        description,
        ReadDescription(session.Arg(0), session.environment.variables));
  }
  MYC_RETURN_IF_ERROR(CompleteDescription(
      session.call, session.environment.variables, session.Now(), description));
  MYC_ASSIGN_OR_RETURN(const Context* const context, session.context());
  const std::string key_file = context->Get("key-file");
  if (key_file.empty()) {
    return UsageError(
        "no key to sign with is named",
        {"name it:  --key-file FILE", "make one:  meshctl keygen --out FILE"});
  }
  MYC_ASSIGN_OR_RETURN(const crypto::PrivateKey key, ReadPrivateKey(key_file));

  const std::string app(spore::ManifestApp(description.name()));
  const std::string out = session.call.Get(
      "out", absl::StrCat(app, "-", description.version(), ".spore"));
  absl::StatusOr<spore::PackResult> packed =
      spore::PackToPath(description.pack, key, out);
  if (!packed.ok()) return PackFailure(packed.status(), description.name());

  const std::string key_id = crypto::KeyId(key.public_key());
  if (session.call.Has("quiet") && !session.console.structured()) {
    session.console.Raw(packed->digest + "\n");
    return absl::OkStatus();
  }
  Json json = Json::Object();
  json.Set("digest", packed->digest)
      .Set("statement_digest", packed->statement_digest)
      .Set("key_id", key_id)
      .Set("size_bytes", packed->size_bytes)
      .Set("name", packed->manifest.name)
      .Set("appName", app)
      .Set("version", packed->manifest.version)
      .Set("file", out);
  session.console.Emit(
      absl::StrCat(session.console.Good(), " ", packed->manifest.name, " ",
                   packed->manifest.version, "   ",
                   ShortBytes(packed->size_bytes), "   signed by ",
                   SignerOf(key_id), "\n  file     ", out, "\n  digest   ",
                   packed->digest, "\n"),
      json, packed->digest);
  session.console.Hint(absl::StrCat("Next: meshctl publish ", out));
  return absl::OkStatus();
}

absl::Status Verify(Session& session) {
  MYC_ASSIGN_OR_RETURN(const UniqueFd fd, OpenSpore(session.Arg(0)));
  MYC_ASSIGN_OR_RETURN(const Context* const context, session.context());
  const std::string path = context->Get("trust-store");
  // A store without keys refuses whatever is otherwise in order.
  crypto::TrustStore trust;
  if (!path.empty()) {
    absl::StatusOr<crypto::TrustStore> loaded = crypto::TrustStore::Load(path);
    if (!loaded.ok()) {
      if (absl::IsNotFound(loaded.status())) return loaded.status();
      return UsageError(loaded.status().message());
    }
    trust = *std::move(loaded);
  }
  const absl::Time at = ParseTimeFlag(session.call.Get("at"), session.Now())
                            .value_or(session.Now());
  spore::Verdict verdict =
      spore::VerifySpore(fd.get(), &trust, at, spore::Limits());
  if (path.empty()) {
    verdict.policy_version = 0;
    if (verdict.code == "E_UNTRUSTED_KEY") {
      verdict.message =
          "no trust store was given, so no key is trusted; the key that the "
          "manifest carries proves nothing";
    }
  }

  Console& console = session.console;
  std::string text =
      verdict.accept
          ? absl::StrCat(
                console.ToneOut(console.Good() + " accept", Tone::kGood), "   ",
                verdict.manifest.name, " ", verdict.manifest.version, "\n")
          : absl::StrCat(console.ToneOut(console.Bad() + " refuse", Tone::kBad),
                         "   ", verdict.code, ": ", verdict.message, "\n");
  const auto line = [&text](absl::string_view name, absl::string_view value) {
    if (!value.empty()) {
      absl::StrAppendFormat(&text, "  %-17s %s\n", name, value);
    }
  };
  line("digest", verdict.digest);
  line("statement digest", verdict.statement_digest);
  line("key", verdict.key_id);
  line("trust store", path.empty() ? "none: nothing is trusted"
                                   : absl::StrCat(path, " (version ",
                                                  verdict.policy_version, ")"));
  for (const std::string& warning : verdict.warnings) line("warning", warning);
  console.Emit(text, VerdictJson(verdict), verdict.code);
  if (verdict.accept) return absl::OkStatus();
  if (path.empty()) {
    console.Hint("  fix  name a trust store:  --trust-store FILE");
  }
  return QuietExit(ExitCode::kUntrusted);
}

absl::Status Inspect(Session& session) {
  MYC_ASSIGN_OR_RETURN(const UniqueFd fd, OpenSpore(session.Arg(0)));
  const spore::Verdict verdict =
      spore::VerifySpore(fd.get(), nullptr, session.Now(), spore::Limits());
  const absl::StatusOr<std::vector<spore::Entry>> entries =
      spore::ReadArchive(fd.get(), spore::Limits());
  if (!entries.ok()) {
    return Explain(entries.status(),
                   absl::StrCat(session.Arg(0), " is no spore"));
  }

  Json json = Json::Object();
  json.Set("intact", verdict.accept)
      .Set("code", verdict.code)
      .Set("message", verdict.message)
      .Set("digest", verdict.digest)
      .Set("statement_digest", verdict.statement_digest)
      .Set("key_id", verdict.key_id);
  const bool has_manifest = !verdict.manifest.name.empty();
  if (has_manifest) json.Set("manifest", FromJsonValue(verdict.manifest.json));
  Json list = Json::Array();
  Table table({{"PATH"}, {"SIZE", true}, {"STORED", true}});
  for (const spore::Entry& entry : *entries) {
    Json item = Json::Object();
    item.Set("path", entry.path)
        .Set("size", entry.size)
        .Set("stored_bytes", entry.stored_bytes);
    list.Add(std::move(item));
    table.AddRow(
        {entry.path, ShortBytes(entry.size), ShortBytes(entry.stored_bytes)});
  }
  json.Set("entries", std::move(list));

  std::string text;
  const auto line = [&text](absl::string_view name, absl::string_view value) {
    if (!value.empty()) absl::StrAppendFormat(&text, "%-17s %s\n", name, value);
  };
  if (has_manifest) {
    line("name", verdict.manifest.name);
    line("version", verdict.manifest.version);
    line("command", absl::StrCat(verdict.manifest.command,
                                 verdict.manifest.args.empty() ? "" : " ",
                                 absl::StrJoin(verdict.manifest.args, " ")));
  }
  line("digest", verdict.digest);
  line("statement digest", verdict.statement_digest);
  line("signed by", verdict.key_id.empty()
                        ? ""
                        : absl::StrCat(verdict.key_id,
                                       " (not checked against "
                                       "any trust store)"));
  line("intact", verdict.accept ? "yes"
                                : absl::StrCat("no: ", verdict.code, ": ",
                                               verdict.message));
  if (has_manifest) {
    absl::StrAppend(&text, "\n", spore::PrettyPrint(verdict.manifest.json));
  }
  absl::StrAppend(&text, "\n", session.console.Render(table));
  session.console.Emit(text, json, verdict.digest);
  return verdict.accept ? absl::OkStatus() : QuietExit(ExitCode::kUntrusted);
}

absl::Status Publish(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"repo"}));
  Json spores = Json::Array();
  std::vector<std::string> digests;
  Table table({{"SPORE"}, {"VERSION"}, {"SIZE", true}, {"DIGEST"}, {"RESULT"}});
  for (const std::string& path : session.call.args) {
    const absl::StatusOr<Published> published = PublishFile(
        *mesh, session.console, path, session.TimeoutOr(kUploadTimeout));
    if (!published.ok()) {
      return Explain(published.status(), absl::StrCat("cannot publish ", path));
    }
    const spore::v1::SporeInfo& info = published->spore;
    Json item = FromProto(info);
    item.Set("existed", published->existed);
    spores.Add(std::move(item));
    digests.push_back(info.digest());
    table.AddRow({info.name(), info.version(), ShortBytes(info.size_bytes()),
                  info.digest(),
                  Cell(published->existed ? "was there already" : "published",
                       Tone::kGood)});
  }
  if (session.call.Has("quiet") && !session.console.structured()) {
    session.console.Raw(absl::StrJoin(digests, "\n") + "\n");
    return absl::OkStatus();
  }
  Json json = Json::Object();
  json.Set("schema", "meshctl.publish/v1").Set("spores", std::move(spores));
  session.console.Emit(table, json, "spores", digests);
  session.console.Hint(
      absl::StrCat("Next: meshctl plan ", session.call.args[0]));
  return absl::OkStatus();
}

absl::Status TrustInit(Session& session) {
  MYC_ASSIGN_OR_RETURN(const std::string path, TrustStorePath(session));
  MYC_RETURN_IF_ERROR(CreateNew(path, crypto::TrustStore().Serialize(), 0644));
  Json json = Json::Object();
  json.Set("trust_store", path).Set("version", 1);
  session.console.Emit(
      absl::StrCat(session.console.Good(), " ", path, " trusts nobody yet\n"),
      json, path);
  session.console.Hint(absl::StrCat(
      "Next: meshctl trust add KEY --name PATTERN --trust-store ", path));
  return absl::OkStatus();
}

absl::Status TrustList(Session& session) {
  MYC_ASSIGN_OR_RETURN(const std::string path, TrustStorePath(session));
  MYC_ASSIGN_OR_RETURN(const crypto::TrustStore store,
                       crypto::TrustStore::Load(path));
  Table table({{"KEY"}, {"STATE"}, {"COMMENT"}, {"MAY SIGN"}});
  Json keys = Json::Array();
  std::vector<std::string> ids;
  for (const crypto::TrustedKey& key : store.keys()) {
    const std::vector<std::string> names = NamesOf(store, key.id);
    const std::string state(crypto::KeyStateName(key.state));
    table.AddRow(
        {session.console.out_is_terminal() ? ShortDigest(key.id) : key.id,
         Cell(state, key.state == crypto::KeyState::kActive ? Tone::kGood
                                                            : Tone::kBad),
         key.comment.empty() ? "-" : key.comment,
         names.empty() ? "-" : absl::StrJoin(names, " ")});
    Json item = Json::Object();
    item.Set("key_id", key.id)
        .Set("public_key", crypto::Base64Encode(key.public_key))
        .Set("state", state)
        .Set("comment", key.comment)
        .Set("names", Json::Strings(names));
    keys.Add(std::move(item));
    ids.push_back(key.id);
  }
  Json json = Json::Object();
  json.Set("schema", "meshctl.trust/v1")
      .Set("trust_store", path)
      .Set("version", store.version())
      .Set("keys", std::move(keys));
  session.console.Emit(table, json, "keys", ids);
  if (ids.empty()) session.console.Note("no keys: nothing is trusted");
  return absl::OkStatus();
}

absl::Status TrustAdd(Session& session) {
  MYC_ASSIGN_OR_RETURN(const std::string path, TrustStorePath(session));
  const std::vector<std::string> names = session.call.GetAll("name");
  if (names.empty()) {
    return UsageError("trust add needs --name: which spores the key may sign",
                      {"one app:  --name billing", "every name:  --name '**'"});
  }
  MYC_ASSIGN_OR_RETURN(const std::string key, ReadPublicKey(session.Arg(0)));
  MYC_ASSIGN_OR_RETURN(crypto::TrustStore store,
                       crypto::TrustStore::Load(path));
  MYC_RETURN_IF_ERROR(store.AddKey(key, session.call.Get("comment"), names));
  MYC_RETURN_IF_ERROR(WriteFileAtomically(path, store.Serialize(), 0644));
  const std::string key_id = crypto::KeyId(key);
  Json json = Json::Object();
  json.Set("key_id", key_id)
      .Set("names", Json::Strings(names))
      .Set("trust_store", path)
      .Set("version", store.version());
  session.console.Emit(
      absl::StrCat(session.console.Good(), " ", SignerOf(key_id), " may sign ",
                   absl::StrJoin(names, ", "), " (version ", store.version(),
                   ")\n"),
      json, key_id);
  return absl::OkStatus();
}

absl::Status TrustRemove(Session& session) {
  MYC_ASSIGN_OR_RETURN(const std::string path, TrustStorePath(session));
  MYC_ASSIGN_OR_RETURN(crypto::TrustStore store,
                       crypto::TrustStore::Load(path));
  MYC_ASSIGN_OR_RETURN(const std::string key_id,
                       FindKeyId(store, session.Arg(0)));
  const bool revoke = session.call.Has("revoke");
  MYC_RETURN_IF_ERROR(revoke ? store.RevokeKey(key_id)
                             : store.RemoveKey(key_id));
  MYC_RETURN_IF_ERROR(WriteFileAtomically(path, store.Serialize(), 0644));
  Json json = Json::Object();
  json.Set("key_id", key_id)
      .Set("revoked", revoke)
      .Set("trust_store", path)
      .Set("version", store.version());
  session.console.Emit(
      absl::StrCat(session.console.Good(), " ", SignerOf(key_id),
                   revoke ? " is revoked" : " is removed", " (version ",
                   store.version(), ")\n"),
      json, key_id);
  return absl::OkStatus();
}

absl::Status RepoList(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"repo"}));
  MYC_ASSIGN_OR_RETURN(const std::vector<spore::v1::SporeInfo> spores,
                       mesh->ListSpores(session.Arg(0)));
  EmitSpores(session.console, spores);
  return absl::OkStatus();
}

absl::Status RepoStat(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"repo"}));
  MYC_ASSIGN_OR_RETURN(const spore::v1::SporeInfo info,
                       mesh->StatSpore(session.Arg(0)));
  std::string text;
  const auto line = [&text](absl::string_view name, absl::string_view value) {
    absl::StrAppendFormat(&text, "%-17s %s\n", name, value);
  };
  line("name", info.name());
  line("app", info.app_name());
  line("version", info.version());
  line("digest", info.digest());
  line("statement digest", info.statement_digest());
  line("signed by",
       absl::StrCat(info.key_id(), info.trusted() ? " (trusted by the repo)"
                                                  : " (not vouched for)"));
  line("size", ShortBytes(info.size_bytes()));
  line("since", session.console.Age(TimeOf(info.put_time())));
  if (const auto manifest = spore::ParseJson(info.manifest_json());
      manifest.ok()) {
    absl::StrAppend(&text, "\n", spore::PrettyPrint(*manifest));
  }
  session.console.Emit(text, FromProto(info), info.digest());
  return absl::OkStatus();
}

absl::Status RepoRemove(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"repo"}));
  const std::string digest = session.Arg(0);
  MYC_ASSIGN_OR_RETURN(const repo::v1::DeleteResponse response,
                       mesh->DeleteSpore(digest, session.call.Has("force")));
  Json json = Json::Object();
  json.Set("digest", digest).Set("freedBytes", response.freed_bytes());
  session.console.Emit(
      absl::StrCat(session.console.Good(), " deleted ", digest, ", ",
                   ShortBytes(response.freed_bytes()), " freed\n"),
      json, digest);
  return absl::OkStatus();
}

absl::Status RepoCollect(Session& session) {
  MYC_ASSIGN_OR_RETURN(MeshClient* const mesh, session.mesh({"repo"}));
  repo::v1::GcRequest request;
  for (const std::string& digest : session.call.GetAll("keep")) {
    request.add_keep_digests(digest);
  }
  // The repo may know no fabric; what the fabric of the context plans is kept
  // in any case.
  MYC_ASSIGN_OR_RETURN(const Context* const context, session.context());
  if (!context->Get("fabric").empty()) {
    MYC_ASSIGN_OR_RETURN(const Listed<fabric::v1::Plan> plans,
                         mesh->ListPlans());
    for (const fabric::v1::Plan& plan : plans.items) {
      request.add_keep_digests(plan.digest());
    }
  }
  if (session.call.Has("min-age")) {
    SetDuration(session.call.GetDuration("min-age", absl::Hours(1)),
                *request.mutable_min_age());
  }
  request.set_dry_run(session.call.Has("dry-run"));
  MYC_ASSIGN_OR_RETURN(const repo::v1::GcResponse response,
                       mesh->CollectSpores(request));
  std::string text;
  std::vector<std::string> digests;
  for (const std::string& digest : response.deleted_digests()) {
    absl::StrAppend(&text, request.dry_run() ? "would delete " : "deleted ",
                    digest, "\n");
    digests.push_back(digest);
  }
  absl::StrAppend(&text, response.deleted_digests_size(),
                  request.dry_run() ? " would go, " : " deleted, ",
                  ShortBytes(response.freed_bytes()), " freed, ",
                  response.kept_count(), " kept\n");
  session.console.Emit(text, FromProto(response), absl::StrJoin(digests, "\n"));
  return absl::OkStatus();
}

}  // namespace mycelium::meshctl
