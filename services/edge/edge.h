#ifndef SERVICES_EDGE_EDGE_H_
#define SERVICES_EDGE_EDGE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/edge/access_log.h"
#include "services/edge/certificate_store.h"
#include "services/edge/listen_sockets.h"
#include "services/edge/metrics.h"
#include "services/edge/rate_limiter.h"
#include "services/edge/route_table.h"
#include "services/edge/stats.h"
#include "services/edge/worker.h"
#include "services/edge/worker_options.h"

namespace mycelium::edge {

// The data plane: workers, each on a thread of its own, over one listening
// address, or one more for TLS, and one route table. Thread-safe.
class Edge {
 public:
  struct Options {
    // `HOST:PORT`; port 0 takes a free one.
    std::string listen = "127.0.0.1:8080";
    // `HOST:PORT` for TLS; empty: none. Certificates are taken from tls.
    std::string tls_listen;
    TlsOptions tls;
    int workers = 1;
    std::string access_log;  // A path, "-" for standard output, "" for none.
    // Of all workers together; each gets its share. Sets worker.log.
    LogSampler::Options log;
    WorkerOptions worker;
    // Whether to accept no connection before StartAccepting.
    bool paused = false;
    // For metrics; called on any worker's thread. Unset: endpoints are static.
    std::function<FabricState()> fabric_state;
  };

  // Listens, on the sockets of `inherited` and `inherited_tls` if there are
  // some, and starts to serve. `routes` must outlive the edge.
  //
  // InvalidArgument: an address is no address, or a certificate cannot be
  // used. NotFound: there is no such directory. AlreadyExists: an address is
  // taken.
  static absl::StatusOr<std::unique_ptr<Edge>> Start(
      Options options, const RouteTable* routes,
      std::optional<ListenSockets> inherited = std::nullopt,
      std::optional<ListenSockets> inherited_tls = std::nullopt);

  // Drains, at most for the drain timeout, and joins all threads.
  ~Edge();

  // `HOST:PORT` that is listened on, with the real port.
  const std::string& address() const { return address_; }
  // The same of TLS; empty without.
  const std::string& tls_address() const { return tls_address_; }

  // Loads the certificates now, instead of when their directory is seen to have
  // changed. An error, which is logged and counted, leaves the old ones.
  absl::Status ReloadCertificates();

  // Tells the workers that the route table has changed.
  void RoutesChanged();

  // The version of the route table that every worker has applied.
  uint64_t applied_version() const;

  // Ends the pause that the options began.
  void StartAccepting();

  // The sockets that are listened on, to be given to another process. They are
  // open until Drain or HandOver.
  const std::vector<int>& listen_fds() const { return listen_fds_; }
  const std::vector<int>& tls_listen_fds() const { return tls_listen_fds_; }
  bool listeners_kept_elsewhere() const { return listeners_kept_elsewhere_; }

  // Whether the routes are there, every worker follows them, and new clients
  // are welcome.
  bool ready() const;

  // Goes on as before, but is not ready, and each response is the last of its
  // connection. Returns at once.
  void BeginLameDuck();
  // Begins to drain; returns at once.
  void Drain();
  // As Drain, with a successor that accepts from the same sockets: idle clients
  // get time for another request. Drain may follow, for a quicker end.
  void HandOver();
  // Returns when all workers have ended, which they do after Drain or HandOver.
  void Join();
  bool draining() const { return draining_.load(std::memory_order_relaxed); }

  // Opens the access log's file anew, after it was renamed.
  void ReopenAccessLog();

  FabricState fabric_state() const {
    return options_.fabric_state ? options_.fabric_state() : FabricState();
  }
  int workers() const { return options_.workers; }
  const PerWorker<WorkerCounters>& counters() const { return counters_; }
  int64_t log_write_errors() const {
    return log_ == nullptr ? 0 : log_->write_errors();
  }

 private:
  Edge(Options options, const RouteTable* routes);

  Page GetPage(const PageRequest& request) const;

  Options options_;
  const RouteTable& routes_;
  std::string address_;
  std::string tls_address_;
  std::vector<int> listen_fds_;
  std::vector<int> tls_listen_fds_;
  bool listeners_kept_elsewhere_ = false;
  PerWorker<WorkerCounters> counters_;
  ClientRateTable client_rates_;
  std::unique_ptr<AccessLog> log_;
  std::unique_ptr<CertificateStore> certificates_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::thread> threads_;
  std::atomic<bool> draining_{false};
  std::atomic<bool> handed_over_{false};
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_EDGE_H_
