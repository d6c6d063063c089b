#include "services/agent/agent_service.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "lib/base/error.h"
#include "lib/base/ids.h"
#include "lib/rpc/status.h"
#include "services/agent/log_session.h"

namespace mycelium::agent {
namespace {

constexpr absl::string_view kErrorDomain = "agent.mycelium";
constexpr int kDefaultPage = 100;
constexpr int kMaxPage = 1000;
constexpr size_t kMaxPageBytes = size_t{4} << 20;
constexpr absl::Duration kMaxStopTimeout = absl::Minutes(10);
// Each has a thread of its own.
constexpr size_t kMaxLogStreams = 64;

grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context,
                                 const absl::Status& status) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(rpc::ToGrpcStatus(status));
  return reactor;
}

// A page ends with an instance, and the next one begins behind its id.
constexpr absl::string_view kPageTokenHead = "i1-";

std::string MakePageToken(absl::string_view instance_id) {
  return absl::StrCat(kPageTokenHead, absl::BytesToHexString(instance_id));
}

// The id in the token; empty without a token, nothing if it is not ours.
std::optional<std::string> ReadPageToken(
    const v1::ListInstancesRequest& request) {
  absl::string_view token = request.page_token();
  if (token.empty()) return "";
  if (!absl::ConsumePrefix(&token, kPageTokenHead)) return std::nullopt;
  const std::string id = absl::HexStringToBytes(token);
  if (!IsId(id) || MakePageToken(id) != request.page_token()) {
    return std::nullopt;
  }
  return id;
}

// Checks what stop and restart have in common.
template <typename Request>
absl::Status CheckStop(const Request& request,
                       std::optional<absl::Duration>* stop_timeout) {
  FieldViolations violations;
  if (!IsId(request.instance_id())) {
    violations.Add("instanceId",
                   absl::StrCat(Quoted(request.instance_id()), " ", kIdRule));
  }
  if (request.has_stop_timeout()) {
    const absl::Duration timeout =
        absl::Seconds(request.stop_timeout().seconds()) +
        absl::Nanoseconds(request.stop_timeout().nanos());
    if (timeout < absl::ZeroDuration() || timeout > kMaxStopTimeout) {
      violations.Add("stopTimeout",
                     absl::StrCat(absl::FormatDuration(timeout),
                                  " must be between 0 and 10 minutes"));
    }
    *stop_timeout = timeout;
  }
  return violations.ToStatus(kErrorDomain, "REQUEST_INVALID");
}

}  // namespace

// A GetLogs call, on a thread of its own.
class AgentService::LogStream final
    : public grpc::ServerWriteReactor<v1::GetLogsResponse> {
 public:
  LogStream(AgentService* service, const v1::GetLogsRequest& request)
      : service_(*service), request_(request) {}

  void Start() {
    thread_ = std::thread([this] { Run(); });
  }

  void Cancel() {
    MutexLock lock(mutex_);
    cancelled_ = true;
    changed_.NotifyAll();
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(mutex_);
    writing_ = false;
    if (!ok) cancelled_ = true;
    changed_.NotifyAll();
  }

  void OnCancel() override { Cancel(); }

  void OnDone() override {
    {
      MutexLock lock(service_.mutex_);
      service_.streams_.remove(this);
      // This may be that very thread.
      service_.ended_.push_back(std::move(thread_));
    }
    delete this;
  }

 private:
  void Run() {
    LogSession session(&service_.logs_, [this](const v1::GetLogsRequest& r) {
      return Lookup(r);
    });
    const absl::Status status = session.Serve(
        request_,
        [this](const v1::GetLogsResponse& response) { return Send(response); },
        [this] {
          MutexLock lock(mutex_);
          return cancelled_;
        });
    Finish(rpc::ToGrpcStatus(status));
  }

  // Sends one message, and waits until the transport has taken it: a slow
  // reader costs one message of memory.
  bool Send(const v1::GetLogsResponse& response) {
    {
      MutexLock lock(mutex_);
      if (cancelled_) return false;
      writing_ = true;
    }
    StartWrite(&response);
    MutexLock lock(mutex_);
    while (writing_) changed_.Wait(mutex_);
    return !cancelled_;
  }

  std::vector<LogSession::Known> Lookup(const v1::GetLogsRequest& request) {
    struct Answer {
      Mutex mutex;
      CondVar changed;
      bool ready = false;
      std::vector<LogSession::Known> known;
    };
    // Outlives this call if the loop stops before it answers.
    auto answer = std::make_shared<Answer>();
    service_.loop_.Post([answer, request, &supervisor = service_.supervisor_] {
      std::vector<LogSession::Known> known;
      for (const v1::Instance& instance : supervisor.List(request.app_name())) {
        if (!request.instance_id().empty() &&
            instance.instance_id() != request.instance_id()) {
          continue;
        }
        const absl::StatusOr<Supervisor::Run> run =
            supervisor.FindRun(instance.instance_id());
        if (!run.ok()) continue;
        known.push_back(
            {.instance_id = instance.instance_id(),
             .app_name = instance.app_name(),
             .run = run->number,
             .running = run->running,
             .stopped = instance.state() == v1::Instance::STATE_STOPPED});
      }
      MutexLock lock(answer->mutex);
      answer->known = std::move(known);
      answer->ready = true;
      answer->changed.NotifyAll();
    });
    MutexLock lock(answer->mutex);
    while (!answer->ready) {
      answer->changed.WaitFor(answer->mutex, absl::Milliseconds(100));
      MutexLock own(mutex_);
      if (cancelled_) break;
    }
    return answer->known;
  }

  AgentService& service_;
  const v1::GetLogsRequest request_;

  Mutex mutex_;
  CondVar changed_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;
};

