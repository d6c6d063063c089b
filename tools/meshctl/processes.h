// Child processes of the local mesh, none of which may outlive it.

#ifndef TOOLS_MESHCTL_PROCESSES_H_
#define TOOLS_MESHCTL_PROCESSES_H_

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace mycelium::meshctl {

// Starts a program with stdin from /dev/null and its output appended to
// `log_file`, in a process group of its own, so that Ctrl-C reaches meshctl
// alone. The kernel kills it when the calling thread ends, so call it on the
// main thread.
absl::StatusOr<pid_t> StartProgram(const std::vector<std::string>& command,
                                   const std::string& log_file);

// All descendants of a process, as /proc shows them now.
std::vector<pid_t> DescendantsOf(pid_t root);

// Kills (SIGKILL) and reaps all descendants of this process, which must be
// their reaper, until none is left; those that appear meanwhile included.
void KillDescendants();

// Kills what a mesh in `mesh_directory` has left behind when it was killed
// itself: processes that run a program below it, and instances that work
// there. Returns how many.
int KillLeftovers(const std::string& mesh_directory);

// Runs `body` in a child process and returns its exit code. This process stays
// behind as a guard: it hands signals on, and when the child is gone, however
// it ended, kills everything that the child left. If the guard dies, the child
// gets SIGTERM. Call it before there are any threads.
int RunGuarded(const std::function<int()>& body);

// Signals that ask `run` to stop, taken synchronously; with SIGCHLD they are
// blocked in the whole process.
void BlockRunSignals();

// Waits up to `timeout` for one of these signals. Returns its number, or 0.
int WaitRunSignal(absl::Duration timeout);

// The name of the program that listens on a TCP port of this machine, with its
// process id; empty if that cannot be found out.
std::string PortOwner(int port);

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_PROCESSES_H_
