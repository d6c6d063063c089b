#include "tools/meshctl/local_mesh.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "lib/base/status_macros.h"
#include "lib/crypto/ed25519.h"
#include "lib/crypto/trust_store.h"
#include "tools/meshctl/console.h"
#include "tools/meshctl/failure.h"
#include "tools/meshctl/json.h"
#include "tools/meshctl/processes.h"

namespace mycelium::meshctl {
namespace {

constexpr absl::Duration kStartTimeout = absl::Seconds(20);
constexpr absl::Duration kAgentStopTimeout = absl::Seconds(8);
constexpr absl::Duration kStopTimeout = absl::Seconds(5);
// A service that ran that long has not failed to start.
constexpr absl::Duration kStable = absl::Seconds(10);

// Binds 127.0.0.1:`port` to see whether that is possible; returns the port, or
// 0 and errno.
int TryPort(int port) {
  const UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* raw = reinterpret_cast<sockaddr*>(&address);
  socklen_t size = sizeof(address);
  // With SO_REUSEADDR only listening tells whether somebody else listens.
  if (!fd.valid() || bind(fd.get(), raw, size) != 0 ||
      listen(fd.get(), 1) != 0 || getsockname(fd.get(), raw, &size) != 0) {
    return 0;
  }
  return ntohs(address.sin_port);
}

int PortOf(const std::string& address) {
  int port = 0;
  const size_t colon = address.rfind(':');
  return colon != std::string::npos &&
                 absl::SimpleAtoi(address.substr(colon + 1), &port)
             ? port
             : 0;
}

std::string Loopback(int port) { return absl::StrCat("127.0.0.1:", port); }

// The last lines of a log, without what glog puts in front of each.
std::vector<std::string> LastLines(const std::string& file, size_t count) {
  const auto text = ReadFile(file);
  if (!text.ok()) return {};
  std::vector<std::string> lines =
      absl::StrSplit(*text, '\n', absl::SkipWhitespace());
  if (lines.size() > count) {
    lines.erase(lines.begin(),
                lines.end() - static_cast<std::ptrdiff_t>(count));
  }
  return lines;
}

std::string EndedHow(int status) {
  if (WIFSIGNALED(status)) {
    return absl::StrCat("was killed by signal ", WTERMSIG(status), " (",
                        strsignal(WTERMSIG(status)),  // NOLINT: main thread.
                        ")");
  }
  return absl::StrCat("exited with ", WEXITSTATUS(status));
}

bool IsAgent(absl::string_view name) { return absl::StartsWith(name, "node-"); }

}  // namespace

LocalMeshProcesses::LocalMeshProcesses(LocalMeshOptions options, Clock* clock,
                                       Console* console)
    : options_(std::move(options)), clock_(*clock), console_(*console) {}

LocalMeshProcesses::~LocalMeshProcesses() { Stop(); }

std::string LocalMeshProcesses::Path(const std::string& name) const {
  return JoinPath(options_.mesh_directory, name);
}

std::string LocalMeshProcesses::url() const {
  return absl::StrCat("http://localhost:", edge_port_);
}

std::string LocalMeshProcesses::key_file() const { return Path("dev.key"); }

std::string LocalMeshProcesses::trust_store() const {
  return Path("trust.json");
}

absl::StatusOr<std::string> LocalMeshProcesses::FindProgram(
    const std::string& name) const {
  for (const std::string& directory : options_.program_directories) {
    for (const std::string& candidate :
         {JoinPath(directory, name),
          JoinPath(directory, absl::StrCat("mycelium-", name)),
          JoinPath(directory, absl::StrCat("services/", name, "/", name))}) {
      // A directory of that name is executable, too.
      if (access(candidate.c_str(), X_OK) == 0 &&
          access(JoinPath(candidate, ".").c_str(), F_OK) != 0) {
        return candidate;
      }
    }
  }
  return ToStatus(
      {.exit = ExitCode::kNotFound,
       .message = absl::StrCat("cannot find the program ", name),
       .why = absl::StrCat("looked in ",
                           absl::StrJoin(options_.program_directories, ", ")),
       .fixes = {"build it:  bazel build //services/...",
                 "say where it is:  --bin-dir DIR"}});
}

absl::Status LocalMeshProcesses::CheckPort() const {
  if (options_.port == 0 || TryPort(options_.port) != 0) {
    return absl::OkStatus();
  }
  const int error = errno;
  if (error != EADDRINUSE) {
    return ErrnoStatus(
        error, absl::StrCat("cannot listen on ", Loopback(options_.port)));
  }
  const std::string owner = PortOwner(options_.port);
  int free_port = options_.port + 1;
  while (free_port < 65535 && free_port < options_.port + 100 &&
         TryPort(free_port) == 0) {
    ++free_port;
  }
  return ToStatus(
      {.exit = ExitCode::kConflict,
       .message =
           absl::StrCat("port ", options_.port, " is taken",
                        owner.empty() ? "" : absl::StrCat(" by ", owner)),
       .fixes = {absl::StrCat("choose another:  --port ", free_port)}});
}

absl::Status LocalMeshProcesses::Prepare() {
  for (const char* name : {"fabric", "repo", "agent", "edge"}) {
    MYC_ASSIGN_OR_RETURN(programs_[name], FindProgram(name));
  }
  MYC_RETURN_IF_ERROR(MakeDirectories(options_.mesh_directory));
  UniqueFd lock(open(Path("lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!lock.valid()) {
    return ErrnoStatus(errno, absl::StrCat("cannot write ", Path("lock")));
  }
  // Commands that look whether a mesh runs hold the lock for a moment.
  for (int tries = 0; flock(lock.get(), LOCK_EX | LOCK_NB) != 0; ++tries) {
    if (errno != EWOULDBLOCK || tries == 20) {
      const auto holder = ReadFile(Path("lock"), 64);
      return ToStatus(
          {.exit = ExitCode::kConflict,
           .message =
               absl::StrCat("a mesh runs already in ", options_.mesh_directory,
                            holder.ok() && !holder->empty()
                                ? absl::StrCat(" (pid ", *holder, ")")
                                : ""),
           .fixes = {"use it: other commands find it by themselves",
                     "stop it:  meshctl down",
                     "start another one elsewhere:  --dir DIR --port 0"}});
    }
    absl::SleepFor(absl::Milliseconds(10));
  }
  lock_ = std::move(lock);
  const std::string pid = absl::StrCat(getpid());
  if (ftruncate(lock_.get(), 0) != 0 ||
      pwrite(lock_.get(), pid.data(), pid.size(), 0) < 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot write ", Path("lock")));
  }
  MYC_RETURN_IF_ERROR(CheckPort());

  if (const int killed = KillLeftovers(options_.mesh_directory); killed > 0) {
    console_.Note(absl::StrCat("! stopped ", killed,
                               " processes that an earlier run had left"));
  }
  RemoveState();
  for (const char* name : {"log", "run", "spores"}) {
    MYC_RETURN_IF_ERROR(MakeDirectories(Path(name)));
  }
  MYC_RETURN_IF_ERROR(WriteFileAtomically(Path(".gitignore"), "*\n"));
  return MakeKeyAndTrust();
}

absl::Status LocalMeshProcesses::MakeKeyAndTrust() {
  std::string pem;
  if (absl::StatusOr<std::string> kept = ReadFile(key_file(), 65536);
      kept.ok()) {
    pem = *std::move(kept);
  } else {
    MYC_ASSIGN_OR_RETURN(const crypto::PrivateKey key,
                         crypto::PrivateKey::Generate());
    pem = key.ToPem();
    MYC_RETURN_IF_ERROR(WriteFileAtomically(key_file(), pem, 0600));
  }
  const absl::StatusOr<crypto::PrivateKey> key =
      crypto::PrivateKey::FromPem(pem);
  crypto::Wipe(pem);
  if (!key.ok()) {
    return Explain(key.status(), absl::StrCat("cannot use ", key_file()));
  }
  // The store of an earlier run may trust more keys by now; it is kept.
  crypto::TrustStore trust;
  if (access(trust_store().c_str(), F_OK) == 0) {
    MYC_ASSIGN_OR_RETURN(trust, crypto::TrustStore::Load(trust_store()));
  }
  if (trust.FindKey(crypto::KeyId(key->public_key())) == nullptr) {
    MYC_RETURN_IF_ERROR(
        trust.AddKey(key->public_key(), "dev, this directory only", {"**"}));
    MYC_RETURN_IF_ERROR(WriteFileAtomically(trust_store(), trust.Serialize()));
  }
  return absl::OkStatus();
}

void LocalMeshProcesses::RemoveState() {
  (void)RemoveTree(Path("mesh.json"));
  (void)RemoveTree(Path("run"));
  (void)RemoveTree(Path("spores"));
  if (options_.keep) return;
  (void)RemoveTree(Path("data"));
}

absl::Status LocalMeshProcesses::Spawn(Service& service) {
  for (const std::string& file : service.port_files) {
    MYC_RETURN_IF_ERROR(RemoveTree(file));
  }
  std::vector<std::string> command = {service.program};
  command.insert(command.end(), service.flags.begin(), service.flags.end());
  MYC_ASSIGN_OR_RETURN(
      service.pid,
      StartProgram(command, Path(absl::StrCat("log/", service.name, ".log"))));
  service.started_at = clock_.Monotonic();
  return absl::OkStatus();
}

absl::Status LocalMeshProcesses::StartFailure(const Service& service,
                                              const std::string& what) const {
  const std::string log = Path(absl::StrCat("log/", service.name, ".log"));
  return ToStatus(
      {.exit = ExitCode::kError,
       .message = absl::StrCat("cannot start ", service.name, ": ", what),
       .more = log,
       .output = LastLines(log, 20)});
}

absl::StatusOr<std::string> LocalMeshProcesses::AwaitPort(
    Service& service, const std::string& port_file) {
  const absl::Duration end = clock_.Monotonic() + kStartTimeout;
  while (true) {
    if (const auto text = ReadFile(port_file, 512); text.ok()) {
      const std::vector<std::string> lines =
          absl::StrSplit(*text, '\n', absl::SkipWhitespace());
      if (!lines.empty()) return lines[0];
    }
    if (stop_signal_ != 0) return absl::CancelledError("interrupted");
    if (service.pid == 0) return StartFailure(service, "it ended at once");
    if (clock_.Monotonic() > end) {
      return StartFailure(service, "it does not serve");
    }
    HandleSignals(absl::Milliseconds(5));
  }
}

absl::Status LocalMeshProcesses::Start() {
  started_ = true;
  services_.reserve(3 + static_cast<size_t>(options_.nodes));
  const auto add = [this](const std::string& name, const std::string& program,
                          std::vector<std::string> flags,
                          std::vector<std::string> port_files) -> Service& {
    Service& service = services_.emplace_back();
    service.name = name;
    service.program = programs_[program];
    service.flags = std::move(flags);
    service.port_files = std::move(port_files);
    return service;
  };
  // Fabric and repo know each other, so one address must be chosen beforehand.
  const std::string fabric = Loopback(TryPort(0));
  const std::string repo_file = Path("run/repo");
  Service& repo = add("repo", "repo",
                      {"--listen=127.0.0.1:0", "--port_file=" + repo_file,
                       "--data_dir=" + Path("data/repo"),
                       "--trust_store=" + trust_store(), "--fabric=" + fabric},
                      {repo_file});
  MYC_RETURN_IF_ERROR(Spawn(repo));
  MYC_ASSIGN_OR_RETURN(repo_address_, AwaitPort(repo, repo_file));
  repo.flags[0] = "--listen=" + repo_address_;

  const std::string fabric_file = Path("run/fabric");
  Service& fabric_service =
      add("fabric", "fabric",
          {"--listen=" + fabric, "--port_file=" + fabric_file, "--store=sqlite",
           "--data_dir=" + Path("data/fabric"), "--repo=" + repo_address_},
          {fabric_file});
  MYC_RETURN_IF_ERROR(Spawn(fabric_service));
  MYC_ASSIGN_OR_RETURN(fabric_address_, AwaitPort(fabric_service, fabric_file));

  const std::string edge_file = Path("run/edge");
  const std::string edge_grpc_file = Path("run/edge-grpc");
  Service& edge =
      add("edge", "edge",
          {"--listen=" + Loopback(options_.port), "--grpc_listen=127.0.0.1:0",
           "--port_file=" + edge_file, "--grpc_port_file=" + edge_grpc_file,
           "--fabric=" + fabric_address_, "--edge_id=edge-1",
           "--access_log=" + Path("log/access.log")},
          {edge_file, edge_grpc_file});
  MYC_RETURN_IF_ERROR(Spawn(edge));
  const size_t first_agent = services_.size();
  for (int node = 1; node <= options_.nodes; ++node) {
    const std::string name = absl::StrCat("node-", node);
    const std::string file = Path("run/" + name);
    Service& agent =
        add(name, "agent",
            {"--listen=127.0.0.1:0", "--port_file=" + file, "--node_id=" + name,
             "--data_dir=" + Path("data/" + name),
             "--fabric=" + fabric_address_, "--repo=" + repo_address_,
             "--trust_store=" + trust_store(), "--advertise_host=127.0.0.1",
             absl::StrCat("--shutdown_grace_s=",
                          absl::ToInt64Seconds(kAgentStopTimeout) - 2)},
            {file});
    MYC_RETURN_IF_ERROR(Spawn(agent));
  }
  MYC_ASSIGN_OR_RETURN(edge_address_, AwaitPort(edge, edge_file));
  MYC_ASSIGN_OR_RETURN(edge_grpc_address_, AwaitPort(edge, edge_grpc_file));
  edge_port_ = PortOf(edge_address_);
  edge.flags[0] = "--listen=" + Loopback(edge_port_);
  edge.flags[1] = "--grpc_listen=" + edge_grpc_address_;
  for (size_t i = first_agent; i < services_.size(); ++i) {
    MYC_ASSIGN_OR_RETURN(const std::string address,
                         AwaitPort(services_[i], services_[i].port_files[0]));
    services_[i].flags[0] = "--listen=" + address;
  }
  return absl::OkStatus();
}

absl::Status LocalMeshProcesses::Announce() const {
  Json json = Json::Object();
  json.Set("pid", int64_t{getppid()})
      .Set("fabric", fabric_address_)
      .Set("repo", repo_address_)
      .Set("edge", edge_grpc_address_)
      .Set("url", url())
      .Set("keyFile", key_file())
      .Set("trustStore", trust_store());
  return WriteFileAtomically(Path("mesh.json"), json.Pretty());
}

LocalMeshProcesses::Service* LocalMeshProcesses::FindService(pid_t pid) {
  for (Service& service : services_) {
    if (service.pid == pid) return &service;
  }
  return nullptr;
}

void LocalMeshProcesses::Reap() {
  int status = 0;
  pid_t pid = 0;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    Service* service = FindService(pid);
    // Anything else is what an agent has left to us.
    if (service == nullptr) continue;
    service->pid = 0;
    if (stopping_) continue;
    const absl::Duration now = clock_.Monotonic();
    if (now - service->started_at > kStable) service->failures = 0;
    const absl::Duration delay = std::min(
        absl::Milliseconds(100) * (1 << std::min(service->failures, 6)),
        absl::Seconds(5));
    ++service->failures;
    service->restart_at = now + delay;
    console_.Note(absl::StrCat("! ", service->name, " ", EndedHow(status),
                               "; starting it again"));
  }
}

void LocalMeshProcesses::HandleSignals(absl::Duration timeout) {
  const int signal = WaitRunSignal(timeout);
  if (signal == 0) return;
  if (signal == SIGCHLD) return Reap();
  const absl::Duration now = clock_.Monotonic();
  // One press of Ctrl-C may arrive twice: from the terminal and from the guard.
  if (stop_signals_ > 0 && now - stop_signal_at_ < absl::Milliseconds(300)) {
    return;
  }
  stop_signal_ = signal;
  stop_signal_at_ = now;
  ++stop_signals_;
}

int LocalMeshProcesses::Supervise(const std::function<bool()>& done) {
  while (stop_signal_ == 0 && !done()) {
    HandleSignals(absl::Milliseconds(50));
    for (Service& service : services_) {
      if (service.pid != 0 || clock_.Monotonic() < service.restart_at) continue;
      if (const absl::Status spawned = Spawn(service); !spawned.ok()) {
        console_.Note(absl::StrCat("! ", spawned.message()));
        service.restart_at = clock_.Monotonic() + absl::Seconds(5);
      }
    }
  }
  return stop_signal_;
}

void LocalMeshProcesses::StopThose(
    const std::function<bool(const Service&)>& which, absl::Duration timeout) {
  for (const Service& service : services_) {
    if (service.pid != 0 && which(service)) kill(service.pid, SIGTERM);
  }
  const absl::Duration end = clock_.Monotonic() + timeout;
  // The first signal is why we are here, or there was none.
  while (clock_.Monotonic() < end && stop_signals_ < 2) {
    Reap();
    const bool any = std::any_of(services_.begin(), services_.end(),
                                 [&which](const Service& service) {
                                   return service.pid != 0 && which(service);
                                 });
    if (!any) return;
    HandleSignals(absl::Milliseconds(20));
  }
}

void LocalMeshProcesses::Stop() {
  if (stopping_ || !lock_.valid()) return;
  stopping_ = true;
  if (started_) {
    // Agents first, since draining takes the edge and the fabric; these two
    // last, as both wait for streams that others hold open.
    StopThose([](const Service& s) { return IsAgent(s.name); },
              kAgentStopTimeout);
    StopThose([](const Service& s) { return s.name == "edge"; }, kStopTimeout);
    StopThose([](const Service&) { return true; }, kStopTimeout);
    KillDescendants();
  }
  RemoveState();
  lock_.reset();
}

}  // namespace mycelium::meshctl
