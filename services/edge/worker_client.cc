// The client's side of an exchange: reading requests, passing their bodies on,
// and answers of the edge's own.

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "services/edge/proxy_protocol.h"
#include "services/edge/target.h"
#include "services/edge/worker.h"

namespace mycelium::edge {

// kMethods names them.
static_assert(static_cast<size_t>(Method::kGet) == 0 &&
              static_cast<size_t>(Method::kPatch) == 8 &&
              static_cast<size_t>(Method::kOther) == kMethods.size() - 1);

namespace {

// Pieces moved in one go before others get their turn.
constexpr int kPiecesPerTurn = 16;

absl::string_view ReasonPhrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 308:
      return "Permanent Redirect";
    case 400:
      return "Bad Request";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 414:
      return "URI Too Long";
    case 417:
      return "Expectation Failed";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 502:
      return "Bad Gateway";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    case 508:
      return "Loop Detected";
    default:
      return "Error";
  }
}

uint64_t Mix(uint64_t exchange) {
  exchange ^= exchange >> 30;
  exchange *= 0xbf58476d1ce4e5b9ULL;
  exchange ^= exchange >> 27;
  exchange *= 0x94d049bb133111ebULL;
  return exchange ^ (exchange >> 31);
}

void AppendHex(uint64_t value, char* out) {
  for (int i = 15; i >= 0; --i) {
    out[i] = "0123456789abcdef"[value & 15];
    value >>= 4;
  }
}

// Of 16 digits that AppendHex wrote, or that were checked.
uint64_t ParseHex(const char* digits) {
  uint64_t value = 0;
  std::from_chars(digits, digits + 16, value, 16);
  return value;
}

// The first field with `id`, or nullptr.
const Field* Find(const FieldSection& section, FieldId id) {
  for (int i = 0; i < section.count; ++i) {
    if (section.fields[i].id == id) return &section.fields[i];
  }
  return nullptr;
}

// 1 to 64 visible characters that need no escape anywhere.
bool IsPlainId(absl::string_view id) {
  if (id.empty() || id.size() > 64) return false;
  for (const char c : id) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
                       (c >= 'A' && c <= 'Z') || c == '-' || c == '_' ||
                       c == '.';
    if (!plain) return false;
  }
  return true;
}

}  // namespace

void Worker::OnClientEvent(ClientConnection* client, uint32_t events) {
  if ((events & (EPOLLIN | EPOLLRDHUP)) != 0) client->readable = true;
  if ((events & EPOLLRDHUP) != 0) client->peer_closed = true;
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) client->broken = true;
  if (client->tls != nullptr && !OnTlsEvent(client, events)) return;

  switch (client->state) {
    case ClientState::kProxy:
      ReadProxyHeader(client);
      return;
    case ClientState::kHandshake:
      return;
    case ClientState::kIdle:
    case ClientState::kHead:
      if (client->broken) {
        if (client->exchange != nullptr) EndExchange(client->exchange);
        CloseClient(client, false);
        return;
      }
      ReadHead(client);
      return;
    case ClientState::kLinger:
      PumpLinger(client);
      return;
    case ClientState::kTunnel:
      PumpTunnel(client->exchange);
      return;
    case ClientState::kActive:
      break;
  }
  Exchange* const exchange = client->exchange;
  if (client->broken) {
    OnClientGone(exchange, "client.reset");
    return;
  }
  if (exchange->owes_client()) {
    if (exchange->upstream != nullptr || !exchange->response_done) {
      PumpResponse(exchange);
    } else {
      PumpLocal(exchange);
    }
    if (!client->open || client->exchange != exchange ||
        client->state != ClientState::kActive) {
      return;
    }
  }
  // A turn may have ended with a piece still queued, even the last one.
  if (!exchange->to_origin.empty() ||
      (client->readable && !exchange->request_body.done())) {
    PumpRequest(exchange);
    if (!client->open || client->exchange != exchange) return;
  }
  const bool waiting = exchange->wait_slot != nullptr;
  if (client->peer_closed && (exchange->request_body.done() || waiting) &&
      !exchange->half_closed) {
    // The client may only have finished sending; or it may be gone.
    exchange->half_closed = true;
    exchange->bytes_out_seen = exchange->bytes_out;
    if (waiting) return ArmWait(exchange);
    Arm(client, ClientTimer::kHalfClosed, options_.half_close_timeout_ms);
  }
}

