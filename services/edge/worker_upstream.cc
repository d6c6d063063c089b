// The origin's side of an exchange: choosing an endpoint, trying again, and
// passing responses on.

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "services/edge/worker.h"

namespace mycelium::edge {
namespace {

constexpr int kPiecesPerTurn = 16;
// 1xx responses that one request may get.
constexpr int kMaxInterimResponses = 32;

}  // namespace

void Worker::Dispatch(Exchange* x) {
  AppState* const app = x->app;
  Balanced* const choice = app->balancer.Pick(
      app->route->policy,
      {x->tried.data(), static_cast<size_t>(x->tried_count)}, now_us_);
  if (choice == nullptr)
    return Answer(x, 503, "no_endpoint", "edge.no_endpoint", false);
  Attempt(x, static_cast<EndpointState*>(choice), false);
}

void Worker::Attempt(Exchange* x, EndpointState* endpoint, bool fresh) {
  ++x->attempts;
  if (x->tried_count < static_cast<int>(x->tried.size()))
    x->tried[x->tried_count++] = endpoint;
  if (context_.log != nullptr) x->instance.Set(endpoint->endpoint->instance_id);

  // An idle connection may have been closed a moment ago. Where the request
  // could not be sent again, it is worth a system call to know.
  const bool repeatable = IsIdempotent(x->request.method) &&
                          x->request_body.kind() == BodyKind::kNone;
  UpstreamConnection* upstream =
      fresh ? nullptr : TakeIdle(endpoint, !repeatable);
  Failure failure;
  if (upstream == nullptr) upstream = Connect(x->app, endpoint, &failure);
  if (upstream == nullptr) return FailAttempt(x, failure);

  upstream->exchange = x;
  x->upstream = upstream;
  x->request_wrote = x->request_sent = x->first_byte = false;
  ++endpoint->in_flight;
  endpoint->peak = std::max(endpoint->peak, endpoint->in_flight);
  endpoint->counters->in_flight.Set(endpoint->in_flight);
  endpoint->counters->requests.Add(1);
  if (upstream->connecting) {
    x->client->in.Settle(&blocks_);
    Arm(upstream, UpstreamTimer::kConnect, options_.connect_timeout_ms);
    return;
  }
  SendRequest(x);
}

UpstreamConnection* Worker::TakeIdle(EndpointState* endpoint, bool check) {
  while (UpstreamConnection* const upstream = endpoint->idle.front()) {
    if (check) {
      char byte = 0;
      const ssize_t got = recv(upstream->fd, &byte, 1, MSG_PEEK);
      if (got >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) {
        CloseUpstream(upstream);
        continue;
      }
    }
    endpoint->idle.Remove(upstream);
    TimerWheel::Disarm(&upstream->timer);
    upstream->reused = true;
    return upstream;
  }
  return nullptr;
}

UpstreamConnection* Worker::Connect(AppState* app, EndpointState* endpoint,
                                    Failure* failure) {
  const Endpoint& to = *endpoint->endpoint;
  const int fd = socket(to.address.ss_family,
                        SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    *failure = {503, "out_of_descriptors", "edge.out_of_descriptors", false,
                false};
    return nullptr;
  }
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  const int result = connect(fd, reinterpret_cast<const sockaddr*>(&to.address),
                             to.address_size);
  if (result != 0 && errno != EINPROGRESS) {
    close(fd);
    endpoint->counters->connect_failures.Add(1);
    *failure = {502, "connect_failed", "origin.connect_failed", true, false};
    return nullptr;
  }
  UpstreamConnection* const upstream = upstream_slab_.Take();
  upstream->fd = fd;
  upstream->open = true;
  upstream->readable = upstream->peer_closed = upstream->broken =
      upstream->resumed = false;
  upstream->exchange = nullptr;
  upstream->endpoint = endpoint;
  upstream->app = app;
  upstream->connecting = result != 0;
  upstream->reused = false;
  ++endpoint->connections;
  counters_.upstream_connections.Add(1);
  if (!Watch(upstream, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)) {
    CloseUpstream(upstream);
    *failure = {503, "out_of_descriptors", "edge.out_of_descriptors", false,
                false};
    return nullptr;
  }
  return upstream;
}

void Worker::SendRequest(Exchange* x) {
  ClientConnection* const client = x->client;
  RequestRewrite rewrite;
  rewrite.client_ip = client->ip.view();
  rewrite.listen_port = listen_port_;
  rewrite.app = x->app->name;
  rewrite.request_id = x->request_id.view();
  rewrite.via = options_.via;
  rewrite.authority = x->upstream->endpoint->endpoint->authority;
  rewrite.trusted_peer = client->trusted;
  rewrite.forward_upgrade = x->upgrade_asked;
  x->to_origin.Clear();
  RewriteRequest(x->request, client->in.data(), x->line, rewrite,
                 &x->request_text, &x->to_origin);
  if (x->piece_queued) {
    QueueRequestBody(x);
  } else if (!x->request_body.done() &&
             QueueRequestPiece(x) == BodyReader::Step::kError) {
    return Answer(x, 400, NameOf(x->request_body.error()), "edge.bad_request",
                  true);
  }
  PumpRequest(x);
}

void Worker::OnUpstreamEvent(UpstreamConnection* upstream, uint32_t events) {
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
    upstream->readable = true;
  if ((events & EPOLLRDHUP) != 0) upstream->peer_closed = true;
  if ((events & (EPOLLHUP | EPOLLERR)) != 0)
    upstream->peer_closed = upstream->broken = true;
  Exchange* const x = upstream->exchange;
  if (x == nullptr) {
    // Idle: bytes that nobody asked for are as good as an end.
    if (upstream->readable) CloseUpstream(upstream);
    return;
  }
  if (upstream->connecting) {
    if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) OnConnected(upstream);
    return;
  }
  if (x->client->state == ClientState::kTunnel) return PumpTunnel(x);
  ClientConnection* const client = x->client;
  if ((events & EPOLLOUT) != 0 && !x->to_origin.empty()) {
    PumpRequest(x);
    if (!upstream->open || upstream->exchange != x || client->exchange != x)
      return;
  }
  if (upstream->readable) PumpResponse(x);
}

