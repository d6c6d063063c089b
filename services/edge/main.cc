// The edge: HTTP/1.1 in, to the endpoints of apps out. `edge --help` says more.

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gflags/gflags.h"
#include "glog/logging.h"
#include "grpcpp/channel.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"
#include "lib/base/signal_watcher.h"
#include "lib/base/status_macros.h"
#include "lib/flags/command_line.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/flags.h"
#include "lib/rpc/server.h"
#include "lib/telemetry/logging.h"
#include "services/edge/cidr.h"
#include "services/edge/edge.h"
#include "services/edge/edge_service.h"
#include "services/edge/edge_status.h"
#include "services/edge/fabric_link.h"
#include "services/edge/handover.h"
#include "services/edge/lifetime.h"
#include "services/edge/listen_sockets.h"
#include "services/edge/route_table.h"
#include "services/edge/service_manager.h"
#include "services/edge/traffic_parser.h"

DEFINE_string(listen, "127.0.0.1:8080",
              "HOST:PORT to serve HTTP/1.1 on; port 0 takes a free one");
DEFINE_string(
    port_file, "",
    "file that HOST:PORT of HTTP is written to once the edge listens");
DEFINE_string(tls_listen, "",
              "HOST:PORT to serve HTTP/1.1 over TLS on, beside --listen; port "
              "0 takes a free one; empty: none");
DEFINE_string(tls_port_file, "",
              "file that HOST:PORT of TLS is written to once the edge listens");
DEFINE_string(tls_certificates, "",
              "directory of NAME.crt (the certificate, then those above it) "
              "and NAME.key pairs, PEM; a client gets the one for the host "
              "that it names, else default, else the first by name; changes "
              "are taken up by themselves");
DEFINE_bool(tls_strict_sni, false,
            "refuse clients that name no host, or one that no certificate is "
            "for");
DEFINE_string(tls_client_ca, "",
              "PEM file of authorities that clients must show a certificate "
              "of; empty: none is asked for");
DEFINE_string(grpc_listen, "",
              "HOST:PORT to serve gRPC on; empty: a free port with --fabric, "
              "else none. Addresses other than loopback need --tls_*");
DEFINE_string(
    grpc_port_file, "",
    "file that HOST:PORT of gRPC is written to once the edge listens");
DEFINE_string(fabric, "", "HOST:PORT of the fabric to take routes from");
DEFINE_string(edge_id, "",
              "name of this edge: 1 to 63 of A-Z, a-z, 0-9, '.', '_' and '-'; "
              "empty: a random one");
DEFINE_string(static_endpoints, "",
              "app=URL[,app=URL...]: endpoints to route to without a fabric; "
              "repeat an app for several; app= alone has no endpoint");
DEFINE_string(static_traffic, "",
              "app=JSON[;app=JSON...]: how requests of static endpoints are "
              "treated, each JSON a mycelium.fabric.v1.Traffic, such as "
              "shop={\"maxInFlight\":100}");
DEFINE_int32(workers, 0,
             "event loops, each on its own thread; 0: one per core");
DEFINE_string(
    access_log, "",
    "file for one JSON line per request, - for stdout, empty for none");
DEFINE_int32(access_log_max_per_second, 0,
             "lines of the access log for requests that went well, and as many "
             "again for those that did not; 0: any number");
DEFINE_double(access_log_sample, 1,
              "share of the requests that went well that have a line, 0 to 1");
DEFINE_bool(tracing, false,
            "give requests without a valid traceparent a new one");
DEFINE_double(trace_sample, 0.01,
              "share of the new traces that are marked as sampled, 0 to 1");
DEFINE_string(
    balance, "round-robin",
    "round-robin, least-request or peak-ewma, for apps whose plans do "
    "not say");
DEFINE_string(trusted_proxies, "",
              "ADDRESS[/BITS],...: peers whose X-Forwarded-* and X-Request-Id "
              "are believed");
DEFINE_string(
    proxy_protocol_from, "",
    "ADDRESS[/BITS],...: peers whose connections have to begin with a "
    "PROXY protocol header, version 1 or 2, and whose word is taken "
    "for who the client is; nobody else's header is looked at");
DEFINE_string(via, "", "name in Via fields; empty: the id of the edge");
DEFINE_int32(header_timeout_ms, 10'000,
             "from the first byte of a request to the end of its head");
DEFINE_int32(idle_timeout_ms, 60'000,
             "between two requests of a client's connection");