void Worker::OnClientTimer(ClientConnection* client) {
  Exchange* const exchange = client->exchange;
  switch (client->timer_for) {
    case ClientTimer::kHandshake:
      if (client->state == ClientState::kHandshake)
        FailHandshake(client, TlsFailure::kTimeout);
      return;
    case ClientTimer::kIdle:
      if (client->state == ClientState::kProxy) {
        counters_.proxy_errors.Add(1);
        return CloseClient(client, false);
      }
      if (client->state != ClientState::kIdle) return;
      // A request may have arrived in this moment: read once more.
      client->readable = true;
      ReadHead(client);
      if (client->open && client->state == ClientState::kIdle)
        CloseClient(client, false);
      return;
    case ClientTimer::kHeader:
      if (client->state != ClientState::kHead) return;
      client->state = ClientState::kActive;
      exchange->understood = false;
      Answer(exchange, 408, "header_timeout", "client.header_timeout", true);
      return;
    case ClientTimer::kExpect:
      if (client->state != ClientState::kActive) return;
      if (exchange->continue_owed && !exchange->response_started &&
          exchange->to_client.empty()) {
        exchange->continue_owed = false;
        exchange->to_client.Add("HTTP/1.1 100 Continue\r\n\r\n");
        Arm(client, ClientTimer::kBody, options_.body_idle_timeout_ms);
        PumpResponse(exchange);
      } else {
        Arm(client, ClientTimer::kBody, options_.body_idle_timeout_ms);
      }
      return;
    case ClientTimer::kBody:
      if (client->state != ClientState::kActive ||
          exchange->request_body.done())
        return;
      if (exchange->response_started) {
        OnClientGone(exchange, "client.body_timeout");
        return;
      }
      Answer(exchange, 408, "body_timeout", "client.body_timeout", true);
      return;
    case ClientTimer::kStalled:
      if (client->state == ClientState::kActive && exchange->owes_client()) {
        OnClientGone(exchange, "client.stalled");
      }
      return;
    case ClientTimer::kHalfClosed:
      if (client->state != ClientState::kActive) return;
      if (exchange->bytes_out != exchange->bytes_out_seen) {
        exchange->bytes_out_seen = exchange->bytes_out;
        Arm(client, ClientTimer::kHalfClosed, options_.half_close_timeout_ms);
        return;
      }
      OnClientGone(exchange, "client.disconnected");
      return;
    case ClientTimer::kWait:
      if (client->state == ClientState::kActive) OnWaitOver(exchange);
      return;
    case ClientTimer::kLinger:
      if (client->state == ClientState::kLinger) CloseClient(client, false);
      return;
    case ClientTimer::kTunnel:
      if (client->state != ClientState::kTunnel) return;
      EndTunnel(exchange, exchange->tunnel_expiring ? "edge.tunnel_drained"
                                                    : "edge.tunnel_idle");
      return;
  }
}

void Worker::ReadProxyHeader(ClientConnection* client) {
  // Looked at in the socket until it is whole, and then taken alone: what
  // follows may be for someone else to read, such as TLS.
  std::array<char, ProxyHeader::kMaxSize> bytes;
  const ssize_t got = recv(client->fd, bytes.data(), bytes.size(), MSG_PEEK);
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) &&
      !client->broken) {
    return;
  }
  ProxyHeader header;
  const ProxyStatus status =
      got <= 0
          ? ProxyStatus::kError
          : ParseProxyHeader({bytes.data(), static_cast<size_t>(got)}, &header);
  // More bytes are another event.
  if (status == ProxyStatus::kIncomplete && !client->peer_closed) return;
  if (status != ProxyStatus::kDone ||
      recv(client->fd, bytes.data(), header.size, 0) !=
          static_cast<ssize_t>(header.size)) {
    counters_.proxy_errors.Add(1);
    return CloseClient(client, false);
  }
  if (header.has_source) SetClientAddress(client, header.source);
  client->readable = true;
  if (client->tls != nullptr) {
    client->state = ClientState::kHandshake;
    Arm(client, ClientTimer::kHandshake, FirstRequestMs());
    return ContinueHandshake(client);
  }
  client->state = ClientState::kIdle;
  ReadHead(client);
}

Exchange* Worker::BeginExchange(ClientConnection* client) {
  Exchange* const exchange = exchange_slab_.Take();
  exchange->client = client;
  exchange->upstream = nullptr;
  exchange->app = nullptr;
  exchange->request.Reset();
  exchange->request_body.Reset(BodyKind::kNone, 0);
  exchange->to_origin.Clear();
  exchange->held = exchange->line = 0;
  exchange->piece_size = exchange->piece_consumed = 0;
  exchange->piece_queued = exchange->piece_last = false;
  exchange->request_sent = exchange->request_wrote = false;
  exchange->replayable = true;
  exchange->upload_failed = exchange->continue_owed = exchange->upgrade_asked =
      exchange->half_closed = false;
  exchange->body_received = 0;
  exchange->max_body = options_.max_body_bytes;
  exchange->wait_until_ms = exchange->retry_after_s = 0;
  exchange->response.Reset();
  exchange->response_body.Reset(BodyKind::kNone, 0);
  exchange->to_client.Clear();
  exchange->out_body = BodyKind::kNone;
  exchange->response_consume = 0;
  exchange->interim_responses = 0;
  exchange->interim_close = false;
  exchange->first_byte = exchange->response_started = exchange->response_done =
      exchange->switching = false;
  exchange->close_client = exchange->cut_short = false;
  exchange->tried_count = exchange->attempts = exchange->retries = 0;
  exchange->retrying = exchange->stale_retried = false;
  exchange->keep_traceparent = exchange->keep_tracestate = false;
  exchange->new_trace = exchange->trace_sampled = exchange->is_page = false;
  exchange->attempt_us = 0;
  exchange->switched_us = -1;
  exchange->response_body_bytes = 0;
  exchange->status = 0;
  exchange->start_us = now_us_;
  exchange->first_byte_us = -1;
  exchange->bytes_in = exchange->bytes_out = exchange->bytes_out_seen = 0;
  exchange->end = "origin.complete";
  exchange->understood = true;
  exchange->instance.Clear();
  exchange->host.Clear();
  exchange->path.Clear();
  client->exchange = exchange;
  client->state = ClientState::kHead;
  ++client->requests;
  MakeRequestId(exchange);
  return exchange;
}