void Worker::OnUpstreamTimer(UpstreamConnection* upstream) {
  Exchange* const x = upstream->exchange;
  switch (upstream->timer_for) {
    case UpstreamTimer::kIdle:
      if (x != nullptr) return;
      upstream->endpoint->peak =
          upstream->endpoint->in_flight + upstream->endpoint->idle.size() - 1;
      CloseUpstream(upstream);
      return;
    case UpstreamTimer::kConnect:
      if (x == nullptr || !upstream->connecting) return;
      return FailAttempt(
          x, {504, "connect_timeout", "origin.connect_timeout", true, false});
    case UpstreamTimer::kResponseHead:
      if (x == nullptr || x->response_started) return;
      return FailAttempt(x, {504, "response_timeout", "origin.response_timeout",
                             false, false});
    case UpstreamTimer::kStalled:
      if (x == nullptr || x->response_started || x->to_origin.empty()) return;
      return FailAttempt(
          x, {504, "upstream_stalled", "origin.stalled", false, false});
    case UpstreamTimer::kBody:
      if (x == nullptr || !x->to_client.empty()) return;
      return FailAttempt(
          x, {504, "body_timeout", "origin.body_timeout", false, false});
  }
}

void Worker::OnConnected(UpstreamConnection* upstream) {
  Exchange* const x = upstream->exchange;
  int error = 0;
  socklen_t size = sizeof(error);
  getsockopt(upstream->fd, SOL_SOCKET, SO_ERROR, &error, &size);
  if (error != 0) {
    const bool timed_out = error == ETIMEDOUT;
    return FailAttempt(
        x, {timed_out ? 504 : 502,
            timed_out ? "connect_timeout" : "connect_failed",
            timed_out ? "origin.connect_timeout" : "origin.connect_failed",
            true, false});
  }
  upstream->connecting = false;
  TimerWheel::Disarm(&upstream->timer);
  SendRequest(x);
}

