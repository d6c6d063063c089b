#ifndef SERVICES_EDGE_WORKER_H_
#define SERVICES_EDGE_WORKER_H_

#include <sys/epoll.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "lib/base/file.h"
#include "services/edge/access_log.h"
#include "services/edge/buffer.h"
#include "services/edge/certificate_store.h"
#include "services/edge/connection.h"
#include "services/edge/pipe_pool.h"
#include "services/edge/rate_limiter.h"
#include "services/edge/route_table.h"
#include "services/edge/slab.h"
#include "services/edge/stats.h"
#include "services/edge/timer_wheel.h"
#include "services/edge/worker_options.h"

namespace mycelium::edge {

// A request for a page of the edge's own.
struct PageRequest {
  absl::string_view path;    // Below `/_mesh`.
  absl::string_view accept;  // The Accept field; empty if there is none.
};

// A page of the edge's own, below `/_mesh/`.
struct Page {
  int status = 200;
  std::string content_type;
  std::string body;
};

// What a worker needs of its process. All outlive the worker.
struct WorkerContext {
  int index = 0;
  const WorkerOptions* options = nullptr;
  const RouteTable* routes = nullptr;
  WorkerCounters* counters = nullptr;
  AccessLog::Queue* log = nullptr;                 // nullptr: no access log.
  const CertificateStore* certificates = nullptr;  // nullptr: no TLS.
  bool paused = false;                             // Until StartAccepting.
  // See ListenSockets.
  bool listeners_kept_elsewhere = false;
  // Of clients, shared by all workers. nullptr: their rate is not limited.
  ClientRateTable* client_rates = nullptr;
  // Wakes another worker, by its index; called on this worker's thread.
  std::function<void(int index)> wake;
  // Called on the worker's thread.
  std::function<Page(const PageRequest& request)> pages;
};

// A socket that is bound and listening.
struct ListenSocket {
  UniqueFd fd;
  bool tls = false;
};

// One event loop on one core: its own listener, connections, pools and
// balancers; it shares nothing with other workers but the route table and what
// is used of an app's limits. In steady state it takes no lock and allocates
// nothing per request.
//
// Run is called on the worker's thread; StartAccepting, Enter, Wake and
// applied_version may be called from any.
class Worker {
 public:
  // What a worker does, in the order in which it may go on to it.
  enum class Phase : uint8_t {
    kServing,
    // Each response is the last of its connection.
    kLameDuck,
    // The listeners go on in another process. Takes no new connections; those
    // that are idle get time for a last request.
    kHandedOver,
    // Takes no new connections, closes idle ones, lets the others finish.
    kDraining,
  };

  static absl::StatusOr<std::unique_ptr<Worker>> Create(
      WorkerContext context, std::vector<ListenSocket> sockets);
  ~Worker();

  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Serves until it has entered kHandedOver or kDraining and the last
  // connection is gone, or until the timeout of that phase.
  void Run();

  // Begins to accept, if the context said to wait.
  void StartAccepting();

  // Goes on to `phase`; does nothing if it has been reached.
  void Enter(Phase phase);

  // Makes Run look at the route table now.
  void Wake();

  // The version of the route table that all choices now follow: no request
  // begins on an endpoint that it does not have.
  uint64_t applied_version() const {
    return applied_version_.load(std::memory_order_acquire);
  }

 private:
  // While draining, for a client to send a request that is on its way.
  static constexpr int64_t kLastRequestMs = 1000;

  enum class Io : uint8_t { kOk, kBlocked, kEnd, kError, kFull };

  // Why an attempt at an endpoint came to nothing.
  struct Failure {
    int status = 502;
    absl::string_view reason;  // Also the log's, with "origin." before it.
    absl::string_view end;
    bool connect = false;  // Not a byte was sent.
    bool closed = false;   // The connection ended before a byte came back.
  };

  Worker(WorkerContext context, std::vector<ListenSocket> sockets,
         UniqueFd epoll, UniqueFd wakeup);

  // worker.cc: the loop, connections and routes.
  absl::Status Register();
  void ReadClock();
  void HandleEvents(const epoll_event* events, int count);
  void HandleTimers();
  void HandleResumed();
  // False: the listeners cannot be watched.
  bool WatchListeners();
  void Accept();
  // False: accepting is paused.
  bool AcceptFrom(Listener* listener);
  // Sets what follows from where the client is.
  void SetClientAddress(ClientConnection* client,
                        const sockaddr_storage& address);
  void PauseAccepting();
  // Does what StartAccepting and Enter asked for.
  void HandleOrders();
  void GoOnTo(Phase phase);
  // Ends what would otherwise wait for long.
  void ExpireIdleClients();
  void CloseListeners();
  bool ending() const { return phase_ >= Phase::kHandedOver; }
  // For a new client's handshake or request.
  int64_t FirstRequestMs() const;
  bool Watch(Pollable* pollable, int fd, uint32_t events);
  void ApplyRoutes();
  void ApplyRoute(AppState* app, uint64_t version);
  void RemoveApp(AppState* app);
  void CollectGarbage(AppState* app);
  void ExpireTunnels();
  Io ReadMore(Connection* connection);
  Io Flush(Connection* connection, IovecQueue* queue, int64_t* written);
  void EndSending(Connection* connection);
  // Flushes what is owed to the client, from memory and from the pipe.
  Io FlushToClient(Exchange* exchange);
  void Resume(Connection* connection);
  void Arm(ClientConnection* client, ClientTimer what, int64_t after_ms);
  void Arm(UpstreamConnection* upstream, UpstreamTimer what, int64_t after_ms);

