// The origin's side of an exchange: choosing an endpoint, trying again, and
// passing responses on.

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "services/edge/worker.h"

namespace mycelium::edge {
namespace {

constexpr int kPiecesPerTurn = 16;
// Below this a copy costs less than what sets up and empties a pipe.
constexpr uint64_t kMinSpliceBytes = uint64_t{256} << 10;
// 1xx responses that one request may get.
constexpr int kMaxInterimResponses = 32;

bool WasTried(const Exchange& exchange, const Balanced* endpoint) {
  const auto end = exchange.tried.begin() + exchange.tried_count;
  return std::find(exchange.tried.begin(), end, endpoint) != end;
}

}  // namespace

void Worker::Dispatch(Exchange* exchange) {
  // Those that wait came first.
  EndpointState* const endpoint =
      exchange->app->waiting.empty() ? TakeEndpoint(exchange) : nullptr;
  if (endpoint == nullptr) return Wait(exchange);
  Attempt(exchange, endpoint, false);
}

void Worker::Attempt(Exchange* exchange, EndpointState* endpoint, bool fresh) {
  ++exchange->attempts;
  exchange->attempt_us = now_us_;
  if (exchange->tried_count < static_cast<int>(exchange->tried.size()))
    exchange->tried[exchange->tried_count++] = endpoint;
  if (context_.log != nullptr)
    exchange->instance.Set(endpoint->endpoint->instance_id);

  // An idle connection may have been closed a moment ago. Where the request
  // could not be sent again, it is worth a system call to know.
  const bool repeatable = IsIdempotent(exchange->request.method) &&
                          exchange->request_body.kind() == BodyKind::kNone;
  UpstreamConnection* upstream =
      fresh ? nullptr : TakeIdle(endpoint, !repeatable);
  Failure failure;
  if (upstream == nullptr)
    upstream = Connect(exchange->app, endpoint, &failure);
  if (upstream == nullptr) {
    if (failure.connect) CountFailure(exchange->app, endpoint);
    endpoint->counters->by_reason[ReasonIndex(failure.reason)].Add(1);
    GiveEndpointSlot(exchange);
    return FailAttempt(exchange, failure);
  }

  upstream->exchange = exchange;
  exchange->upstream = upstream;
  exchange->request_wrote = exchange->request_sent = exchange->first_byte =
      exchange->upload_failed = exchange->interim_close = false;
  ++endpoint->in_flight;
  endpoint->peak = std::max(endpoint->peak, endpoint->in_flight);
  // Of an app that was removed and came back, two states count the same
  // instance.
  endpoint->counters->in_flight.Add(1);
  endpoint->counters->requests.Add(1);
  if (upstream->connecting) {
    // A queued piece of the body points into the buffer.
    if (!exchange->piece_queued) exchange->client->in.Settle(&blocks_);
    Arm(upstream, UpstreamTimer::kConnect, options_.connect_timeout_ms);
    return;
  }
  SendRequest(exchange);
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
  endpoint->counters->connections.Add(1);
  counters_.upstream_connections.Add(1);
  if (!Watch(upstream, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)) {
    CloseUpstream(upstream);
    *failure = {503, "out_of_descriptors", "edge.out_of_descriptors", false,
                false};
    return nullptr;
  }
  return upstream;
}

void Worker::SendRequest(Exchange* exchange) {
  ClientConnection* const client = exchange->client;
  RequestRewrite rewrite;
  rewrite.client_ip = client->ip.view();
  rewrite.scheme = client->tls == nullptr ? "http" : "https";
  rewrite.listen_port = client->port;
  rewrite.app = exchange->app->name;
  rewrite.request_id = exchange->request_id.view();
  rewrite.via = options_.via;
  // What is queued may point into it until it is written, whatever becomes of
  // the route meanwhile.
  exchange->endpoint = exchange->upstream->endpoint->endpoint;
  rewrite.authority = exchange->endpoint->authority;
  rewrite.trusted_peer = client->trusted;
  rewrite.forward_upgrade = exchange->upgrade_asked;
  rewrite.keep_traceparent = exchange->keep_traceparent;
  rewrite.keep_tracestate = exchange->keep_tracestate;
  if (exchange->new_trace) {
    rewrite.new_traceparent = {exchange->new_traceparent.data(),
                               exchange->new_traceparent.size()};
  }
  exchange->to_origin.Clear();
  RewriteRequest(exchange->request, client->in.data(), exchange->line, rewrite,
                 &exchange->request_text, &exchange->to_origin);
  if (exchange->piece_queued) {
    QueueRequestBody(exchange);
  } else if (!exchange->request_body.done() &&
             QueueRequestPiece(exchange) == BodyReader::Step::kError) {
    return Answer(exchange, 400, NameOf(exchange->request_body.error()),
                  "edge.bad_request", true);
  }
  PumpRequest(exchange);
}

void Worker::NoteUpstreamEvent(UpstreamConnection* upstream, uint32_t events) {
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
    upstream->readable = true;
  if ((events & EPOLLRDHUP) != 0) upstream->peer_closed = true;
  if ((events & (EPOLLHUP | EPOLLERR)) != 0)
    upstream->peer_closed = upstream->broken = true;
}

void Worker::OnUpstreamEvent(UpstreamConnection* upstream, uint32_t events) {
  NoteUpstreamEvent(upstream, events);
  Exchange* const exchange = upstream->exchange;
  if (exchange == nullptr) {
    // Idle: bytes that nobody asked for are as good as an end.
    if (upstream->readable) CloseUpstream(upstream);
    return;
  }
  ClientConnection* const client = exchange->client;
  if (client->state == ClientState::kTunnel) return PumpTunnel(exchange);
  if (upstream->connecting) {
    if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) == 0) return;
    OnConnected(upstream);
  } else if ((events & EPOLLOUT) != 0 && !exchange->to_origin.empty()) {
    PumpRequest(exchange);
  }
  if (!upstream->open || upstream->exchange != exchange ||
      client->exchange != exchange) {
    return;
  }
  // An answer may have come with the connection.
  if (upstream->readable) PumpResponse(exchange);
}

