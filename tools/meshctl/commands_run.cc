// The local mesh: one command from a binary to a URL.

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/crypto/ed25519.h"
#include "lib/spore/manifest.h"
#include "lib/spore/pack.h"
#include "tools/meshctl/commands.h"
#include "tools/meshctl/description.h"
#include "tools/meshctl/failure.h"
#include "tools/meshctl/http_probe.h"
#include "tools/meshctl/local_mesh.h"
#include "tools/meshctl/log_follower.h"
#include "tools/meshctl/mesh_client.h"
#include "tools/meshctl/processes.h"
#include "tools/meshctl/publish.h"
#include "tools/meshctl/rollout.h"
#include "tools/meshctl/session.h"
#include "tools/meshctl/views.h"

namespace mycelium::meshctl {
namespace {

constexpr absl::Duration kReadyTimeout = absl::Minutes(2);
constexpr absl::Duration kJoinTimeout = absl::Seconds(30);

// An app that `run` was asked to run.
struct LocalApp {
  std::string name;
  std::string spore_file;
  fabric::v1::Plan plan;
  // What to ask of it through the edge, and whether only a 200 will do.
  std::string path = "/";
  bool must_be_ok = false;
};

std::string Absolute(const std::string& directory, const std::string& path) {
  return absl::StartsWith(path, "/") ? path : JoinPath(directory, path);
}

std::string DirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// Where the programs of the mesh may be, seen from this one.
std::vector<std::string> ProgramDirectories(const Session& session) {
  if (session.call.Has("bin-dir")) {
    return {
        Absolute(session.environment.directory, session.call.Get("bin-dir"))};
  }
  const std::string here = DirectoryOf(session.environment.program);
  return {here,
          // bazel-bin/tools/meshctl/meshctl beside bazel-bin/services.
          DirectoryOf(DirectoryOf(here)),
          JoinPath(DirectoryOf(here), "libexec/mycelium"),
          JoinPath(session.environment.directory, "bazel-bin")};
}

// An app's name made of a file's: `./build/Hello_World` is `hello-world`.
std::string AppNameOf(const std::string& path) {
  std::string name;
  for (const char c : path.substr(path.rfind('/') + 1)) {
    const char lower = absl::ascii_tolower(static_cast<unsigned char>(c));
    name +=
        absl::ascii_isalnum(static_cast<unsigned char>(lower)) ? lower : '-';
  }
  while (!name.empty() &&
         !absl::ascii_isalpha(static_cast<unsigned char>(name[0]))) {
    name.erase(0, 1);
  }
  name = name.substr(0, 63);
  while (!name.empty() && name.back() == '-') name.pop_back();
  return name.empty() ? "app" : name;
}

bool IsExecutableFile(const std::string& path) {
  struct stat info = {};
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
         (info.st_mode & 0111U) != 0;
}

// Packs, publishes and plans apps on a running mesh, and waits for them. All
// of it may be called again for an app whose files have changed.
class Deployer {
 public:
  // All must outlive the deployer.
  Deployer(const Session& session, const LocalMeshProcesses& processes,
           MeshClient& mesh, const std::atomic<bool>& cancelled)
      : session_(session),
        processes_(processes),
        mesh_(mesh),
        cancelled_(cancelled) {}

  absl::Status Deploy(const std::vector<std::string>& sources,
                      std::vector<LocalApp>& apps) {
    MYC_RETURN_IF_ERROR(AwaitNodes());
    for (const std::string& source : sources) {
      MYC_ASSIGN_OR_RETURN(LocalApp app, Prepare(source));
      MYC_RETURN_IF_ERROR(Store(app));
      apps.push_back(std::move(app));
    }
    for (const LocalApp& app : apps) MYC_RETURN_IF_ERROR(Await(app));
    return absl::OkStatus();
  }

 private:
  Console& console() const { return session_.console; }

  absl::Status AwaitNodes() {
    const absl::Time end = absl::Now() + kJoinTimeout;
    while (!cancelled_) {
      const auto nodes = mesh_.ListNodes();
      int ready = 0;
      if (nodes.ok()) {
        for (const fabric::v1::Node& node : nodes->items) {
          ready += node.state() == fabric::v1::Node::STATE_READY ? 1 : 0;
        }
      }
      if (ready >= processes_.options().nodes) return absl::OkStatus();
      if (absl::Now() > end) {
        return ToStatus(
            {.exit = ExitCode::kTimeout,
             .message = absl::StrCat(ready, " of ", processes_.options().nodes,
                                     " nodes have joined within ",
                                     absl::FormatDuration(kJoinTimeout)),
             .more = JoinPath(processes_.options().mesh_directory, "log")});
      }
      absl::SleepFor(absl::Milliseconds(20));
    }
    return absl::CancelledError("interrupted");
  }