void Worker::MakeRequestId(Exchange* exchange) {
  ++id_counter_;
  AppendHex(Mix(id_seed_[0] + id_counter_ * 0x9e3779b97f4a7c15ULL),
            exchange->id_bytes.data());
  AppendHex(Mix(id_seed_[1] ^ (id_counter_ * 0xd1b54a32d192ed03ULL)),
            exchange->id_bytes.data() + 16);
  exchange->request_id.Set(
      {exchange->id_bytes.data(), exchange->id_bytes.size()});
}

void Worker::FollowTrace(Exchange* exchange) {
  const TraceContext trace =
      FindTraceContext(exchange->request, exchange->client->in.data());
  if (trace.valid) {
    exchange->keep_traceparent = true;
    exchange->keep_tracestate = trace.keep_state;
    exchange->trace_sampled = trace.sampled;
    trace.trace_id.copy(exchange->trace_id.data(), exchange->trace_id.size());
    return;
  }
  if (!options_.tracing) return;
  // The id that was drawn for the request, whatever a trusted peer calls it.
  exchange->new_trace = true;
  exchange->trace_id = exchange->id_bytes;
  const uint64_t drawn =
      Mix(id_seed_[0] ^ (id_counter_ * 0xa0761d6478bd642fULL));
  exchange->trace_sampled =
      static_cast<double>(drawn >> 11) * 0x1p-53 < options_.trace_sample;
  // Never zero, which would be no id.
  std::array<char, 16> parent;
  AppendHex(drawn | 1, parent.data());
  FormatTraceparent({exchange->trace_id.data(), exchange->trace_id.size()},
                    {parent.data(), parent.size()}, exchange->trace_sampled,
                    &exchange->new_traceparent);
}

void Worker::ReadHead(ClientConnection* client) {
  for (;;) {
    if (!client->in.empty()) {
      Exchange* const exchange = client->exchange != nullptr
                                     ? client->exchange
                                     : BeginExchange(client);
      switch (
          exchange->request.Parse(client->in.view(), options_.max_head_bytes)) {
        case ParseStatus::kDone:
          StartRequest(exchange);
          return;
        case ParseStatus::kError:
          RefuseHead(exchange);
          return;
        case ParseStatus::kIncomplete:
          break;
      }
    }
    switch (ReadMore(client)) {
      case Io::kOk:
        continue;
      case Io::kBlocked:
      case Io::kFull:  // Cannot be: heads are smaller than buffers.
        client->in.Settle(&blocks_);
        if (client->state == ClientState::kHead &&
            client->timer_for != ClientTimer::kHeader) {
          Arm(client, ClientTimer::kHeader, options_.header_timeout_ms);
        }
        return;
      case Io::kEnd:
      case Io::kError:
        if (client->exchange != nullptr) {
          client->exchange->end = "client.disconnected";
          client->exchange->bytes_in = static_cast<int64_t>(client->in.size());
          RecordExchange(client->exchange);
          EndExchange(client->exchange);
        }
        CloseClient(client, false);
        return;
    }
  }
}

void Worker::RefuseHead(Exchange* exchange) {
  ClientConnection* const client = exchange->client;
  client->state = ClientState::kActive;
  exchange->bytes_in = static_cast<int64_t>(client->in.size());
  // Whatever follows would not be understood either.
  exchange->understood = false;
  client->in.Consume(client->in.size());
  Answer(exchange, StatusOf(exchange->request.error),
         NameOf(exchange->request.error), "edge.bad_request", true);
}