AgentService::AgentService(std::string node_id, Supervisor* supervisor,
                           EventLoop* loop, const LogStore* logs)
    : node_id_(std::move(node_id)),
      supervisor_(*supervisor),
      loop_(*loop),
      logs_(*logs) {}

AgentService::~AgentService() {
  Stop();
  JoinEnded();
}

void AgentService::Stop() {
  MutexLock lock(mutex_);
  stopping_ = true;
  for (LogStream* const stream : streams_) stream->Cancel();
}

void AgentService::JoinEnded() {
  std::list<std::thread> ended;
  {
    MutexLock lock(mutex_);
    ended.swap(ended_);
  }
  for (std::thread& thread : ended) thread.join();
}

grpc::ServerUnaryReactor* AgentService::ListInstances(
    grpc::CallbackServerContext* context,
    const v1::ListInstancesRequest* request,
    v1::ListInstancesResponse* response) {
  FieldViolations violations;
  if (request->page_size() < 0) {
    violations.Add("pageSize",
                   absl::StrCat(request->page_size(), " must not be negative"));
  }
  if (!request->app_name().empty() && !IsAppName(request->app_name())) {
    violations.Add("appName", absl::StrCat(Quoted(request->app_name()), " ",
                                           kAppNameRule));
  }
  if (!violations.empty()) {
    return Finish(context,
                  violations.ToStatus(kErrorDomain, "REQUEST_INVALID"));
  }
  const std::optional<std::string> after = ReadPageToken(*request);
  if (!after.has_value()) {
    violations.Add("pageToken", absl::StrCat(Quoted(request->page_token()),
                                             " is not one of ours"));
    return Finish(context,
                  violations.ToStatus(kErrorDomain, "PAGE_TOKEN_INVALID"));
  }
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  loop_.Post([this, request, response, reactor, after = *after] {
    const int page_size = request->page_size() == 0
                              ? kDefaultPage
                              : std::min(request->page_size(), kMaxPage);
    response->set_node_id(node_id_);
    size_t bytes = 0;
    for (v1::Instance& instance : supervisor_.List(request->app_name())) {
      if (instance.instance_id() <= after) continue;
      // What instances last wrote counts too: a page must fit into a message.
      bytes += instance.ByteSizeLong();
      if (response->instances_size() == page_size ||
          (bytes > kMaxPageBytes && response->instances_size() > 0)) {
        response->set_next_page_token(
            MakePageToken(response->instances().rbegin()->instance_id()));
        break;
      }
      *response->add_instances() = std::move(instance);
    }
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

grpc::ServerWriteReactor<v1::GetLogsResponse>* AgentService::GetLogs(
    grpc::CallbackServerContext* /*context*/,
    const v1::GetLogsRequest* request) {
  // A reactor that only says no.
  class Refusal final : public grpc::ServerWriteReactor<v1::GetLogsResponse> {
   public:
    explicit Refusal(const absl::Status& status) {
      Finish(rpc::ToGrpcStatus(status));
    }
    void OnDone() override { delete this; }
  };

  const absl::Status checked = LogSession::Check(*request);
  if (!checked.ok()) return new Refusal(checked);
  JoinEnded();
  MutexLock lock(mutex_);
  if (stopping_) {
    return new Refusal(absl::UnavailableError("the agent stops"));
  }
  if (streams_.size() >= kMaxLogStreams) {
    return new Refusal(WithRetryAfter(
        MakeError(
            absl::StatusCode::kResourceExhausted, kErrorDomain, "OVERLOADED",
            absl::StrCat(kMaxLogStreams, " streams of logs are open already")),
        absl::Seconds(5)));
  }
  auto* const stream = new LogStream(this, *request);
  streams_.push_back(stream);
  stream->Start();
  return stream;
}

grpc::ServerUnaryReactor* AgentService::StopInstance(
    grpc::CallbackServerContext* context,
    const v1::StopInstanceRequest* request,
    v1::StopInstanceResponse* response) {
  std::optional<absl::Duration> timeout;
  const absl::Status checked = CheckStop(*request, &timeout);
  if (!checked.ok()) return Finish(context, checked);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  loop_.Post([this, id = request->instance_id(), timeout, response, reactor] {
    supervisor_.Stop(
        id, timeout,
        [response, reactor](const absl::StatusOr<v1::Instance>& stopped) {
          if (stopped.ok()) {
            *response->mutable_instance() = *stopped;
          }
          reactor->Finish(rpc::ToGrpcStatus(stopped.status()));
        });
  });
  return reactor;
}

grpc::ServerUnaryReactor* AgentService::RestartInstance(
    grpc::CallbackServerContext* context,
    const v1::RestartInstanceRequest* request,
    v1::RestartInstanceResponse* response) {
  std::optional<absl::Duration> timeout;
  const absl::Status checked = CheckStop(*request, &timeout);
  if (!checked.ok()) return Finish(context, checked);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  loop_.Post([this, id = request->instance_id(), timeout, response, reactor] {
    supervisor_.Restart(
        id, timeout,
        [response, reactor](const absl::StatusOr<v1::Instance>& again) {
          if (again.ok()) *response->mutable_instance() = *again;
          reactor->Finish(rpc::ToGrpcStatus(again.status()));
        });
  });
  return reactor;
}

}  // namespace mycelium::agent
