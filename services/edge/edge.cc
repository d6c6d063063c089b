#include "services/edge/edge.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/file.h"
#include "lib/base/status_macros.h"
#include "services/edge/metrics.h"

namespace mycelium::edge {
absl::StatusOr<std::unique_ptr<Edge>> Edge::Start(
    Options options, const RouteTable* routes,
    std::optional<ListenSockets> inherited) {
  if (options.workers < 1 || options.workers > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("workers is ", options.workers, "; want 1 to 1024"));
  }
  ListenSockets sockets;
  if (inherited.has_value()) {
    MYC_ASSIGN_OR_RETURN(sockets,
                         Adopt(*std::move(inherited), options.workers));
  } else {
    MYC_ASSIGN_OR_RETURN(sockets, Listen(options.listen, options.workers));
  }
  std::vector<int> listen_fds;
  for (const UniqueFd& fd : sockets.fds) listen_fds.push_back(fd.get());
  MYC_ASSIGN_OR_RETURN(std::vector<std::vector<UniqueFd>> dealt,
                       Deal(std::move(sockets.fds), options.workers));

  std::unique_ptr<Edge> edge(new Edge(std::move(options), routes));
  edge->address_ = std::move(sockets.address);
  edge->listeners_kept_elsewhere_ = sockets.kept_elsewhere;
  edge->listen_fds_ = std::move(listen_fds);
  const Options& own = edge->options_;
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
    context.client_rates = &edge->client_rates_;
    context.wake = [edge = edge.get()](int index) {
      edge->workers_[static_cast<size_t>(index)]->Wake();
    };
    context.pages = [edge = edge.get()](absl::string_view path) {
      return edge->GetPage(path);
    };
    MYC_ASSIGN_OR_RETURN(
        std::unique_ptr<Worker> worker,
        Worker::Create(std::move(context), std::move(dealt[i])));
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
      counters_(options_.workers) {}

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

Page Edge::GetPage(absl::string_view path) const {
  constexpr absl::string_view kText = "text/plain; charset=utf-8";
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
    return {200, "text/plain; version=0.0.4; charset=utf-8",
            FormatMetrics(counters_, routes_.Current().get(), fabric_state())};
  }
  return {404, "", ""};
}

}  // namespace mycelium::edge