void Worker::StartRequest(Exchange* exchange) {
  ClientConnection* const client = exchange->client;
  RequestHead& request = exchange->request;
  char* const bytes = client->in.data();
  client->state = ClientState::kActive;
  TimerWheel::Disarm(&client->timer);
  client->timer_for = ClientTimer::kStalled;
  exchange->held = request.size;
  exchange->bytes_in = request.size;
  exchange->close_client = request.close || phase_ != Phase::kServing;
  exchange->request_body.Reset(request.body, request.content_length, true,
                               !request.has_connection_options);
  exchange->continue_owed = request.expect_continue;
  if (client->peer_closed) {
    exchange->half_closed = true;
    Arm(client, ClientTimer::kHalfClosed, options_.half_close_timeout_ms);
  }
  const absl::string_view path(bytes + request.path, request.path_size);
  if (context_.log != nullptr) {
    exchange->path.Set(path.substr(0, path.find('?')));
    if (request.host >= 0)
      exchange->host.Set(request.section.fields[request.host].Value(bytes));
  }
  if (client->trusted) {
    const Field* const id = Find(request.section, FieldId::kRequestId);
    if (id != nullptr && IsPlainId(id->Value(bytes)))
      exchange->request_id.Set(id->Value(bytes));
  }
  FollowTrace(exchange);

  if (request.method == Method::kConnect) {
    return Answer(exchange, 501, "connect_not_supported", "edge.refused", true);
  }
  if (request.method == Method::kTrace) {
    return Answer(exchange, 405, "trace_not_allowed", "edge.refused", false);
  }
  if (request.method == Method::kOptions) {
    const Field* const hops = Find(request.section, FieldId::kMaxForwards);
    if (hops != nullptr) {
      uint64_t left = 0;
      const absl::string_view value = hops->Value(bytes);
      const auto [end, error] =
          std::from_chars(value.data(), value.data() + value.size(), left);
      if (error != std::errc() || end != value.data() + value.size()) {
        return Answer(exchange, 400, NameOf(HttpError::kBadMaxForwards),
                      "edge.bad_request", true);
      }
      if (left == 0)
        return SendLocal(
            exchange, 200, "",
            "Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n", "",
            false);
    }
  }
  if (request.form == TargetForm::kAsterisk) {
    return SendLocal(exchange, 200, "",
                     "Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n",
                     "", false);
  }

  const Target target = RouteTarget(path);
  switch (target.kind) {
    case TargetKind::kMesh:
      return ServePage(exchange, target.rest);
    case TargetKind::kRefused:
      return Answer(exchange, 400, "ambiguous_path", "edge.bad_request", true);
    case TargetKind::kUnknown:
      return Answer(exchange, 404, "unknown_app", "edge.unknown_app", false);
    case TargetKind::kApp:
    case TargetKind::kRedirect:
      break;
  }
  const auto found = apps_.find(target.app);
  if (found == apps_.end()) {
    return Answer(exchange, 404, "unknown_app", "edge.unknown_app", false);
  }
  exchange->app = found->second.get();
  ++exchange->app->active;
  exchange->app->counters->active.Set(exchange->app->active);
  if (target.kind == TargetKind::kRedirect)
    return Redirect(exchange, target.app, target.rest);
  const int64_t app_max_body =
      exchange->app->route->traffic.max_request_body_bytes;
  if (app_max_body > 0 &&
      (exchange->max_body == 0 || app_max_body < exchange->max_body)) {
    exchange->max_body = app_max_body;
  }
  if (!Admit(exchange)) return;
  if (exchange->max_body > 0 &&
      request.content_length > static_cast<uint64_t>(exchange->max_body)) {
    return Answer(exchange, 413, "body_too_large", "edge.body_too_large", true);
  }
  if (IsLoop(*exchange))
    return Answer(exchange, 508, "loop", "edge.loop", true);

  exchange->upgrade_asked = MayForwardUpgrade(request, bytes);
  exchange->line = PatchRequestLine(request, bytes, target.rest);
  Dispatch(exchange);
}

bool Worker::IsLoop(const Exchange& exchange) {
  // An app may call another one through the edge and pass Via on; a loop does
  // so for ever.
  constexpr int kMaxPasses = 8;
  const char* const bytes = exchange.client->in.data();
  int passes = 0;
  for (int i = 0; i < exchange.request.section.count; ++i) {
    const Field& field = exchange.request.section.fields[i];
    if (field.id != FieldId::kVia) continue;
    ForEachElement(field.Value(bytes), [&](absl::string_view element) {
      const size_t space = element.find(' ');
      if (space != absl::string_view::npos &&
          element.substr(space + 1) == options_.via)
        ++passes;
    });
  }
  return passes >= kMaxPasses;
}

void Worker::ServePage(Exchange* exchange, absl::string_view path) {
  exchange->is_page = true;
  if (exchange->request.method != Method::kGet &&
      exchange->request.method != Method::kHead) {
    return Answer(exchange, 405, "method_not_allowed", "edge.refused", false);
  }
  const Field* const accept = Find(exchange->request.section, FieldId::kAccept);
  const Page page = context_.pages(
      {path, accept == nullptr ? absl::string_view()
                               : accept->Value(exchange->client->in.data())});
  if (page.status == 404)
    return Answer(exchange, 404, "unknown_page", "edge.unknown_page", false);
  exchange->end = "edge.page";
  SendLocal(exchange, page.status, page.content_type,
            "Cache-Control: no-store\r\n", page.body, false);
}

