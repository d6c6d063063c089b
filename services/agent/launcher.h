#ifndef SERVICES_AGENT_LAUNCHER_H_
#define SERVICES_AGENT_LAUNCHER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "mycelium/agent/v1/agent.pb.h"

namespace mycelium::agent {

// What to start.
struct LaunchSpec {
  std::string instance_id;
  // Counts the processes of the instance, from 1.
  int64_t run = 1;
  // Path of the program, and what follows it in argv.
  std::string program;
  std::vector<std::string> arguments;
  // The whole environment, as NAME=VALUE.
  std::vector<std::string> environment;
  // Made if it does not exist.
  std::string work_directory;
};

// A process that was started.
struct LaunchedProcess {
  int64_t pid = 0;
  // What keeps it and the node apart.
  std::vector<v1::IsolationLayer> layers;
};

// Starts the processes of instances and tells when they end. Thread-safe.
class Launcher {
 public:
  // The process of `run` has ended and nothing that it started is left. Called
  // on a thread of the launcher.
  using ExitCallback = std::function<void(
      const std::string& instance_id, int64_t run, const v1::ExitStatus& exit)>;

  virtual ~Launcher() = default;

  // Starts a process; when this returns it runs the program. An instance has
  // one at a time.
  //
  // The error says which step failed. Nothing is left behind then, and the
  // callback is not called.
  virtual absl::StatusOr<LaunchedProcess> Launch(const LaunchSpec& spec) = 0;

  // Sends SIGTERM to the instance's process group, or SIGKILL to all that it
  // has started. Does nothing if no process runs. Does not wait.
  virtual void Terminate(absl::string_view instance_id) = 0;
  virtual void Kill(absl::string_view instance_id) = 0;

  // The layers of isolation that a launch on this node would report: for spores
  // that require some.
  virtual std::vector<v1::IsolationLayer> Layers() const = 0;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_LAUNCHER_H_