  // worker_limits.cc: rates, requests in flight, and those that wait.
  // False: it is over a rate and has been answered.
  bool Admit(Exchange* exchange);
  void RefuseRate(Exchange* exchange, absl::string_view reason,
                  absl::string_view end, int64_t wait_ns);
  // An endpoint for `exchange` within the limits, whose slots it has then;
  // nullptr: none is free.
  EndpointState* TakeEndpoint(Exchange* exchange);
  bool TakeEndpointSlot(Exchange* exchange, const EndpointState& endpoint);
  void GiveEndpointSlot(Exchange* exchange);
  void GiveAppSlot(Exchange* exchange);
  void OnSlotFreed(AppLimiter* limiter);
  // Until an endpoint is free, or answers at once if that may not be.
  void Wait(Exchange* exchange);
  void ArmWait(Exchange* exchange);
  void StopWaiting(Exchange* exchange);
  void ShowWaiting(AppState* app);
  void ServeWaiting();
  void OnWaitOver(Exchange* exchange);
  // While ending, nobody waits for longer than the edge lives.
  int64_t LastWaitMs() const;
  void ShortenWaits();

  // worker_tls.cc: TLS of clients.
  // False: there is nothing else to be done for it.
  bool OnTlsEvent(ClientConnection* client, uint32_t events);
  void ContinueHandshake(ClientConnection* client);
  void FailHandshake(ClientConnection* client, TlsFailure failure);
  Io ReadMoreTls(Connection* connection);
  Io FlushTls(Connection* connection, IovecQueue* queue, int64_t* written);
  void CloseTls(ClientConnection* client, bool reset);

  // worker_client.cc: requests, and answers of our own.
  void ReadProxyHeader(ClientConnection* client);
  void OnClientEvent(ClientConnection* client, uint32_t events);
  void OnClientTimer(ClientConnection* client);
  void ReadHead(ClientConnection* client);
  Exchange* BeginExchange(ClientConnection* client);
  void StartRequest(Exchange* exchange);
  void RefuseHead(Exchange* exchange);
  void ServePage(Exchange* exchange, absl::string_view path);
  void Redirect(Exchange* exchange, absl::string_view app,
                absl::string_view query);
  void PumpRequest(Exchange* exchange);
  // Queues the next piece of the request's body, if there is one.
  BodyReader::Step QueueRequestPiece(Exchange* exchange);
  void QueueRequestBody(Exchange* exchange);
  void OnRequestFlushed(Exchange* exchange);
  void OnUploadFailed(Exchange* exchange);
  void WaitForRequestBody(Exchange* exchange);
  void OnRequestSent(Exchange* exchange);
  void Answer(Exchange* exchange, int status, absl::string_view reason,
              absl::string_view end, bool close);
  void SendLocal(Exchange* exchange, int status, absl::string_view content_type,
                 absl::string_view extra_fields, absl::string_view body,
                 bool close);
  void PumpLocal(Exchange* exchange);
  void OnClientGone(Exchange* exchange, absl::string_view end);
  void FinishExchange(Exchange* exchange);
  void RecordExchange(Exchange* exchange);
  void LogExchange(const Exchange& exchange, int64_t duration_us);
  void EndExchange(Exchange* exchange);
  void Linger(ClientConnection* client, bool in_sync);
  void PumpLinger(ClientConnection* client);
  void CloseClient(ClientConnection* client, bool reset);
  void MakeRequestId(Exchange* exchange);
  void FollowTrace(Exchange* exchange);
  bool IsLoop(const Exchange& exchange);