DEFINE_int32(body_idle_timeout_ms, 30'000,
             "without a byte of a body whose length is known");
DEFINE_int32(connect_timeout_ms, 1'000, "to connect to an endpoint");
DEFINE_int32(response_header_timeout_ms, 30'000,
             "from the end of a request to the head of its response");
DEFINE_int32(stream_idle_timeout_ms, 300'000,
             "without a byte in a stream, in a tunnel, or to a client that "
             "does not read");
DEFINE_int32(half_close_timeout_ms, 1'000,
             "without progress once a client has closed its side");
DEFINE_int32(expect_timeout_ms, 1'000,
             "until the edge sends the 100 (Continue) that an app owes");
DEFINE_int32(linger_timeout_ms, 2'000,
             "reading what a client sends after its last response");
DEFINE_int32(upstream_idle_timeout_ms, 4'000,
             "that an unused connection to an endpoint is kept; less than any "
             "app's own timeout");
DEFINE_int32(drain_timeout_ms, 10'000,
             "for requests and tunnels to end, on SIGTERM");
DEFINE_int32(lame_duck_ms, 0,
             "on SIGTERM, that new connections are still taken while "
             "/_mesh/ready says 503");
DEFINE_int32(handover_timeout_ms, 30'000,
             "for the new process to be ready, on SIGHUP");
DEFINE_int32(handover_drain_timeout_ms, 60'000,
             "for requests and tunnels to end in the old process, on SIGHUP");
DEFINE_string(pid_file, "",
              "file that the id of the process that serves is written to");
DEFINE_int32(max_head_bytes, 32 * 1024,
             "of the head of a request or response, 1024 to 49152");
DEFINE_int64(max_body_bytes, 0, "of a request's body; 0: any");
DEFINE_int32(max_connections, 0,
             "of clients; 0: as many as there are descriptors for");
DEFINE_int32(max_idle_per_endpoint, 64,
             "unused connections kept per endpoint and worker; more while as "
             "many requests come at a time, 0 for none ever");
DEFINE_int32(max_retries, 2,
             "of a request whose connection to an endpoint failed");
DEFINE_int32(retry_budget_percent, 20,
             "of an app's active requests that may be retried ones; 3 always");
DEFINE_int32(eject_after_failures, 5,
             "failures in a row that take an endpoint out for a while");
DEFINE_int32(eject_ms, 10'000, "how long at first; doubled up to 300 s");

namespace mycelium::edge {
namespace {

// How long gRPC calls may go on after the last request.
constexpr absl::Duration kGrace = absl::Seconds(1);

// Raises the limit of descriptors as far as it goes, and returns it.
int64_t RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<int64_t>(limit.rlim_cur);
}

absl::StatusOr<BalancePolicy> PolicyFromFlags() {
  if (FLAGS_balance == "round-robin") return BalancePolicy::kRoundRobin;
  if (FLAGS_balance == "least-request") return BalancePolicy::kLeastRequest;
  if (FLAGS_balance == "peak-ewma") return BalancePolicy::kPeakEwma;
  return absl::InvalidArgumentError(
      absl::StrCat("--balance is ", Quoted(FLAGS_balance),
                   "; want round-robin, least-request or peak-ewma"));
}

absl::StatusOr<Edge::Options> OptionsFromFlags(const std::string& edge_id) {
  Edge::Options options;
  options.listen = FLAGS_listen;
  options.workers =
      FLAGS_workers != 0
          ? FLAGS_workers
          : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  if (options.workers < 1 || options.workers > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("--workers is ", FLAGS_workers, "; want 0 to 1024"));
  }
  if (FLAGS_tls_listen.empty() != FLAGS_tls_certificates.empty()) {
    return absl::InvalidArgumentError(
        "--tls_listen and --tls_certificates need each other");
  }
  options.tls_listen = FLAGS_tls_listen;
  options.tls = {.certificates = FLAGS_tls_certificates,
                 .strict_sni = FLAGS_tls_strict_sni,
                 .client_ca = FLAGS_tls_client_ca};
  options.access_log = FLAGS_access_log;
  if (FLAGS_access_log_max_per_second < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--access_log_max_per_second is ",
                     FLAGS_access_log_max_per_second, "; want at least 0"));
  }
  options.log.max_per_second = FLAGS_access_log_max_per_second;
  const struct {
    const char* name;
    double flag;
    double* option;
  } shares[] = {
      {"access_log_sample", FLAGS_access_log_sample, &options.log.sample},
      {"trace_sample", FLAGS_trace_sample, &options.worker.trace_sample},
  };
  for (const auto& share : shares) {
    if (!(share.flag >= 0 && share.flag <= 1)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", share.name, " is ", share.flag, "; want 0 to 1"));
    }
    *share.option = share.flag;
  }
  options.worker.tracing = FLAGS_tracing;
  WorkerOptions& worker = options.worker;
  const struct {
    const char* name;
    int32_t flag;
    int64_t* option;
  } timeouts[] = {
      {"header_timeout_ms", FLAGS_header_timeout_ms, &worker.header_timeout_ms},
      {"idle_timeout_ms", FLAGS_idle_timeout_ms, &worker.idle_timeout_ms},
      {"body_idle_timeout_ms", FLAGS_body_idle_timeout_ms,
       &worker.body_idle_timeout_ms},
      {"connect_timeout_ms", FLAGS_connect_timeout_ms,
       &worker.connect_timeout_ms},
      {"response_header_timeout_ms", FLAGS_response_header_timeout_ms,
       &worker.response_header_timeout_ms},
      {"stream_idle_timeout_ms", FLAGS_stream_idle_timeout_ms,
       &worker.stream_idle_timeout_ms},
      {"half_close_timeout_ms", FLAGS_half_close_timeout_ms,
       &worker.half_close_timeout_ms},
      {"expect_timeout_ms", FLAGS_expect_timeout_ms, &worker.expect_timeout_ms},
      {"linger_timeout_ms", FLAGS_linger_timeout_ms, &worker.linger_timeout_ms},
      {"upstream_idle_timeout_ms", FLAGS_upstream_idle_timeout_ms,
       &worker.upstream_idle_timeout_ms},
      {"drain_timeout_ms", FLAGS_drain_timeout_ms, &worker.drain_timeout_ms},
      {"handover_drain_timeout_ms", FLAGS_handover_drain_timeout_ms,
       &worker.handover_drain_timeout_ms},
      {"eject_ms", FLAGS_eject_ms, &worker.balancer.ejection_ms},
  };
  for (const auto& timeout : timeouts) {
    if (timeout.flag < 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--", timeout.name, " is ", timeout.flag, "; want at least 1"));
    }
    *timeout.option = timeout.flag;
  }
  const struct {
    const char* name;
    int32_t flag;
    int32_t least;
    int32_t* option;
  } counts[] = {
      {"max_idle_per_endpoint", FLAGS_max_idle_per_endpoint, 0,
       &worker.max_idle_per_endpoint},
      {"max_retries", FLAGS_max_retries, 0, &worker.max_retries},
      {"retry_budget_percent", FLAGS_retry_budget_percent, 0,
       &worker.retry_budget_percent},
      {"eject_after_failures", FLAGS_eject_after_failures, 1,
       &worker.balancer.failures_to_eject},
  };
  for (const auto& count : counts) {
    if (count.flag < count.least) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", count.name, " is ", count.flag, "; want at least ",
                       count.least));
    }
    *count.option = count.flag;
  }
  if (FLAGS_lame_duck_ms < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--lame_duck_ms is ", FLAGS_lame_duck_ms, "; want at least 0"));
  }
  if (FLAGS_handover_timeout_ms < 1) {
    return absl::InvalidArgumentError(absl::StrCat("--handover_timeout_ms is ",
                                                   FLAGS_handover_timeout_ms,
                                                   "; want at least 1"));
  }
  if (FLAGS_max_head_bytes < 1024 || FLAGS_max_head_bytes > 49152) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--max_head_bytes is ", FLAGS_max_head_bytes, "; want 1024 to 49152"));
  }
  worker.max_head_bytes = static_cast<uint32_t>(FLAGS_max_head_bytes);
  if (FLAGS_max_body_bytes < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--max_body_bytes is ", FLAGS_max_body_bytes, "; want at least 0"));
  }
  worker.max_body_bytes = FLAGS_max_body_bytes;
  // A request needs a descriptor on each side; pipes for large bodies and what
  // the process needs anyway come on top.
  const int64_t descriptors =
      RaiseDescriptorLimit() -
      int64_t{2} * WorkerOptions::kMaxPipes * options.workers;
  const int64_t clients = FLAGS_max_connections > 0
                              ? FLAGS_max_connections
                              : std::max<int64_t>(16, descriptors / 2 - 64);
  worker.max_connections = static_cast<int>(
      std::clamp<int64_t>(clients / options.workers, 1, 1'000'000));
  worker.via = FLAGS_via.empty() ? edge_id : FLAGS_via;
  if (!IsId(worker.via)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--via ", Quoted(worker.via), " ", kIdRule));
  }
  MYC_ASSIGN_OR_RETURN(worker.trusted_peers, ParseCidrs(FLAGS_trusted_proxies));
  MYC_ASSIGN_OR_RETURN(worker.proxy_peers,
                       ParseCidrs(FLAGS_proxy_protocol_from));
  return options;
}