void Worker::OnUpstreamTimer(UpstreamConnection* upstream) {
  Exchange* const exchange = upstream->exchange;
  switch (upstream->timer_for) {
    case UpstreamTimer::kIdle:
      if (exchange != nullptr) return;
      upstream->endpoint->peak =
          upstream->endpoint->in_flight + upstream->endpoint->idle.size() - 1;
      CloseUpstream(upstream);
      return;
    case UpstreamTimer::kConnect:
      if (exchange == nullptr || !upstream->connecting) return;
      return FailAttempt(exchange, {504, "connect_timeout",
                                    "origin.connect_timeout", true, false});
    case UpstreamTimer::kResponseHead:
      if (exchange == nullptr || exchange->response_started) return;
      return FailAttempt(exchange, {504, "response_timeout",
                                    "origin.response_timeout", false, false});
    case UpstreamTimer::kStalled:
      if (exchange == nullptr || exchange->response_started ||
          exchange->to_origin.empty())
        return;
      return FailAttempt(
          exchange, {504, "upstream_stalled", "origin.stalled", false, false});
    case UpstreamTimer::kBody:
      if (exchange == nullptr || exchange->owes_client()) return;
      return FailAttempt(
          exchange, {504, "body_timeout", "origin.body_timeout", false, false});
  }
}

void Worker::OnConnected(UpstreamConnection* upstream) {
  Exchange* const exchange = upstream->exchange;
  int error = 0;
  socklen_t size = sizeof(error);
  getsockopt(upstream->fd, SOL_SOCKET, SO_ERROR, &error, &size);
  if (error != 0) {
    const bool timed_out = error == ETIMEDOUT;
    return FailAttempt(
        exchange,
        {timed_out ? 504 : 502,
         timed_out ? "connect_timeout" : "connect_failed",
         timed_out ? "origin.connect_timeout" : "origin.connect_failed", true,
         false});
  }
  upstream->connecting = false;
  TimerWheel::Disarm(&upstream->timer);
  SendRequest(exchange);
}

