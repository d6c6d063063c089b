#include "services/edge/worker.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <utility>

#include "lib/base/status_macros.h"
#include "services/edge/listen_sockets.h"

namespace mycelium::edge {
namespace {

constexpr int kEventsPerTurn = 256;
constexpr int kAcceptsPerTurn = 64;
// For handshakes that have begun to be completed before a listener is closed:
// a round trip, or little more.
constexpr int64_t kSettleMs = 100;
// Of one listener's queue, when nothing keeps it from growing.
constexpr int kMaxLastAccepts = 8192;
constexpr uint32_t kBothWays = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;

int64_t MonotonicMicros() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1000;
}

int64_t WallMicros() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1000;
}

// IMF-fixdate (RFC 9110, 5.6.7) of a second of the Unix epoch.
void FormatDate(int64_t second, std::array<char, 29>* out) {
  const time_t time = second;
  tm parts{};
  gmtime_r(&time, &parts);
  std::array<char, 30> text{};
  // The C locale is never changed, so the names are English.
  strftime(text.data(), text.size(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
  std::memcpy(out->data(), text.data(), out->size());
}

absl::string_view FormatAddress(const sockaddr_storage& address,
                                std::array<char, 48>* text) {
  const void* bytes = nullptr;
  if (address.ss_family == AF_INET) {
    bytes = &reinterpret_cast<const sockaddr_in&>(address).sin_addr;
  } else if (address.ss_family == AF_INET6) {
    bytes = &reinterpret_cast<const sockaddr_in6&>(address).sin6_addr;
  }
  if (bytes == nullptr || inet_ntop(address.ss_family, bytes, text->data(),
                                    text->size()) == nullptr) {
    return "unknown";
  }
  return text->data();
}

uint16_t LocalPort(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0)
    return 0;
  if (address.ss_family == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  }
  return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Worker>> Worker::Create(
    WorkerContext context, std::vector<ListenSocket> sockets) {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return ErrnoStatus(errno, "epoll_create1");
  UniqueFd wakeup(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wakeup.valid()) return ErrnoStatus(errno, "eventfd");
  std::unique_ptr<Worker> worker(
      new Worker(std::move(context), std::move(sockets), std::move(epoll),
                 std::move(wakeup)));
  MYC_RETURN_IF_ERROR(worker->Register());
  return worker;
}

Worker::Worker(WorkerContext context, std::vector<ListenSocket> sockets,
               UniqueFd epoll, UniqueFd wakeup)
    : context_(std::move(context)),
      options_(*context_.options),
      counters_(*context_.counters),
      epoll_(std::move(epoll)),
      wakeup_fd_(std::move(wakeup)),
      timers_(MonotonicMicros() / 1000),
      log_sampler_(options_.log) {
  for (ListenSocket& socket : sockets) {
    const uint16_t port = LocalPort(socket.fd.get());
    listeners_.push_back(
        std::make_unique<Listener>(std::move(socket.fd), port, socket.tls));
  }
  if (context_.certificates != nullptr)
    tls_scratch_ = std::make_unique<char[]>(TlsStream::kRecord);
  wakeup_.fd = wakeup_fd_.get();
  if (getrandom(id_seed_, sizeof(id_seed_), 0) !=
      static_cast<ssize_t>(sizeof(id_seed_))) {
    id_seed_[0] = static_cast<uint64_t>(WallMicros());
    id_seed_[1] = static_cast<uint64_t>(getpid());
  }
  ReadClock();
}

Worker::~Worker() {
  for (ClientConnection* client = clients_.front(); client != nullptr;) {
    ClientConnection* const next = client->list_next;
    if (client->exchange != nullptr && client->exchange->upstream != nullptr) {
      close(client->exchange->upstream->fd);
    }
    close(client->fd);
    client = next;
  }
  for (const auto& [name, app] : apps_) {
    for (const std::unique_ptr<EndpointState>& endpoint : app->endpoints) {
      for (auto* idle = endpoint->idle.front(); idle != nullptr;
           idle = idle->list_next) {
        close(idle->fd);
      }
    }
  }
}

absl::Status Worker::Register() {
  if (!Watch(&wakeup_, wakeup_.fd, EPOLLIN | EPOLLET) ||
      (!context_.paused && !WatchListeners())) {
    return ErrnoStatus(errno, "epoll_ctl");
  }
  return absl::OkStatus();
}

bool Worker::WatchListeners() {
  accepting_ = true;
  for (const std::unique_ptr<Listener>& listener : listeners_) {
    if (!Watch(listener.get(), listener->fd, EPOLLIN | EPOLLET)) return false;
  }
  return true;
}

bool Worker::Watch(Pollable* pollable, int fd, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = pollable;
  return epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0;
}

void Worker::ReadClock() {
  now_us_ = MonotonicMicros();
  now_ms_ = now_us_ / 1000;
  if (now_us_ / 1'000'000 != date_second_) {
    date_second_ = now_us_ / 1'000'000;
    const int64_t wall_us = WallMicros();
    wall_offset_us_ = wall_us - now_us_;
    FormatDate(wall_us / 1'000'000, &date_);
  }
}

void Worker::StartAccepting() {
  accept_wanted_.store(true, std::memory_order_release);
  Wake();
}

void Worker::Enter(Phase phase) {
  Phase wanted = wanted_phase_.load(std::memory_order_relaxed);
  while (wanted < phase && !wanted_phase_.compare_exchange_weak(
                               wanted, phase, std::memory_order_acq_rel)) {
  }
  Wake();
}

void Worker::Wake() {
  const uint64_t one = 1;
  // Full only if a wake-up is due anyway.
  [[maybe_unused]] const ssize_t written = write(wakeup_.fd, &one, sizeof(one));
}

void Worker::Run() {
  // Unlike send, splice cannot be told to leave the signal out.
  sigset_t broken_pipe;
  sigemptyset(&broken_pipe);
  sigaddset(&broken_pipe, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &broken_pipe, nullptr);

  std::array<epoll_event, kEventsPerTurn> events;
  for (;;) {
    HandleOrders();
    if (context_.routes->version() != applied_version()) ApplyRoutes();
    HandleResumed();
    if (!waiting_apps_.empty() &&
        (serve_waiting_ || now_ms_ >= serve_again_ms_)) {
      ServeWaiting();
    }
    if (accept_ready_ && now_ms_ >= accept_again_ms_) Accept();
    for (ClientConnection* const client : dead_clients_)
      client_slab_.Give(client);
    dead_clients_.clear();
    for (UpstreamConnection* const upstream : dead_upstreams_)
      upstream_slab_.Give(upstream);
    dead_upstreams_.clear();
    if (ending() && listeners_.empty() &&
        (clients_.empty() || now_ms_ >= drain_deadline_ms_)) {
      return;
    }

    int sleep_ms = timers_.SleepMs(now_ms_, 1000);
    if (!resumed_.empty()) sleep_ms = 0;
    if (!waiting_apps_.empty()) {
      const int64_t next = serve_waiting_ ? now_ms_ : serve_again_ms_;
      sleep_ms = std::min(
          sleep_ms, static_cast<int>(std::max<int64_t>(0, next - now_ms_)));
    }
    if (accept_ready_) {
      sleep_ms = std::min(sleep_ms, static_cast<int>(std::max<int64_t>(
                                        0, accept_again_ms_ - now_ms_)));
    }
    if (ending()) {
      const int64_t next =
          listeners_.empty() ? drain_deadline_ms_ : close_listeners_ms_;
      sleep_ms = std::min(
          sleep_ms, static_cast<int>(std::max<int64_t>(0, next - now_ms_)));
    }
    counters_.turns.Add(kExportedBoundsMicros, MonotonicMicros() - now_us_);
    const int count =
        epoll_wait(epoll_.get(), events.data(), kEventsPerTurn, sleep_ms);
    ReadClock();
    if (count > 0) HandleEvents(events.data(), count);
    HandleTimers();
  }
}

void Worker::HandleEvents(const epoll_event* events, int count) {
  // Idle origin connections first: one that was closed in this very batch must
  // not be given to a request of the same batch. Nor one that falls idle before
  // its turn, so what came is noted of all.
  for (int i = 0; i < count; ++i) {
    auto* const pollable = static_cast<Pollable*>(events[i].data.ptr);
    if (pollable->kind != Pollable::Kind::kUpstream) continue;
    auto* const upstream = static_cast<UpstreamConnection*>(pollable);
    if (!upstream->open) continue;
    NoteUpstreamEvent(upstream, events[i].events);
    if (upstream->exchange == nullptr)
      OnUpstreamEvent(upstream, events[i].events);
  }
  for (int i = 0; i < count; ++i) {
    auto* const pollable = static_cast<Pollable*>(events[i].data.ptr);
    switch (pollable->kind) {
      case Pollable::Kind::kListener:
        static_cast<Listener*>(pollable)->ready = true;
        accept_ready_ = true;
        break;
      case Pollable::Kind::kWakeup: {
        uint64_t value = 0;
        [[maybe_unused]] const ssize_t got =
            read(wakeup_.fd, &value, sizeof(value));
        serve_waiting_ = true;
        break;
      }
      case Pollable::Kind::kClient: {
        auto* const client = static_cast<ClientConnection*>(pollable);
        if (client->open) OnClientEvent(client, events[i].events);
        break;
      }
      case Pollable::Kind::kUpstream: {
        auto* const upstream = static_cast<UpstreamConnection*>(pollable);
        if (upstream->open && upstream->exchange != nullptr) {
          OnUpstreamEvent(upstream, events[i].events);
        }
        break;
      }
    }
  }
}

void Worker::HandleTimers() {
  while (Timer* const timer = timers_.PopExpired(now_ms_)) {
    auto* const connection = static_cast<Connection*>(timer->owner);
    if (!connection->open) continue;
    if (connection->kind == Pollable::Kind::kClient) {
      OnClientTimer(static_cast<ClientConnection*>(connection));
    } else {
      OnUpstreamTimer(static_cast<UpstreamConnection*>(connection));
    }
  }
}

void Worker::Resume(Connection* connection) {
  if (connection->resumed) return;
  connection->resumed = true;
  resumed_.push_back(connection);
}

void Worker::HandleResumed() {
  if (resumed_.empty()) return;
  resuming_.swap(resumed_);
  for (Connection* const connection : resuming_) {
    connection->resumed = false;
    if (!connection->open) continue;
    if (connection->kind == Pollable::Kind::kUpstream) {
      if (connection->exchange != nullptr)
        OnUpstreamEvent(static_cast<UpstreamConnection*>(connection), EPOLLIN);
    } else {
      auto* const client = static_cast<ClientConnection*>(connection);
      OnClientEvent(client, 0);
    }
  }
  resuming_.clear();
}

void Worker::Accept() {
  bool more = false;
  for (const std::unique_ptr<Listener>& listener : listeners_) {
    if (!listener->ready) continue;
    if (!AcceptFrom(listener.get())) return;
    more = more || listener->ready;
  }
  accept_ready_ = more;
}

bool Worker::AcceptFrom(Listener* listener) {
  const int most = ending() ? kMaxLastAccepts : kAcceptsPerTurn;
  for (int i = 0; i < most; ++i) {
    if (clients_.size() >= options_.max_connections) {
      PauseAccepting();
      return false;
    }
    sockaddr_storage address{};
    socklen_t size = sizeof(address);
    const int fd = accept4(listener->fd, reinterpret_cast<sockaddr*>(&address),
                           &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) {
        listener->ready = false;
        return true;
      }
      PauseAccepting();
      return false;
    }
    ClientConnection* const client = client_slab_.Take();
    client->fd = fd;
    client->open = true;
    client->readable = client->peer_closed = client->broken = client->resumed =
        false;
    client->exchange = nullptr;
    client->state = IsWithin(options_.proxy_peers, address)
                        ? ClientState::kProxy
                    : listener->tls ? ClientState::kHandshake
                                    : ClientState::kIdle;
    client->requests = 0;
    client->port = listener->port;
    SetClientAddress(client, address);
    if (!Watch(client, fd, kBothWays)) {
      close(fd);
      client->open = false;
      client_slab_.Give(client);
      PauseAccepting();
      return false;
    }
    clients_.PushFront(client);
    counters_.accepted.Add(1);
    counters_.client_connections.Set(clients_.size());
    if (listener->tls) client->tls = tls_slab_.Take();
    Arm(client,
        client->state == ClientState::kHandshake ? ClientTimer::kHandshake
                                                 : ClientTimer::kIdle,
        FirstRequestMs());
  }
  return true;
}

void Worker::SetClientAddress(ClientConnection* client,
                              const sockaddr_storage& address) {
  client->trusted = IsWithin(options_.trusted_peers, address);
  client->key = ClientKey(address);
  std::array<char, 48> text;
  client->ip.Set(FormatAddress(address, &text));
}

void Worker::PauseAccepting() {
  // Out of descriptors or at the limit. The kernel keeps the connections that
  // wait; trying at once again would only burn the core.
  counters_.accept_pauses.Add(1);
  accept_again_ms_ = now_ms_ + 50;
}

void Worker::HandleOrders() {
  if (!accepting_ && accept_wanted_.load(std::memory_order_acquire) &&
      !WatchListeners()) {
    // Only without memory. What is in the queues is then looked for.
    for (const std::unique_ptr<Listener>& listener : listeners_)
      listener->ready = accept_ready_ = true;
  }
  const Phase wanted = wanted_phase_.load(std::memory_order_acquire);
  if (wanted > phase_) GoOnTo(wanted);
  if (ending() && !listeners_.empty() && now_ms_ >= close_listeners_ms_)
    CloseListeners();
}

void Worker::GoOnTo(Phase phase) {
  phase_ = phase;
  if (!ending()) return;
  drain_deadline_ms_ = now_ms_ + (phase == Phase::kHandedOver
                                      ? options_.handover_drain_timeout_ms
                                      : options_.drain_timeout_ms);
  close_listeners_ms_ = now_ms_;
  if (phase == Phase::kHandedOver || context_.listeners_kept_elsewhere) {
    // Others accept what waits.
    CloseListeners();
  } else if (!listeners_.empty() && accepting_) {
    // What the kernel has completed on our queue, or is about to, would be
    // reset with it.
    for (const std::unique_ptr<Listener>& listener : listeners_) {
      if (RefuseNewConnections(listener->fd))
        close_listeners_ms_ = now_ms_ + kSettleMs;
    }
  }
  ExpireIdleClients();
  ExpireTunnels();
  ShortenWaits();
}

void Worker::ExpireIdleClients() {
  // Those that are closed are not closed all at once, as all come back.
  const int64_t idle_ms = options_.handover_idle_ms;
  int64_t count = 0;
  for (ClientConnection* client = clients_.front(); client != nullptr;) {
    ClientConnection* const next = client->list_next;
    if (client->state == ClientState::kIdle) {
      // A request may have arrived: read once more before closing.
      client->readable = true;
      ReadHead(client);
      if (!client->open || client->state != ClientState::kIdle) {
        client = next;
        continue;
      }
      if (phase_ == Phase::kHandedOver) {
        Arm(client, ClientTimer::kIdle,
            idle_ms / 2 +
                idle_ms * ++count / (int64_t{2} * (clients_.size() + 1)));
      } else if (client->requests > 0) {
        CloseClient(client, false);
      } else {
        // New: its first request is on its way.
        Arm(client, ClientTimer::kIdle, FirstRequestMs());
      }
    } else if (client->state == ClientState::kProxy) {
      Arm(client, ClientTimer::kIdle, FirstRequestMs());
    } else if (client->state == ClientState::kHandshake) {
      Arm(client, ClientTimer::kHandshake, FirstRequestMs());
    }
    client = next;
  }
}

int64_t Worker::FirstRequestMs() const {
  return ending() ? std::min(options_.header_timeout_ms, kLastRequestMs)
                  : options_.header_timeout_ms;
}

void Worker::CloseListeners() {
  if (phase_ == Phase::kDraining && accepting_ &&
      !context_.listeners_kept_elsewhere) {
    accept_again_ms_ = 0;
    for (const std::unique_ptr<Listener>& listener : listeners_)
      listener->ready = true;
    Accept();
  }
  for (const std::unique_ptr<Listener>& listener : listeners_) {
    // Another process may have the socket too; closing our descriptor would
    // then not end that we are told of its connections.
    if (accepting_)
      epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, listener->fd, nullptr);
  }
  listeners_.clear();
  accept_ready_ = false;
}

