#ifndef SERVICES_AGENT_PROCESS_LAUNCHER_H_
#define SERVICES_AGENT_PROCESS_LAUNCHER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"
#include "lib/base/mutex.h"
#include "services/agent/cgroup.h"
#include "services/agent/launcher.h"
#include "services/agent/log_pump.h"
#include "services/agent/process_record.h"

namespace mycelium::agent {

// Starts instances as children of this process: in a session and, where the
// machine has a cgroup2 hierarchy that can be written to, in a cgroup of their
// own. They go on when this process is killed; the next one finds them by their
// records and ends them. Thread-safe.
class ProcessLauncher final : public Launcher {
 public:
  struct Options {
    // For the records of running processes. Made if it does not exist.
    std::string record_directory;
    // Where the cgroups are; null for none. Must outlive the launcher.
    const CgroupRoot* cgroups = nullptr;
    // Why there are none.
    std::string no_cgroups_reason;
  };

  // `pump` and `clock` must outlive the launcher.
  static absl::StatusOr<std::unique_ptr<ProcessLauncher>> Create(
      const Options& options, LogPump* pump, Clock* clock,
      ExitCallback on_exit);

  // Kills what still runs, without calling back.
  ~ProcessLauncher() override;

  absl::StatusOr<LaunchedProcess> Launch(const LaunchSpec& spec) override;
  void Terminate(absl::string_view instance_id) override;
  void Kill(absl::string_view instance_id) override;
  std::vector<v1::IsolationLayer> Layers() const override;

  // Ends the processes that the records in `record_directory` tell of, all at
  // once, and removes the records. To be called before a launcher is created
  // there. Returns the ids of the instances that were found running.
  static std::vector<std::string> EndLeftovers(
      const std::string& record_directory, absl::Duration grace);

 private:
  struct Child {
    std::string instance_id;
    int64_t run = 0;
    int64_t pid = 0;
    UniqueFd pidfd;
    std::string cgroup;
  };

  ProcessLauncher(const Options& options, LogPump* pump, Clock* clock,
                  ExitCallback on_exit, std::string boot_id, UniqueFd epoll,
                  UniqueFd wake, UniqueFd null);

  std::string RecordPath(absl::string_view instance_id) const;
  // Makes the process findable and lets it go on to its program.
  absl::Status Release(const LaunchSpec& spec, const Child& child,
                       int go_fd) const;
  std::vector<v1::IsolationLayer> LayersWith(
      const absl::Status& cgroup_status) const;
  void Run();
  void Reap(int pidfd);

  const Options options_;
  LogPump& pump_;
  Clock& clock_;
  const ExitCallback on_exit_;
  const std::string boot_id_;
  const UniqueFd epoll_;
  const UniqueFd wake_;
  const UniqueFd null_;

  Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // By pidfd.
  std::map<int, std::unique_ptr<Child>> children_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_PROCESS_LAUNCHER_H_
