#ifndef SERVICES_AGENT_CGROUP_H_
#define SERVICES_AGENT_CGROUP_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace mycelium::agent {

// The directory in the cgroup2 hierarchy below which an agent puts each run of
// an instance into a cgroup of its own. No controller is needed: a cgroup alone
// holds every descendant, and kills them all at once. Thread-safe.
class CgroupRoot {
 public:
  // Makes the directory below the agent's own cgroup, named after
  // `data_directory`, so that the agents of one machine keep apart. What a
  // former agent of the same directory has left there is killed and removed.
  //
  // Unavailable: there is no cgroup2 hierarchy that can be written to.
  static absl::StatusOr<std::unique_ptr<CgroupRoot>> Create(
      absl::string_view data_directory);

  // Removes the directory if it is empty.
  ~CgroupRoot();

  // Makes a cgroup for one run of an instance and returns its directory. Each
  // run needs a new one: see KillProcesses.
  absl::StatusOr<std::string> MakeFor(absl::string_view instance_id,
                                      int64_t run) const;

  // Moves a process into the cgroup.
  static absl::Status Enter(const std::string& cgroup, int64_t pid);

  // Sends SIGKILL to everything in the cgroup. False if it cannot be done.
  static bool Kill(const std::string& cgroup);

  // Removes an empty cgroup; tries for a moment, since the kernel takes one to
  // see that the last process is gone.
  static void Remove(const std::string& cgroup);

 private:
  explicit CgroupRoot(std::string directory)
      : directory_(std::move(directory)) {}

  const std::string directory_;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_CGROUP_H_
