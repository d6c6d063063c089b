// The client's side of an exchange: reading requests, passing their bodies on,
// and answers of the edge's own.

#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "services/edge/target.h"
#include "services/edge/worker.h"

namespace mycelium::edge {
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

uint64_t Mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ULL;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

void AppendHex(uint64_t value, char* out) {
  for (int i = 15; i >= 0; --i) {
    out[i] = "0123456789abcdef"[value & 15];
    value >>= 4;
  }
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

  switch (client->state) {
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
  if (!exchange->to_client.empty()) {
    if (exchange->upstream != nullptr || !exchange->response_done) {
      PumpResponse(exchange);
    } else {
      PumpLocal(exchange);
    }
    if (!client->open || client->exchange != exchange) return;
  }
  if (client->readable && !exchange->request_body.done()) {
    PumpRequest(exchange);
    if (!client->open || client->exchange != exchange) return;
  }
  if (client->peer_closed && exchange->request_body.done() &&
      !exchange->half_closed) {
    // The client may only have finished sending; or it may be gone.
    exchange->half_closed = true;
    exchange->bytes_out_seen = exchange->bytes_out;
    Arm(client, ClientTimer::kHalfClosed, options_.half_close_timeout_ms);
  }
}

void Worker::OnClientTimer(ClientConnection* client) {
  Exchange* const exchange = client->exchange;
  switch (client->timer_for) {
    case ClientTimer::kIdle:
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
      if (client->state == ClientState::kActive &&
          !exchange->to_client.empty()) {
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

Exchange* Worker::BeginExchange(ClientConnection* client) {
  Exchange* const x = exchange_slab_.Take();
  x->client = client;
  x->upstream = nullptr;
  x->app = nullptr;
  x->request.Reset();
  x->request_body.Reset(BodyKind::kNone, 0);
  x->to_origin.Clear();
  x->held = x->line = 0;
  x->piece_size = x->piece_consumed = 0;
  x->piece_queued = x->piece_last = false;
  x->request_sent = x->request_wrote = false;
  x->replayable = true;
  x->upload_failed = x->continue_owed = x->upgrade_asked = x->half_closed =
      false;
  x->body_received = 0;
  x->response.Reset();
  x->response_body.Reset(BodyKind::kNone, 0);
  x->to_client.Clear();
  x->out_body = BodyKind::kNone;
  x->response_consume = 0;
  x->interim_responses = 0;
  x->first_byte = x->response_started = x->response_done = x->switching = false;
  x->close_client = x->cut_short = false;
  x->tried_count = x->attempts = x->retries = 0;
  x->retrying = x->stale_retried = false;
  x->status = 0;
  x->start_us = now_us_;
  x->first_byte_us = -1;
  x->bytes_in = x->bytes_out = x->bytes_out_seen = 0;
  x->end = "origin.complete";
  x->understood = true;
  x->instance.Clear();
  x->host.Clear();
  x->path.Clear();
  client->exchange = x;
  client->state = ClientState::kHead;
  ++client->requests;
  MakeRequestId(x);
  return x;
}

void Worker::MakeRequestId(Exchange* x) {
  ++id_counter_;
  AppendHex(Mix(id_seed_[0] + id_counter_ * 0x9e3779b97f4a7c15ULL),
            x->id_bytes.data());
  AppendHex(Mix(id_seed_[1] ^ (id_counter_ * 0xd1b54a32d192ed03ULL)),
            x->id_bytes.data() + 16);
  x->request_id.Set({x->id_bytes.data(), x->id_bytes.size()});
}

void Worker::ReadHead(ClientConnection* client) {
  for (;;) {
    if (!client->in.empty()) {
      Exchange* const x = client->exchange != nullptr ? client->exchange
                                                      : BeginExchange(client);
      switch (x->request.Parse(client->in.view(), options_.max_head_bytes)) {
        case ParseStatus::kDone:
          StartRequest(x);
          return;
        case ParseStatus::kError:
          RefuseHead(x);
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

void Worker::RefuseHead(Exchange* x) {
  ClientConnection* const client = x->client;
  client->state = ClientState::kActive;
  x->bytes_in = static_cast<int64_t>(client->in.size());
  // Whatever follows would not be understood either.
  x->understood = false;
  client->in.Consume(client->in.size());
  Answer(x, StatusOf(x->request.error), NameOf(x->request.error),
         "edge.bad_request", true);
}

void Worker::StartRequest(Exchange* x) {
  ClientConnection* const client = x->client;
  RequestHead& request = x->request;
  char* const bytes = client->in.data();
  client->state = ClientState::kActive;
  TimerWheel::Disarm(&client->timer);
  client->timer_for = ClientTimer::kStalled;
  x->held = request.size;
  x->bytes_in = request.size;
  x->close_client = request.close || draining_;
  x->request_body.Reset(request.body, request.content_length);
  x->continue_owed = request.expect_continue;
  if (client->peer_closed) {
    x->half_closed = true;
    Arm(client, ClientTimer::kHalfClosed, options_.half_close_timeout_ms);
  }
  const absl::string_view path(bytes + request.path, request.path_size);
  if (context_.log != nullptr) {
    x->path.Set(path.substr(0, path.find('?')));
    if (request.host >= 0)
      x->host.Set(request.section.fields[request.host].Value(bytes));
  }
  if (client->trusted) {
    const Field* const id = Find(request.section, FieldId::kRequestId);
    if (id != nullptr && IsPlainId(id->Value(bytes)))
      x->request_id.Set(id->Value(bytes));
  }

  if (request.method == Method::kConnect) {
    return Answer(x, 501, "connect_not_supported", "edge.refused", true);
  }
  if (request.method == Method::kTrace) {
    return Answer(x, 405, "trace_not_allowed", "edge.refused", false);
  }
  if (request.method == Method::kOptions) {
    const Field* const hops = Find(request.section, FieldId::kMaxForwards);
    if (hops != nullptr) {
      uint64_t left = 0;
      const absl::string_view value = hops->Value(bytes);
      const auto [end, error] =
          std::from_chars(value.data(), value.data() + value.size(), left);
      if (error != std::errc() || end != value.data() + value.size()) {
        return Answer(x, 400, NameOf(HttpError::kBadMaxForwards),
                      "edge.bad_request", true);
      }
      if (left == 0)
        return SendLocal(
            x, 200, "",
            "Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n", "",
            false);
    }
  }
  if (request.form == TargetForm::kAsterisk) {
    return SendLocal(x, 200, "",
                     "Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n",
                     "", false);
  }

  const Target target = RouteTarget(path);
  switch (target.kind) {
    case TargetKind::kMesh:
      return ServePage(x, target.rest);
    case TargetKind::kRefused:
      return Answer(x, 400, "ambiguous_path", "edge.bad_request", true);
    case TargetKind::kUnknown:
      return Answer(x, 404, "unknown_app", "edge.unknown_app", false);
    case TargetKind::kApp:
    case TargetKind::kRedirect:
      break;
  }
  const auto found = apps_.find(target.app);
  if (found == apps_.end()) {
    return Answer(x, 404, "unknown_app", "edge.unknown_app", false);
  }
  x->app = found->second.get();
  ++x->app->active;
  x->app->counters->active.Set(x->app->active);
  if (target.kind == TargetKind::kRedirect)
    return Redirect(x, target.app, target.rest);
  if (options_.max_body_bytes > 0 &&
      request.content_length > static_cast<uint64_t>(options_.max_body_bytes)) {
    return Answer(x, 413, "body_too_large", "edge.body_too_large", true);
  }
  if (IsLoop(*x)) return Answer(x, 508, "loop", "edge.loop", true);

  x->upgrade_asked = MayForwardUpgrade(request, bytes);
  x->line = PatchRequestLine(request, bytes, target.rest);
  Dispatch(x);
}

bool Worker::IsLoop(const Exchange& x) {
  // An app may call another one through the edge and pass Via on; a loop does
  // so for ever.
  constexpr int kMaxPasses = 8;
  const char* const bytes = x.client->in.data();
  int passes = 0;
  for (int i = 0; i < x.request.section.count; ++i) {
    const Field& field = x.request.section.fields[i];
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

void Worker::ServePage(Exchange* x, absl::string_view path) {
  if (x->request.method != Method::kGet && x->request.method != Method::kHead) {
    return Answer(x, 405, "method_not_allowed", "edge.refused", false);
  }
  const Page page = context_.pages(path);
  if (page.status == 404)
    return Answer(x, 404, "unknown_page", "edge.unknown_page", false);
  x->end = "edge.page";
  SendLocal(x, page.status, page.content_type, "Cache-Control: no-store\r\n",
            page.body, false);
}

void Worker::Redirect(Exchange* x, absl::string_view app,
                      absl::string_view query) {
  x->end = "edge.redirect";
  const std::string location =
      absl::StrCat("Location: /", app, "/", query, "\r\n");
  SendLocal(x, 308, "", location, "", false);
}

void Worker::Answer(Exchange* x, int status, absl::string_view reason,
                    absl::string_view end, bool close) {
  x->end = end;
  const int index =
      ReasonIndex(end == "edge.bad_request" ? "bad_request" : reason);
  counters_.requests.by_reason[index].Add(1);
  if (x->app != nullptr) x->app->counters->requests.by_reason[index].Add(1);
  bool json = false;
  if (x->held > 0) {
    const Field* const accept = Find(x->request.section, FieldId::kAccept);
    json =
        accept != nullptr && accept->Value(x->client->in.data()).find("json") !=
                                 absl::string_view::npos;
  }
  const absl::string_view app =
      x->app != nullptr ? absl::string_view(x->app->name) : "";
  std::string body;
  if (json) {
    body =
        absl::StrCat("{\"status\":", status, ",\"reason\":\"", reason, "\"",
                     app.empty() ? "" : absl::StrCat(",\"app\":\"", app, "\""),
                     ",\"requestId\":\"", x->request_id.view(), "\"}\n");
  } else {
    body = absl::StrCat(status, " ", ReasonPhrase(status), "\nreason: ", reason,
                        app.empty() ? "" : absl::StrCat("\napp: ", app),
                        "\nrequest id: ", x->request_id.view(), "\n");
  }
  std::string fields = absl::StrCat("X-Mycelium-Reason: ", reason, "\r\n");
  if (status == 503)
    absl::StrAppend(&fields, "Retry-After: ", options_.retry_after_s, "\r\n");
  if (status == 405)
    absl::StrAppend(&fields,
                    "Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n");
  SendLocal(x, status, json ? "application/json" : "text/plain; charset=utf-8",
            fields, body, close);
}

void Worker::SendLocal(Exchange* x, int status, absl::string_view content_type,
                       absl::string_view extra_fields, absl::string_view body,
                       bool close) {
  ClientConnection* const client = x->client;
  if (x->upstream != nullptr) ReleaseUpstream(x, false);
  if (x->piece_queued) {
    x->piece_queued = false;
    client->in.Erase(x->held, x->piece_consumed);
  }
  // What is left of the request's body is not worth waiting for, unless it is
  // here already.
  if (!x->request_body.done() && !x->continue_owed) {
    const BodyReader::Result rest = x->request_body.Read(
        client->in.data() + x->held, client->in.size() - x->held);
    client->in.Erase(x->held, rest.consumed);
    x->bytes_in += static_cast<int64_t>(rest.consumed);
    if (rest.step == BodyReader::Step::kError) close = true;
  }
  x->close_client =
      x->close_client || close || draining_ || !x->request_body.done();
  x->to_origin.Clear();
  x->status = status;
  x->response_started = x->response_done = true;
  x->response_consume = 0;
  x->local_body = absl::StrCat(
      "HTTP/1.1 ", status, " ", ReasonPhrase(status),
      "\r\nDate: ", absl::string_view(date_.data(), date_.size()),
      "\r\nVia: 1.1 ", options_.via, "\r\nX-Request-Id: ", x->request_id.view(),
      "\r\n", extra_fields);
  if (!content_type.empty())
    absl::StrAppend(&x->local_body, "Content-Type: ", content_type, "\r\n");
  absl::StrAppend(&x->local_body, "Content-Length: ", body.size(), "\r\n",
                  x->close_client ? "Connection: close\r\n\r\n" : "\r\n");
  if (x->request.method != Method::kHead)
    x->local_body.append(body.data(), body.size());
  x->to_client.Add(x->local_body);
  PumpLocal(x);
}

void Worker::PumpLocal(Exchange* x) {
  switch (Flush(x->client, &x->to_client, &x->bytes_out)) {
    case Io::kOk:
      FinishExchange(x);
      return;
    case Io::kBlocked:
      Arm(x->client, ClientTimer::kStalled, options_.stream_idle_timeout_ms);
      return;
    default:
      OnClientGone(x, "client.reset");
      return;
  }
}

void Worker::PumpRequest(Exchange* x) {
  ClientConnection* const client = x->client;
  UpstreamConnection* const upstream = x->upstream;
  if (upstream == nullptr || upstream->connecting || x->upload_failed) return;
  for (int i = 0; i < kPiecesPerTurn; ++i) {
    if (options_.max_body_bytes > 0 &&
        x->body_received > options_.max_body_bytes) {
      if (x->response_started) return OnClientGone(x, "edge.body_too_large");
      return Answer(x, 413, "body_too_large", "edge.body_too_large", true);
    }
    if (!x->to_origin.empty()) {
      int64_t written = 0;
      const Io io = Flush(upstream, &x->to_origin, &written);
      if (written > 0) x->request_wrote = true;
      if (io == Io::kBlocked) {
        if (!x->response_started) {
          Arm(upstream, UpstreamTimer::kStalled, options_.body_idle_timeout_ms);
        }
        return;
      }
      if (io != Io::kOk) return OnUploadFailed(x);
      OnRequestFlushed(x);
    }
    if (x->request_body.done()) return OnRequestSent(x);
    switch (QueueRequestPiece(x)) {
      case BodyReader::Step::kPiece:
        continue;
      case BodyReader::Step::kError:
        if (x->response_started) return OnClientGone(x, "edge.bad_request");
        return Answer(x, 400, NameOf(x->request_body.error()),
                      "edge.bad_request", true);
      case BodyReader::Step::kNeedMore:
        break;
    }
    if (options_.max_body_bytes > 0 &&
        x->body_received > options_.max_body_bytes)
      continue;
    switch (ReadMore(client)) {
      case Io::kOk:
        x->continue_owed = false;
        continue;
      case Io::kBlocked:
      case Io::kFull:
        return WaitForRequestBody(x);
      case Io::kEnd:
        return OnClientGone(x, "client.disconnected");
      case Io::kError:
        return OnClientGone(x, "client.reset");
    }
  }
  Resume(client);
}

BodyReader::Step Worker::QueueRequestPiece(Exchange* x) {
  Buffer& in = x->client->in;
  const size_t available = in.size() - x->held;
  if (available == 0) return BodyReader::Step::kNeedMore;
  const BodyReader::Result result =
      x->request_body.Read(in.data() + x->held, available);
  x->bytes_in += static_cast<int64_t>(result.consumed);
  x->body_received += static_cast<int64_t>(result.body_size);
  if (result.step == BodyReader::Step::kNeedMore) {
    if (result.consumed > 0) in.Erase(x->held, result.consumed);
    return result.step;
  }
  if (result.step == BodyReader::Step::kError) return result.step;
  if (options_.max_body_bytes > 0 &&
      x->body_received > options_.max_body_bytes) {
    return BodyReader::Step::kNeedMore;
  }
  x->piece_size = result.out_size;
  x->piece_consumed = result.consumed;
  x->piece_last = result.last;
  x->piece_queued = true;
  QueueRequestBody(x);
  return result.step;
}

void Worker::QueueRequestBody(Exchange* x) {
  QueuePiece(x->request_body.kind(), x->client->in.data() + x->held,
             x->piece_size, x->piece_last, x->request_body,
             &x->request_chunk_line, &x->to_origin);
}

void Worker::OnRequestFlushed(Exchange* x) {
  Buffer& in = x->client->in;
  if (!x->piece_queued) return;
  x->piece_queued = false;
  // With a part of the body gone, the head is of no use for another attempt.
  in.Consume(x->held + x->piece_consumed);
  x->held = 0;
  x->replayable = false;
}

void Worker::OnUploadFailed(Exchange* x) {
  x->to_origin.Clear();
  if (!x->request_wrote) {
    return FailAttempt(x,
                       {502, "upstream_closed", "origin.closed", false, true});
  }
  // It may have answered before it stopped reading.
  x->upload_failed = true;
  OnRequestFlushed(x);
  x->upstream->readable = true;
  if (!x->response_started) {
    Arm(x->upstream, UpstreamTimer::kResponseHead,
        options_.response_header_timeout_ms);
  }
  PumpResponse(x);
}

void Worker::WaitForRequestBody(Exchange* x) {
  x->client->in.Settle(&blocks_);
  if (x->half_closed) return;
  if (x->continue_owed) {
    if (x->client->timer_for != ClientTimer::kExpect) {
      Arm(x->client, ClientTimer::kExpect, options_.expect_timeout_ms);
    }
    return;
  }
  TimerWheel::Disarm(&x->upstream->timer);
  if (x->to_client.empty())
    Arm(x->client, ClientTimer::kBody, options_.body_idle_timeout_ms);
}

void Worker::OnRequestSent(Exchange* x) {
  if (x->request_sent) return;
  x->request_sent = true;
  if (x->client->timer_for == ClientTimer::kBody ||
      x->client->timer_for == ClientTimer::kExpect) {
    TimerWheel::Disarm(&x->client->timer);
    x->client->timer_for = ClientTimer::kStalled;
  }
  x->client->in.Settle(&blocks_);
  if (!x->response_started) {
    Arm(x->upstream, UpstreamTimer::kResponseHead,
        options_.response_header_timeout_ms);
  }
}

void Worker::OnClientGone(Exchange* x, absl::string_view end) {
  ClientConnection* const client = x->client;
  x->end = end;
  if (x->status == 0) x->status = 499;
  ReleaseUpstream(x, false);
  RecordExchange(x);
  EndExchange(x);
  CloseClient(client, x->cut_short);
}

void Worker::RecordExchange(Exchange* x) {
  counters_.requests.Add(x->status, x->bytes_in, x->bytes_out);
  const int64_t duration_us = now_us_ - x->start_us;
  if (x->app != nullptr) {
    x->app->counters->requests.Add(x->status, x->bytes_in, x->bytes_out);
    CountDuration(x->app->counters, duration_us);
  }
  if (context_.log == nullptr) return;
  record_.start_us = x->start_us + wall_offset_us_;
  record_.duration_us = duration_us;
  record_.first_byte_us =
      x->first_byte_us < 0 ? -1 : x->first_byte_us - x->start_us;
  record_.bytes_in = x->bytes_in;
  record_.bytes_out = x->bytes_out;
  record_.status = static_cast<int16_t>(x->status);
  record_.attempts = static_cast<int16_t>(x->attempts);
  record_.end = x->end;
  switch (x->request.method) {
    case Method::kGet:
      record_.method.Set("GET");
      break;
    case Method::kHead:
      record_.method.Set("HEAD");
      break;
    case Method::kPost:
      record_.method.Set("POST");
      break;
    case Method::kPut:
      record_.method.Set("PUT");
      break;
    case Method::kDelete:
      record_.method.Set("DELETE");
      break;
    case Method::kOptions:
      record_.method.Set("OPTIONS");
      break;
    case Method::kTrace:
      record_.method.Set("TRACE");
      break;
    case Method::kConnect:
      record_.method.Set("CONNECT");
      break;
    case Method::kPatch:
      record_.method.Set("PATCH");
      break;
    case Method::kOther:
      record_.method.Set(x->request.method_size > 0 ? "OTHER" : "");
      break;
  }
  record_.client = x->client->ip;
  record_.app.Set(x->app != nullptr ? absl::string_view(x->app->name) : "");
  record_.instance = x->instance;
  record_.request_id = x->request_id;
  record_.host = x->host;
  record_.path = x->path;
  if (!context_.log->Push(record_)) counters_.log_drops.Add(1);
}

void Worker::EndExchange(Exchange* x) {
  if (x->retrying) {
    x->retrying = false;
    --x->app->retrying;
  }
  if (x->app != nullptr) {
    --x->app->active;
    x->app->counters->active.Set(x->app->active);
    x->app = nullptr;
  }
  if (x->local_body.capacity() > 4096) {
    std::string().swap(x->local_body);
  } else {
    x->local_body.clear();
  }
  x->client->exchange = nullptr;
  x->to_client.Clear();
  x->to_origin.Clear();
  exchange_slab_.Give(x);
}

void Worker::FinishExchange(Exchange* x) {
  ClientConnection* const client = x->client;
  const bool in_sync = x->understood && x->request_body.done() &&
                       (x->upstream == nullptr || x->request_sent);
  if (x->upstream != nullptr) {
    ReleaseUpstream(x, x->request_sent && !x->response.close);
  }
  RecordExchange(x);
  const bool close = x->close_client || draining_ || !in_sync;
  const bool cut_short = x->cut_short;
  if (in_sync) client->in.Consume(x->held);
  EndExchange(x);
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
  Arm(client, ClientTimer::kIdle, options_.idle_timeout_ms);
  if (client->readable) Resume(client);
}

void Worker::Linger(ClientConnection* client, bool in_sync) {
  // Closing with bytes unread would reset the connection, and the reset could
  // overtake the response (RFC 9112, 9.6).
  if (in_sync && client->in.empty() && !client->readable)
    return CloseClient(client, false);
  shutdown(client->fd, SHUT_WR);
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