void Worker::PumpResponse(Exchange* x) {
  ClientConnection* const client = x->client;
  UpstreamConnection* const upstream = x->upstream;
  for (int i = 0; i < kPiecesPerTurn; ++i) {
    if (!x->to_client.empty()) {
      const Io io = Flush(client, &x->to_client, &x->bytes_out);
      if (io == Io::kBlocked) {
        if (upstream != nullptr) TimerWheel::Disarm(&upstream->timer);
        if (!x->half_closed) {
          Arm(client, ClientTimer::kStalled, options_.stream_idle_timeout_ms);
        }
        return;
      }
      if (io != Io::kOk) return OnClientGone(x, "client.reset");
      if (upstream != nullptr) upstream->in.Consume(x->response_consume);
      x->response_consume = 0;
      if (x->switching) return StartTunnel(x);
    }
    if (x->response_done) return FinishExchange(x);
    if (upstream == nullptr || upstream->connecting) return;
    if (!upstream->in.empty()) {
      if (x->response_started) {
        const BodyReader::Step step = QueueResponsePiece(x, 0);
        if (step == BodyReader::Step::kError) return;
        if (step == BodyReader::Step::kPiece) continue;
      } else if (TakeResponseHead(x)) {
        continue;
      } else if (client->exchange != x || x->upstream != upstream) {
        return;
      }
    }
    switch (ReadMore(upstream)) {
      case Io::kOk:
        if (!x->first_byte) {
          x->first_byte = true;
          x->first_byte_us = now_us_;
        }
        continue;
      case Io::kBlocked:
      case Io::kFull:
        return WaitForResponse(x);
      case Io::kEnd:
        return OnUpstreamEnd(x, false);
      case Io::kError:
        return OnUpstreamEnd(x, true);
    }
  }
  Resume(upstream);
}

void Worker::WaitForResponse(Exchange* x) {
  UpstreamConnection* const upstream = x->upstream;
  upstream->in.Settle(&blocks_);
  if (!x->response_started) {
    // The time until the head runs from the end of the request; more bytes of
    // a head do not prolong it.
    return;
  }
  Arm(upstream, UpstreamTimer::kBody,
      x->response_body.kind() == BodyKind::kLength
          ? options_.body_idle_timeout_ms
          : options_.stream_idle_timeout_ms);
}