void Worker::Redirect(Exchange* exchange, absl::string_view app,
                      absl::string_view query) {
  exchange->end = "edge.redirect";
  const std::string location =
      absl::StrCat("Location: /", app, "/", query, "\r\n");
  SendLocal(exchange, 308, "", location, "", false);
}

void Worker::Answer(Exchange* exchange, int status, absl::string_view reason,
                    absl::string_view end, bool close) {
  if (exchange->owes_client()) {
    // An interim response that the client does not read: its bytes are the
    // origin's connection's, which ends here, and nothing can follow them.
    return OnClientGone(exchange, end);
  }
  exchange->end = end;
  const int index =
      ReasonIndex(end == "edge.bad_request" ? "bad_request" : reason);
  if (!exchange->is_page) {
    counters_.requests.by_reason[index].Add(1);
    if (exchange->app != nullptr) {
      exchange->app->counters->requests.by_reason[index].Add(1);
    } else {
      counters_.unrouted_by_reason[index].Add(1);
    }
  }
  bool json = false;
  if (exchange->held > 0) {
    const Field* const accept =
        Find(exchange->request.section, FieldId::kAccept);
    json = accept != nullptr &&
           accept->Value(exchange->client->in.data()).find("json") !=
               absl::string_view::npos;
  }
  const absl::string_view app =
      exchange->app != nullptr ? absl::string_view(exchange->app->name) : "";
  std::string body;
  if (json) {
    body =
        absl::StrCat("{\"status\":", status, ",\"reason\":\"", reason, "\"",
                     app.empty() ? "" : absl::StrCat(",\"app\":\"", app, "\""),
                     ",\"requestId\":\"", exchange->request_id.view(), "\"}\n");
  } else {
    body = absl::StrCat(status, " ", ReasonPhrase(status), "\nreason: ", reason,
                        app.empty() ? "" : absl::StrCat("\napp: ", app),
                        "\nrequest id: ", exchange->request_id.view(), "\n");
  }
  std::string fields = absl::StrCat("X-Mycelium-Reason: ", reason, "\r\n");
  if (status == 503 || exchange->retry_after_s > 0) {
    absl::StrAppend(
        &fields, "Retry-After: ",
        std::max<int64_t>(exchange->retry_after_s, options_.retry_after_s),
        "\r\n");
  }
  if (status == 405)
    absl::StrAppend(&fields,
                    "Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n");
  SendLocal(exchange, status,
            json ? "application/json" : "text/plain; charset=utf-8", fields,
            body, close);
}

void Worker::SendLocal(Exchange* exchange, int status,
                       absl::string_view content_type,
                       absl::string_view extra_fields, absl::string_view body,
                       bool close) {
  ClientConnection* const client = exchange->client;
  StopWaiting(exchange);
  if (exchange->upstream != nullptr) ReleaseUpstream(exchange, false);
  if (exchange->piece_queued) {
    exchange->piece_queued = false;
    client->in.Erase(exchange->held, exchange->piece_consumed);
  }
  // What is left of the request's body is not worth waiting for, unless it is
  // here already.
  if (!exchange->request_body.done() && !exchange->continue_owed) {
    const BodyReader::Result rest = exchange->request_body.Read(
        client->in.data() + exchange->held, client->in.size() - exchange->held);
    client->in.Erase(exchange->held, rest.consumed);
    exchange->bytes_in += static_cast<int64_t>(rest.consumed);
    if (rest.step == BodyReader::Step::kError) close = true;
  }
  exchange->close_client = exchange->close_client || close ||
                           phase_ != Phase::kServing ||
                           !exchange->request_body.done();
  exchange->to_origin.Clear();
  exchange->status = status;
  exchange->response_started = exchange->response_done = true;
  exchange->response_consume = 0;
  exchange->local_body = absl::StrCat(
      "HTTP/1.1 ", status, " ", ReasonPhrase(status),
      "\r\nDate: ", absl::string_view(date_.data(), date_.size()),
      "\r\nVia: 1.1 ", options_.via,
      "\r\nX-Request-Id: ", exchange->request_id.view(), "\r\n", extra_fields);
  if (!content_type.empty())
    absl::StrAppend(&exchange->local_body, "Content-Type: ", content_type,
                    "\r\n");
  absl::StrAppend(
      &exchange->local_body, "Content-Length: ", body.size(), "\r\n",
      exchange->close_client ? "Connection: close\r\n\r\n" : "\r\n");
  if (exchange->request.method != Method::kHead)
    exchange->local_body.append(body.data(), body.size());
  exchange->to_client.Add(exchange->local_body);
  PumpLocal(exchange);
}

