#include "tools/meshctl/session.h"

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/base/version.h"
#include "tools/meshctl/failure.h"
#include "tools/meshctl/help.h"
#include "tools/meshctl/mesh_client.h"
#include "tools/meshctl/parser.h"

namespace mycelium::meshctl {
namespace {

constexpr absl::Duration kReadTimeout = absl::Seconds(10);

absl::StatusOr<Format> ChooseFormat(const Invocation& call,
                                    const Variables& variables) {
  std::string name = call.Get("output", variables.Get("MESHCTL_OUTPUT"));
  if (call.Has("json")) name = "json";
  if (name.empty() || name == "table") return Format::kTable;
  if (name == "wide") return Format::kWide;
  if (name == "json") return Format::kJson;
  if (name == "yaml") return Format::kYaml;
  if (name == "ndjson") return Format::kNdjson;
  if (name == "name") return Format::kName;
  return UsageError(absl::StrCat("MESHCTL_OUTPUT is ", Quoted(name),
                                 ", which is none of table, wide, json, yaml, "
                                 "ndjson, name"));
}

bool UsesColor(const Invocation& call, const Variables& variables,
               const Sink& sink) {
  const std::string choice = call.Get("color", "auto");
  if (choice == "always") return true;
  if (choice == "never" || variables.Has("NO_COLOR")) return false;
  if (variables.Has("CLICOLOR_FORCE") || variables.Has("FORCE_COLOR")) {
    return true;
  }
  return sink.IsTerminal() && variables.Get("TERM") != "dumb";
}

bool UsesUnicode(const Variables& variables) {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    if (!variables.Has(name)) continue;
    const std::string locale = absl::AsciiStrToLower(variables.Get(name));
    return absl::StrContains(locale, "utf-8") ||
           absl::StrContains(locale, "utf8");
  }
  return true;
}

absl::StatusOr<ConsoleOptions> ChooseOptions(const Invocation& call,
                                             const Environment& environment) {
  const Variables& variables = environment.variables;
  ConsoleOptions options;
  MYC_ASSIGN_OR_RETURN(options.format, ChooseFormat(call, variables));
  options.color_out = UsesColor(call, variables, *environment.out);
  options.color_err = UsesColor(call, variables, *environment.err);
  options.unicode = UsesUnicode(variables);
  options.headers = !call.Has("no-headers");
  if (call.Has("columns")) {
    options.columns =
        absl::StrSplit(call.Get("columns"), ',', absl::SkipWhitespace());
  }
  options.quiet = call.Has("quiet");
  options.hints = !variables.Has("MESHCTL_NO_HINTS");
  options.now = environment.clock->Now();
  if (environment.out->IsTerminal()) {
    options.width = environment.terminal_width;
    size_t columns = 0;
    if (absl::SimpleAtoi(variables.Get("COLUMNS"), &columns)) {
      options.width = columns;
    }
  }
  const std::string progress =
      call.Get("progress", variables.Get("MESHCTL_PROGRESS"));
  const bool machine =
      options.format != Format::kTable && options.format != Format::kWide;
  const bool watched = environment.err->IsTerminal() && !variables.Has("CI") &&
                       variables.Get("TERM") != "dumb";
  using Progress = ConsoleOptions::Progress;
  options.progress = watched ? Progress::kRedraw : Progress::kPlain;
  if (machine) options.progress = Progress::kQuiet;
  if (progress == "tty") options.progress = Progress::kRedraw;
  if (progress == "plain") options.progress = Progress::kPlain;
  if (progress == "json") options.progress = Progress::kJson;
  if (progress == "quiet") options.progress = Progress::kQuiet;
  return options;
}

// A console for errors that come before the command line is understood: JSON if
// it looks as if that was wanted.
ConsoleOptions GuessOptions(const std::vector<std::string>& words,
                            const Environment& environment) {
  ConsoleOptions options;
  const std::string variable = environment.variables.Get("MESHCTL_OUTPUT");
  bool json = variable == "json" || variable == "ndjson";
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--") break;
    const bool split =
        (words[i] == "-o" || words[i] == "--output") && i + 1 < words.size();
    const std::string value = split ? words[i + 1] : words[i];
    json = json || value == "--json" || value == "-ojson" ||
           value == "--output=json" || value == "-ondjson" ||
           value == "--output=ndjson" ||
           (split && (value == "json" || value == "ndjson"));
  }
  options.format = json ? Format::kJson : Format::kTable;
  options.unicode = UsesUnicode(environment.variables);
  options.color_err =
      environment.err->IsTerminal() && !environment.variables.Has("NO_COLOR");
  options.now = environment.clock->Now();
  return options;
}

int End(Console& console, const absl::Status& status) {
  if (!IsQuietExit(status) && !status.ok()) console.Error(status);
  return status.ok() ? 0 : static_cast<int>(ToFailure(status).exit);
}

}  // namespace

Session::Session(const Invocation& call, const Environment& environment,
                 Console& console)
    : call(call), environment(environment), console(console) {}

Session::~Session() = default;

absl::StatusOr<const Context*> Session::context() {
  if (!context_) {
    MYC_ASSIGN_OR_RETURN(context_, Context::Resolve(call, environment.variables,
                                                    environment.directory));
  }
  return &*context_;
}

absl::StatusOr<MeshClient*> Session::mesh(
    std::initializer_list<absl::string_view> needed) {
  MYC_ASSIGN_OR_RETURN(const Context* const found, context());
  for (const absl::string_view service : needed) {
    MYC_RETURN_IF_ERROR(found->Require(service).status());
  }
  if (mesh_ == nullptr) {
    MeshAddresses addresses;
    addresses.fabric = found->Get("fabric");
    addresses.repo = found->Get("repo");
    addresses.edge = found->Get("edge");
    addresses.tls.cert_file = found->Get("tls-cert");
    addresses.tls.key_file = found->Get("tls-key");
    addresses.tls.ca_file = found->Get("tls-ca");
    mesh_ = std::make_unique<MeshClient>(
        std::move(addresses),
        std::min(TimeoutOr(kReadTimeout), absl::Minutes(10)));
  }
  return mesh_.get();
}

absl::Duration Session::TimeoutOr(absl::Duration otherwise) const {
  if (call.Has("timeout")) return call.GetDuration("timeout", otherwise);
  return ParseDurationFlag(environment.variables.Get("MESHCTL_TIMEOUT"))
      .value_or(otherwise);
}

std::string Session::Arg(size_t index) const {
  return index < call.args.size() ? call.args[index] : "";
}

int RunMeshctl(const std::vector<std::string>& words,
               const Environment& environment) {
  Console early(GuessOptions(words, environment), environment.out,
                environment.err);
  const absl::StatusOr<Invocation> call = ParseCommandLine(words);
  if (!call.ok()) return End(early, call.status());
  const absl::StatusOr<ConsoleOptions> options =
      ChooseOptions(*call, environment);
  if (!options.ok()) return End(early, options.status());
  Console console(*options, environment.out, environment.err);

  if (AsksForVersion(*call)) {
    console.Raw(absl::StrCat("meshctl ", kVersion, "\n"));
    return 0;
  }
  if (call->command == nullptr) {
    console.Raw(OverviewText());
    return 0;
  }
  if (call->Has("help")) {
    console.Raw(CommandHelp(*call->command));
    return 0;
  }
  Session session(*call, environment, console);
  return End(console, call->command->handler(session));
}

}  // namespace mycelium::meshctl