  // Makes a spore of what `source` names, unless it is one.
  absl::StatusOr<LocalApp> Prepare(const std::string& source) {
    const int minimum = static_cast<int>(session_.call.GetInteger("min", 1));
    LocalApp app;
    app.plan.set_min(minimum);
    app.plan.set_max(std::max(minimum, 4));
    if (absl::EndsWith(source, ".spore")) {
      MYC_ASSIGN_OR_RETURN(const SporeFile spore,
                           ReadSporeFile(source, absl::Now()));
      app.name = spore.app;
      app.spore_file = source;
      app.must_be_ok = !spore.health_path.empty();
      if (app.must_be_ok) app.path = spore.health_path;
      app.plan.set_digest(spore.digest);
    } else {
      MYC_RETURN_IF_ERROR(Pack(source, app));
    }
    app.plan.set_app_name(app.name);
    return app;
  }

  absl::Status Pack(const std::string& source, LocalApp& app) {
    Description description;
    description.pack.manifest = spore::JsonValue::MakeObject();
    const bool described = absl::EndsWith(source, ".toml") ||
                           absl::EndsWith(source, ".json") ||
                           DescriptionFile(source) != source;
    std::map<std::string, std::string> values = {
        {"MESH_EDGE_URL",
         absl::StrCat("http://127.0.0.1:", processes_.edge_port())}};
    if (const std::string epoch =
            session_.environment.variables.Get("SOURCE_DATE_EPOCH");
        !epoch.empty()) {
      values["SOURCE_DATE_EPOCH"] = epoch;
    }
    const Variables variables(std::move(values));
    if (described) {
      MYC_ASSIGN_OR_RETURN(description, ReadDescription(source, variables));
      if (description.plan) {
        MYC_RETURN_IF_ERROR(ApplyPlanTable(*description.plan, app.plan));
      }
    } else if (IsExecutableFile(source)) {
      // Nothing is known of it, so that it listens is all that is asked.
      spore::JsonValue health = spore::JsonValue::MakeObject();
      health.Set("type", "tcp");
      description.pack.manifest.Set("name", AppNameOf(source));
      description.pack.manifest.Set("version", "dev");
      description.pack.manifest.Set("health", health);
      description.pack.binary_path = source;
    } else {
      return UsageError(absl::StrCat(
          "cannot run ", source,
          access(source.c_str(), F_OK) == 0
              ? ": it is no mesh.toml, directory with one, spore or executable"
              : ": there is no such file"));
    }
    MYC_RETURN_IF_ERROR(
        CompleteDescription(Invocation(), variables, absl::Now(), description));
    MYC_ASSIGN_OR_RETURN(const crypto::PrivateKey key,
                         ReadPrivateKey(processes_.key_file()));
    app.name = std::string(spore::ManifestApp(description.name()));
    app.spore_file = JoinPath(processes_.options().mesh_directory,
                              absl::StrCat("spores/", app.name, ".spore"));
    const absl::StatusOr<spore::PackResult> packed =
        spore::PackToPath(description.pack, key, app.spore_file);
    if (!packed.ok()) return PackFailure(packed.status(), app.name);
    app.plan.set_digest(packed->digest);
    const spore::Health& health = packed->manifest.health;
    app.must_be_ok = health.type == spore::Health::Type::kHttp;
    if (app.must_be_ok) app.path = health.path;
    if (!description.open_path.empty()) {
      app.path = description.open_path;
      app.must_be_ok = true;
    }
    return absl::OkStatus();
  }

  absl::Status Store(LocalApp& app) {
    const absl::StatusOr<Published> published =
        PublishFile(mesh_, console(), app.spore_file, kReadyTimeout);
    if (!published.ok()) {
      return Explain(published.status(),
                     absl::StrCat("cannot publish ", app.name));
    }
    fabric::v1::PutPlanRequest request;
    *request.mutable_plan() = app.plan;
    const auto response = mesh_.PutPlan(request);
    if (!response.ok()) {
      return Explain(response.status(), absl::StrCat("cannot plan ", app.name));
    }
    app.plan = response->plan();
    Say(absl::StrCat("packed, signed, published and planned ", app.name, "  ",
                     ShortDigest(app.plan.digest())),
        "planned", app.name);
    return absl::OkStatus();
  }

