// The agent: the instances of one node. `agent --help` says more.

#include <fcntl.h>
#include <sched.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gflags/gflags.h"
#include "glog/logging.h"
#include "grpcpp/channel.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"
#include "lib/base/mutex.h"
#include "lib/base/process_signals.h"
#include "lib/base/status_macros.h"
#include "lib/base/version.h"
#include "lib/fabric_client/watch.h"
#include "lib/flags/command_line.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/flags.h"
#include "lib/rpc/server.h"
#include "lib/telemetry/logging.h"
#include "services/agent/agent_service.h"
#include "services/agent/cgroup.h"
#include "services/agent/event_loop.h"
#include "services/agent/grpc_fabric.h"
#include "services/agent/health_prober.h"
#include "services/agent/lease_keeper.h"
#include "services/agent/log_pump.h"
#include "services/agent/log_store.h"
#include "services/agent/process_launcher.h"
#include "services/agent/repo_source.h"
#include "services/agent/spore_cache.h"
#include "services/agent/supervisor.h"
#include "services/agent/trust_policy.h"
#include "services/agent/worker_pool.h"

DEFINE_string(listen, "127.0.0.1:7703",
              "HOST:PORT to serve gRPC on; port 0 takes a free one. Addresses "
              "other than loopback need --tls_*");
DEFINE_string(port_file, "",
              "file that HOST:PORT is written to once the agent listens");
DEFINE_string(node_id, "", "id of the node; the machine's host name if empty");
DEFINE_string(data_dir, "",
              "directory of spores, logs and records; made if it is missing. "
              "One agent at a time");
DEFINE_string(fabric, "127.0.0.1:7700", "HOST:PORT of the fabric");
DEFINE_string(repo, "127.0.0.1:7701", "HOST:PORT of the repo");
DEFINE_string(trust_store, "",
              "trust.json: who may sign what runs here. Read again whenever it "
              "changes");
DEFINE_int64(cpu_milli, 0,
             "processor time for instances, in thousandths of a core; that of "
             "the machine if 0");
DEFINE_int64(memory_mb, 0,
             "memory for instances, in MiB; that of the machine if 0");
DEFINE_string(labels, "", "labels of the node for placement: NAME=VALUE,…");
DEFINE_string(advertise_host, "127.0.0.1",
              "host under which edges reach the instances of this node");
DEFINE_int64(cache_max_mb, 10 << 10,
             "what spores and what was unpacked from them may take on disk, in "
             "MiB, at least 1");
DEFINE_int32(lease_ttl_s, 10,
             "seconds, 1 to 300, after which a silent node is lost");
DEFINE_int32(shutdown_grace_s, 60,
             "seconds, 1 to 3600, to drain and stop the instances after a "
             "signal to stop; what still runs then is killed");

namespace mycelium::agent {
namespace {

constexpr absl::Duration kServerGrace = absl::Seconds(2);
// For instances that an agent before this one has left.
constexpr absl::Duration kLeftoverGrace = absl::Seconds(2);
constexpr int kCallThreads = 8;
constexpr int kPullThreads = 4;

absl::StatusOr<std::string> NodeId() {
  if (!FLAGS_node_id.empty()) {
    if (IsId(FLAGS_node_id)) return FLAGS_node_id;
    return absl::InvalidArgumentError(
        absl::StrCat("--node_id ", Quoted(FLAGS_node_id), " ", kIdRule));
  }
  char name[256] = {};
  if (gethostname(name, sizeof(name) - 1) != 0 || !IsId(name)) {
    return absl::InvalidArgumentError(
        "the host name is no node id; --node_id must be set");
  }
  return std::string(name);
}

absl::StatusOr<std::map<std::string, std::string>> Labels() {
  std::map<std::string, std::string> labels;
  for (const absl::string_view pair :
       absl::StrSplit(FLAGS_labels, ',', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> label =
        absl::StrSplit(pair, absl::MaxSplits('=', 1));
    if (!IsId(label.first) || label.second.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--labels: ", Quoted(pair), " is not of the form NAME=VALUE"));
    }
    labels.insert(label);
  }
  return labels;
}

absl::Status CheckFlags() {
  if (FLAGS_data_dir.empty()) {
    return absl::InvalidArgumentError("--data_dir must be set");
  }
  if (FLAGS_trust_store.empty()) {
    return absl::InvalidArgumentError(
        "--trust_store must be set: without one nobody is trusted and nothing "
        "can run");
  }
  if (FLAGS_cpu_milli < 0 || FLAGS_memory_mb < 0) {
    return absl::InvalidArgumentError(
        "--cpu_milli and --memory_mb must not be negative");
  }
  if (FLAGS_cache_max_mb < 1) {
    return absl::InvalidArgumentError("--cache_max_mb must be at least 1");
  }
  if (FLAGS_lease_ttl_s < 1 || FLAGS_lease_ttl_s > 300) {
    return absl::InvalidArgumentError("--lease_ttl_s must be 1 to 300");
  }
  if (FLAGS_shutdown_grace_s < 1 || FLAGS_shutdown_grace_s > 3600) {
    return absl::InvalidArgumentError("--shutdown_grace_s must be 1 to 3600");
  }
  return absl::OkStatus();
}

// What the flags say, or else what the machine has.
Nutrients Capacity() {
  Nutrients capacity = {.cpu_milli = FLAGS_cpu_milli,
                        .memory_mb = FLAGS_memory_mb};
  if (capacity.cpu_milli == 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    capacity.cpu_milli = sched_getaffinity(0, sizeof(set), &set) == 0
                             ? int64_t{1000} * CPU_COUNT(&set)
                             : int64_t{1000} * sysconf(_SC_NPROCESSORS_ONLN);
  }
  if (capacity.memory_mb == 0) {
    capacity.memory_mb =
        (int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE)) >> 20;
  }
  return capacity;
}

// Held until the process ends: two agents in one directory would end each
// other's instances.
absl::StatusOr<UniqueFd> LockDirectory(const std::string& directory) {
  const std::string path = JoinPath(directory, "lock");
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid())
    return ErrnoStatus(errno, absl::StrCat("cannot open ", path));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("another agent uses --data_dir=", directory));
  }
  return fd;
}