void Worker::ApplyRoutes() {
  snapshot_ = context_.routes->Current();
  if (snapshot_ == nullptr) return;
  applying_ = true;
  for (const auto& [name, route] : snapshot_->apps) {
    std::unique_ptr<AppState>& app = apps_[name];
    if (app == nullptr) {
      app = std::make_unique<AppState>(options_.balancer,
                                       id_seed_[0] ^ ++id_counter_);
      app->name = name;
    }
    if (app->route == route) continue;
    app->route = route;
    app->counters = &route->stats->row(context_.index);
    ApplyRoute(app.get(), snapshot_->version);
  }
  for (auto it = apps_.begin(); it != apps_.end();) {
    if (snapshot_->apps.contains(it->first)) {
      ++it;
      continue;
    }
    std::unique_ptr<AppState> app = std::move(it->second);
    apps_.erase(it++);
    RemoveApp(app.get());
    if (app->active > 0 || !app->endpoints.empty())
      removed_apps_.push_back(std::move(app));
  }
  std::erase_if(removed_apps_, [](const std::unique_ptr<AppState>& app) {
    return app->active == 0 && app->endpoints.empty();
  });
  applying_ = false;
  serve_waiting_ = true;
  applied_version_.store(snapshot_->version, std::memory_order_release);
}

