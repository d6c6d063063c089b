// Ending everything that an instance has started, and nothing else.

#ifndef SERVICES_AGENT_PROCESS_TREE_H_
#define SERVICES_AGENT_PROCESS_TREE_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "services/agent/process_record.h"

namespace mycelium::agent {

// The processes that belong to an instance, by all that can be known without a
// cgroup: those of the session that its first process leads, and those that
// carry its MYCELIUM_INSTANCE in their environment (which daemons that start a
// session of their own keep). Zombies are left out.
//
// `session` is the pid of the first process as long as that exists, if only as
// a zombie: as long as it does the kernel gives its number to no other session.
// Otherwise 0.
std::vector<ProcessStat> FindProcesses(absl::string_view instance_id,
                                       int64_t session);

// Sends SIGKILL to everything that belongs to an instance, again until nothing
// is left, for at most `timeout`. `session` is as above, and the process a
// child of this one that has not been reaped (or 0). `cgroup` is the directory
// of its cgroup, or empty; it must not be used again afterwards, because some
// kernels kill at birth what is cloned into a cgroup that was killed once.
//
// Returns how many processes were left; 1 if there are some in the cgroup.
int KillProcesses(absl::string_view instance_id, int64_t session,
                  const std::string& cgroup, absl::Duration timeout);

// Ends what a former agent has left running according to `record`: SIGTERM to
// the group, up to `grace` for it to follow, then KillProcesses. The process is
// touched only if boot, pid and start time are those of the record.
//
// Returns how many processes were found.
int EndLeftover(const ProcessRecord& record, absl::string_view boot_id,
                absl::Duration grace);

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_PROCESS_TREE_H_