void Worker::PumpLocal(Exchange* exchange) {
  switch (Flush(exchange->client, &exchange->to_client, &exchange->bytes_out)) {
    case Io::kOk:
      FinishExchange(exchange);
      return;
    case Io::kBlocked:
      Arm(exchange->client, ClientTimer::kStalled,
          options_.stream_idle_timeout_ms);
      return;
    default:
      OnClientGone(exchange, "client.reset");
      return;
  }
}

void Worker::PumpRequest(Exchange* exchange) {
  ClientConnection* const client = exchange->client;
  UpstreamConnection* const upstream = exchange->upstream;
  if (upstream == nullptr || upstream->connecting || exchange->upload_failed)
    return;
  for (int i = 0; i < kPiecesPerTurn; ++i) {
    if (exchange->max_body > 0 &&
        exchange->body_received > exchange->max_body) {
      if (exchange->response_started) {
        // It is too late to say so in any other way.
        exchange->cut_short = true;
        return OnClientGone(exchange, "edge.body_too_large");
      }
      return Answer(exchange, 413, "body_too_large", "edge.body_too_large",
                    true);
    }
    if (!exchange->to_origin.empty()) {
      int64_t written = 0;
      const Io io = Flush(upstream, &exchange->to_origin, &written);
      if (written > 0) exchange->request_wrote = true;
      if (io == Io::kBlocked) {
        if (!exchange->response_started) {
          Arm(upstream, UpstreamTimer::kStalled, options_.body_idle_timeout_ms);
        }
        return;
      }
      if (io != Io::kOk) return OnUploadFailed(exchange);
      OnRequestFlushed(exchange);
    }
    if (exchange->request_body.done()) return OnRequestSent(exchange);
    switch (QueueRequestPiece(exchange)) {
      case BodyReader::Step::kPiece:
        continue;
      case BodyReader::Step::kError:
        if (exchange->response_started)
          return OnClientGone(exchange, "edge.bad_request");
        return Answer(exchange, 400, NameOf(exchange->request_body.error()),
                      "edge.bad_request", true);
      case BodyReader::Step::kNeedMore:
        break;
    }
    if (exchange->max_body > 0 && exchange->body_received > exchange->max_body)
      continue;
    switch (ReadMore(client)) {
      case Io::kOk:
        exchange->continue_owed = false;
        continue;
      case Io::kBlocked:
      case Io::kFull:
        return WaitForRequestBody(exchange);
      case Io::kEnd:
        return OnClientGone(exchange, "client.disconnected");
      case Io::kError:
        return OnClientGone(exchange, "client.reset");
    }
  }
  Resume(client);
}

BodyReader::Step Worker::QueueRequestPiece(Exchange* exchange) {
  Buffer& in = exchange->client->in;
  const size_t available = in.size() - exchange->held;
  if (available == 0) return BodyReader::Step::kNeedMore;
  const BodyReader::Result result =
      exchange->request_body.Read(in.data() + exchange->held, available);
  exchange->bytes_in += static_cast<int64_t>(result.consumed);
  exchange->body_received += static_cast<int64_t>(result.body_size);
  if (result.step == BodyReader::Step::kNeedMore) {
    if (result.consumed > 0) in.Erase(exchange->held, result.consumed);
    return result.step;
  }
  if (result.step == BodyReader::Step::kError) return result.step;
  if (exchange->max_body > 0 && exchange->body_received > exchange->max_body) {
    return BodyReader::Step::kNeedMore;
  }
  exchange->piece_size = result.out_size;
  exchange->piece_consumed = result.consumed;
  exchange->piece_last = result.last;
  exchange->piece_queued = true;
  QueueRequestBody(exchange);
  return result.step;
}

void Worker::QueueRequestBody(Exchange* exchange) {
  QueuePiece(exchange->request_body.kind(),
             exchange->client->in.data() + exchange->held, exchange->piece_size,
             exchange->piece_last, exchange->request_body,
             &exchange->request_chunk_line, &exchange->to_origin);
}

void Worker::OnRequestFlushed(Exchange* exchange) {
  Buffer& in = exchange->client->in;
  if (!exchange->piece_queued) return;
  exchange->piece_queued = false;
  // With a part of the body gone, the head is of no use for another attempt.
  in.Consume(exchange->held + exchange->piece_consumed);
  exchange->held = 0;
  exchange->replayable = false;
}

void Worker::OnUploadFailed(Exchange* exchange) {
  exchange->to_origin.Clear();
  if (!exchange->request_wrote) {
    return FailAttempt(exchange,
                       {502, "upstream_closed", "origin.closed", false, true});
  }
  // It may have answered before it stopped reading.
  exchange->upload_failed = true;
  OnRequestFlushed(exchange);
  exchange->upstream->readable = true;
  if (!exchange->response_started) {
    Arm(exchange->upstream, UpstreamTimer::kResponseHead,
        options_.response_header_timeout_ms);
  }
  PumpResponse(exchange);
}