void Worker::ApplyRoute(AppState* app, uint64_t version) {
  std::vector<Balanced*> choice;
  choice.reserve(app->route->ready.size());
  const auto keep = [&](const std::shared_ptr<const Endpoint>& endpoint,
                        bool accepts) {
    EndpointState*& state = app->by_identity[endpoint->stats.get()];
    if (state == nullptr) {
      app->endpoints.push_back(std::make_unique<EndpointState>());
      state = app->endpoints.back().get();
      state->counters = &endpoint->stats->row(context_.index);
    }
    if (state->endpoint != endpoint) state->endpoint = endpoint;
    state->total_in_flight =
        endpoint->slots == nullptr ? nullptr : &endpoint->slots->cell();
    state->ready_since_us = endpoint->ready_since_us;
    state->accepts = accepts;
    state->seen_version = version;
    if (accepts) choice.push_back(state);
  };
  for (const auto& endpoint : app->route->ready) keep(endpoint, true);
  for (const auto& endpoint : app->route->draining) keep(endpoint, false);
  const bool ejected = app->balancer.ejected() > 0;
  const TrafficPolicy& traffic = app->route->traffic;
  app->balancer.SetRules({.policy = traffic.balancing,
                          .slow_start_us = traffic.slow_start_ms * 1000,
                          .max_in_flight = traffic.max_in_flight_per_endpoint});
  app->balancer.SetEndpoints(choice);
  bool removed = false;
  for (const std::unique_ptr<EndpointState>& state : app->endpoints) {
    if (state->seen_version != version && !state->removed) {
      state->removed = true;
      state->accepts = false;
      app->by_identity.erase(state->endpoint->stats.get());
      removed = true;
    }
    // With fewer endpoints, fewer may be ejected.
    if (ejected) ShowHealth(app, state.get());
    if (!state->accepts) {
      while (UpstreamConnection* const idle = state->idle.front())
        CloseUpstream(idle);
    }
  }
  if (removed) ExpireTunnels();
  CollectGarbage(app);
}