void Worker::PumpResponse(Exchange* exchange) {
  ClientConnection* const client = exchange->client;
  UpstreamConnection* const upstream = exchange->upstream;
  for (int i = 0; i < kPiecesPerTurn; ++i) {
    if (exchange->owes_client()) {
      const Io io = FlushToClient(exchange);
      if (io == Io::kBlocked) {
        // Until the final head is there, its time runs on.
        if (upstream != nullptr && exchange->response_started) {
          TimerWheel::Disarm(&upstream->timer);
        }
        if (!exchange->half_closed) {
          Arm(client, ClientTimer::kStalled, options_.stream_idle_timeout_ms);
        }
        return;
      }
      if (io != Io::kOk) return OnClientGone(exchange, "client.reset");
      if (upstream != nullptr) upstream->in.Consume(exchange->response_consume);
      exchange->response_consume = 0;
      if (exchange->switching) return StartTunnel(exchange);
    }
    if (exchange->response_done) return FinishExchange(exchange);
    if (upstream == nullptr || upstream->connecting) return;
    if (!upstream->in.empty()) {
      if (exchange->response_started) {
        const BodyReader::Step step = QueueResponsePiece(exchange, 0);
        if (step == BodyReader::Step::kError) return;
        if (step == BodyReader::Step::kPiece) continue;
      } else if (TakeResponseHead(exchange)) {
        continue;
      } else if (client->exchange != exchange ||
                 exchange->upstream != upstream) {
        return;
      }
    }
    switch (MaySplice(exchange) ? FillPipe(exchange) : ReadMore(upstream)) {
      case Io::kOk:
        if (!exchange->first_byte) {
          exchange->first_byte = true;
          exchange->first_byte_us = now_us_;
        }
        continue;
      case Io::kBlocked:
      case Io::kFull:
        return WaitForResponse(exchange);
      case Io::kEnd:
        return OnUpstreamEnd(exchange, false);
      case Io::kError:
        return OnUpstreamEnd(exchange, true);
    }
  }
  Resume(upstream);
}

bool Worker::MaySplice(Exchange* exchange) {
  if (!exchange->response_started ||
      exchange->response_body.kind() != BodyKind::kLength ||
      !exchange->upstream->in.empty() || !exchange->client->is_plain() ||
      !exchange->upstream->is_plain()) {
    return false;
  }
  if (exchange->pipe != nullptr) return true;
  if (exchange->response_body.left() < kMinSpliceBytes) return false;
  exchange->pipe = pipes_.Take();
  // What has been read is out, and nothing more is going to be.
  if (exchange->pipe != nullptr) exchange->upstream->in.Settle(&blocks_);
  return exchange->pipe != nullptr;
}

Worker::Io Worker::FillPipe(Exchange* exchange) {
  UpstreamConnection* const upstream = exchange->upstream;
  Pipe& pipe = *exchange->pipe;
  if (!upstream->readable) return Io::kBlocked;
  for (;;) {
    const ssize_t moved =
        splice(upstream->fd, nullptr, pipe.in.get(), nullptr,
               static_cast<size_t>(std::min<uint64_t>(
                   exchange->response_body.left(), PipePool::kPipeBytes)),
               SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (moved > 0) {
      pipe.bytes += static_cast<size_t>(moved);
      exchange->response_body.Skip(static_cast<uint64_t>(moved));
      exchange->response_body_bytes += moved;
      exchange->response_done = exchange->response_body.done();
      return Io::kOk;
    }
    if (moved == 0) return Io::kEnd;
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      // The pipe was empty, so it is the socket that has no more.
      upstream->readable = false;
      return Io::kBlocked;
    }
    upstream->broken = true;
    return Io::kError;
  }
}