bool Worker::TakeResponseHead(Exchange* x) {
  UpstreamConnection* const upstream = x->upstream;
  ResponseHead& head = x->response;
  const Failure bad{502, "bad_response", "origin.bad_response", false, false};
  switch (head.Parse(upstream->in.view(), x->request.method,
                     options_.max_head_bytes)) {
    case ParseStatus::kIncomplete:
      return false;
    case ParseStatus::kError:
      FailAttempt(x, bad);
      return false;
    case ParseStatus::kDone:
      break;
  }
  char* const bytes = upstream->in.data();
  ResponseRewrite rewrite;
  rewrite.via = options_.via;
  rewrite.request_id = x->request_id.view();
  rewrite.date = {date_.data(), date_.size()};

  if (head.status == 101) {
    if (!x->upgrade_asked || x->held == 0 || !head.upgrade ||
        !IsUpgradeAskedFor(x->request, x->client->in.data(), head, bytes)) {
      FailAttempt(x, {502, "unexpected_upgrade", "origin.unexpected_upgrade",
                      false, false});
      return false;
    }
    rewrite.upgraded = true;
    rewrite.keep_content_length = false;
    RewriteResponse(head, bytes, rewrite, &x->response_text, &x->to_client);
    x->response_consume = head.size;
    x->response_started = true;
    x->switching = true;
    x->status = 101;
    return true;
  }
  if (head.status < 200) {
    if (++x->interim_responses > kMaxInterimResponses) {
      FailAttempt(x, bad);
      return false;
    }
    // No 1xx for 1.0 clients, and no second 100.
    const bool sent_already =
        head.status == 100 && x->request.expect_continue && !x->continue_owed;
    if (x->request.minor_version > 0 && !sent_already) {
      rewrite.keep_content_length = false;
      RewriteResponse(head, bytes, rewrite, &x->response_text, &x->to_client);
      x->response_consume = head.size;
    } else {
      upstream->in.Consume(head.size);
    }
    if (head.status == 100) x->continue_owed = false;
    head.Reset();
    return true;
  }

  // The final one.
  TimerWheel::Disarm(&upstream->timer);
  const bool old_client = x->request.minor_version == 0;
  x->response_body.Reset(head.body, head.content_length, !old_client);
  x->out_body = head.body;
  if (head.body == BodyKind::kChunked && old_client)
    x->out_body = BodyKind::kUntilClose;
  if (head.body == BodyKind::kUntilClose && !old_client)
    x->out_body = BodyKind::kChunked;
  // A client that has not sent all of its request may go on with it for long;
  // what the answer did not wait for is thrown away afterwards.
  if (!x->request_body.done() || draining_) x->close_client = true;
  rewrite.body = x->out_body;
  rewrite.keep_content_length = head.status != 204;
  rewrite.close = x->close_client;
  RewriteResponse(head, bytes, rewrite, &x->response_text, &x->to_client);
  x->status = head.status;
  x->response_started = true;
  x->response_consume = head.size;

  EndpointState* const endpoint = upstream->endpoint;
  endpoint->counters->by_class[head.status / 100].Add(1);
  if (head.status >= 500) endpoint->counters->failures.Add(1);
  if (endpoint->accepts) {
    if (head.status >= 500) {
      x->app->balancer.OnFailure(endpoint, now_us_);
    } else {
      x->app->balancer.OnSuccess(endpoint, now_us_ - x->start_us, now_us_);
    }
    endpoint->counters->ejected.Set(endpoint->ejected ? 1 : 0);
  }
  if (x->response_body.done()) {
    x->response_done = true;
  } else if (upstream->in.size() > head.size) {
    return QueueResponsePiece(x, head.size) != BodyReader::Step::kError;
  }
  return true;
}

BodyReader::Step Worker::QueueResponsePiece(Exchange* x, size_t offset) {
  Buffer& in = x->upstream->in;
  const BodyReader::Result result =
      x->response_body.Read(in.data() + offset, in.size() - offset);
  if (result.step == BodyReader::Step::kError) {
    if (offset > 0) {
      // The head is queued, but not a byte of it is out.
      x->to_client.Clear();
      x->response_started = false;
      x->response_consume = 0;
    }
    FailAttempt(x, {502, "bad_response", "origin.bad_response", false, false});
    return result.step;
  }
  if (result.step == BodyReader::Step::kNeedMore) {
    if (result.consumed > 0) in.Erase(offset, result.consumed);
    return result.step;
  }
  QueuePiece(x->out_body, in.data() + offset, result.out_size, result.last,
             x->response_body, &x->response_chunk_line, &x->to_client);
  x->response_consume = offset + result.consumed;
  if (result.last) x->response_done = true;
  // A last chunk without data leaves nothing to write to a client of HTTP/1.0.
  if (x->to_client.empty()) {
    in.Consume(x->response_consume);
    x->response_consume = 0;
  }
  return result.step;
}

