// The edge: HTTP/1.1 in, to the endpoints of apps out. Flags and wiring.

#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gflags/gflags.h"
#include "glog/logging.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "services/edge/cidr.h"
#include "services/edge/edge.h"
#include "services/edge/route_table.h"

DEFINE_string(listen, "127.0.0.1:8080",
              "HOST:PORT to serve HTTP/1.1 on; port 0 takes a free one");
DEFINE_string(port_file, "",
              "file to write the bound port to, once it is listened on");
DEFINE_string(static_endpoints, "",
              "app=URL[,app=URL...]: endpoints to route to without a fabric; "
              "repeat an app for "
              "several; app= alone is an app without endpoints");
DEFINE_int32(workers, 0,
             "event loops, each on its own thread; 0: one per core");
DEFINE_string(access_log, "",
              "file for JSON lines, - for standard output, empty for none");
DEFINE_string(balance, "round-robin",
              "round-robin, least-request or peak-ewma");
DEFINE_string(trusted_proxies, "",
              "ADDRESS[/BITS],...: peers whose X-Forwarded-* and X-Request-Id "
              "are believed");
DEFINE_string(via, "", "name of this edge in Via fields; empty: a random one");
DEFINE_int32(header_timeout_ms, 10'000,
             "from the first byte of a request to the end of its head");
DEFINE_int32(idle_timeout_ms, 60'000,
             "between two requests of a client's connection");
DEFINE_int32(body_idle_timeout_ms, 30'000,
             "without a byte of a body whose length is known");