void Worker::RemoveApp(AppState* app) {
  app->removed = true;
  app->by_identity.clear();
  app->balancer.SetEndpoints({});
  for (const std::unique_ptr<EndpointState>& state : app->endpoints) {
    state->removed = true;
    state->accepts = false;
    while (UpstreamConnection* const idle = state->idle.front())
      CloseUpstream(idle);
  }
  ExpireTunnels();
  CollectGarbage(app);
}

void Worker::CollectGarbage(AppState* app) {
  std::erase_if(app->endpoints,
                [](const std::unique_ptr<EndpointState>& state) {
                  return state->removed && state->connections == 0;
                });
}

void Worker::ExpireTunnels() {
  if (tunnels_ == 0) return;
  for (ClientConnection* client = clients_.front(); client != nullptr;
       client = client->list_next) {
    if (client->state != ClientState::kTunnel) continue;
    const UpstreamConnection* const upstream = client->exchange->upstream;
    if (!ending() && upstream->endpoint->accepts) continue;
    Exchange* const exchange = client->exchange;
    if (exchange->tunnel_expiring) continue;
    exchange->tunnel_expiring = true;
    Arm(client, ClientTimer::kTunnel,
        phase_ == Phase::kHandedOver && upstream->endpoint->accepts
            ? options_.handover_drain_timeout_ms
            : options_.drain_timeout_ms);
  }
}

