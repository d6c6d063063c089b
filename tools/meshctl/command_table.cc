// Every command of meshctl, in the order in which help and documentation show
// them.

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tools/meshctl/command.h"
#include "tools/meshctl/commands.h"

namespace mycelium::meshctl {
namespace {

Flag TrustStoreFlag() {
  return {.name = "trust-store",
          .kind = FlagKind::kText,
          .value = "FILE",
          .help = "the trust store; that of the context if it has one",
          .completer = Completer::kFile};
}

Flag KeyFlag() {
  return {.name = "key-file",
          .letter = 'k',
          .kind = FlagKind::kText,
          .value = "FILE",
          .help =
              "the private key (PEM) to sign with; MESHCTL_KEY_FILE or that "
              "of the context if not given",
          .completer = Completer::kFile,
          .aliases = {"key"}};
}

Flag FollowFlag() {
  return {.name = "follow", .letter = 'f', .help = "go on with what is new"};
}

Flag DetachFlag() {
  return {.name = "detach",
          .letter = 'd',
          .help = "return as soon as the change is stored"};
}

// What a plan says, as flags.
std::vector<Flag> PlanFlags() {
  return {
      {.name = "digest",
       .kind = FlagKind::kText,
       .value = "SHA256",
       .help = "the spore to run",
       .completer = Completer::kDigest},
      {.name = "spore",
       .kind = FlagKind::kText,
       .value = "FILE",
       .help = "take the digest of this file",
       .completer = Completer::kFile},
      {.name = "min",
       .kind = FlagKind::kInteger,
       .value = "N",
       .help = "at least so many instances"},
      {.name = "max",
       .kind = FlagKind::kInteger,
       .value = "N",
       .help = "never more instances than this"},
      {.name = "port",
       .kind = FlagKind::kInteger,
       .value = "N",
       .help = "the port that instances listen on; 0 for any free one"},
      {.name = "strategy",
       .kind = FlagKind::kChoice,
       .value = "KIND",
       .help = "how instances are replaced: rolling, blue-green or canary",
       .choices = {"rolling", "blue-green", "canary"},
       .completer = Completer::kChoices},
      {.name = "max-surge",
       .kind = FlagKind::kInteger,
       .value = "N",
       .help = "so many instances may run beyond the wanted ones meanwhile"},
      {.name = "min-ready",
       .kind = FlagKind::kDuration,
       .value = "DURATION",
       .help = "how long a new instance is ready before an old one goes"},
      {.name = "drain-timeout",
       .kind = FlagKind::kDuration,
       .value = "DURATION",
       .help = "how long an instance out of traffic may finish its requests"},
      {.name = "stop-timeout",
       .kind = FlagKind::kDuration,
       .value = "DURATION",
       .help = "time between SIGTERM and SIGKILL"},
      {.name = "progress-deadline",
       .kind = FlagKind::kDuration,
       .value = "DURATION",
       .help = "how long a change may go without progress"},
      {.name = "require-label",
       .kind = FlagKind::kTexts,
       .value = "KEY=VALUE",
       .help = "only on nodes that have this label"},
      {.name = "spread-label",
       .kind = FlagKind::kText,
       .value = "KEY",
       .help = "spread instances over the values of this label"},
      {.name = "balancing",
       .kind = FlagKind::kChoice,
       .value = "KIND",
       .help = "how edges choose an endpoint: round-robin, least-request or "
               "peak-ewma",
       .choices = {"round-robin", "least-request", "peak-ewma"},
       .completer = Completer::kChoices},
      {.name = "slow-start",
       .kind = FlagKind::kDuration,
       .value = "DURATION",
       .help = "a new endpoint gets its whole share after so long"},
      {.name = "hold",
       .kind = FlagKind::kDuration,
       .value = "DURATION",
       .help = "requests wait so long for an endpoint that is free; 0s: they "
               "don't"},
      {.name = "hold-requests",
       .kind = FlagKind::kInteger,
       .value = "N",
       .help = "so many requests wait at most"},
      {.name = "rate-limit",
       .kind = FlagKind::kText,
       .value = "RATE[:BURST]",
       .help = "requests a second for each edge, and so many at once; 0: no "
               "limit"},
      {.name = "client-rate-limit",
       .kind = FlagKind::kText,
       .value = "RATE[:BURST]",
       .help = "the same for each client address"},
      {.name = "max-in-flight",
       .kind = FlagKind::kInteger,
       .value = "N",
       .help = "requests in flight at most, for each edge; 0: no limit"},
      {.name = "max-in-flight-per-endpoint",
       .kind = FlagKind::kInteger,
       .value = "N",
       .help = "requests in flight at one endpoint at most, for each edge"},
      {.name = "max-request-body-bytes",
       .kind = FlagKind::kInteger,
       .value = "N",
       .help = "length of a request's body at most; 0: no limit"},
      {.name = "retry-server-errors",
       .kind = FlagKind::kChoice,
       .value = "on|off",
       .help = "send a GET that was answered 502, 503 or 504 to another "
               "endpoint",
       .choices = {"on", "off"},
       .completer = Completer::kChoices},
      {.name = "check-revision",
       .kind = FlagKind::kInteger,
       .value = "N",
       .help = "only if the plan is at this revision; 0: only if there is "
               "none"},
  };
}

std::vector<Flag> With(std::vector<Flag> flags, std::vector<Flag> more) {
  flags.insert(flags.end(), more.begin(), more.end());
  return flags;
}

Arg AppArg(bool required = true) {
  return {.name = "APP",
          .help = required ? "the app" : "only this app",
          .required = required,
          .completer = Completer::kApp};
}

Arg NodeArg() {
  return {
      .name = "NODE", .help = "id of the node", .completer = Completer::kNode};
}

Arg PlanArg() {
  return {.name = "APP|FILE",
          .help =
              "an app; or a spore, a mesh.toml or a plan in JSON, by its "
              "name's ending",
          .completer = Completer::kFile};
}

constexpr absl::string_view kPlanDescription =
    "An app takes what the flags do not say from the plan that it has, so that "
    "one thing can be changed alone. A .spore file stands for its app and "
    "digest; a mesh.toml for its name and its [plan] table; a .json file is a "
    "whole plan: {\"appName\": \"billing\", \"digest\": \"<sha256>\", \"min\": "
    "2, \"max\": 4, \"port\": 0}.";

std::vector<Command> MakeCommands() {
  using E = ExitCode;
  std::vector<Command> commands;
  const auto add = [&commands](Command command) {
    commands.push_back(std::move(command));
  };

  // Start.
  add({.path = "run",
       .group = "Start",
       .summary = "Run a local mesh in the foreground, and apps on it",
       .description =
           "Starts fabric, repo, edge and agents as processes of their own, "
           "the same programs that run elsewhere, with their state in .mesh/ "
           "of this directory. Each APP (a mesh.toml or its directory, a "
           ".spore file, or an executable) is packed, signed with the key of "
           "this directory, published, planned, and waited for until it "
           "answers through the edge.\n"
           "\n"
           "Ctrl-C takes everything down. Other commands that run in this "
           "directory, or below it, find the mesh by themselves.",
       .args = {{.name = "APP",
                 .help = "what to run: a mesh.toml, a directory with one, a "
                         "spore or an executable",
                 .required = false,
                 .repeated = true,
                 .completer = Completer::kFile}},
       .flags = {{.name = "nodes",
                  .letter = 'N',
                  .kind = FlagKind::kInteger,
                  .value = "N",
                  .help = "how many agents to start, 1 to 16; 3 if not given"},
                 {.name = "port",
                  .letter = 'p',
                  .kind = FlagKind::kInteger,
                  .value = "PORT",
                  .help =
                      "where the edge listens; 8080 if not given, 0 for any "
                      "free one"},
                 {.name = "spore",
                  .kind = FlagKind::kTexts,
                  .value = "FILE",
                  .help = "run this spore; as an argument that ends in .spore",
                  .completer = Completer::kFile},
                 {.name = "min",
                  .kind = FlagKind::kInteger,
                  .value = "N",
                  .help = "instances of each app that does not say itself; 1 "
                          "if not given"},
                 {.name = "bin-dir",
                  .kind = FlagKind::kText,
                  .value = "DIR",
                  .help = "where the programs of the mesh are: fabric, repo, "
                          "agent, edge; found beside meshctl if not given",
                  .completer = Completer::kDirectory},
                 {.name = "dir",
                  .kind = FlagKind::kText,
                  .value = "DIR",
                  .help = "keep the state in DIR/.mesh instead of here",
                  .completer = Completer::kDirectory},
                 {.name = "keep",
                  .help = "keep plans and spores of the last run, and those of "
                          "this one for the next"},
                 {.name = "logs", .help = "print what the apps write, too"}},
       .examples = {{"meshctl run", "a mesh without apps, to try commands on"},
                    {"meshctl run ./build/hello",
                     "an executable that listens on $PORT and answers /health"},
                    {"meshctl run --nodes 5 --port 9000 billing/mesh.toml",
                     "an app as it is described, on five nodes"}},
       .exits = {E::kNotFound, E::kUntrusted, E::kConflict, E::kUnavailable,
                 E::kTimeout, E::kRolloutFailed, E::kNoCapacity},
       .aliases = {"up"},
       .handler = Run});
  add({.path = "down",
       .group = "Start",
       .summary = "Stop the local mesh of this directory",
       .description = "Tells the `meshctl run` of this directory, or of the "
                      "nearest one above, to stop, and waits until it has.",
       .exits = {E::kNotFound, E::kTimeout},
       .handler = Down});

  // Ship.
  add({.path = "keygen",
       .group = "Ship",
       .summary = "Make an Ed25519 key to sign spores with",
       .description =
           "Writes the private key (PKCS #8 PEM, readable by you alone) and "
           "beside it the public one, with .pub at the end. Nothing trusts a "
           "key by itself: add it to a trust store. An existing file is never "
           "overwritten.",
       .args = {{.name = "NAME",
                 .help = "names the key ~/.config/mycelium/NAME.key; `default` "
                         "if not given",
                 .required = false}},
       .flags = {{.name = "out",
                  .kind = FlagKind::kText,
                  .value = "FILE",
                  .help = "write the private key to FILE instead",
                  .completer = Completer::kFile}},
       .examples = {{"meshctl keygen --out ci.key", "ci.key and ci.key.pub"}},
       .exits = {E::kConflict},
       .handler = Keygen});
  add({.path = "build",
       .group = "Ship",
       .summary = "Pack a binary into a signed spore",
       .description =
           "Takes what the spore says of itself from flags, from a mesh.toml "
           "or JSON description, or from both, flags first. The same input "
           "gives the same bytes; set SOURCE_DATE_EPOCH to fix the time of "
           "creation, too. Values of env may contain ${MESH_NAME:-otherwise}, "
           "which is taken from the environment of this command. Words behind "
           "-- become args.",
       .args = {{.name = "DESCRIPTION",
                 .help = "a mesh.toml, its directory, or a .json file with the "
                         "same members",
                 .required = false,
                 .completer = Completer::kFile}},
       .flags =
           {{.name = "name",
             .kind = FlagKind::kText,
             .value = "NAME",
             .help = "name of the spore, such as payments/billing; its last "
                     "part is the app"},
            {.name = "version",
             .kind = FlagKind::kText,
             .value = "VERSION",
             .help = "version of the spore"},
            {.name = "binary",
             .letter = 'b',
             .kind = FlagKind::kText,
             .value = "FILE",
             .help = "the executable to pack",
             .completer = Completer::kFile},
            {.name = "command",
             .kind = FlagKind::kText,
             .value = "PATH",
             .help = "what is started, as a path in the spore; the binary if "
                     "not given"},
            {.name = "args",
             .kind = FlagKind::kTexts,
             .value = "ARG",
             .help = "an argument of the command",
             .aliases = {"arg"}},
            {.name = "env",
             .letter = 'e',
             .kind = FlagKind::kTexts,
             .value = "NAME=VALUE",
             .help = "a variable of its environment"},
            {.name = "health",
             .kind = FlagKind::kText,
             .value = "PATH|tcp",
             .help = "path that answers 200 when an instance is well, or tcp "
                     "if accepting is enough; /health if not given"},
            {.name = "cpu-milli",
             .kind = FlagKind::kInteger,
             .value = "N",
             .help = "processor time of an instance in thousandths of a core"},
            {.name = "memory-mb",
             .kind = FlagKind::kInteger,
             .value = "N",
             .help = "memory of an instance in MiB"},
            {.name = "file",
             .kind = FlagKind::kTexts,
             .value = "[PATH=]FILE",
             .help = "pack this file, too, at PATH (its own name if not given)",
             .completer = Completer::kFile,
             .aliases = {"files"}},
            {.name = "out",
             .kind = FlagKind::kText,
             .value = "FILE",
             .help = "where to write; APP-VERSION.spore if not given",
             .completer = Completer::kFile},
            KeyFlag()},
       .examples = {{"meshctl build billing/mesh.toml --out billing.spore",
                     "as the description says"},
                    {"meshctl build --name hello --version 1.0.0 --binary "
                     "./hello --key-file ci.key",
                     "without one"}},
       .exits = {E::kNotFound, E::kUntrusted},
       .aliases = {"pack"},
       .passthrough = "ARG",
       .handler = Build});
  add({.path = "verify",
       .group = "Ship",
       .summary = "Say whether a spore may run under a trust store",
       .description =
           "Checks structure, manifest, signature, contents and policy in this "
           "order and stops at the first failure, whose E_ code is printed. "
           "The key that a manifest carries proves nothing: without a trust "
           "store no spore is accepted.",
       .args = {{.name = "FILE",
                 .help = "the spore",
                 .completer = Completer::kFile}},
       .flags = {TrustStoreFlag(),
                 {.name = "at",
                  .kind = FlagKind::kTime,
                  .value = "TIME",
                  .help =
                      "judge as of this time (RFC 3339); now if not given"}},
       .examples = {{"meshctl verify billing.spore --trust-store trust.json -o "
                     "json",
                     R"({"verdict":"accept","code":"OK",...})"}},
       .exits = {E::kNotFound, E::kUntrusted},
       .handler = Verify});
  add({.path = "inspect",
       .group = "Ship",
       .summary = "Show what is in a spore",
       .description = "Shows manifest, contents and digests, and whether the "
                      "signature fits them; not whether its key is trusted.",
       .args = {{.name = "FILE",
                 .help = "the spore",
                 .completer = Completer::kFile}},
       .exits = {E::kNotFound, E::kUntrusted},
       .handler = Inspect});
  add({.path = "publish",
       .group = "Ship",
       .summary = "Upload spores to the repo",
       .description = "Publishing a spore that the repo has is success.",
       .args = {{.name = "FILE",
                 .help = "a spore",
                 .repeated = true,
                 .completer = Completer::kFile}},
       .examples = {{"meshctl publish -q billing.spore",
                     "prints the digest and nothing else"}},
       .exits = {E::kNotFound, E::kUntrusted, E::kUnavailable, E::kTimeout},
       .handler = Publish});
  add({.path = "plan",
       .group = "Ship",
       .summary = "Show what apply would change, and change nothing",
       .description = absl::StrCat(
           "The fabric checks the plan as if it was stored, and the command "
           "prints the differences, what is doubtful, and the line that "
           "applies exactly this.\n\n",
           kPlanDescription),
       .args = {PlanArg()},
       .flags =
           With(PlanFlags(), {{.name = "detailed-exitcode",
                               .help = "exit with 10 if there are changes"}}),
       .examples = {{"meshctl plan billing --digest 9f86... --min 2 --max 4",
                     "an app by flags"},
                    {"meshctl plan billing.spore", "a new version of an app"}},
       .exits = {E::kNotFound, E::kConflict, E::kUnavailable, E::kTimeout,
                 E::kChanges},
       .handler = PlanCommand});
  add({.path = "apply",
       .group = "Ship",
       .summary = "Store a plan and wait until its instances are ready",
       .description = absl::StrCat(
           "Follows the change until every wanted instance is ready, and says "
           "what it waits for. Interrupting it leaves the plan in force. When "
           "instances do not come up, the last lines that one of them wrote "
           "are shown and the exit code is 8.\n\n",
           kPlanDescription),
       .args = {PlanArg()},
       .flags =
           With(PlanFlags(), {DetachFlag(),
                              {.name = "dry-run",
                               .letter = 'n',
                               .help = "change nothing; the same as plan"}}),
       .examples = {{"meshctl apply billing.spore --min 2 --max 4",
                     "run a published spore"},
                    {"meshctl apply billing --max 8", "change one thing"}},
       .exits = {E::kNotFound, E::kUntrusted, E::kConflict, E::kUnavailable,
                 E::kTimeout, E::kRolloutFailed, E::kNoCapacity},
       .handler = Apply});
  add({.path = "scale",
       .group = "Ship",
       .summary = "Set how many instances of an app are wanted",
       .description = "The number stays between min and max of the plan; the "
                      "plan itself is not changed. Waits until the instances "
                      "are ready.",
       .args = {AppArg(), {.name = "N", .help = "how many"}},
       .flags = {DetachFlag()},
       .exits = {E::kNotFound, E::kUnavailable, E::kTimeout, E::kRolloutFailed,
                 E::kNoCapacity},
       .handler = Scale});
  add({.path = "delete",
       .group = "Ship",
       .summary = "Delete the plan of an app and stop its instances",
       .description = "Waits until they are drained and gone. A person is "
                      "asked first.",
       .args = {AppArg()},
       .flags = {{.name = "check-revision",
                  .kind = FlagKind::kInteger,
                  .value = "N",
                  .help = "only if the plan is at this revision"},
                 DetachFlag()},
       .exits = {E::kNotFound, E::kConflict, E::kUnavailable, E::kTimeout},
       .aliases = {"rm"},
       .handler = Delete});
  add({.path = "budget",
       .group = "Ship",
       .summary = "Bound what an app may use",
       .description = "A budget holds for all instances of an app together. "
                      "One below what runs now stops the surplus."});
  add({.path = "budget put",
       .group = "Ship",
       .summary = "Create or replace a budget",
       .description = "What no flag sets is not limited.",
       .args = {AppArg()},
       .flags = {{.name = "max-instances",
                  .kind = FlagKind::kInteger,
                  .value = "N",
                  .help = "at most so many instances"},
                 {.name = "cpu-milli",
                  .kind = FlagKind::kInteger,
                  .value = "N",
                  .help = "processor time of all in thousandths of a core"},
                 {.name = "memory-mb",
                  .kind = FlagKind::kInteger,
                  .value = "N",
                  .help = "memory of all in MiB"},
                 {.name = "check-revision",
                  .kind = FlagKind::kInteger,
                  .value = "N",
                  .help = "only if the budget is at this revision; 0: only if "
                          "there is none"}},
       .examples = {{"meshctl budget put billing --max-instances 4 --cpu-milli "
                     "2000",
                     "two cores for at most four instances"}},
       .exits = {E::kConflict, E::kUnavailable, E::kTimeout},
       .handler = BudgetPut});
  add({.path = "budget get",
       .group = "Ship",
       .summary = "Show a budget",
       .description = "Shows one budget.",
       .args = {AppArg()},
       .exits = {E::kNotFound, E::kUnavailable, E::kTimeout},
       .handler = BudgetGet});
  add({.path = "budget ls",
       .group = "Ship",
       .summary = "List budgets",
       .description = "Lists every budget.",
       .exits = {E::kUnavailable, E::kTimeout},
       .aliases = {"budget list"},
       .handler = BudgetList});
  add({.path = "budget rm",
       .group = "Ship",
       .summary = "Delete a budget",
       .description = "Nothing but max of the plan bounds the app then.",
       .args = {AppArg()},
       .exits = {E::kNotFound, E::kUnavailable, E::kTimeout},
       .aliases = {"budget delete"},
       .handler = BudgetRemove});

  // Look.
  add({.path = "status",
       .group = "Look",
       .summary = "Show the whole mesh on one screen",
       .description = "Shows apps, nodes and edges, and what needs attention; "
                      "with APP, that app alone.",
       .args = {AppArg(false)},
       .flags = {{.name = "exit-code",
                  .help = "exit with 11 if something needs attention"}},
       .exits = {E::kNotFound, E::kUnavailable, E::kTimeout, E::kUnhealthy},
       .handler = Status});
  add({.path = "list",
       .group = "Look",
       .summary = "List plans, spores or budgets",
       .description = "Lists plans if KIND is not given.",
       .args = {{.name = "KIND",
                 .help = "plans, spores or budgets",
                 .required = false,
                 .completer = Completer::kChoices,
                 .choices = {"plans", "spores", "budgets"}}},
       .exits = {E::kUnavailable, E::kTimeout},
       .aliases = {"ls"},
       .handler = List});
  add({.path = "get",
       .group = "Look",
       .summary = "Show the plan of an app",
       .description = "With -o json, exactly the plan, as `apply` takes it.",
       .args = {AppArg()},
       .exits = {E::kNotFound, E::kUnavailable, E::kTimeout},
       .handler = Get});
  add({.path = "why",
       .group = "Look",
       .summary = "Say why an app is as it is",
       .description = "Shows every slot with its state, the reason, since when "
                      "and until when.",
       .args = {AppArg()},
       .exits = {E::kNotFound, E::kUnavailable, E::kTimeout},
       .handler = Why});
  add({.path = "endpoints",
       .group = "Look",
       .summary = "List where apps answer",
       .description = "Lists the endpoints that edges route to.",
       .args = {AppArg(false)},
       .exits = {E::kUnavailable, E::kTimeout},
       .aliases = {"endpoint", "endpoint ls"},
       .handler = EndpointList});
  add({.path = "instances",
       .group = "Look",
       .summary = "List the processes that agents run",
       .description = "Asks every agent, and shows what stopped within the "
                      "last 24 hours, too.",
       .args = {AppArg(false)},
       .exits = {E::kUnavailable, E::kTimeout},
       .aliases = {"instance", "instance ls"},
       .handler = InstanceList});
  add({.path = "nodes",
       .group = "Look",
       .summary = "List nodes",
       .description = "Shows what nodes have and what of it is reserved.",
       .exits = {E::kUnavailable, E::kTimeout},
       .aliases = {"node", "node ls", "nodes ls"},
       .handler = NodeList});
  add({.path = "nodes drain",
       .group = "Look",
       .summary = "Move all instances off a node, replacements first",
       .description = "The node takes no new ones until it is undrained.",
       .args = {NodeArg()},
       .flags = {{.name = "wait", .help = "wait until the node is empty"}},
       .exits = {E::kNotFound, E::kUnavailable, E::kTimeout},
       .aliases = {"node drain"},
       .handler = NodeDrain});
  add({.path = "nodes undrain",
       .group = "Look",
       .summary = "Let a node take instances again",
       .description = "Ends a drain or a cordon.",
       .args = {NodeArg()},
       .exits = {E::kNotFound, E::kUnavailable, E::kTimeout},
       .aliases = {"node undrain"},
       .handler = NodeUndrain});
  add({.path = "nodes cordon",
       .group = "Look",
       .summary = "Keep new instances off a node",
       .description = "Those that it has stay.",
       .args = {NodeArg()},
       .exits = {E::kNotFound, E::kUnavailable, E::kTimeout},
       .aliases = {"node cordon"},
       .handler = NodeCordon});
  add({.path = "nodes rm",
       .group = "Look",
       .summary = "Forget a node that is lost or has left",
       .description = "A node whose agent reports is not forgotten.",
       .args = {NodeArg()},
       .exits = {E::kNotFound, E::kConflict, E::kUnavailable, E::kTimeout},
       .aliases = {"node rm"},
       .handler = NodeRemove});
  add({.path = "logs",
       .group = "Look",
       .summary = "Show what the instances of an app wrote",
       .description =
           "Merges the lines of all instances on all nodes in the order of "
           "their times. With --follow it waits for the first instance and "
           "goes on over restarts and rollouts, until Ctrl-C.",
       .args = {AppArg()},
       .flags = {FollowFlag(),
                 {.name = "instance",
                  .letter = 'i',
                  .kind = FlagKind::kText,
                  .value = "INSTANCE",
                  .help = "only this instance; the beginning of its id is "
                          "enough"},
                 {.name = "since",
                  .kind = FlagKind::kTime,
                  .value = "TIME",
                  .help = "only lines since then: 10m, or a time"},
                 {.name = "tail",
                  .kind = FlagKind::kInteger,
                  .value = "N",
                  .help = "begin with at most N old lines of each node; 100 if "
                          "not given, -1 for all"},
                 {.name = "previous",
                  .help = "of the process before the present one, for crashes"},
                 {.name = "stderr", .help = "only what was written to stderr"},
                 {.name = "stdout", .help = "only what was written to stdout"},
                 {.name = "times", .help = "show the full time of each line"}},
       .exits = {E::kNotFound, E::kUnavailable},
       .handler = Logs});
  add({.path = "events",
       .group = "Look",
       .summary = "Show what happened",
       .description = "Oldest first. The fabric keeps the last 10,000.",
       .flags = {FollowFlag(),
                 {.name = "app",
                  .letter = 'a',
                  .kind = FlagKind::kText,
                  .value = "APP",
                  .help = "only events of this app",
                  .completer = Completer::kApp},
                 {.name = "node",
                  .kind = FlagKind::kText,
                  .value = "NODE",
                  .help = "only events of this node",
                  .completer = Completer::kNode},
                 {.name = "since",
                  .kind = FlagKind::kTime,
                  .value = "TIME",
                  .help = "only events since then: 10m, or a time"},
                 {.name = "tail",
                  .kind = FlagKind::kInteger,
                  .value = "N",
                  .help = "at most the last N; 50 if not given"}},
       .exits = {E::kUnavailable, E::kTimeout},
       .handler = Events});
  add({.path = "watch",
       .group = "Look",
       .summary = "Follow plans, endpoints, nodes, slots or events",
       .description =
           "On a terminal a table that is redrawn; elsewhere, and with -o "
           "ndjson, a JSON object in each line: {\"type\": \"put\"|\"delete\"|"
           "\"snapshot\"|\"bookmark\", ...}. Goes on over restarts of the "
           "fabric.",
       .args = {{.name = "KIND",
                 .help = "plans, endpoints, nodes, slots or events",
                 .completer = Completer::kChoices,
                 .choices = {"plans", "endpoints", "nodes", "slots", "events"}},
                AppArg(false)},
       .flags = {{.name = "bookmarks",
                  .help = "print a line when only the revision moved, too"}},
       .examples = {{"meshctl watch endpoints billing -o ndjson",
                     "where billing answers, as it changes"}},
       .exits = {E::kUnavailable},
       .handler = Watch});
  add({.path = "stop",
       .group = "Look",
       .summary = "Stop one instance",
       .description = "It is drained first. If its slot is still wanted, some "
                      "node fills it again.",
       .args = {{.name = "INSTANCE",
                 .help = "id of the instance, or the beginning of it"}},
       .exits = {E::kNotFound, E::kConflict, E::kUnavailable, E::kTimeout},
       .handler = StopInstance});
  add({.path = "restart",
       .group = "Look",
       .summary = "Restart one instance where it is",
       .description = "It is drained first, and keeps its slot.",
       .args = {{.name = "INSTANCE",
                 .help = "id of the instance, or the beginning of it"}},
       .exits = {E::kNotFound, E::kConflict, E::kUnavailable, E::kTimeout},
       .handler = RestartInstance});

  // Admin.
  add({.path = "trust",
       .group = "Admin",
       .summary = "Say which keys may sign which spores",
       .description = "Edits a trust store file; see `meshctl help trust`."});
  add({.path = "trust init",
       .group = "Admin",
       .summary = "Make an empty trust store",
       .description = "It trusts nobody. An existing file is not overwritten.",
       .flags = {TrustStoreFlag()},
       .exits = {E::kConflict},
       .handler = TrustInit});
  add({.path = "trust ls",
       .group = "Admin",
       .summary = "List trusted keys and what they may sign",
       .description = "Lists the keys of a trust store.",
       .flags = {TrustStoreFlag()},
       .exits = {E::kNotFound},
       .aliases = {"trust list"},
       .handler = TrustList});
  add({.path = "trust add",
       .group = "Admin",
       .summary = "Trust a key for spores of some names",
       .description =
           "Patterns are compared by whole segments: * is one segment, and a "
           "last ** one or more.",
       .args = {{.name = "KEY",
                 .help = "a public key file as `keygen` writes it, or the key "
                         "itself in base64",
                 .completer = Completer::kFile}},
       .flags = {TrustStoreFlag(),
                 {.name = "name",
                  .kind = FlagKind::kTexts,
                  .value = "PATTERN",
                  .help = "spores that it may sign, such as billing or "
                          "payments/*"},
                 {.name = "comment",
                  .kind = FlagKind::kText,
                  .value = "TEXT",
                  .help = "whose key it is"}},
       .examples = {{"meshctl trust add ci.key.pub --name billing --name "
                     "frontend --trust-store trust.json",
                     "trust the key for two apps"}},
       .exits = {E::kNotFound, E::kConflict},
       .handler = TrustAdd});
  add({.path = "trust rm",
       .group = "Admin",
       .summary = "Trust a key no more",
       .description = "What it signed is refused from then on; --revoke makes "
                      "sure that it is never added again.",
       .args = {{.name = "KEY_ID",
                 .help = "id of the key, or the beginning of it"}},
       .flags = {TrustStoreFlag(),
                 {.name = "revoke",
                  .help = "keep the key as one that nobody may trust"}},
       .exits = {E::kNotFound, E::kConflict},
       .aliases = {"trust remove"},
       .handler = TrustRemove});
  add({.path = "repo",
       .group = "Admin",
       .summary = "Look after the spores in the repo",
       .description = "Spores are known by the SHA-256 of their file."});
  add({.path = "repo ls",
       .group = "Admin",
       .summary = "List spores",
       .description = "Lists every spore, or those of one name or app.",
       .args = {{.name = "NAME",
                 .help = "only spores of this name or app",
                 .required = false}},
       .exits = {E::kUnavailable, E::kTimeout},
       .aliases = {"repo list"},
       .handler = RepoList});
  add({.path = "repo stat",
       .group = "Admin",
       .summary = "Show what the repo knows of a spore",
       .description = "With its manifest.",
       .args = {{.name = "DIGEST",
                 .help = "the spore",
                 .completer = Completer::kDigest}},
       .exits = {E::kNotFound, E::kUnavailable, E::kTimeout},
       .handler = RepoStat});
  add({.path = "repo rm",
       .group = "Admin",
       .summary = "Delete a spore",
       .description = "One that a plan refers to is kept, unless forced.",
       .args = {{.name = "DIGEST",
                 .help = "the spore",
                 .completer = Completer::kDigest}},
       .flags = {{.name = "force", .help = "even if a plan refers to it"}},
       .exits = {E::kNotFound, E::kConflict, E::kUnavailable, E::kTimeout},
       .handler = RepoRemove});
  add({.path = "repo gc",
       .group = "Admin",
       .summary = "Delete spores that no plan refers to",
       .description = "With --dry-run it only says which.",
       .flags = {{.name = "keep",
                  .kind = FlagKind::kTexts,
                  .value = "DIGEST",
                  .help = "keep this spore, too",
                  .completer = Completer::kDigest},
                 {.name = "min-age",
                  .kind = FlagKind::kDuration,
                  .value = "DURATION",
                  .help = "keep younger ones; 1h if not given"},
                 {.name = "dry-run",
                  .letter = 'n',
                  .help = "only say what would be deleted"}},
       .exits = {E::kConflict, E::kUnavailable, E::kTimeout},
       .handler = RepoCollect});
  add({.path = "context",
       .group = "Admin",
       .summary = "Show which mesh commands talk to",
       .description = "See `meshctl help environment` for how it is chosen."});
  add({.path = "context ls",
       .group = "Admin",
       .summary = "List the contexts of config.toml",
       .description = "The one in use is marked.",
       .aliases = {"context list"},
       .handler = ContextList});
  add({.path = "context show",
       .group = "Admin",
       .summary = "Show every setting and where it comes from",
       .description = "A flag, a variable, a file, or nothing.",
       .handler = ContextShow});
  add({.path = "completion",
       .group = "Admin",
       .summary = "Print a script that completes commands in a shell",
       .description = "For bash: source <(meshctl completion bash)",
       .args = {{.name = "SHELL",
                 .help = "bash, zsh or fish",
                 .completer = Completer::kChoices,
                 .choices = {"bash", "zsh", "fish"}}},
       .handler = Completion});
  add({.path = "version",
       .group = "Admin",
       .summary = "Print the version",
       .description = "Of meshctl and, if it can be asked, of the fabric.",
       .flags = {{.name = "short", .help = "the number alone"}},
       .handler = Version});
  add({.path = "help",
       .group = "Admin",
       .summary = "Explain a command or a topic",
       .description = "Without an argument, lists the commands.",
       .args = {{.name = "COMMAND|TOPIC",
                 .help = "words of a command, or a topic",
                 .required = false,
                 .repeated = true,
                 .completer = Completer::kCommand}},
       .flags = {{.name = "markdown",
                  .help = "print the whole reference as Markdown"}},
       .exits = {E::kNotFound},
       .handler = Help});
  add({.path = "__complete",
       .group = "Admin",
       .summary = "Print what may come next on a command line",
       .description = "For the scripts of `meshctl completion`.",
       .passthrough = "WORD",
       .handler = CompleteWords,
       .hidden = true});
  return commands;
}

}  // namespace

const std::vector<Command>& Commands() {
  static const auto& commands = *new std::vector<Command>(MakeCommands());
  return commands;
}

const std::vector<Flag>& GlobalFlags() {
  static const auto& flags = *new std::vector<Flag>{
      {.name = "context",
       .letter = 'C',
       .kind = FlagKind::kText,
       .value = "NAME",
       .help = "the mesh to talk to, as config.toml names it"},
      {.name = "fabric",
       .kind = FlagKind::kText,
       .value = "HOST:PORT",
       .help = "the fabric"},
      {.name = "repo",
       .kind = FlagKind::kText,
       .value = "HOST:PORT",
       .help = "the repo"},
      {.name = "edge",
       .kind = FlagKind::kText,
       .value = "HOST:PORT",
       .help = "the edge's gRPC"},
      {.name = "tls-cert",
       .kind = FlagKind::kText,
       .value = "FILE",
       .help = "certificate (PEM) to show to the mesh",
       .completer = Completer::kFile},
      {.name = "tls-key",
       .kind = FlagKind::kText,
       .value = "FILE",
       .help = "private key (PEM) of the certificate",
       .completer = Completer::kFile},
      {.name = "tls-ca",
       .kind = FlagKind::kText,
       .value = "FILE",
       .help = "who must have signed the mesh's certificates (PEM)",
       .completer = Completer::kFile},
      {.name = "output",
       .letter = 'o',
       .kind = FlagKind::kChoice,
       .value = "FORMAT",
       .help = "table, wide, json, yaml, ndjson or name",
       .choices = {"table", "wide", "json", "yaml", "ndjson", "name"},
       .completer = Completer::kChoices},
      {.name = "json", .help = "the same as -o json"},
      {.name = "columns",
       .kind = FlagKind::kText,
       .value = "A,B",
       .help = "only these columns of a table"},
      {.name = "no-headers", .help = "tables without their first line"},
      {.name = "timeout",
       .kind = FlagKind::kDuration,
       .value = "DURATION",
       .help = "give up after this; 10s to read and 5m to wait if not given"},
      {.name = "progress",
       .kind = FlagKind::kChoice,
       .value = "MODE",
       .help = "how progress is shown: auto, tty, plain, json or quiet",
       .choices = {"auto", "tty", "plain", "json", "quiet"},
       .completer = Completer::kChoices},
      {.name = "color",
       .kind = FlagKind::kChoice,
       .value = "WHEN",
       .help = "auto, always or never",
       .choices = {"auto", "always", "never"},
       .completer = Completer::kChoices},
      {.name = "no-input", .help = "never ask"},
      {.name = "yes", .letter = 'y', .help = "answer every question with yes"},
      {.name = "quiet",
       .letter = 'q',
       .help = "only results, and no progress or hints"},
      {.name = "verbose",
       .letter = 'v',
       .kind = FlagKind::kCount,
       .help = "say more; twice: with what the libraries log"},
      {.name = "help", .letter = 'h', .help = "explain the command"},
      {.name = "version", .help = "print the version"},
  };
  return flags;
}

const std::vector<Topic>& Topics() {
  static const auto& topics = *new std::vector<Topic>{
      {"flags", "Flags of every command", ""},
      {"environment", "How meshctl finds its mesh, and variables that it reads",
       "Flags win over variables, variables over the context. The context is "
       "the one that --context or MESHCTL_CONTEXT names, or that config.toml "
       "calls `current`, or else the local mesh that runs in this directory or "
       "above it. There is no other default: a command that finds no mesh "
       "exits with 6.\n"
       "\n"
       "config.toml is ~/.config/mycelium/config.toml (MESHCTL_CONFIG or "
       "XDG_CONFIG_HOME move it):\n"
       "\n"
       "  current = \"prod\"\n"
       "  [context.prod]\n"
       "  fabric = \"10.0.0.1:7700\"\n"
       "  repo = \"10.0.0.1:7701\"\n"
       "  ca = \"~/.config/mycelium/ca.pem\"\n"
       "  tls_cert = \"~/.config/mycelium/me.pem\"\n"
       "  tls_key = \"~/.config/mycelium/me.key\"\n"
       "  key_file = \"~/.config/mycelium/ci.key\"\n"
       "  trust_store = \"~/.config/mycelium/trust.json\"\n"
       "\n"
       "  MESHCTL_CONTEXT                      --context\n"
       "  MESHCTL_FABRIC _REPO _EDGE           --fabric, --repo, --edge\n"
       "  MESHCTL_TLS_CERT _TLS_KEY _TLS_CA    --tls-cert, --tls-key, "
       "--tls-ca\n"
       "  MESHCTL_KEY_FILE                     --key-file\n"
       "  MESHCTL_TRUST_STORE                  --trust-store\n"
       "  MESHCTL_OUTPUT                       --output\n"
       "  MESHCTL_PROGRESS                     --progress\n"
       "  MESHCTL_TIMEOUT                      --timeout\n"
       "  MESHCTL_CONFIG                       path of config.toml\n"
       "  MESHCTL_NO_HINTS                     set: no word of what to do "
       "next\n"
       "  SOURCE_DATE_EPOCH                    when spores were made\n"
       "\n"
       "NO_COLOR, CLICOLOR_FORCE, FORCE_COLOR, TERM, COLUMNS, CI and the "
       "locale are honoured as elsewhere."},
      {"output", "What is printed where",
       "Results go to stdout; progress, hints and errors to stderr.\n"
       "\n"
       "-o table is for people: aligned, ages like 3m on a terminal and RFC "
       "3339 times elsewhere, cut to the terminal and whole elsewhere. -o wide "
       "adds columns.\n"
       "\n"
       "With -o json stdout is one JSON document, or empty when the command "
       "failed; -o yaml is the same in YAML. A command that shows one thing "
       "prints that thing; one that shows several prints an object with a "
       "`schema` and a list. Members are only ever added. -o ndjson prints "
       "each "
       "element of the list in a line of its own. -o name prints names alone.\n"
       "\n"
       "Errors are then one JSON object on stderr: {\"error\": {\"code\": "
       "\"NOT_FOUND\", \"exit\": 3, \"message\": ..., \"why\": ..., \"fix\": "
       "[...], \"doc\": ...}}.\n"
       "\n"
       "Whatever has a colour has a word or a sign, too."},
      {"exit-codes", "What meshctl exits with",
       "Part of the interface; a number never changes its meaning."},
      {"app-file", "What a mesh.toml says",
       "`build`, `plan`, `apply` and `run` take a mesh.toml, or the same "
       "members "
       "in a .json file. Paths are relative to the file.\n"
       "\n"
       "  name = \"payments/billing\"   # its last part is the app\n"
       "  version = \"1.0.0\"\n"
       "  binary = \"build/billing\"    # the executable to pack\n"
       "  args = [\"--port=${PORT}\"]   # the agent expands ${PORT} and "
       "${MYCELIUM_...}\n"
       "  [env]\n"
       "  GREETING = \"hello\"\n"
       "  LEDGER = \"${MESH_LEDGER:-http://127.0.0.1:9000}\"   # expanded when "
       "packed\n"
       "  [health]\n"
       "  path = \"/health\"            # or: type = \"tcp\"\n"
       "  [nutrients]\n"
       "  cpu_milli = 500\n"
       "  memory_mb = 256\n"
       "  [[files]]                    # packed beside the binary\n"
       "  path = \"etc/rates.csv\"\n"
       "  source = \"data/rates.csv\"\n"
       "  [plan]\n"
       "  min = 2\n"
       "  max = 4\n"
       "  port = 0\n"
       "  strategy = { maxSurge = 1, minReady = \"3s\" }\n"
       "  traffic = { hold = { maxWait = \"10s\" }, maxInFlight = 100 }\n"
       "  [run]\n"
       "  path = \"/hello\"             # what `run` asks for, and shows\n"
       "\n"
       "Other members (provides, slo, security, labels, ...) go into the "
       "manifest "
       "as they are; docs/spore-format.md has their rules. `run` sets "
       "MESH_EDGE_URL to the address of its edge."},
      {"trust", "Who may sign what",
       "A spore runs only where a trust store says that the key which signed "
       "it may sign spores of its name. The key that a spore carries proves "
       "nothing: anybody can make one.\n"
       "\n"
       "  meshctl keygen --out ci.key\n"
       "  meshctl trust init --trust-store trust.json\n"
       "  meshctl trust add ci.key.pub --name billing --trust-store "
       "trust.json\n"
       "  meshctl build mesh.toml --key-file ci.key --out billing.spore\n"
       "  meshctl verify billing.spore --trust-store trust.json\n"
       "\n"
       "Agents and repos take the same file with --trust_store. `meshctl run` "
       "makes a key and a trust store of its own in .mesh/, which trust each "
       "other and nothing else."},
  };
  return topics;
}

const Command* FindCommand(absl::string_view path) {
  for (const Command& command : Commands()) {
    if (command.path == path) return &command;
    for (const std::string& alias : command.aliases) {
      if (alias == path) return &command;
    }
  }
  return nullptr;
}

std::vector<const Command*> Subcommands(absl::string_view path) {
  std::vector<const Command*> found;
  const std::string prefix = absl::StrCat(path, " ");
  for (const Command& command : Commands()) {
    if (!command.hidden && absl::StartsWith(command.path, prefix)) {
      found.push_back(&command);
    }
  }
  return found;
}

}  // namespace mycelium::meshctl