  // Waits until the app's instances are ready, and the edge knows it.
  absl::Status Await(const LocalApp& app) {
    const absl::Time start = absl::Now();
    const int wanted = std::max(app.plan.count(), app.plan.min());
    FollowOptions options;
    options.timeout = kReadyTimeout;
    options.cancelled = &cancelled_;
    MYC_RETURN_IF_ERROR(
        FollowRollout(mesh_, console(), app.plan, wanted, options));
    if (wanted == 0) return absl::OkStatus();
    const std::string path = absl::StrCat("/", app.name, app.path);
    std::string last = "no answer yet";
    while (absl::Now() - start < kReadyTimeout) {
      if (cancelled_) return absl::CancelledError("interrupted");
      const auto status =
          ProbeHttp(processes_.edge_port(), path, absl::Seconds(2));
      if (status.ok() &&
          (*status == 200 || (!app.must_be_ok && *status < 500))) {
        Say(absl::StrCat(app.name, " ", wanted, "/", wanted, " ready"), "ready",
            app.name);
        return absl::OkStatus();
      }
      last = status.ok() ? absl::StrCat("it answers ", *status)
                         : std::string(status.status().message());
      absl::SleepFor(absl::Milliseconds(20));
    }
    return ToStatus({.exit = ExitCode::kTimeout,
                     .message = absl::StrCat(
                         "the instances of ", app.name, " are ready, but ",
                         processes_.url(), path, " does not answer 200"),
                     .why = last,
                     .fixes = {absl::StrCat("see what it wrote:  meshctl logs ",
                                            app.name)}});
  }

  void Say(const std::string& text, const char* type, const std::string& app) {
    Json json = Json::Object();
    json.Set("type", type).Set("appName", app);
    console().Progress(
        absl::StrCat(console().ToneErr(console().Good(), Tone::kGood), " ",
                     text),
        json);
  }

