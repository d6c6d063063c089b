#include "services/agent/process_tree.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "lib/base/file.h"

namespace mycelium::agent {
namespace {

constexpr absl::Duration kPause = absl::Milliseconds(2);
constexpr int kCleanSearches = 3;
constexpr int64_t kMaxEnvironmentBytes = int64_t{1} << 20;

UniqueFd OpenPidfd(int64_t pid) {
  return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
}

// Signals the very process that `stat` describes: the descriptor is opened
// first and the start time compared after that, so that it cannot be another
// one.
bool SignalExactly(const ProcessStat& stat, int signal) {
  const UniqueFd fd = OpenPidfd(stat.pid);
  if (!fd.valid()) return false;
  const absl::StatusOr<ProcessStat> now = ReadProcessStat(stat.pid);
  if (!now.ok() || now->start_ticks != stat.start_ticks) return false;
  return syscall(SYS_pidfd_send_signal, fd.get(), signal, nullptr, 0) == 0;
}

bool HasInEnvironment(int64_t pid, absl::string_view variable) {
  const absl::StatusOr<std::string> environment =
      ReadFile(absl::StrCat("/proc/", pid, "/environ"), kMaxEnvironmentBytes);
  if (!environment.ok()) return false;
  for (const absl::string_view entry : absl::StrSplit(*environment, '\0')) {
    if (entry == variable) return true;
  }
  return false;
}

bool WriteControl(const std::string& path, absl::string_view text) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return fd.valid() && WriteFully(fd.get(), text).ok();
}

// Whether a process lives in the cgroup or below it; nothing if there is no
// such cgroup.
std::optional<bool> IsPopulated(const std::string& cgroup) {
  if (cgroup.empty()) return std::nullopt;
  const absl::StatusOr<std::string> text =
      ReadFile(JoinPath(cgroup, "cgroup.events"));
  if (!text.ok()) return std::nullopt;
  return absl::StrContains(*text, "populated 1");
}

// Kills the processes of an instance until none is left. `group` is signalled
// as a whole, which no fork can outrun; 0 for none.
int KillUntilGone(absl::string_view instance_id, int64_t session, int64_t group,
                  const std::string& cgroup, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  int clean_searches = 0;
  while (true) {
    if (group != 0) kill(static_cast<pid_t>(-group), SIGKILL);
    int left = 0;
    if (const std::optional<bool> populated = IsPopulated(cgroup)) {
      // Nothing leaves a cgroup by itself, so that no one need be searched for.
      if (*populated) WriteControl(JoinPath(cgroup, "cgroup.kill"), "1");
      left = *populated ? 1 : 0;
    } else {
      const std::vector<ProcessStat> processes =
          FindProcesses(instance_id, session);
      for (const ProcessStat& process : processes) {
        SignalExactly(process, SIGKILL);
      }
      left = static_cast<int>(processes.size());
      clean_searches = left == 0 ? clean_searches + 1 : 0;
      // A process that is just executing a program shows no environment.
      if (left == 0 && clean_searches < kCleanSearches) {
        absl::SleepFor(kPause);
        continue;
      }
    }
    if (left == 0 || absl::Now() >= deadline) return left;
    absl::SleepFor(kPause);
  }
}

}  // namespace

std::vector<ProcessStat> FindProcesses(absl::string_view instance_id,
                                       int64_t session) {
  std::vector<ProcessStat> found;
  const std::string variable = absl::StrCat("MYCELIUM_INSTANCE=", instance_id);
  const absl::StatusOr<std::vector<std::string>> names = ListDirectory("/proc");
  if (!names.ok()) return found;
  const int64_t self = getpid();
  for (const std::string& name : *names) {
    int64_t pid = 0;
    if (!absl::SimpleAtoi(name, &pid) || pid <= 1 || pid == self) continue;
    const absl::StatusOr<ProcessStat> stat = ReadProcessStat(pid);
    if (!stat.ok() || stat->state == 'Z' || stat->state == 'X') continue;
    const bool in_session = session != 0 && stat->session == session;
    if (in_session || HasInEnvironment(pid, variable)) found.push_back(*stat);
  }
  return found;
}

int KillProcesses(absl::string_view instance_id, int64_t session,
                  const std::string& cgroup, absl::Duration timeout) {
  return KillUntilGone(instance_id, session, /*group=*/session, cgroup,
                       timeout);
}

int EndLeftover(const ProcessRecord& record, absl::string_view boot_id,
                absl::Duration grace) {
  if (record.boot_id != boot_id) return 0;
  const absl::StatusOr<ProcessStat> leader = ReadProcessStat(record.pid);
  const bool leader_is_ours =
      leader.ok() && leader->start_ticks == record.start_ticks;
  const int64_t session = leader_is_ours ? record.pid : 0;

  const std::vector<ProcessStat> found =
      FindProcesses(record.instance_id, session);
  for (const ProcessStat& process : found) SignalExactly(process, SIGTERM);
  const absl::Time deadline = absl::Now() + grace;
  while (absl::Now() < deadline &&
         !FindProcesses(record.instance_id, 0).empty()) {
    absl::SleepFor(absl::Milliseconds(10));
  }

  // Init may have reaped the leader meanwhile, and its number be another's.
  const absl::StatusOr<ProcessStat> still = ReadProcessStat(record.pid);
  const bool still_ours =
      still.ok() && still->start_ticks == record.start_ticks;
  KillUntilGone(record.instance_id, still_ours ? record.pid : 0, /*group=*/0,
                record.cgroup, absl::Seconds(5));
  if (!record.cgroup.empty()) {
    rmdir(record.cgroup.c_str());
    // That of the agent, if this was the last one in it.
    rmdir(record.cgroup.substr(0, record.cgroup.rfind('/')).c_str());
  }
  return static_cast<int>(found.size());
}

}  // namespace mycelium::agent
