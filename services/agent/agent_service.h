#ifndef SERVICES_AGENT_AGENT_SERVICE_H_
#define SERVICES_AGENT_AGENT_SERVICE_H_

#include <list>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "lib/base/mutex.h"
#include "mycelium/agent/v1/agent.grpc.pb.h"
#include "services/agent/event_loop.h"
#include "services/agent/log_store.h"
#include "services/agent/supervisor.h"

namespace mycelium::agent {

// Translates the Agent service to calls of the supervisor, which happen on its
// loop. Thread-safe.
class AgentService final : public v1::Agent::CallbackService {
 public:
  // All must outlive the service.
  AgentService(std::string node_id, Supervisor* supervisor, EventLoop* loop,
               const LogStore* logs);
  ~AgentService() override;

  // Ends the streams of logs. The server must be shut down before the service
  // is destroyed.
  void Stop();

  grpc::ServerUnaryReactor* ListInstances(
      grpc::CallbackServerContext* context,
      const v1::ListInstancesRequest* request,
      v1::ListInstancesResponse* response) override;
  grpc::ServerWriteReactor<v1::GetLogsResponse>* GetLogs(
      grpc::CallbackServerContext* context,
      const v1::GetLogsRequest* request) override;
  grpc::ServerUnaryReactor* StopInstance(
      grpc::CallbackServerContext* context,
      const v1::StopInstanceRequest* request,
      v1::StopInstanceResponse* response) override;
  grpc::ServerUnaryReactor* RestartInstance(
      grpc::CallbackServerContext* context,
      const v1::RestartInstanceRequest* request,
      v1::RestartInstanceResponse* response) override;

 private:
  class LogStream;

  // Joins the threads of streams that have ended.
  void JoinEnded();

  const std::string node_id_;
  Supervisor& supervisor_;
  EventLoop& loop_;
  const LogStore& logs_;

  Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::list<LogStream*> streams_ ABSL_GUARDED_BY(mutex_);
  std::list<std::thread> ended_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_AGENT_SERVICE_H_