DEFINE_int32(connect_timeout_ms, 1'000, "to connect to an endpoint");
DEFINE_int32(response_header_timeout_ms, 30'000,
             "from the end of a request to its response head");
DEFINE_int32(stream_idle_timeout_ms, 300'000,
             "without a byte in a stream, in a tunnel, or to a client that "
             "does not read");
DEFINE_int32(half_close_timeout_ms, 1'000,
             "without progress once a client closed its side");
DEFINE_int32(expect_timeout_ms, 1'000,
             "until the edge sends a 100 (Continue) that the app owes");
DEFINE_int32(linger_timeout_ms, 2'000,
             "reading what a client sends after its last response");
DEFINE_int32(upstream_idle_timeout_ms, 4'000,
             "that an unused connection to an endpoint is kept; less than any "
             "app's own timeout");
DEFINE_int32(drain_timeout_ms, 10'000,
             "for requests and tunnels to end, on SIGTERM");
DEFINE_int32(max_head_bytes, 32 * 1024,
             "of a request's or response's head; at most 65535");
DEFINE_int64(max_body_bytes, 0, "of a request's body; 0: any");
DEFINE_int32(max_connections, 0,
             "of clients; 0: as many as there are descriptors for");
DEFINE_int32(max_idle_per_endpoint, 64,
             "unused connections kept per endpoint and worker");
DEFINE_int32(max_retries, 2,
             "of a request whose connection to an endpoint failed");
DEFINE_int32(retry_budget_percent, 20,
             "of an app's active requests that may be retried ones");
DEFINE_int32(eject_after_failures, 5,
             "failures in a row that take an endpoint out for a while");
DEFINE_int32(eject_ms, 10'000,
             "how long at first; doubled each time, up to 300 s");

namespace mycelium::edge {
namespace {

// Raises the limit of descriptors as far as it goes, and returns it.
int64_t RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<int64_t>(limit.rlim_cur);
}

absl::StatusOr<BalancePolicy> ParsePolicy(const std::string& name) {
  if (name == "round-robin") return BalancePolicy::kRoundRobin;
  if (name == "least-request") return BalancePolicy::kLeastRequest;
  if (name == "peak-ewma") return BalancePolicy::kPeakEwma;
  return absl::InvalidArgumentError(
      absl::StrCat("--balance is ", Quoted(name),
                   "; want round-robin, least-request or peak-ewma"));
}

absl::StatusOr<Edge::Options> OptionsFromFlags() {
  Edge::Options options;
  options.listen = FLAGS_listen;
  options.workers =
      FLAGS_workers > 0
          ? FLAGS_workers
          : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  options.access_log = FLAGS_access_log;
  WorkerOptions& worker = options.worker;
  worker.header_timeout_ms = FLAGS_header_timeout_ms;
  worker.idle_timeout_ms = FLAGS_idle_timeout_ms;
  worker.body_idle_timeout_ms = FLAGS_body_idle_timeout_ms;
  worker.connect_timeout_ms = FLAGS_connect_timeout_ms;
  worker.response_header_timeout_ms = FLAGS_response_header_timeout_ms;
  worker.stream_idle_timeout_ms = FLAGS_stream_idle_timeout_ms;
  worker.half_close_timeout_ms = FLAGS_half_close_timeout_ms;
  worker.expect_timeout_ms = FLAGS_expect_timeout_ms;
  worker.linger_timeout_ms = FLAGS_linger_timeout_ms;
  worker.upstream_idle_timeout_ms = FLAGS_upstream_idle_timeout_ms;
  worker.drain_timeout_ms = FLAGS_drain_timeout_ms;
  if (FLAGS_max_head_bytes < 1024 || FLAGS_max_head_bytes > 65535) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--max_head_bytes is ", FLAGS_max_head_bytes, "; want 1024 to 65535"));
  }
  worker.max_head_bytes = static_cast<uint32_t>(FLAGS_max_head_bytes);
  worker.max_body_bytes = FLAGS_max_body_bytes;
  const int64_t descriptors = RaiseDescriptorLimit();
  // A request needs one on each side.
  const int64_t clients = FLAGS_max_connections > 0
                              ? FLAGS_max_connections
                              : std::max<int64_t>(16, descriptors / 2 - 64);
  worker.max_connections =
      static_cast<int>(std::max<int64_t>(1, clients / options.workers));
  worker.max_idle_per_endpoint = FLAGS_max_idle_per_endpoint;
  worker.max_retries = FLAGS_max_retries;
  worker.retry_budget_percent = FLAGS_retry_budget_percent;
  worker.balancer.failures_to_eject = FLAGS_eject_after_failures;
  worker.balancer.ejection_ms = FLAGS_eject_ms;
  worker.via =
      FLAGS_via.empty() ? absl::StrCat("mycelium-", RandomHex(4)) : FLAGS_via;
  if (!IsId(worker.via)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--via ", Quoted(worker.via), " ", kIdRule));
  }
  MYC_ASSIGN_OR_RETURN(worker.trusted_peers, ParseCidrs(FLAGS_trusted_proxies));
  return options;
}

absl::Status Serve() {
  // Before any thread, so that only sigwait gets them.
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);
  signal(SIGPIPE, SIG_IGN);

  MYC_ASSIGN_OR_RETURN(Edge::Options options, OptionsFromFlags());
  MYC_ASSIGN_OR_RETURN(const BalancePolicy policy, ParsePolicy(FLAGS_balance));
  RouteTable routes;
  MYC_ASSIGN_OR_RETURN(
      RouteSnapshot snapshot,
      ParseStaticEndpoints(FLAGS_static_endpoints, options.workers, policy));
  routes.Publish(std::move(snapshot));

  MYC_ASSIGN_OR_RETURN(const std::unique_ptr<Edge> edge,
                       Edge::Start(std::move(options), &routes));
  LOG(INFO) << "serving HTTP on " << edge->address() << " with "
            << edge->workers() << " workers";
  if (!FLAGS_port_file.empty()) {
    const std::string& address = edge->address();
    MYC_RETURN_IF_ERROR(WriteFileAtomically(
        FLAGS_port_file, address.substr(address.rfind(':') + 1) + "\n"));
  }

  int signal_number = 0;
  sigwait(&stop, &signal_number);
  LOG(INFO) << "draining on signal " << signal_number;
  edge->Drain();
  edge->Join();
  LOG(INFO) << "stopped";
  return absl::OkStatus();
}

}  // namespace
}  // namespace mycelium::edge

int main(int argc, char** argv) {
  FLAGS_logtostderr = true;
  google::InitGoogleLogging(argv[0]);
  gflags::SetUsageMessage(
      "The edge of a mesh: serves HTTP/1.1 and passes /APP/REST on to an "
      "endpoint of APP as "
      "/REST.\n\n  edge --listen=0.0.0.0:8080 "
      "--static_endpoints=billing=http://127.0.0.1:9001");
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  const absl::Status status = mycelium::edge::Serve();
  if (!status.ok()) {
    LOG(ERROR) << status.message();
    return 1;
  }
  return 0;
}