void Worker::WaitForRequestBody(Exchange* exchange) {
  exchange->client->in.Settle(&blocks_);
  if (exchange->half_closed) return;
  if (exchange->continue_owed) {
    if (exchange->client->timer_for != ClientTimer::kExpect) {
      Arm(exchange->client, ClientTimer::kExpect, options_.expect_timeout_ms);
    }
    return;
  }
  TimerWheel::Disarm(&exchange->upstream->timer);
  if (!exchange->owes_client())
    Arm(exchange->client, ClientTimer::kBody, options_.body_idle_timeout_ms);
}

void Worker::OnRequestSent(Exchange* exchange) {
  if (exchange->request_sent) return;
  exchange->request_sent = true;
  if (exchange->client->timer_for == ClientTimer::kBody ||
      exchange->client->timer_for == ClientTimer::kExpect) {
    TimerWheel::Disarm(&exchange->client->timer);
    exchange->client->timer_for = ClientTimer::kStalled;
  }
  exchange->client->in.Settle(&blocks_);
  if (!exchange->response_started) {
    Arm(exchange->upstream, UpstreamTimer::kResponseHead,
        options_.response_header_timeout_ms);
  }
}

void Worker::OnClientGone(Exchange* exchange, absl::string_view end) {
  ClientConnection* const client = exchange->client;
  exchange->end = end;
  if (exchange->status == 0) exchange->status = 499;
  ReleaseUpstream(exchange, false);
  if (client->tls != nullptr) client->tls->set_cut_short();
  RecordExchange(exchange);
  EndExchange(exchange);
  CloseClient(client, exchange->cut_short);
}

void Worker::RecordExchange(Exchange* exchange) {
  // Those who look must not change what is seen.
  if (exchange->is_page) {
    counters_.page_requests.Add(1);
    return;
  }
  counters_.requests.Add(exchange->status, exchange->bytes_in,
                         exchange->bytes_out);
  const int64_t duration_us = now_us_ - exchange->start_us;
  const auto method = static_cast<size_t>(exchange->request.method);
  if (exchange->app == nullptr) {
    counters_.unrouted.Add(method, exchange->status);
  } else {
    EndedRequest ended;
    ended.method = method;
    ended.status = exchange->status;
    // How long a tunnel stays open is no latency.
    ended.micros = exchange->switched_us < 0
                       ? duration_us
                       : exchange->switched_us - exchange->start_us;
    ended.bytes_in = exchange->bytes_in;
    ended.bytes_out = exchange->bytes_out;
    ended.request_body_bytes = exchange->body_received;
    ended.response_body_bytes = exchange->response_body_bytes;
    CountRequest(ended, exchange->app->counters);
    counters_.latency.Add(ended.micros);
    if (exchange->trace_sampled) {
      TraceExemplar::Value exemplar;
      exemplar.trace_id = {ParseHex(exchange->trace_id.data()),
                           ParseHex(exchange->trace_id.data() + 16)};
      exemplar.micros = ended.micros;
      exemplar.time_us = now_us_ + wall_offset_us_;
      exemplar.status_class = static_cast<int64_t>(StatusClass(ended.status));
      SetExemplar(exemplar, exchange->app->counters);
    }
    if (exchange->endpoint != nullptr) {
      EndpointCounters& endpoint =
          exchange->endpoint->stats->row(context_.index);
      endpoint.bytes_in.Add(exchange->bytes_in);
      endpoint.bytes_out.Add(exchange->bytes_out);
    }
  }
  if (context_.log != nullptr) LogExchange(*exchange, duration_us);
}

void Worker::LogExchange(const Exchange& exchange, int64_t duration_us) {
  const bool failed =
      exchange.status >= 500 || (exchange.end != "origin.complete" &&
                                 exchange.end.substr(0, 7) == "origin.");
  if (!log_sampler_.Take(failed, now_ms_)) {
    ++log_skipped_;
    counters_.log_skips.Add(1);
    return;
  }
  record_.start_us = exchange.start_us + wall_offset_us_;
  record_.duration_us = duration_us;
  record_.first_byte_us = exchange.first_byte_us < 0
                              ? -1
                              : exchange.first_byte_us - exchange.start_us;
  record_.bytes_in = exchange.bytes_in;
  record_.bytes_out = exchange.bytes_out;
  record_.status = static_cast<int16_t>(exchange.status);
  record_.attempts = static_cast<int16_t>(exchange.attempts);
  record_.skipped = log_skipped_;
  record_.dropped = log_dropped_;
  record_.end = exchange.end;
  record_.method = exchange.request.method_size > 0
                       ? kMethods[static_cast<size_t>(exchange.request.method)]
                       : "";
  record_.traced = exchange.keep_traceparent || exchange.new_trace;
  if (record_.traced) record_.trace_id = exchange.trace_id;
  record_.client = exchange.client->ip;
  record_.app.Set(
      exchange.app != nullptr ? absl::string_view(exchange.app->name) : "");
  record_.instance = exchange.instance;
  record_.request_id = exchange.request_id;
  record_.host = exchange.host;
  record_.path = exchange.path;
  const TlsStream* const tls = exchange.client->tls;
  record_.tls = tls == nullptr ? "" : tls->version();
  if (tls != nullptr) record_.server_name.Set(tls->server_name());
  if (context_.log->Push(record_)) {
    log_skipped_ = log_dropped_ = 0;
  } else {
    ++log_dropped_;
    counters_.log_drops.Add(1);
  }
}

