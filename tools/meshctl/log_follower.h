// What the instances of an app write, from all nodes at once.

#ifndef TOOLS_MESHCTL_LOG_FOLLOWER_H_
#define TOOLS_MESHCTL_LOG_FOLLOWER_H_

#include <atomic>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "mycelium/agent/v1/agent.pb.h"

namespace mycelium::meshctl {

class Console;
class MeshClient;

struct LogQuery {
  std::string app;
  // Instead of the app's, only lines of this instance, if not empty.
  std::string instance;
  bool follow = false;
  int64_t tail_lines = 100;
  absl::Time since = absl::InfinitePast();
  bool previous = false;
  agent::v1::LogLine::Stream stream = agent::v1::LogLine::STREAM_UNSPECIFIED;
};

// Calls `show` with each line and the node that it is from, in the order of
// their times. Without `follow` until all are shown; with it until `cancelled`
// (may be null) is set or the app is gone, over restarts of agents and on nodes
// that join meanwhile.
//
// NOT_FOUND: nothing has run under that name (only without `follow`).
absl::Status ReadLogs(
    MeshClient& mesh, Console& console, const LogQuery& query,
    const std::atomic<bool>* cancelled,
    const std::function<void(const std::string&, const agent::v1::LogLine&)>&
        show);

// A line for people: who wrote it, when, and what.
std::string LogText(const Console& console, const std::string& node,
                    const agent::v1::LogLine& line, bool full_time);

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_LOG_FOLLOWER_H_