Worker::Io Worker::ReadMore(Connection* connection) {
  if (!connection->readable) return Io::kBlocked;
  connection->in.Reserve(&blocks_, BlockPool::kLarge / 4);
  const size_t room = connection->in.room_size();
  if (room == 0) return Io::kFull;
  if (connection->tls != nullptr) return ReadMoreTls(connection);
  for (;;) {
    const ssize_t got = recv(connection->fd, connection->in.room(), room, 0);
    if (got > 0) {
      connection->in.Added(static_cast<size_t>(got));
      // A short read has emptied the socket; only the end may still be there.
      if (static_cast<size_t>(got) < room && !connection->peer_closed)
        connection->readable = false;
      return Io::kOk;
    }
    if (got == 0) return Io::kEnd;
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      connection->readable = false;
      return Io::kBlocked;
    }
    connection->broken = true;
    return Io::kError;
  }
}

Worker::Io Worker::Flush(Connection* connection, IovecQueue* queue,
                         int64_t* written) {
  if (connection->tls != nullptr) return FlushTls(connection, queue, written);
  while (!queue->empty()) {
    ssize_t sent = 0;
    if (queue->count() > 1 && queue->bytes() <= gather_.size()) {
      // Copying some hundred bytes is cheaper than a vector of pieces, which
      // the kernel has to fetch and check one by one.
      size_t size = 0;
      for (int i = 0; i < queue->count(); ++i) {
        const iovec& piece = queue->data()[i];
        std::memcpy(gather_.data() + size, piece.iov_base, piece.iov_len);
        size += piece.iov_len;
      }
      sent = send(connection->fd, gather_.data(), size, MSG_NOSIGNAL);
    } else if (queue->count() == 1) {
      sent = send(connection->fd, queue->data()->iov_base,
                  queue->data()->iov_len, MSG_NOSIGNAL);
    } else {
      msghdr message{};
      message.msg_iov = const_cast<iovec*>(queue->data());
      message.msg_iovlen = static_cast<size_t>(queue->count());
      sent = sendmsg(connection->fd, &message, MSG_NOSIGNAL);
    }
    if (sent < 0) {
      if (errno == EINTR) continue;
      return errno == EAGAIN || errno == EWOULDBLOCK ? Io::kBlocked
                                                     : Io::kError;
    }
    *written += sent;
    const bool all = static_cast<size_t>(sent) == queue->bytes();
    queue->Consume(static_cast<size_t>(sent));
    // A short write has filled the socket: epoll says when there is room.
    if (!all) return Io::kBlocked;
  }
  return Io::kOk;
}

void Worker::EndSending(Connection* connection) {
  if (connection->tls != nullptr) {
    connection->tls->QueueEnd();
    if (connection->tls->Send() == TlsStream::Status::kBlocked) {
      connection->tls->set_end_when_sent();
      return;
    }
  }
  shutdown(connection->fd, SHUT_WR);
}

void Worker::Arm(ClientConnection* client, ClientTimer what, int64_t after_ms) {
  client->timer_for = what;
  timers_.Arm(&client->timer, now_ms_ + after_ms);
}

void Worker::Arm(UpstreamConnection* upstream, UpstreamTimer what,
                 int64_t after_ms) {
  upstream->timer_for = what;
  timers_.Arm(&upstream->timer, now_ms_ + after_ms);
}

}  // namespace mycelium::edge
