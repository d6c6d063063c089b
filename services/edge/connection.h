// The state of one worker's connections. Plain data: the rules are in Worker.

#ifndef SERVICES_EDGE_CONNECTION_H_
#define SERVICES_EDGE_CONNECTION_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "lib/base/file.h"
#include "services/edge/access_log.h"
#include "services/edge/app_limiter.h"
#include "services/edge/balancer.h"
#include "services/edge/body_reader.h"
#include "services/edge/buffer.h"
#include "services/edge/head_rewriter.h"
#include "services/edge/http_parser.h"
#include "services/edge/iovec_queue.h"
#include "services/edge/pipe_pool.h"
#include "services/edge/route_table.h"
#include "services/edge/timer_wheel.h"
#include "services/edge/tls_stream.h"

namespace mycelium::edge {

struct Exchange;
struct UpstreamConnection;

// A doubly linked list through its elements; an element is in one at most.
template <typename T>
class LinkedList {
 public:
  bool empty() const { return front_ == nullptr; }
  T* front() const { return front_; }
  int size() const { return size_; }

  void PushFront(T* element) {
    element->list_previous = nullptr;
    element->list_next = front_;
    if (front_ != nullptr) front_->list_previous = element;
    front_ = element;
    if (back_ == nullptr) back_ = element;
    ++size_;
  }
  void PushBack(T* element) {
    element->list_previous = back_;
    element->list_next = nullptr;
    if (back_ != nullptr) back_->list_next = element;
    back_ = element;
    if (front_ == nullptr) front_ = element;
    ++size_;
  }
  void Remove(T* element) {
    (element->list_previous != nullptr ? element->list_previous->list_next
                                       : front_) = element->list_next;
    (element->list_next != nullptr ? element->list_next->list_previous
                                   : back_) = element->list_previous;
    element->list_previous = element->list_next = nullptr;
    --size_;
  }
  T* back() const { return back_; }

 private:
  T* front_ = nullptr;
  T* back_ = nullptr;
  int size_ = 0;
};

// What epoll's user data points to.
struct Pollable {
  enum class Kind : uint8_t { kListener, kWakeup, kClient, kUpstream };

  explicit Pollable(Kind of_kind) : kind(of_kind) {}

  Kind kind;
  int fd = -1;
};

// A socket that is accepted from.
struct Listener : Pollable {
  Listener(UniqueFd socket, uint16_t its_port, bool speaks_tls)
      : Pollable(Kind::kListener),
        owned(std::move(socket)),
        port(its_port),
        tls(speaks_tls) {
    fd = owned.get();
  }

  UniqueFd owned;
  uint16_t port;
  bool tls;
  bool ready = false;  // Connections may wait.
};

struct Connection : Pollable {
  explicit Connection(Kind of_kind) : Pollable(of_kind) { timer.owner = this; }

  bool open = false;
  // There may be bytes to read: epoll said so and no read has found the end.
  bool readable = false;
  // The peer will send no more: the end can be read after what is left.
  bool peer_closed = false;
  bool broken = false;   // Reset, or an error.
  bool resumed = false;  // In the worker's list of what to go on with.
  Exchange* exchange = nullptr;
  TlsStream* tls = nullptr;  // What the socket speaks; nullptr: plain bytes.
  // Whether the bytes of the socket are those of HTTP, so that the kernel may
  // move them on by itself.
  bool is_plain() const { return tls == nullptr; }
  Buffer in;
  Timer timer;
};

enum class ClientState : uint8_t {
  kProxy,      // Has to say first for whom it was opened; nothing is read.
  kHandshake,  // Of TLS.
  kIdle,       // Between requests; no exchange, no memory.
  kHead,       // Part of a head is there.
  kActive,     // The exchange is under way.
  kTunnel,     // Upgraded: bytes go both ways.
  kLinger,     // The last response is out; what comes in is thrown away.
};

// Why a client's timer is armed.
enum class ClientTimer : uint8_t {
  kHandshake,
  kIdle,
  kHeader,
  kExpect,
  kBody,
  kStalled,  // It does not read.
  kHalfClosed,
  kWait,  // Its request waits for an endpoint.
  kLinger,
  kTunnel,
};

struct ClientConnection : Connection {
  ClientConnection() : Connection(Kind::kClient) {}

  ClientState state = ClientState::kIdle;
  ClientTimer timer_for = ClientTimer::kIdle;
  bool trusted = false;
  uint16_t port = 0;  // That it connected to.
  ShortText<48> ip;
  uint64_t key = 0;  // By which its rate is limited.
  uint32_t requests = 0;
  int64_t linger_left = 0;
  ClientConnection* list_previous = nullptr;
  ClientConnection* list_next = nullptr;
};

// One worker's view of an instance. Lives while it is routed to or connected.
struct EndpointState : Balanced {
  std::shared_ptr<const Endpoint> endpoint;
  EndpointCounters* counters = nullptr;
  bool accepts = true;   // New requests; false while draining.
  bool removed = false;  // No longer in the snapshot.
  int connections = 0;
  // The most requests at a time for as long as that many connections stay in
  // use: so many may idle, or waves of requests would connect anew each time.
  int peak = 0;
  uint64_t seen_version = 0;
  LinkedList<UpstreamConnection> idle;
};

// One worker's view of an app.
struct AppState {
  AppState(const Balancer::Options& options, uint64_t seed)
      : balancer(options, seed) {}