// Tells main() when the supervisor has stopped everything.
class Finished {
 public:
  void Set() {
    MutexLock lock(mutex_);
    finished_ = true;
    changed_.NotifyAll();
  }

  bool WaitFor(absl::Duration timeout) {
    const absl::Time deadline = absl::Now() + timeout;
    MutexLock lock(mutex_);
    while (!finished_) {
      const absl::Duration left = deadline - absl::Now();
      if (left <= absl::ZeroDuration()) return false;
      changed_.WaitFor(mutex_, left);
    }
    return true;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

absl::Status Run() {
  MYC_RETURN_IF_ERROR(CheckFlags());
  MYC_ASSIGN_OR_RETURN(const std::string node_id, NodeId());
  MYC_ASSIGN_OR_RETURN(const auto labels, Labels());
  const Nutrients capacity = Capacity();
  const std::string& data_dir = FLAGS_data_dir;
  MYC_RETURN_IF_ERROR(MakeDirectories(JoinPath(data_dir, "instances"), 0700));
  MYC_ASSIGN_OR_RETURN(const UniqueFd lock, LockDirectory(data_dir));
  const rpc::TlsFiles tls = rpc::TlsFilesFromFlags();
  MYC_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> fabric_channel,
                       rpc::Connect(FLAGS_fabric, tls));
  MYC_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> watch_channel,
                       rpc::Connect(FLAGS_fabric, tls));
  MYC_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> repo_channel,
                       rpc::Connect(FLAGS_repo, tls));
  MYC_ASSIGN_OR_RETURN(const std::unique_ptr<TrustPolicy> trust,
                       TrustPolicy::Load(FLAGS_trust_store));

  Clock* const clock = Clock::Real();
  const std::string records = JoinPath(data_dir, "run");
  for (const std::string& id :
       ProcessLauncher::EndLeftovers(records, kLeftoverGrace)) {
    LOG(INFO) << "ended instance " << id << " of the agent before this one";
  }
  MYC_RETURN_IF_ERROR(RemoveTree(JoinPath(data_dir, "work")));

  GrpcFabric fabric(fabric_channel);
  RepoSource source(repo_channel);
  MYC_ASSIGN_OR_RETURN(
      const std::unique_ptr<SporeCache> spores,
      SporeCache::Open({.directory = JoinPath(data_dir, "spores"),
                        .max_bytes = FLAGS_cache_max_mb << 20},
                       &source, trust.get(), clock));
  MYC_ASSIGN_OR_RETURN(
      const std::unique_ptr<LogStore> logs,
      LogStore::Open(JoinPath(data_dir, "logs"), LogStoreOptions(), clock));
  MYC_ASSIGN_OR_RETURN(const std::unique_ptr<LogPump> pump,
                       LogPump::Start(logs.get(), clock));
  MYC_ASSIGN_OR_RETURN(const std::unique_ptr<SocketProber> prober,
                       SocketProber::Start(FLAGS_advertise_host, clock));

  EventLoop loop;
  std::unique_ptr<Supervisor> supervisor;
  const absl::StatusOr<std::unique_ptr<CgroupRoot>> cgroups =
      CgroupRoot::Create(data_dir);
  if (!cgroups.ok()) {
    LOG(WARNING) << "instances get no cgroups: " << cgroups.status().message();
  }
  MYC_ASSIGN_OR_RETURN(
      std::unique_ptr<ProcessLauncher> launcher,
      ProcessLauncher::Create(
          {.record_directory = records,
           .cgroups = cgroups.ok() ? cgroups->get() : nullptr,
           .no_cgroups_reason = std::string(cgroups.status().message())},
          pump.get(), clock,
          [&](const std::string& id, int64_t run, const v1::ExitStatus& exit) {
            loop.Post([&supervisor, id, run, exit] {
              supervisor->OnExited(id, run, exit);
            });
          }));
  std::unique_ptr<LeaseKeeper> keeper;
  WorkerPool calls(kCallThreads, &loop);
  WorkerPool pulls(kPullThreads, &loop);
  auto random = std::make_shared<std::mt19937_64>(std::random_device{}());

  supervisor = std::make_unique<Supervisor>(
      Supervisor::Options{.node_id = node_id,
                          .capacity = capacity,
                          .labels = labels,
                          .advertise_host = FLAGS_advertise_host,
                          .data_directory = data_dir},
      Supervisor::Parts{
          .clock = clock,
          .fabric = &fabric,
          .spores = spores.get(),
          .launcher = launcher.get(),
          .prober = prober.get(),
          .logs = logs.get(),
          .calls = &calls,
          .pulls = &pulls,
          .post =
              [&](std::function<void()> task) { loop.Post(std::move(task)); },
          .trust_generation =
              [&] {
                trust->Current();
                return trust->generation();
              },
          .lease_not_found =
              [&](const std::string& lease) { keeper->OnLeaseNotFound(lease); },
          .leaving = [&] { keeper->OnLeaving(); },
          .random =
              [random] {
                return std::uniform_real_distribution<double>()(*random);
              }});
  supervisor->LoadRecords();

  AgentService service(node_id, supervisor.get(), &loop, logs.get());
  rpc::ServerOptions server_options;
  server_options.listen = FLAGS_listen;
  server_options.tls = tls;
  server_options.services = {{&service, v1::Agent::service_full_name()}};
  MYC_ASSIGN_OR_RETURN(const std::unique_ptr<rpc::Server> server,
                       rpc::Server::Start(server_options));
  // Before anything runs that a failure would have to stop.
  MYC_RETURN_IF_ERROR(rpc::WritePortFile(FLAGS_port_file, server->address()));

  loop.Start([&] { supervisor->Tick(); },
             [&] { return supervisor->NextDue(); });
  fabric::v1::Node node;
  node.set_node_id(node_id);
  node.set_address(absl::StrCat(FLAGS_advertise_host, ":", server->port()));
  *node.mutable_capacity() = capacity.ToProto();
  node.mutable_labels()->insert(labels.begin(), labels.end());
  node.set_agent_version(std::string(kVersion));
  keeper = std::make_unique<LeaseKeeper>(
      LeaseKeeper::Options{.node = node,
                           .lease_ttl = absl::Seconds(FLAGS_lease_ttl_s),
                           .lease_file = JoinPath(data_dir, "lease")},
      &fabric,
      LeaseKeeper::Callbacks{
          .joined =
              [&](const fabric::v1::JoinNodeResponse& response) {
                loop.Post([&, response] { supervisor->OnJoined(response); });
              },
          .lost = [&] { loop.Post([&] { supervisor->OnLeaseLost(); }); }});
  std::unique_ptr<fabric_client::Watch> slots = fabric_client::WatchSlots(
      watch_channel, "",
      [&](fabric_client::WatchUpdate<fabric::v1::Slot> update) {
        loop.Post(
            [&, update = std::move(update)] { supervisor->OnSlots(update); });
      });
  std::unique_ptr<fabric_client::Watch> nodes = fabric_client::WatchNodes(
      watch_channel, [&](fabric_client::WatchUpdate<fabric::v1::Node> update) {
        loop.Post(
            [&, update = std::move(update)] { supervisor->OnNodes(update); });
      });
  LOG(INFO) << "agent " << kVersion << " of node " << node_id << " serves at "
            << server->address() << ", capacity " << capacity.ToString();

  const int signal = WaitForStopSignal();
  LOG(INFO) << "stopping on signal " << signal
            << ": draining and stopping all instances";
  Finished finished;
  loop.Post([&] { supervisor->Shutdown([&] { finished.Set(); }); });
  const bool clean = finished.WaitFor(absl::Seconds(FLAGS_shutdown_grace_s));
  service.Stop();
  keeper->Stop();
  fabric.Cancel();
  source.Cancel();
  slots.reset();
  nodes.reset();
  if (!clean) {
    // Calls may wait for instances that do not stop, so that an orderly end is
    // not to be had.
    LOG(ERROR) << "not everything stopped within --shutdown_grace_s="
               << FLAGS_shutdown_grace_s << "; killing the rest";
    // It uses the launcher.
    loop.Stop();
    launcher.reset();
    _exit(1);
  }
  server->Shutdown(kServerGrace);
  loop.Stop();
  return absl::OkStatus();
}

}  // namespace
}  // namespace mycelium::agent

int main(int argc, char** argv) {
  mycelium::BlockStopSignals();
  mycelium::flags::ParseCommandLine(
      "agent runs the instances of one node.\n\n"
      "  agent --data_dir=DIR --trust_store=FILE [--fabric=HOST:PORT] "
      "[--repo=HOST:PORT] [--node_id=ID]",
      argc, argv);
  mycelium::telemetry::InitLogging(argv[0]);

  if (const absl::Status status = mycelium::agent::Run(); !status.ok()) {
    LOG(ERROR) << status.message();
    return 1;
  }
  return 0;
}
