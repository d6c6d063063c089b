#ifndef SERVICES_AGENT_LOG_SESSION_H_
#define SERVICES_AGENT_LOG_SESSION_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "mycelium/agent/v1/agent.pb.h"
#include "services/agent/log_store.h"

namespace mycelium::agent {

// One GetLogs call: finds the lines that a request asks for and hands them out.
class LogSession {
 public:
  // What is known of an instance whose lines are asked for.
  struct Known {
    std::string instance_id;
    std::string app_name;
    // The number of its last process.
    int64_t run = 0;
    // Whether that process runs.
    bool running = false;
    // Whether the instance is gone for good.
    bool stopped = false;
  };

  // Returns the instances of an app (or the one of an id) that are known now.
  using Lookup = std::function<std::vector<Known>(const v1::GetLogsRequest&)>;

  // Takes lines; false ends the session.
  using Send = std::function<bool(const v1::GetLogsResponse&)>;

  // All must outlive the session.
  LogSession(const LogStore* store, Lookup lookup)
      : store_(*store), lookup_(std::move(lookup)) {}

  // Checks a request. Errors are those of GetLogs for fields.
  static absl::Status Check(const v1::GetLogsRequest& request);

  // Serves a request that was checked, on the calling thread, until all is
  // sent, `send` or `cancelled` says so, or the one instance that is followed
  // is gone.
  absl::Status Serve(const v1::GetLogsRequest& request, const Send& send,
                     const std::function<bool()>& cancelled);

 private:
  const LogStore& store_;
  const Lookup lookup_;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_LOG_SESSION_H_