void Worker::OnUpstreamEnd(Exchange* x, bool error) {
  if (x->response_started) {
    if (!error && x->response_body.kind() == BodyKind::kUntilClose) {
      x->response_done = true;
      x->response.close = true;
      QueuePiece(x->out_body, nullptr, 0, true, x->response_body,
                 &x->response_chunk_line, &x->to_client);
      return PumpResponse(x);
    }
    return FailAttempt(
        x, {502, "truncated_response", "origin.truncated", false, false});
  }
  if (x->first_byte) {
    return FailAttempt(
        x, {502, "truncated_response", "origin.truncated", false, false});
  }
  FailAttempt(x, {502, "upstream_closed", "origin.closed", false, true});
}

void Worker::FailAttempt(Exchange* x, const Failure& failure) {
  UpstreamConnection* const upstream = x->upstream;
  const bool stale = upstream != nullptr && upstream->reused &&
                     failure.closed && !x->first_byte;
  EndpointState* const endpoint =
      upstream != nullptr ? upstream->endpoint : nullptr;
  if (endpoint != nullptr && !stale) {
    endpoint->counters->failures.Add(1);
    if (failure.connect) endpoint->counters->connect_failures.Add(1);
    if (endpoint->accepts) {
      x->app->balancer.OnFailure(endpoint, now_us_);
      endpoint->counters->ejected.Set(endpoint->ejected ? 1 : 0);
    }
  }
  if (x->response_started) {
    // A response that ends early has to look like it: no last chunk, less than
    // its length, or a reset where the end of the connection is its end.
    x->cut_short = x->out_body == BodyKind::kUntilClose;
    return OnClientGone(x, failure.end);
  }
  if (!x->to_client.empty()) {
    // An interim response that the client does not read.
    return OnClientGone(x, "client.stalled");
  }
  if (stale && !x->stale_retried && x->replayable &&
      (!x->request_wrote || (IsIdempotent(x->request.method) &&
                             x->request_body.kind() == BodyKind::kNone))) {
    x->stale_retried = true;
    const bool still_there = endpoint->accepts;
    ReleaseUpstream(x, false);
    x->to_origin.Clear();
    x->response.Reset();
    --x->tried_count;
    if (still_there) return Attempt(x, endpoint, true);
    return Dispatch(x);
  }
  ReleaseUpstream(x, false);
  if (failure.connect && TryAgain(x, failure)) return;
  Answer(x, failure.status, failure.reason, failure.end, false);
}

bool Worker::TryAgain(Exchange* x, const Failure& failure) {
  AppState* const app = x->app;
  if (x->retries >= options_.max_retries || !x->replayable) return false;
  if (!x->retrying) {
    const int budget =
        std::max(options_.retry_budget_min,
                 app->active * options_.retry_budget_percent / 100);
    if (app->retrying >= budget) return false;
  }
  Balanced* const choice = app->balancer.Pick(
      app->route->policy,
      {x->tried.data(), static_cast<size_t>(x->tried_count)}, now_us_);
  if (choice == nullptr) return false;
  // The same endpoint again only helps if its failure was a passing one.
  const auto tried_end = x->tried.begin() + x->tried_count;
  if (failure.status != 504 ||
      std::find(x->tried.begin(), tried_end, choice) == tried_end) {
    if (!x->retrying) {
      x->retrying = true;
      ++app->retrying;
    }
    ++x->retries;
    app->counters->retries.Add(1);
    x->to_origin.Clear();
    Attempt(x, static_cast<EndpointState*>(choice), false);
    return true;
  }
  return false;
}