  std::string name;
  std::shared_ptr<const AppRoute> route;
  AppCounters* counters = nullptr;
  Balancer balancer;
  std::vector<std::unique_ptr<EndpointState>> endpoints;
  // Those that are routed to, whether they accept or drain. The statistics are
  // made once per instance, so they are its identity, whatever its address.
  absl::flat_hash_map<const EndpointStats*, EndpointState*> by_identity;
  // Requests for which no endpoint is free, first come, first served.
  LinkedList<Exchange> waiting;
  bool removed = false;
  int active = 0;
  int retrying = 0;
};

enum class UpstreamTimer : uint8_t {
  kConnect,
  kResponseHead,
  kBody,
  kStalled,
  kIdle
};

struct UpstreamConnection : Connection {
  UpstreamConnection() : Connection(Kind::kUpstream) {}

  EndpointState* endpoint = nullptr;
  AppState* app = nullptr;
  UpstreamTimer timer_for = UpstreamTimer::kIdle;
  bool connecting = false;
  bool reused = false;
  UpstreamConnection* list_previous = nullptr;
  UpstreamConnection* list_next = nullptr;
};

// One request and its response.
struct Exchange {
  ClientConnection* client = nullptr;
  UpstreamConnection* upstream = nullptr;
  AppState* app = nullptr;
  std::shared_ptr<const Endpoint> endpoint;  // Of the last try.

  // Client to origin. The head stays at the front of the client's buffer
  // (`held` bytes) for as long as the request might be sent again.
  RequestHead request;
  BodyReader request_body;
  ChunkLine request_chunk_line;
  IovecQueue to_origin;
  TextBuffer request_text;
  uint16_t held = 0;
  uint16_t line = 0;  // Where the patched request line begins.
  // The piece of body that is in to_origin, behind the head.
  size_t piece_size = 0;
  size_t piece_consumed = 0;
  bool piece_queued = false;
  bool piece_last = false;
  bool request_sent = false;   // To its end.
  bool request_wrote = false;  // At least a byte, on this connection.
  bool replayable = true;      // Nothing of it is gone yet.
  bool upload_failed =
      false;  // The origin takes no more; it may have answered.
  bool continue_owed = false;  // A 100 is expected and none was sent.
  bool upgrade_asked = false;
  bool half_closed = false;
  bool understood = true;  // The head, and so where it ends.
  int64_t body_received = 0;
  int64_t max_body = 0;  // 0: any.

  // Origin to client.
  ResponseHead response;
  BodyReader response_body;
  ChunkLine response_chunk_line;
  IovecQueue to_client;
  TextBuffer response_text;
  std::string local_body;
  std::unique_ptr<Pipe> pipe;  // Of a large body, behind to_client.
  BodyKind out_body = BodyKind::kNone;
  size_t response_consume = 0;  // Of the origin's bytes, once to_client is out.
  int interim_responses = 0;
  bool interim_close = false;     // One of them ends the origin's connection.
  bool first_byte = false;        // Of any response.
  bool response_started = false;  // The final head is queued.
  bool response_done = false;     // All of it is queued.
  bool switching = false;         // 101 is queued.
  bool up_ended = false;         // In a tunnel: the client has closed its side.
  bool down_ended = false;       // In a tunnel: the origin has.
  bool tunnel_expiring = false;  // Its endpoint is gone; its time is running.
  bool close_client = false;
  bool cut_short = false;  // Only a reset can say that the body is not whole.

  // Something waits for the client to take it.
  bool owes_client() const {
    return !to_client.empty() || (pipe != nullptr && pipe->bytes > 0);
  }

  // Trace context. With keep_traceparent what came passes; with new_trace
  // new_traceparent goes out instead; either way trace_id says which.
  bool keep_traceparent = false;
  bool keep_tracestate = false;
  bool new_trace = false;
  bool trace_sampled = false;
  std::array<char, 32> trace_id;
  TraceparentText new_traceparent;

  // Attempts.
  std::array<Balanced*, 4> tried{};
  int tried_count = 0;
  int attempts = 0;
  int64_t attempt_us = 0;  // When the last one began.
  int retries = 0;
  bool retrying = false;
  bool stale_retried = false;

  // What it takes of the app's limits, while it does.
  std::shared_ptr<AppLimiter> app_slot;
  std::shared_ptr<AppLimiter> wait_slot;  // In AppState::waiting.
  SlotCounter* endpoint_slot = nullptr;   // Of the instance of `upstream`.
  int64_t wait_until_ms = 0;
  Exchange* list_previous = nullptr;
  Exchange* list_next = nullptr;
  int64_t retry_after_s = 0;  // 0: as always.

  // For the log and statistics.
  bool is_page = false;  // Of the edge's own.
  int status = 0;
  int64_t switched_us = -1;  // When it became a tunnel.
  int64_t response_body_bytes = 0;
  int64_t start_us = 0;
  int64_t first_byte_us = -1;
  int64_t bytes_in = 0;
  int64_t bytes_out = 0;
  int64_t bytes_out_seen = 0;  // At the last look of the half-closed timer.
  absl::string_view end;
  std::array<char, 32> id_bytes;
  ShortText<64> request_id;
  ShortText<64> instance;
  ShortText<64> host;
  ShortText<256> path;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_CONNECTION_H_