  const Session& session_;
  const LocalMeshProcesses& processes_;
  MeshClient& mesh_;
  const std::atomic<bool>& cancelled_;
};

void TellReady(Session& session, const LocalMeshProcesses& processes,
               const std::vector<LocalApp>& apps, absl::Duration took) {
  Console& console = session.console;
  Json list = Json::Array();
  std::string text = "\n";
  for (const LocalApp& app : apps) {
    const std::string url =
        absl::StrCat(processes.url(), "/", app.name, app.path);
    Json item = Json::Object();
    item.Set("appName", app.name)
        .Set("url", url)
        .Set("digest", app.plan.digest());
    list.Add(std::move(item));
    absl::StrAppend(&text, "  ", console.ToneOut(url, Tone::kGood), "\n");
  }
  if (apps.empty()) {
    absl::StrAppend(&text, "  The mesh is ready at ", processes.url(),
                    ", without apps yet.\n");
  }
  Json json = Json::Object();
  json.Set("type", "ready")
      .Set("url", processes.url())
      .Set("fabric", processes.fabric())
      .Set("repo", processes.repo())
      .Set("edge", processes.edge())
      .Set("apps", std::move(list));
  const std::string app = apps.empty() ? "APP" : apps[0].name;
  std::vector<std::pair<std::string, std::string>> hints = {
      {"status", "the mesh on one screen"}};
  if (apps.empty()) {
    hints.emplace_back("build --help", "make a spore");
  } else {
    hints.emplace_back(absl::StrCat("logs ", app, " -f"), "what it writes");
    hints.emplace_back(absl::StrCat("scale ", app, " 4"), "more instances");
  }
  hints.emplace_back("events -f", "what happens");
  absl::StrAppend(&text, "\n  Ready after ", ShortDuration(took),
                  ". In another terminal, in this directory:\n");
  for (const auto& [command, meaning] : hints) {
    absl::StrAppendFormat(&text, "    %s %-22s %s\n",
                          session.environment.invoked_as, command, meaning);
  }
  absl::StrAppend(&text, "  Ctrl-C stops everything.");
  console.EmitLine(text, json);
}

// Follows the logs of all apps until it goes.
class LogPrinter {
 public:
  LogPrinter(MeshClient& mesh, Console& console,
             const std::vector<LocalApp>& apps) {
    for (const LocalApp& app : apps) {
      threads_.emplace_back([this, &mesh, &console, name = app.name] {
        LogQuery query;
        query.app = name;
        query.follow = true;
        (void)ReadLogs(
            mesh, console, query, &cancelled_,
            [&console](const std::string& node, const auto& line) {
              console.Raw(LogText(console, node, line, false) + "\n");
            });
      });
    }
  }
  LogPrinter(const LogPrinter&) = delete;
  LogPrinter& operator=(const LogPrinter&) = delete;
  ~LogPrinter() {
    cancelled_ = true;
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  std::atomic<bool> cancelled_ = false;
  std::vector<std::thread> threads_;
};

absl::Status RunMesh(Session& session, const LocalMeshOptions& options,
                     const std::vector<std::string>& sources) {
  Console& console = session.console;
  const absl::Time start = absl::Now();
  LocalMeshProcesses processes(options, session.environment.clock, &console);
  MYC_RETURN_IF_ERROR(processes.Prepare());
  MYC_RETURN_IF_ERROR(processes.Start());
  MYC_RETURN_IF_ERROR(processes.Announce());
  Json json = Json::Object();
  json.Set("type", "started").Set("url", processes.url());
  const std::string good = console.ToneErr(console.Good(), Tone::kGood);
  console.Progress(absl::StrCat(good, " fabric  ", good, " repo  ", good,
                                " edge  ", good, " ", options.nodes,
                                options.nodes == 1 ? " node   " : " nodes   ",
                                ShortDuration(absl::Now() - start)),
                   json);

  MeshAddresses addresses;
  addresses.fabric = processes.fabric();
  addresses.repo = processes.repo();
  addresses.edge = processes.edge();
  auto mesh = std::make_unique<MeshClient>(addresses, absl::Seconds(10));
  std::atomic<bool> cancelled = false;
  std::atomic<bool> deployed = false;
  std::vector<LocalApp> apps;
  absl::Status outcome;
  // The main thread takes care of the processes meanwhile.
  std::thread deployment([&] {
    outcome =
        Deployer(session, processes, *mesh, cancelled).Deploy(sources, apps);
    deployed = true;
  });
  int signal = processes.Supervise([&deployed] { return deployed.load(); });
  cancelled = true;
  deployment.join();
  std::unique_ptr<LogPrinter> logs;
  if (signal == 0 && outcome.ok()) {
    TellReady(session, processes, apps, absl::Now() - start);
    if (session.call.Has("logs")) {
      logs = std::make_unique<LogPrinter>(*mesh, console, apps);
    }
    signal = processes.Supervise([] { return false; });
  }
  if (signal != 0) console.Note("stopping (again to force)");
  logs.reset();
  // A server waits for its connections to end, and an idle one of ours would
  // notice that only after seconds.
  mesh.reset();
  processes.Stop();
  return signal != 0 ? absl::OkStatus() : outcome;
}

}  // namespace

absl::Status Run(Session& session) {
  const Invocation& call = session.call;
  const std::string& directory = session.environment.directory;
  LocalMeshOptions options;
  options.mesh_directory = JoinPath(
      call.Has("dir") ? Absolute(directory, call.Get("dir")) : directory,
      ".mesh");
  options.program_directories = ProgramDirectories(session);
  options.nodes = static_cast<int>(call.GetInteger("nodes", 3));
  options.port = static_cast<int>(call.GetInteger("port", 8080));
  options.keep = call.Has("keep");
  if (call.GetInteger("nodes", 3) < 1 || call.GetInteger("nodes", 3) > 16) {
    return UsageError("--nodes must be 1 to 16");
  }
  if (call.GetInteger("port", 0) < 0 || call.GetInteger("port", 0) > 65535) {
    return UsageError("--port must be 0 to 65535");
  }
  if (call.GetInteger("min", 1) < 0 || call.GetInteger("min", 1) > 1000) {
    return UsageError("--min must be 0 to 1000");
  }
  std::vector<std::string> sources = call.args;
  const std::vector<std::string> spores = call.GetAll("spore");
  sources.insert(sources.end(), spores.begin(), spores.end());

  absl::Status outcome;
  const int code = RunGuarded([&] {
    outcome = RunMesh(session, options, sources);
    if (!outcome.ok()) session.console.Error(outcome);
    return outcome.ok() ? 0 : static_cast<int>(ToFailure(outcome).exit);
  });
  return code == 0 ? absl::OkStatus() : QuietExit(static_cast<ExitCode>(code));
}

absl::Status Down(Session& session) {
  const std::string mesh = FindMeshDirectory(session.environment.directory);
  const absl::StatusOr<LocalMesh> local =
      mesh.empty() ? absl::NotFoundError("") : ReadLocalMesh(mesh);
  if (!local.ok() || local->pid <= 1) {
    return ToStatus(
        {.exit = ExitCode::kNotFound,
         .message = "no local mesh runs in this directory or above it"});
  }
  kill(static_cast<pid_t>(local->pid), SIGTERM);
  const absl::Time end = absl::Now() + session.TimeoutOr(absl::Seconds(60));
  while (IsMeshLocked(mesh)) {
    if (absl::Now() > end) {
      return ToStatus(
          {.exit = ExitCode::kTimeout,
           .message = absl::StrCat("the mesh in ", mesh, " (pid ", local->pid,
                                   ") has not stopped yet")});
    }
    absl::SleepFor(absl::Milliseconds(20));
  }
  Json json = Json::Object();
  json.Set("directory", mesh);
  session.console.Emit(absl::StrCat(session.console.Good(), " the mesh in ",
                                    mesh, " is stopped\n"),
                       json, mesh);
  return absl::OkStatus();
}

}  // namespace mycelium::meshctl