void Worker::EndExchange(Exchange* exchange) {
  StopWaiting(exchange);
  GiveAppSlot(exchange);
  if (exchange->retrying) {
    exchange->retrying = false;
    --exchange->app->retrying;
  }
  if (exchange->app != nullptr) {
    --exchange->app->active;
    exchange->app->counters->active.Set(exchange->app->active);
    exchange->app = nullptr;
  }
  if (exchange->local_body.capacity() > 4096) {
    std::string().swap(exchange->local_body);
  } else {
    exchange->local_body.clear();
  }
  exchange->client->exchange = nullptr;
  exchange->to_client.Clear();
  exchange->to_origin.Clear();
  if (exchange->pipe != nullptr) pipes_.Give(std::move(exchange->pipe));
  exchange->endpoint.reset();
  exchange_slab_.Give(exchange);
}

void Worker::FinishExchange(Exchange* exchange) {
  ClientConnection* const client = exchange->client;
  const bool in_sync =
      exchange->understood && exchange->request_body.done() &&
      (exchange->upstream == nullptr || exchange->request_sent);
  if (exchange->upstream != nullptr) {
    ReleaseUpstream(exchange, exchange->request_sent &&
                                  !exchange->response.close &&
                                  !exchange->interim_close);
  }
  RecordExchange(exchange);
  const bool close = exchange->close_client || !in_sync;
  const bool cut_short = exchange->cut_short;
  if (in_sync) client->in.Consume(exchange->held);
  EndExchange(exchange);
  if (close) {
    if (cut_short) return CloseClient(client, true);
    return Linger(client, in_sync);
  }
  client->state = ClientState::kIdle;
  if (!client->in.empty()) {
    // The next request of a pipeline; others first.
    Resume(client);
    return;
  }
  client->in.Settle(&blocks_);
  // While draining: the client was not told that this was the last response, so
  // its next request may be on its way.
  Arm(client, ClientTimer::kIdle,
      ending() ? std::min(options_.idle_timeout_ms, kLastRequestMs)
               : options_.idle_timeout_ms);
  if (client->readable) Resume(client);
}

void Worker::Linger(ClientConnection* client, bool in_sync) {
  // Closing with bytes unread would reset the connection, and the reset could
  // overtake the response (RFC 9112, 9.6).
  const bool nothing_unread =
      in_sync && client->in.empty() && !client->readable;
  if (nothing_unread && client->tls == nullptr)
    return CloseClient(client, false);
  EndSending(client);
  if (client->tls != nullptr) {
    // The response may have filled the socket, and its end has to get out too.
    if (nothing_unread && !client->tls->has_output())
      return CloseClient(client, false);
    client->tls->Discard();
  }
  client->state = ClientState::kLinger;
  client->linger_left = options_.max_linger_bytes;
  client->in.Consume(client->in.size());
  client->readable = true;
  Arm(client, ClientTimer::kLinger, options_.linger_timeout_ms);
  PumpLinger(client);
}

void Worker::PumpLinger(ClientConnection* client) {
  if (client->broken) return CloseClient(client, false);
  for (int i = 0; i < kPiecesPerTurn; ++i) {
    switch (ReadMore(client)) {
      case Io::kOk:
        client->linger_left -= static_cast<int64_t>(client->in.size());
        client->in.Consume(client->in.size());
        if (client->linger_left <= 0) return CloseClient(client, false);
        continue;
      case Io::kBlocked:
      case Io::kFull:
        client->in.Settle(&blocks_);
        return;
      case Io::kEnd:
      case Io::kError:
        return CloseClient(client, false);
    }
  }
  Resume(client);
}

void Worker::CloseClient(ClientConnection* client, bool reset) {
  if (reset) {
    const linger now{1, 0};
    setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  }
  if (client->tls != nullptr) CloseTls(client, reset);
  close(client->fd);
  client->fd = -1;
  client->open = false;
  client->in.Release(&blocks_);
  timers_.Remove(&client->timer);
  clients_.Remove(client);
  counters_.client_connections.Set(clients_.size());
  dead_clients_.push_back(client);
  accept_again_ms_ = 0;  // There is a descriptor again.
}

}  // namespace mycelium::edge
