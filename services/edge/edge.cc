#include "services/edge/edge.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/file.h"
#include "lib/base/status_macros.h"
#include "services/edge/metrics.h"

namespace mycelium::edge {
namespace {

// The sockets that one address was given, or new ones.
absl::StatusOr<ListenSockets> Open(const std::string& address, int workers,
                                   std::optional<ListenSockets> inherited) {
  return inherited.has_value() ? Adopt(*std::move(inherited), workers)
                               : Listen(address, workers);
}

// Deals sockets out to workers, and remembers them in `fds`.
absl::Status DealTo(std::vector<std::vector<ListenSocket>>* workers,
                    ListenSockets sockets, bool tls, std::vector<int>* fds) {
  for (const UniqueFd& fd : sockets.fds) fds->push_back(fd.get());
  MYC_ASSIGN_OR_RETURN(
      std::vector<std::vector<UniqueFd>> dealt,
      Deal(std::move(sockets.fds), static_cast<int>(workers->size())));
  for (size_t i = 0; i < dealt.size(); ++i) {
    for (UniqueFd& fd : dealt[i]) (*workers)[i].push_back({std::move(fd), tls});
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Edge>> Edge::Start(
    Options options, const RouteTable* routes,
    std::optional<ListenSockets> inherited,
    std::optional<ListenSockets> inherited_tls) {
  if (options.workers < 1 || options.workers > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("workers is ", options.workers, "; want 1 to 1024"));
  }
  std::unique_ptr<Edge> edge(new Edge(std::move(options), routes));
  const Options& own = edge->options_;
  std::vector<std::vector<ListenSocket>> sockets(
      static_cast<size_t>(own.workers));
  MYC_ASSIGN_OR_RETURN(ListenSockets plain,
                       Open(own.listen, own.workers, std::move(inherited)));
  edge->address_ = plain.address;
  edge->listeners_kept_elsewhere_ = plain.kept_elsewhere;
  MYC_RETURN_IF_ERROR(
      DealTo(&sockets, std::move(plain), false, &edge->listen_fds_));
  if (!own.tls_listen.empty()) {
    MYC_ASSIGN_OR_RETURN(edge->certificates_,
                         CertificateStore::Create(own.tls));
    MYC_ASSIGN_OR_RETURN(ListenSockets secure, Open(own.tls_listen, own.workers,
                                                    std::move(inherited_tls)));
    edge->tls_address_ = secure.address;
    edge->listeners_kept_elsewhere_ =
        edge->listeners_kept_elsewhere_ || secure.kept_elsewhere;
    MYC_RETURN_IF_ERROR(
        DealTo(&sockets, std::move(secure), true, &edge->tls_listen_fds_));
  }
  if (!own.access_log.empty()) {
    MYC_ASSIGN_OR_RETURN(edge->log_,
                         AccessLog::Create(own.access_log, own.workers));
  }
  for (int i = 0; i < own.workers; ++i) {
    WorkerContext context;
    context.index = i;
    context.options = &own.worker;
    context.paused = own.paused;
    context.listeners_kept_elsewhere = edge->listeners_kept_elsewhere_;
    context.routes = routes;
    context.counters = &edge->counters_.row(i);
    context.log = edge->log_ == nullptr ? nullptr : edge->log_->queue(i);
    context.certificates = edge->certificates_.get();
    context.client_rates = &edge->client_rates_;
    context.wake = [edge = edge.get()](int index) {
      edge->workers_[static_cast<size_t>(index)]->Wake();
    };
    context.pages = [edge = edge.get()](const PageRequest& request) {
      return edge->GetPage(request);
    };
    MYC_ASSIGN_OR_RETURN(
        std::unique_ptr<Worker> worker,
        Worker::Create(std::move(context),
                       std::move(sockets[static_cast<size_t>(i)])));
    edge->workers_.push_back(std::move(worker));
  }
  for (const std::unique_ptr<Worker>& worker : edge->workers_) {
    edge->threads_.emplace_back([worker = worker.get()] { worker->Run(); });
  }
  return edge;
}

Edge::Edge(Options options, const RouteTable* routes)
    : options_(std::move(options)),
      routes_(*routes),
      counters_(options_.workers) {
  for (int i = 0; i < options_.workers; ++i) counters_.row(i).latency.Reserve();
  options_.worker.log = options_.log;
  const int64_t lines = options_.log.max_per_second;
  // Rounded up: 0 would be no limit.
  options_.worker.log.max_per_second =
      (lines + options_.workers - 1) / options_.workers;
}

Edge::~Edge() {
  Drain();
  Join();
}

void Edge::RoutesChanged() {
  for (const std::unique_ptr<Worker>& worker : workers_) worker->Wake();
}

uint64_t Edge::applied_version() const {
  uint64_t version = UINT64_MAX;
  for (const std::unique_ptr<Worker>& worker : workers_) {
    version = std::min(version, worker->applied_version());
  }
  return version;
}

void Edge::StartAccepting() {
  for (const std::unique_ptr<Worker>& worker : workers_)
    worker->StartAccepting();
}

absl::Status Edge::ReloadCertificates() {
  return certificates_ == nullptr ? absl::OkStatus() : certificates_->Reload();
}

void Edge::BeginLameDuck() {
  draining_ = true;
  for (const std::unique_ptr<Worker>& worker : workers_)
    worker->Enter(Worker::Phase::kLameDuck);
}

void Edge::Drain() {
  draining_ = true;
  for (const std::unique_ptr<Worker>& worker : workers_)
    worker->Enter(Worker::Phase::kDraining);
}

void Edge::HandOver() {
  handed_over_ = true;
  draining_ = true;
  for (const std::unique_ptr<Worker>& worker : workers_)
    worker->Enter(Worker::Phase::kHandedOver);
}

bool Edge::ready() const {
  const uint64_t version = routes_.version();
  return !draining() && version > 0 && applied_version() >= version;
}

void Edge::Join() {
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void Edge::ReopenAccessLog() {
  if (log_ != nullptr) log_->Reopen();
}

Page Edge::GetPage(const PageRequest& request) const {
  constexpr absl::string_view kText = "text/plain; charset=utf-8";
  const absl::string_view path = request.path;
  if (path == "/health") return {200, std::string(kText), "alive\n"};
  if (path == "/ready") {
    // Who asks on an old connection asks for the service, which goes on.
    if (draining() && !handed_over_)
      return {503, std::string(kText), "draining\n"};
    if (routes_.version() == 0)
      return {503, std::string(kText), "no routes yet\n"};
    return {200, std::string(kText), "ready\n"};
  }
  if (path == "/metrics") {
    const telemetry::ExpositionFormat format =
        telemetry::ChooseFormat(request.accept);
    const std::shared_ptr<const RouteSnapshot> routes = routes_.Current();
    MetricsSource source;
    source.workers = &counters_;
    source.routes = routes.get();
    source.applied_version = applied_version();
    source.fabric = fabric_state();
    source.certificates = certificates_.get();
    source.log_write_errors = log_write_errors();
    return {200, std::string(telemetry::ContentTypeOf(format)),
            FormatMetrics(source, format)};
  }
  return {404, "", ""};
}

}  // namespace mycelium::edge