Worker::Io Worker::FlushToClient(Exchange* exchange) {
  ClientConnection* const client = exchange->client;
  const Io io = Flush(client, &exchange->to_client, &exchange->bytes_out);
  if (io != Io::kOk || exchange->pipe == nullptr) return io;
  Pipe& pipe = *exchange->pipe;
  while (pipe.bytes > 0) {
    const ssize_t moved = splice(pipe.out.get(), nullptr, client->fd, nullptr,
                                 pipe.bytes, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
      return Io::kBlocked;
    if (moved <= 0) return Io::kError;
    pipe.bytes -= static_cast<size_t>(moved);
    exchange->bytes_out += moved;
  }
  return Io::kOk;
}

void Worker::WaitForResponse(Exchange* exchange) {
  UpstreamConnection* const upstream = exchange->upstream;
  upstream->in.Settle(&blocks_);
  if (!exchange->response_started) {
    // The time until the head runs from the end of the request; more bytes of
    // a head do not prolong it.
    return;
  }
  Arm(upstream, UpstreamTimer::kBody,
      exchange->response_body.kind() == BodyKind::kLength
          ? options_.body_idle_timeout_ms
          : options_.stream_idle_timeout_ms);
}

bool Worker::TakeResponseHead(Exchange* exchange) {
  UpstreamConnection* const upstream = exchange->upstream;
  ResponseHead& head = exchange->response;
  const Failure bad{502, "bad_response", "origin.bad_response", false, false};
  switch (head.Parse(upstream->in.view(), exchange->request.method,
                     options_.max_head_bytes)) {
    case ParseStatus::kIncomplete:
      return false;
    case ParseStatus::kError:
      FailAttempt(exchange, bad);
      return false;
    case ParseStatus::kDone:
      break;
  }
  char* const bytes = upstream->in.data();
  ResponseRewrite rewrite;
  rewrite.via = options_.via;
  rewrite.request_id = exchange->request_id.view();
  rewrite.date = {date_.data(), date_.size()};

  if (head.status == 101) {
    if (!exchange->upgrade_asked || exchange->held == 0 || !head.upgrade ||
        !IsUpgradeAskedFor(exchange->request, exchange->client->in.data(), head,
                           bytes)) {
      FailAttempt(exchange, {502, "unexpected_upgrade",
                             "origin.unexpected_upgrade", false, false});
      return false;
    }
    rewrite.upgraded = true;
    rewrite.keep_content_length = false;
    RewriteResponse(head, bytes, rewrite, &exchange->response_text,
                    &exchange->to_client);
    exchange->response_consume = head.size;
    exchange->response_started = true;
    exchange->switching = true;
    exchange->status = 101;
    return true;
  }
  if (head.status < 200) {
    if (++exchange->interim_responses > kMaxInterimResponses) {
      FailAttempt(exchange, bad);
      return false;
    }
    // No 1xx for 1.0 clients, and no second 100.
    const bool sent_already = head.status == 100 &&
                              exchange->request.expect_continue &&
                              !exchange->continue_owed;
    if (exchange->request.minor_version > 0 && !sent_already) {
      rewrite.keep_content_length = false;
      RewriteResponse(head, bytes, rewrite, &exchange->response_text,
                      &exchange->to_client);
      exchange->response_consume = head.size;
    } else {
      upstream->in.Consume(head.size);
    }
    if (head.status == 100) exchange->continue_owed = false;
    exchange->interim_close |= head.close;
    head.Reset();
    return true;
  }

  // The final one.
  TimerWheel::Disarm(&upstream->timer);
  EndpointState* const endpoint = upstream->endpoint;
  endpoint->counters->by_class[head.status / 100].Add(1);
  if (head.status >= 500) {
    CountFailure(exchange->app, endpoint);
  } else {
    CountSuccess(*exchange, endpoint);
  }
  if (RetryServerError(exchange)) return false;
  const bool old_client = exchange->request.minor_version == 0;
  exchange->response_body.Reset(head.body, head.content_length, !old_client,
                                !head.has_connection_options);
  exchange->out_body = head.body;
  if (head.body == BodyKind::kChunked && old_client)
    exchange->out_body = BodyKind::kUntilClose;
  if (head.body == BodyKind::kUntilClose && !old_client)
    exchange->out_body = BodyKind::kChunked;
  // A client that has not sent all of its request may go on with it for long;
  // what the answer did not wait for is thrown away afterwards.
  if (!exchange->request_body.done() || phase_ != Phase::kServing)
    exchange->close_client = true;
  rewrite.body = exchange->out_body;
  rewrite.keep_content_length = head.status != 204;
  rewrite.close = exchange->close_client;
  RewriteResponse(head, bytes, rewrite, &exchange->response_text,
                  &exchange->to_client);
  exchange->status = head.status;
  exchange->response_started = true;
  exchange->response_consume = head.size;

  if (exchange->response_body.done()) {
    exchange->response_done = true;
  } else if (upstream->in.size() > head.size) {
    return QueueResponsePiece(exchange, head.size) != BodyReader::Step::kError;
  }
  return true;
}

BodyReader::Step Worker::QueueResponsePiece(Exchange* exchange, size_t offset) {
  Buffer& in = exchange->upstream->in;
  const BodyReader::Result result =
      exchange->response_body.Read(in.data() + offset, in.size() - offset);
  if (result.step == BodyReader::Step::kError) {
    if (offset > 0) {
      // The head is queued, but not a byte of it is out.
      exchange->to_client.Clear();
      exchange->response_started = false;
      exchange->response_consume = 0;
    }
    FailAttempt(exchange,
                {502, "bad_response", "origin.bad_response", false, false});
    return result.step;
  }
  if (result.step == BodyReader::Step::kNeedMore) {
    if (result.consumed > 0) in.Erase(offset, result.consumed);
    return result.step;
  }
  exchange->response_body_bytes += static_cast<int64_t>(result.body_size);
  QueuePiece(exchange->out_body, in.data() + offset, result.out_size,
             result.last, exchange->response_body,
             &exchange->response_chunk_line, &exchange->to_client);
  exchange->response_consume = offset + result.consumed;
  if (result.last) exchange->response_done = true;
  // A last chunk without data leaves nothing to write to a client of HTTP/1.0.
  if (exchange->to_client.empty()) {
    in.Consume(exchange->response_consume);
    exchange->response_consume = 0;
  }
  return result.step;
}

void Worker::OnUpstreamEnd(Exchange* exchange, bool error) {
  if (exchange->response_started) {
    if (!error && exchange->response_body.kind() == BodyKind::kUntilClose) {
      exchange->response_done = true;
      exchange->response.close = true;
      QueuePiece(exchange->out_body, nullptr, 0, true, exchange->response_body,
                 &exchange->response_chunk_line, &exchange->to_client);
      return PumpResponse(exchange);
    }
    return FailAttempt(exchange, {502, "truncated_response", "origin.truncated",
                                  false, false});
  }
  if (exchange->first_byte) {
    return FailAttempt(exchange, {502, "truncated_response", "origin.truncated",
                                  false, false});
  }
  FailAttempt(exchange, {502, "upstream_closed", "origin.closed", false, true});
}

void Worker::FailAttempt(Exchange* exchange, const Failure& failure) {
  UpstreamConnection* const upstream = exchange->upstream;
  const bool stale = upstream != nullptr && upstream->reused &&
                     failure.closed && !exchange->first_byte;
  EndpointState* const endpoint =
      upstream != nullptr ? upstream->endpoint : nullptr;
  if (endpoint != nullptr && !stale) {
    if (failure.connect) endpoint->counters->connect_failures.Add(1);
    endpoint->counters->by_reason[ReasonIndex(failure.reason)].Add(1);
    CountFailure(exchange->app, endpoint);
  }
  if (exchange->response_started) {
    // A response that ends early has to look like it: no last chunk, less than
    // its length, or a reset where the end of the connection is its end.
    exchange->cut_short = exchange->out_body == BodyKind::kUntilClose;
    return OnClientGone(exchange, failure.end);
  }
  if (!exchange->to_client.empty()) {
    // An interim response that the client does not read.
    return OnClientGone(exchange, "client.stalled");
  }
  if (stale && !exchange->stale_retried && exchange->replayable &&
      (!exchange->request_wrote ||
       (IsIdempotent(exchange->request.method) &&
        exchange->request_body.kind() == BodyKind::kNone))) {
    exchange->stale_retried = true;
    const bool still_there = endpoint->accepts;
    ReleaseUpstream(exchange, false);
    exchange->to_origin.Clear();
    exchange->response.Reset();
    --exchange->tried_count;
    if (still_there && TakeEndpointSlot(exchange, *endpoint))
      return Attempt(exchange, endpoint, true);
    return Dispatch(exchange);
  }
  ReleaseUpstream(exchange, false);
  if (failure.connect && TryAgain(exchange, failure)) return;
  Answer(exchange, failure.status, failure.reason, failure.end, false);
}

bool Worker::TryAgain(Exchange* exchange, const Failure& failure) {
  EndpointState* const choice = ChooseAgain(exchange);
  if (choice == nullptr) return false;
  // The same endpoint again only helps if its failure was a passing one.
  if (failure.status == 504 && WasTried(*exchange, choice)) return false;
  if (!TakeEndpointSlot(exchange, *choice)) return false;
  Retry(exchange, choice);
  return true;
}

bool Worker::RetryServerError(Exchange* exchange) {
  const ResponseHead& head = exchange->response;
  if (head.status < 502 || head.status > 504 ||
      !exchange->app->route->traffic.retry_server_errors ||
      (exchange->request.method != Method::kGet &&
       exchange->request.method != Method::kHead) ||
      !exchange->request_sent || exchange->bytes_out > 0)
    return false;
  EndpointState* const choice = ChooseAgain(exchange);
  // An answer is better than to ask again who gave it.
  if (choice == nullptr || WasTried(*exchange, choice)) return false;
  SlotCounter* slot = std::exchange(exchange->endpoint_slot, nullptr);
  const bool free = TakeEndpointSlot(exchange, *choice);
  std::swap(slot, exchange->endpoint_slot);
  if (!free) return false;
  // A short answer is here to its end, and the connection is good for more.
  Buffer& in = exchange->upstream->in;
  const bool whole = (head.body == BodyKind::kNone && in.size() == head.size) ||
                     (head.body == BodyKind::kLength &&
                      in.size() - head.size == head.content_length);
  in.Consume(whole ? in.size() : 0);
  ReleaseUpstream(exchange, whole && !head.close && !exchange->interim_close);
  exchange->endpoint_slot = slot;
  Retry(exchange, choice);
  return true;
}

EndpointState* Worker::ChooseAgain(Exchange* exchange) {
  AppState* const app = exchange->app;
  if (exchange->retries >= options_.max_retries || !exchange->replayable)
    return nullptr;
  if (!exchange->retrying) {
    const int budget =
        std::max(options_.retry_budget_min,
                 app->active * options_.retry_budget_percent / 100);
    if (app->retrying >= budget) return nullptr;
  }
  return static_cast<EndpointState*>(app->balancer.Pick(
      {exchange->tried.data(), static_cast<size_t>(exchange->tried_count)},
      now_us_));
}

void Worker::Retry(Exchange* exchange, EndpointState* endpoint) {
  if (!exchange->retrying) {
    exchange->retrying = true;
    ++exchange->app->retrying;
  }
  ++exchange->retries;
  exchange->app->counters->retries.Add(1);
  counters_.retries.Add(1);
  exchange->to_origin.Clear();
  exchange->response.Reset();
  Attempt(exchange, endpoint, false);
}

void Worker::ReleaseUpstream(Exchange* exchange, bool reuse) {
  UpstreamConnection* const upstream = exchange->upstream;
  if (upstream == nullptr) return;
  exchange->upstream = nullptr;
  upstream->exchange = nullptr;
  EndpointState* const endpoint = upstream->endpoint;
  --endpoint->in_flight;
  endpoint->counters->in_flight.Add(-1);
  // Of a tunnel, only what it took to open it is a latency.
  const int64_t end_us =
      exchange->switched_us >= 0 ? exchange->switched_us : now_us_;
  endpoint->counters->latency.Add(end_us - exchange->attempt_us);
  upstream->app->counters->attempts.Add(kExportedBoundsMicros,
                                        end_us - exchange->attempt_us);
  GiveEndpointSlot(exchange);
  const int max_idle =
      options_.max_idle_per_endpoint == 0
          ? 0
          : std::max(options_.max_idle_per_endpoint, endpoint->peak);
  if (!reuse || upstream->peer_closed || upstream->broken ||
      !upstream->in.empty() || !endpoint->accepts ||
      phase_ == Phase::kDraining || endpoint->idle.size() >= max_idle) {
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

void Worker::CountSuccess(const Exchange& exchange, EndpointState* endpoint) {
  if (!endpoint->accepts) return;
  exchange.app->balancer.OnSuccess(endpoint, now_us_ - exchange.attempt_us,
                                   now_us_);
  ShowHealth(exchange.app, endpoint);
}

void Worker::CountFailure(AppState* app, EndpointState* endpoint) {
  endpoint->counters->failures.Add(1);
  if (!endpoint->accepts) return;
  if (app->balancer.OnFailure(endpoint, now_us_))
    endpoint->counters->ejections.Add(1);
  ShowHealth(app, endpoint);
}

void Worker::ShowHealth(AppState* app, EndpointState* endpoint) {
  endpoint->counters->ejected.Set(endpoint->ejected ? 1 : 0);
  const bool panicking = app->balancer.panicking();
  if (panicking && app->counters->panicking.value() == 0)
    app->counters->panics.Add(1);
  app->counters->panicking.Set(panicking ? 1 : 0);
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
  --endpoint->connections;
  endpoint->counters->connections.Add(-1);
  if (endpoint->connections == 0 && endpoint->removed && !applying_)
    CollectGarbage(upstream->app);
}

void Worker::StartTunnel(Exchange* exchange) {
  ClientConnection* const client = exchange->client;
  client->in.Consume(exchange->held);
  exchange->held = 0;
  client->state = ClientState::kTunnel;
  exchange->switched_us = now_us_;
  exchange->tunnel_expiring = exchange->up_ended = exchange->down_ended = false;
  ++tunnels_;
  TimerWheel::Disarm(&exchange->upstream->timer);
  client->readable = exchange->upstream->readable = true;
  if (ending() || !exchange->upstream->endpoint->accepts) ExpireTunnels();
  PumpTunnel(exchange);
}

void Worker::PumpTunnel(Exchange* exchange) {
  const bool open = PumpOneWay(exchange->client, exchange->upstream,
                               &exchange->bytes_in, &exchange->up_ended) &&
                    PumpOneWay(exchange->upstream, exchange->client,
                               &exchange->bytes_out, &exchange->down_ended);
  if (open && exchange->up_ended && exchange->down_ended)
    return EndTunnel(exchange, "tunnel.closed");
  // A side whose end has been read is not read again, and so its reset would
  // only be found by writing.
  if (!open || (exchange->client->broken && exchange->up_ended) ||
      (exchange->upstream->broken && exchange->down_ended)) {
    // Its bytes say nothing of where they end.
    if (exchange->client->tls != nullptr)
      exchange->client->tls->set_cut_short();
    return EndTunnel(exchange, "tunnel.reset");
  }
  if (!exchange->tunnel_expiring)
    Arm(exchange->client, ClientTimer::kTunnel,
        options_.stream_idle_timeout_ms);
}

void Worker::EndTunnel(Exchange* exchange, absl::string_view end) {
  ClientConnection* const client = exchange->client;
  --tunnels_;
  exchange->end = end;
  ReleaseUpstream(exchange, false);
  RecordExchange(exchange);
  EndExchange(exchange);
  CloseClient(client, false);
}

bool Worker::PumpOneWay(Connection* from, Connection* to, int64_t* bytes,
                        bool* ended) {
  if (*ended) return true;
  for (int i = 0; i < kPiecesPerTurn; ++i) {
    if (!from->in.empty()) {
      IovecQueue queue;
      queue.Add(from->in.view());
      int64_t sent = 0;
      const Io io = Flush(to, &queue, &sent);
      *bytes += sent;
      from->in.Consume(static_cast<size_t>(sent));
      if (io == Io::kBlocked) return true;
      if (io != Io::kOk) return false;
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
        EndSending(to);
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