  // worker_upstream.cc: endpoints and responses.
  void Dispatch(Exchange* exchange);
  void Attempt(Exchange* exchange, EndpointState* endpoint, bool fresh);
  UpstreamConnection* TakeIdle(EndpointState* endpoint, bool check);
  UpstreamConnection* Connect(AppState* app, EndpointState* endpoint,
                              Failure* failure);
  void SendRequest(Exchange* exchange);
  static void NoteUpstreamEvent(UpstreamConnection* upstream, uint32_t events);
  void OnUpstreamEvent(UpstreamConnection* upstream, uint32_t events);
  void OnUpstreamTimer(UpstreamConnection* upstream);
  void OnConnected(UpstreamConnection* upstream);
  void PumpResponse(Exchange* exchange);
  void WaitForResponse(Exchange* exchange);
  // Whether the rest of the body is better moved by the kernel than copied;
  // if so, there is a pipe for it.
  bool MaySplice(Exchange* exchange);
  // Moves what has come of the body into the pipe, which is empty.
  Io FillPipe(Exchange* exchange);
  // False: the exchange is gone, or has to wait.
  bool TakeResponseHead(Exchange* exchange);
  BodyReader::Step QueueResponsePiece(Exchange* exchange, size_t offset);
  void OnUpstreamEnd(Exchange* exchange, bool error);
  void FailAttempt(Exchange* exchange, const Failure& failure);
  bool TryAgain(Exchange* exchange, const Failure& failure);
  // True: the response, of which only the head was looked at, is dropped and
  // the request on its way to another endpoint.
  bool RetryServerError(Exchange* exchange);
  // For another attempt; nullptr if there is to be none.
  EndpointState* ChooseAgain(Exchange* exchange);
  void Retry(Exchange* exchange, EndpointState* endpoint);
  void ReleaseUpstream(Exchange* exchange, bool reuse);
  // What an attempt says about its endpoint.
  void CountSuccess(const Exchange& exchange, EndpointState* endpoint);
  void CountFailure(AppState* app, EndpointState* endpoint);
  void ShowHealth(AppState* app, EndpointState* endpoint);
  void CloseUpstream(UpstreamConnection* upstream);
  void StartTunnel(Exchange* exchange);
  void PumpTunnel(Exchange* exchange);
  // False: one side is broken.
  bool PumpOneWay(Connection* from, Connection* to, int64_t* bytes,
                  bool* ended);
  void EndTunnel(Exchange* exchange, absl::string_view end);

  const WorkerContext context_;
  const WorkerOptions& options_;
  WorkerCounters& counters_;

  std::vector<std::unique_ptr<Listener>> listeners_;
  UniqueFd epoll_;
  UniqueFd wakeup_fd_;
  Pollable wakeup_{Pollable::Kind::kWakeup};

  int64_t now_us_ = 0;
  int64_t now_ms_ = 0;
  int64_t wall_offset_us_ = 0;  // From the monotonic to the wall clock.
  int64_t date_second_ = 0;
  std::array<char, 29> date_;

  TimerWheel timers_;
  BlockPool blocks_;
  PipePool pipes_{WorkerOptions::kMaxPipes};
  Slab<ClientConnection> client_slab_;
  Slab<UpstreamConnection> upstream_slab_;
  Slab<Exchange> exchange_slab_;
  Slab<TlsStream> tls_slab_;
  // Closed while events for them may still be in the batch.
  std::vector<ClientConnection*> dead_clients_;
  std::vector<UpstreamConnection*> dead_upstreams_;
  std::vector<Connection*> resumed_;
  std::vector<Connection*> resuming_;
  LinkedList<ClientConnection> clients_;
  int tunnels_ = 0;

  std::shared_ptr<const RouteSnapshot> snapshot_;
  absl::flat_hash_map<std::string, std::unique_ptr<AppState>> apps_;
  std::vector<std::unique_ptr<AppState>> removed_apps_;
  std::vector<AppState*> waiting_apps_;  // With requests that wait.
  std::vector<AppState*> serving_apps_;
  bool serve_waiting_ = false;  // Something has come free.
  int64_t serve_again_ms_ = 0;

  std::shared_ptr<const TlsContext> tls_context_;
  uint64_t tls_version_ = 0;  // Of tls_context_.
  std::unique_ptr<char[]> tls_scratch_;

  uint64_t id_seed_[2];
  uint64_t id_counter_ = 0;
  bool applying_ = false;  // Routes; endpoints are collected at the end of it.
  bool accept_ready_ = false;
  int64_t accept_again_ms_ = 0;  // Paused until then.
  bool accepting_ = false;
  // When the listeners are closed, once no new connection can begin.
  int64_t close_listeners_ms_ = 0;
  Phase phase_ = Phase::kServing;
  int64_t drain_deadline_ms_ = 0;
  std::atomic<Phase> wanted_phase_{Phase::kServing};
  std::atomic<bool> accept_wanted_{false};
  std::atomic<uint64_t> applied_version_{0};
  LogSampler log_sampler_;
  uint32_t log_skipped_ = 0;  // Since the last line.
  uint32_t log_dropped_ = 0;
  AccessRecord record_;
  // Where small pieces are put side by side to be sent.
  std::array<char, 4096> gather_;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_WORKER_H_
