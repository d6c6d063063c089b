// The mesh of `meshctl run`: fabric, repo, edge and agents as child processes.

#ifndef TOOLS_MESHCTL_LOCAL_MESH_H_
#define TOOLS_MESHCTL_LOCAL_MESH_H_

#include <sys/types.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"

namespace mycelium::meshctl {

class Console;

struct LocalMeshOptions {
  std::string mesh_directory;  // Absolute, `…/.mesh`.
  // Where the programs may be; the first directory that has one wins.
  std::vector<std::string> program_directories;
  int nodes = 3;
  int port = 8080;  // Of the edge; 0 for any free one.
  bool keep = false;
};

// Starts, watches over and stops the processes of one mesh. All calls on the
// main thread, in a process whose run signals are blocked (processes.h).
class LocalMeshProcesses {
 public:
  // `clock` and `console` must outlive the object.
  LocalMeshProcesses(LocalMeshOptions options, Clock* clock, Console* console);
  LocalMeshProcesses(const LocalMeshProcesses&) = delete;
  LocalMeshProcesses& operator=(const LocalMeshProcesses&) = delete;
  // Stops what still runs.
  ~LocalMeshProcesses();

  // Takes the lock of the directory and clears what a killed run left there.
  //
  // CONFLICT: a mesh runs there already, or the edge's port is taken.
  // NOT_FOUND: a program is missing.
  absl::Status Prepare();

  // Starts everything and waits until every process serves. Cancelled when a
  // signal came meanwhile; otherwise a failure with the log of the process
  // that did not start.
  absl::Status Start();

  // Writes mesh.json, by which other commands find the mesh.
  absl::Status Announce() const;

  // Takes care of the processes until a signal asks to stop, or `done` (called
  // every now and then) says so. A process that ends is started again, at the
  // same address. Returns the signal, or 0.
  int Supervise(const std::function<bool()>& done);

  // Stops everything: agents with their instances first, then the rest. A
  // second signal makes short work of it. Leaves no process behind.
  void Stop();

  const std::string& fabric() const { return fabric_address_; }
  const std::string& repo() const { return repo_address_; }
  const std::string& edge() const { return edge_grpc_address_; }
  int edge_port() const { return edge_port_; }
  // `http://localhost:PORT`.
  std::string url() const;
  std::string key_file() const;
  std::string trust_store() const;
  const LocalMeshOptions& options() const { return options_; }

 private:
  struct Service {
    std::string name;
    std::string program;
    std::vector<std::string> flags;
    std::vector<std::string> port_files;
    pid_t pid = 0;
    absl::Duration started_at;
    // When to start it again, if it is not running.
    absl::Duration restart_at;
    int failures = 0;
  };

  std::string Path(const std::string& name) const;
  absl::StatusOr<std::string> FindProgram(const std::string& name) const;
  absl::Status CheckPort() const;
  absl::Status MakeKeyAndTrust();
  void RemoveState();
  absl::Status Spawn(Service& service);
  absl::StatusOr<std::string> AwaitPort(Service& service,
                                        const std::string& port_file);
  // Handles one signal, waiting for it up to `timeout`.
  void HandleSignals(absl::Duration timeout);
  void Reap();
  Service* FindService(pid_t pid);
  // Sends SIGTERM to some services and waits until they have ended, `timeout`
  // has passed or a second signal has come.
  void StopThose(const std::function<bool(const Service&)>& which,
                 absl::Duration timeout);
  absl::Status StartFailure(const Service& service,
                            const std::string& what) const;

  const LocalMeshOptions options_;
  Clock& clock_;
  Console& console_;

  UniqueFd lock_;
  std::map<std::string, std::string> programs_;
  std::vector<Service> services_;
  std::string fabric_address_;
  std::string repo_address_;
  std::string edge_address_;
  std::string edge_grpc_address_;
  int edge_port_ = 0;
  int stop_signal_ = 0;
  int stop_signals_ = 0;
  absl::Duration stop_signal_at_;
  bool stopping_ = false;
  bool started_ = false;
};

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_LOCAL_MESH_H_