void Worker::ReleaseUpstream(Exchange* x, bool reuse) {
  UpstreamConnection* const upstream = x->upstream;
  if (upstream == nullptr) return;
  x->upstream = nullptr;
  upstream->exchange = nullptr;
  EndpointState* const endpoint = upstream->endpoint;
  --endpoint->in_flight;
  endpoint->counters->in_flight.Set(endpoint->in_flight);
  const int max_idle =
      options_.max_idle_per_endpoint == 0
          ? 0
          : std::max(options_.max_idle_per_endpoint, endpoint->peak);
  if (!reuse || upstream->peer_closed || upstream->broken ||
      !upstream->in.empty() || !endpoint->accepts || draining_ ||
      endpoint->idle.size() >= max_idle) {
    return CloseUpstream(upstream);
  }
  if (upstream->readable) {
    // The last read filled the buffer: more than the response may be there.
    char byte = 0;
    const ssize_t got = recv(upstream->fd, &byte, 1, MSG_PEEK);
    if (got >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
      return CloseUpstream(upstream);
    upstream->readable = false;
  }
  upstream->in.Settle(&blocks_);
  endpoint->idle.PushFront(upstream);
  Arm(upstream, UpstreamTimer::kIdle, options_.upstream_idle_timeout_ms);
}

void Worker::CloseUpstream(UpstreamConnection* upstream) {
  EndpointState* const endpoint = upstream->endpoint;
  if (upstream->exchange == nullptr &&
      (upstream->list_previous != nullptr || upstream->list_next != nullptr ||
       endpoint->idle.front() == upstream)) {
    endpoint->idle.Remove(upstream);
  }
  close(upstream->fd);
  upstream->fd = -1;
  upstream->open = false;
  upstream->in.Release(&blocks_);
  timers_.Remove(&upstream->timer);
  dead_upstreams_.push_back(upstream);
  counters_.upstream_connections.Add(-1);
  accept_again_ms_ = 0;
  if (--endpoint->connections == 0 && endpoint->removed && !applying_)
    CollectGarbage(upstream->app);
}

void Worker::StartTunnel(Exchange* x) {
  ClientConnection* const client = x->client;
  client->in.Consume(x->held);
  x->held = 0;
  client->state = ClientState::kTunnel;
  x->tunnel_expiring = x->up_ended = x->down_ended = false;
  ++tunnels_;
  TimerWheel::Disarm(&x->upstream->timer);
  client->readable = x->upstream->readable = true;
  if (draining_ || !x->upstream->endpoint->accepts) ExpireTunnels();
  PumpTunnel(x);
}

void Worker::PumpTunnel(Exchange* x) {
  const bool open =
      PumpOneWay(x->client, x->upstream, &x->bytes_in, &x->up_ended) &&
      PumpOneWay(x->upstream, x->client, &x->bytes_out, &x->down_ended);
  if (!open) return EndTunnel(x, "tunnel.reset");
  if (x->up_ended && x->down_ended) return EndTunnel(x, "tunnel.closed");
  if (!x->tunnel_expiring)
    Arm(x->client, ClientTimer::kTunnel, options_.stream_idle_timeout_ms);
}

void Worker::EndTunnel(Exchange* x, absl::string_view end) {
  ClientConnection* const client = x->client;
  --tunnels_;
  x->end = end;
  ReleaseUpstream(x, false);
  RecordExchange(x);
  EndExchange(x);
  CloseClient(client, false);
}

bool Worker::PumpOneWay(Connection* from, Connection* to, int64_t* bytes,
                        bool* ended) {
  if (*ended) return true;
  for (int i = 0; i < kPiecesPerTurn; ++i) {
    if (!from->in.empty()) {
      const ssize_t sent =
          send(to->fd, from->in.data(), from->in.size(), MSG_NOSIGNAL);
      if (sent < 0) {
        if (errno == EINTR) continue;
        return errno == EAGAIN || errno == EWOULDBLOCK;
      }
      *bytes += sent;
      from->in.Consume(static_cast<size_t>(sent));
      if (!from->in.empty()) return true;
    }
    switch (ReadMore(from)) {
      case Io::kOk:
        continue;
      case Io::kBlocked:
      case Io::kFull:
        from->in.Settle(&blocks_);
        return true;
      case Io::kEnd:
        from->in.Settle(&blocks_);
        shutdown(to->fd, SHUT_WR);
        *ended = true;
        return true;
      case Io::kError:
        return false;
    }
  }
  Resume(from);
  return true;
}

}  // namespace mycelium::edge