// What a successor needs of `edge`, its sockets by descriptors of their own.
absl::StatusOr<Heritage> MakeHeritage(const Edge& edge) {
  Heritage heritage;
  const auto add = [&](const char* name, const std::string& address,
                       const std::vector<int>& fds) -> absl::Status {
    if (fds.empty()) return absl::OkStatus();
    ListenSockets& sockets = heritage.listeners[name];
    sockets.address = address;
    sockets.kept_elsewhere = edge.listeners_kept_elsewhere();
    for (const int fd : fds) {
      sockets.fds.emplace_back(fcntl(fd, F_DUPFD_CLOEXEC, 0));
      if (!sockets.fds.back().valid())
        return ErrnoStatus(errno, "dup of a listening socket");
    }
    return absl::OkStatus();
  };
  MYC_RETURN_IF_ERROR(add("http", edge.address(), edge.listen_fds()));
  MYC_RETURN_IF_ERROR(add("https", edge.tls_address(), edge.tls_listen_fds()));
  return heritage;
}

absl::Status Run(Program program) {
  // What another process or a service manager has given to this one.
  MYC_ASSIGN_OR_RETURN(const std::unique_ptr<Predecessor> predecessor,
                       Predecessor::FromEnvironment());
  Heritage heritage;
  if (predecessor != nullptr) {
    MYC_ASSIGN_OR_RETURN(heritage, predecessor->TakeHeritage());
  } else {
    MYC_ASSIGN_OR_RETURN(heritage.listeners, TakeActivatedSockets());
  }
  const auto inherit = [&](const char* name) -> std::optional<ListenSockets> {
    const auto found = heritage.listeners.find(name);
    if (found == heritage.listeners.end()) return std::nullopt;
    return std::move(found->second);
  };

  const std::string edge_id = !FLAGS_edge_id.empty() ? FLAGS_edge_id
                              : !heritage.edge_id.empty()
                                  ? heritage.edge_id
                                  : absl::StrCat("edge-", RandomHex(4));
  if (!IsId(edge_id)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--edge_id ", Quoted(edge_id), " ", kIdRule));
  }
  if (!FLAGS_fabric.empty() && !FLAGS_static_endpoints.empty()) {
    return absl::InvalidArgumentError(
        "--fabric and --static_endpoints exclude each other");
  }
  if (!FLAGS_fabric.empty() && !FLAGS_static_traffic.empty()) {
    return absl::InvalidArgumentError(
        "--fabric and --static_traffic exclude each other: with a fabric, "
        "plans "
        "say how requests are treated");
  }
  MYC_ASSIGN_OR_RETURN(Edge::Options options, OptionsFromFlags(edge_id));
  MYC_ASSIGN_OR_RETURN(const BalancePolicy balancing, PolicyFromFlags());
  const int workers = options.workers;
  options.paused = predecessor != nullptr;

  RouteTable routes;
  std::unique_ptr<FabricLink> link;
  if (FLAGS_fabric.empty()) {
    MYC_ASSIGN_OR_RETURN(const auto traffic,
                         ParseStaticTraffic(FLAGS_static_traffic, balancing));
    MYC_ASSIGN_OR_RETURN(RouteSnapshot snapshot,
                         ParseStaticEndpoints(FLAGS_static_endpoints, workers,
                                              balancing, traffic));
    routes.Publish(std::move(snapshot));
  } else {
    MYC_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                         rpc::Connect(FLAGS_fabric, rpc::TlsFilesFromFlags()));
    link = std::make_unique<FabricLink>(
        channel,
        FabricRoutes::Options{.workers = workers, .balancing = balancing},
        Clock::Real(), &routes);
    options.fabric_state = [link = link.get()] { return link->state(); };
  }
  MYC_ASSIGN_OR_RETURN(const std::unique_ptr<Edge> edge,
                       Edge::Start(std::move(options), &routes, inherit("http"),
                                   inherit("https")));

  const SignalWatcher reopen(SIGUSR1,
                             [edge = edge.get()] { edge->ReopenAccessLog(); });

  EdgeStatus status(edge_id, edge.get(), &routes, Clock::Real());
  EdgeService service(&status);
  std::unique_ptr<rpc::Server> server;
  if (!FLAGS_grpc_listen.empty() || link != nullptr) {
    const std::string listen = !heritage.grpc_address.empty()
                                   ? heritage.grpc_address
                               : FLAGS_grpc_listen.empty() ? "127.0.0.1:0"
                                                           : FLAGS_grpc_listen;
    const rpc::ServerOptions server_options = {
        .listen = listen,
        .tls = rpc::TlsFilesFromFlags(),
        .port_sharing = heritage.grpc_address.empty() ? rpc::PortSharing::kOffer
                                                      : rpc::PortSharing::kJoin,
        .services = {{&service, v1::Edge::service_full_name()}}};
    MYC_ASSIGN_OR_RETURN(server, rpc::Server::Start(server_options));
    MYC_RETURN_IF_ERROR(
        rpc::WritePortFile(FLAGS_grpc_port_file, server->address()));
    LOG(INFO) << "serving gRPC on " << server->address();
  }
  MYC_RETURN_IF_ERROR(rpc::WritePortFile(FLAGS_port_file, edge->address()));
  LOG(INFO) << "serving HTTP on " << edge->address() << " with " << workers
            << " workers";
  if (!edge->tls_address().empty()) {
    MYC_RETURN_IF_ERROR(
        rpc::WritePortFile(FLAGS_tls_port_file, edge->tls_address()));
    LOG(INFO) << "serving HTTP over TLS on " << edge->tls_address();
  }
  Lifetime::Options lifetime_options;
  lifetime_options.program = std::move(program);
  lifetime_options.pid_file = FLAGS_pid_file;
  lifetime_options.lame_duck = absl::Milliseconds(FLAGS_lame_duck_ms);
  lifetime_options.handover_timeout =
      absl::Milliseconds(FLAGS_handover_timeout_ms);
  lifetime_options.heritage = [&]() -> absl::StatusOr<Heritage> {
    MYC_ASSIGN_OR_RETURN(Heritage result, MakeHeritage(*edge));
    result.edge_id = edge_id;
    if (server != nullptr) result.grpc_address = server->address();
    if (link != nullptr) result.name_free = link->LendName();
    return result;
  };
  lifetime_options.handover_failed = [&] {
    if (link != nullptr) link->ReclaimName();
  };
  // The port is shared, and questions are for the process that serves.
  lifetime_options.handed_over = [&] {
    if (server != nullptr) server->Shutdown(kGrace);
  };
  MYC_ASSIGN_OR_RETURN(
      const std::unique_ptr<Lifetime> lifetime,
      Lifetime::Create(std::move(lifetime_options), edge.get(), Clock::Real()));
  if (link != nullptr) {
    link->Start(edge_id, server->address(), edge.get(),
                std::move(heritage.name_free));
  }
  absl::Status begun = lifetime->Begin(predecessor.get());
  if (begun.ok()) lifetime->Serve();
  // Only now: as long as requests were under way, the fabric waited for us.
  if (link != nullptr) link->Stop();
  if (server != nullptr) server->Shutdown(kGrace);
  LOG(INFO) << "stopped";
  return begun;
}

}  // namespace
}  // namespace mycelium::edge

int main(int argc, char** argv) {
  mycelium::edge::BlockLifetimeSignals();
  mycelium::BlockSignal(SIGUSR1);  // Opens the access log anew.
  // Before the flags are parsed, which may change the arguments.
  mycelium::edge::Program program =
      mycelium::edge::Program::OfThisProcess(argc, argv);
  mycelium::flags::ParseCommandLine(
      "edge serves HTTP/1.1 and passes /APP/REST on to an endpoint of APP as "
      "/REST.\n\n"
      "  edge --listen=HOST:PORT --fabric=HOST:PORT\n"
      "  edge --listen=HOST:PORT --static_endpoints=APP=URL[,APP=URL...]",
      argc, argv);
  mycelium::telemetry::InitLogging(argv[0]);

  if (const absl::Status status = mycelium::edge::Run(std::move(program));
      !status.ok()) {
    LOG(ERROR) << status.message();
    return 1;
  }
  return 0;
}
