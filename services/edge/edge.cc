#include "services/edge/edge.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "services/edge/metrics.h"

namespace mycelium::edge {
namespace {

struct ListenAddress {
  std::string host;
  sockaddr_storage address{};
  socklen_t size = 0;
};

absl::StatusOr<ListenAddress> ParseListenAddress(absl::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos || colon + 1 == text.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("listen address ", Quoted(text), " is not HOST:PORT"));
  }
  int port = 0;
  if (!absl::SimpleAtoi(text.substr(colon + 1), &port) || port < 0 ||
      port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat(
        "listen address ", Quoted(text), ": the port must be 0 to 65535"));
  }
  ListenAddress result;
  result.host = std::string(text.substr(0, colon));
  std::string host = result.host;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error =
      getaddrinfo(host.empty() ? nullptr : host.c_str(),
                  std::string(text.substr(colon + 1)).c_str(), &hints, &found);
  if (error != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "listen address ", Quoted(text), ": ", gai_strerror(error)));
  }
  std::memcpy(&result.address, found->ai_addr, found->ai_addrlen);
  result.size = found->ai_addrlen;
  freeaddrinfo(found);
  return result;
}

uint16_t* PortOf(sockaddr_storage* address) {
  return address->ss_family == AF_INET6
             ? &reinterpret_cast<sockaddr_in6*>(address)->sin6_port
             : &reinterpret_cast<sockaddr_in*>(address)->sin_port;
}

// Binds and listens; a port of 0 in `at` is replaced by the one that was taken.
absl::StatusOr<UniqueFd> Listen(ListenAddress* at, bool shared) {
  UniqueFd fd(socket(at->address.ss_family,
                     SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "socket");
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (shared) setsockopt(fd.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
  // Accepted sockets inherit it.
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  const std::string where = absl::StrCat("cannot listen on ", at->host, ":",
                                         ntohs(*PortOf(&at->address)));
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&at->address),
           at->size) != 0 ||
      listen(fd.get(), 4096) != 0) {
    if (errno == EADDRINUSE)
      return absl::AlreadyExistsError(where + ": address in use");
    return ErrnoStatus(errno, where);
  }
  socklen_t size = at->size;
  if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&at->address), &size) !=
      0) {
    return ErrnoStatus(errno, where);
  }
  return fd;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Edge>> Edge::Start(Options options,
                                                  const RouteTable* routes) {
  if (options.workers < 1 || options.workers > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("workers is ", options.workers, "; want 1 to 1024"));
  }
  MYC_ASSIGN_OR_RETURN(ListenAddress at, ParseListenAddress(options.listen));
  // SO_REUSEPORT would also share the port with a stranger that sets it, so
  // first see whether it is free without.
  {
    ListenAddress probe = at;
    MYC_RETURN_IF_ERROR(Listen(&probe, false).status());
  }
  std::vector<UniqueFd> listeners;
  for (int i = 0; i < options.workers; ++i) {
    MYC_ASSIGN_OR_RETURN(UniqueFd listener, Listen(&at, true));
    listeners.push_back(std::move(listener));
  }

  std::unique_ptr<Edge> edge(new Edge(std::move(options), routes));
  edge->address_ = absl::StrCat(at.host, ":", ntohs(*PortOf(&at.address)));
  const Options& own = edge->options_;
  if (!own.access_log.empty()) {
    MYC_ASSIGN_OR_RETURN(edge->log_,
                         AccessLog::Create(own.access_log, own.workers));
  }
  for (int i = 0; i < own.workers; ++i) {
    WorkerContext context;
    context.index = i;
    context.options = &own.worker;
    context.routes = routes;
    context.counters = &edge->counters_.row(i);
    context.log = edge->log_ == nullptr ? nullptr : edge->log_->queue(i);
    context.pages = [edge = edge.get()](absl::string_view path) {
      return edge->GetPage(path);
    };
    MYC_ASSIGN_OR_RETURN(
        std::unique_ptr<Worker> worker,
        Worker::Create(std::move(context), std::move(listeners[i])));
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

void Edge::Drain() {
  if (draining_.exchange(true)) return;
  for (const std::unique_ptr<Worker>& worker : workers_) worker->Drain();
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
    if (draining()) return {503, std::string(kText), "draining\n"};
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
