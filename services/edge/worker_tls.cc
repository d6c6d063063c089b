// TLS of clients: handshakes, and the bytes of connections that speak it.

#include <sys/epoll.h>
#include <sys/socket.h>

#include <utility>

#include "services/edge/worker.h"

namespace mycelium::edge {
namespace {

constexpr absl::string_view kPlainHttpAnswer =
    "HTTP/1.1 400 Bad Request\r\n"
    "X-Mycelium-Reason: plain_http\r\n"
    "Content-Type: text/plain; charset=utf-8\r\n"
    "Content-Length: 46\r\n"
    "Connection: close\r\n\r\n"
    "400 Bad Request\nThis port speaks HTTPS only.\n\n";

}  // namespace

bool Worker::OnTlsEvent(ClientConnection* client, uint32_t events) {
  TlsStream* const tls = client->tls;
  if (client->state == ClientState::kHandshake) {
    ContinueHandshake(client);
    return false;
  }
  if (!tls->started()) return true;
  if ((events & EPOLLOUT) != 0 && tls->has_output() &&
      tls->Send() == TlsStream::Status::kError) {
    client->broken = true;
  }
  if (tls->end_when_sent() && !tls->has_output()) shutdown(client->fd, SHUT_WR);
  return true;
}

void Worker::ContinueHandshake(ClientConnection* client) {
  TlsStream* const tls = client->tls;
  if (client->broken) return FailHandshake(client, TlsFailure::kClosed);
  // What could not be sent at once.
  if (tls->started() && tls->has_output()) tls->Send();
  if (!client->readable) return;
  if (!tls->started()) {
    // A client that only connects costs no more than one without TLS.
    if (tls_version_ != context_.certificates->version()) {
      tls_version_ = context_.certificates->version();
      tls_context_ = context_.certificates->Current();
    }
    if (!tls->Start(tls_context_, client->fd, &blocks_))
      return FailHandshake(client, TlsFailure::kOther);
  }
  switch (tls->Handshake(client->peer_closed)) {
    case TlsStream::Status::kOk:
      counters_.tls_handshakes.Add(1);
      if (tls->resumed()) counters_.tls_resumed.Add(1);
      client->readable = tls->more();
      client->state = ClientState::kIdle;
      Arm(client, ClientTimer::kIdle, FirstRequestMs());
      ReadHead(client);
      return;
    case TlsStream::Status::kBlocked:
      client->readable = tls->more();
      if (client->readable) Resume(client);
      return;
    case TlsStream::Status::kEnd:
    case TlsStream::Status::kTruncated:
    case TlsStream::Status::kError:
      return FailHandshake(client, tls->failure());
  }
}

void Worker::FailHandshake(ClientConnection* client, TlsFailure failure) {
  counters_.tls_failures[static_cast<size_t>(failure)].Add(1);
  TlsStream* const tls = client->tls;
  if (!tls->started() || client->broken || failure == TlsFailure::kClosed ||
      failure == TlsFailure::kTimeout) {
    return CloseClient(client, false);
  }
  // An alert has been sent; closing with bytes unread could overtake it.
  if (failure == TlsFailure::kPlainHttp) {
    tls->ReplaceOutput(kPlainHttpAnswer);
    tls->Send();
  }
  Linger(client, false);
}

Worker::Io Worker::ReadMoreTls(Connection* connection) {
  TlsStream* const tls = connection->tls;
  size_t got = 0;
  const TlsStream::Status status =
      tls->Read(connection->in.room(), connection->in.room_size(),
                connection->peer_closed, &got);
  connection->readable = tls->more();
  switch (status) {
    case TlsStream::Status::kOk:
      connection->in.Added(got);
      return Io::kOk;
    case TlsStream::Status::kBlocked:
      if (connection->readable) Resume(connection);
      return Io::kBlocked;
    case TlsStream::Status::kEnd:
      return Io::kEnd;
    case TlsStream::Status::kTruncated:
      // Requests say themselves where they end. Bytes of a tunnel do not, and
      // whoever cuts it must not pass for one of its ends.
      if (connection->exchange == nullptr ||
          connection->exchange->client->state != ClientState::kTunnel) {
        return Io::kEnd;
      }
      [[fallthrough]];
    case TlsStream::Status::kError:
      break;
  }
  connection->broken = true;
  return Io::kError;
}

Worker::Io Worker::FlushTls(Connection* connection, IovecQueue* queue,
                            int64_t* written) {
  switch (connection->tls->Write(queue, written, tls_scratch_.get())) {
    case TlsStream::Status::kOk:
      return Io::kOk;
    case TlsStream::Status::kBlocked:
      return Io::kBlocked;
    default:
      return Io::kError;
  }
}

void Worker::CloseTls(ClientConnection* client, bool reset) {
  TlsStream* const tls = client->tls;
  if (tls->started()) {
    if (!reset && !tls->cut_short()) {
      // Everything else has been sent, so this finds room; if not, the client
      // does not read anyway.
      tls->QueueEnd();
      tls->Send();
    }
    tls->Stop();
  }
  tls_slab_.Give(tls);
  client->tls = nullptr;
}

}  // namespace mycelium::edge
