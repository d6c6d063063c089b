#include "tools/meshctl/processes.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <csignal>
#include <ctime>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "lib/base/file.h"

namespace mycelium::meshctl {
namespace {

sigset_t RunSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) {
    sigaddset(&signals, signal);
  }
  return signals;
}

// Files in /proc have no size, which ReadFile goes by.
std::string ReadProc(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file),
          std::istreambuf_iterator<char>()};
}

std::string ReadLink(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t length = readlink(path.c_str(), target, sizeof(target));
  return length < 0 ? "" : std::string(target, static_cast<size_t>(length));
}

std::vector<pid_t> AllProcesses() {
  std::vector<pid_t> pids;
  const auto names = ListDirectory("/proc");
  if (!names.ok()) return pids;
  for (const std::string& name : *names) {
    pid_t pid = 0;
    if (absl::SimpleAtoi(name, &pid)) pids.push_back(pid);
  }
  return pids;
}

// The parent of a process; 0 if it is gone.
pid_t ParentOf(pid_t pid) {
  const std::string stat = ReadProc(absl::StrCat("/proc/", pid, "/stat"));
  // The name in parentheses may hold anything, so count from its end.
  const size_t end = stat.rfind(')');
  if (end == std::string::npos) return 0;
  const std::vector<std::string> fields =
      absl::StrSplit(stat.substr(end + 1), ' ', absl::SkipEmpty());
  pid_t parent = 0;
  return fields.size() > 1 && absl::SimpleAtoi(fields[1], &parent) ? parent : 0;
}

bool IsBelow(const std::string& path, const std::string& directory) {
  return absl::StartsWith(path, directory + "/");
}

// What the child of a fork does before it becomes the program; only
// async-signal-safe calls.
[[noreturn]] void Execute(char* const* command, int log_fd, pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The parent may have died before that was set.
  if (getppid() != parent) _exit(127);
  sigset_t none;
  sigemptyset(&none);
  pthread_sigmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  const int null = open("/dev/null", O_RDONLY);
  dup2(null, STDIN_FILENO);
  dup2(log_fd, STDOUT_FILENO);
  dup2(log_fd, STDERR_FILENO);
  execv(command[0], command);
  constexpr char kMessage[] = "cannot be executed\n";
  [[maybe_unused]] const ssize_t written =
      write(STDERR_FILENO, kMessage, sizeof(kMessage) - 1);
  _exit(127);
}

// The inodes of the sockets that listen on `port`.
std::set<std::string> ListeningInodes(int port) {
  std::set<std::string> inodes;
  const std::string wanted =
      absl::StrCat(":", absl::Hex(port, absl::kZeroPad4));
  for (const char* file : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    const std::string table = ReadProc(file);
    for (const absl::string_view line : absl::StrSplit(table, '\n')) {
      const std::vector<absl::string_view> fields =
          absl::StrSplit(line, ' ', absl::SkipEmpty());
      // sl, local address, remote address, state (0A is LISTEN), …, inode.
      if (fields.size() > 9 && fields[3] == "0A" &&
          absl::EndsWithIgnoreCase(fields[1], wanted)) {
        inodes.insert(absl::StrCat("socket:[", fields[9], "]"));
      }
    }
  }
  return inodes;
}

}  // namespace

absl::StatusOr<pid_t> StartProgram(const std::vector<std::string>& command,
                                   const std::string& log_file) {
  const UniqueFd log(
      open(log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!log.valid()) {
    return ErrnoStatus(errno, absl::StrCat("cannot write ", log_file));
  }
  std::vector<std::string> words = command;
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot start ", command[0]));
  }
  if (pid == 0) Execute(argv.data(), log.get(), parent);
  return pid;
}

std::vector<pid_t> DescendantsOf(pid_t root) {
  std::multimap<pid_t, pid_t> children;
  for (const pid_t pid : AllProcesses()) children.emplace(ParentOf(pid), pid);
  std::vector<pid_t> found;
  std::vector<pid_t> todo = {root};
  while (!todo.empty()) {
    const pid_t parent = todo.back();
    todo.pop_back();
    const auto [first, last] = children.equal_range(parent);
    for (auto at = first; at != last; ++at) {
      found.push_back(at->second);
      todo.push_back(at->second);
    }
  }
  return found;
}

void KillDescendants() {
  while (true) {
    const std::vector<pid_t> left = DescendantsOf(getpid());
    for (const pid_t pid : left) kill(pid, SIGKILL);
    pid_t reaped = 0;
    do {
      reaped = waitpid(-1, nullptr, WNOHANG);
    } while (reaped > 0 || (reaped < 0 && errno == EINTR));
    if (left.empty() && reaped < 0) return;
    absl::SleepFor(absl::Milliseconds(5));
  }
}

int KillLeftovers(const std::string& mesh_directory) {
  std::vector<pid_t> killed;
  for (const pid_t pid : AllProcesses()) {
    if (pid == getpid()) continue;
    const std::string proc = absl::StrCat("/proc/", pid);
    const bool runs_from = IsBelow(ReadLink(proc + "/exe"), mesh_directory);
    const bool works_in =
        IsBelow(ReadLink(proc + "/cwd"), mesh_directory) &&
        absl::StrContains(ReadProc(proc + "/environ"), "MYCELIUM_INSTANCE=");
    if ((runs_from || works_in) && kill(pid, SIGKILL) == 0) {
      killed.push_back(pid);
    }
  }
  // They are not our children: all that can be done is to look.
  for (const pid_t pid : killed) {
    for (int tries = 0; tries < 200 && kill(pid, 0) == 0; ++tries) {
      absl::SleepFor(absl::Milliseconds(5));
    }
  }
  return static_cast<int>(killed.size());
}

int RunGuarded(const std::function<int()>& body) {
  BlockRunSignals();
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  const pid_t guard = getpid();
  const pid_t child = fork();
  if (child < 0) return 1;
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != guard) _exit(1);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    _exit(body());
  }

  const sigset_t signals = RunSignals();
  while (true) {
    siginfo_t info = {};
    const int signal = sigwaitinfo(&signals, &info);
    if (signal < 0) continue;
    if (signal != SIGCHLD) {
      // What a terminal sends, it sends to the child, too.
      if (info.si_code != SI_KERNEL) kill(child, signal);
      continue;
    }
    int status = 0;
    pid_t ended = 0;
    while ((ended = waitpid(-1, &status, WNOHANG)) > 0) {
      if (ended != child) continue;
      KillDescendants();
      if (WIFEXITED(status)) return WEXITSTATUS(status);
      constexpr char kMessage[] =
          "meshctl run was killed; what it had started is stopped\n";
      [[maybe_unused]] const ssize_t written =
          write(STDERR_FILENO, kMessage, sizeof(kMessage) - 1);
      return 128 + WTERMSIG(status);
    }
  }
}

void BlockRunSignals() {
  const sigset_t signals = RunSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

int WaitRunSignal(absl::Duration timeout) {
  const sigset_t signals = RunSignals();
  const timespec wait = absl::ToTimespec(timeout);
  const int signal = sigtimedwait(&signals, nullptr, &wait);
  return signal < 0 ? 0 : signal;
}

std::string PortOwner(int port) {
  const std::set<std::string> inodes = ListeningInodes(port);
  if (inodes.empty()) return "";
  for (const pid_t pid : AllProcesses()) {
    const std::string directory = absl::StrCat("/proc/", pid, "/fd");
    const auto names = ListDirectory(directory);
    if (!names.ok()) continue;
    for (const std::string& name : *names) {
      if (inodes.count(ReadLink(JoinPath(directory, name))) == 0) continue;
      const std::string program =
          ReadProc(absl::StrCat("/proc/", pid, "/comm"));
      return absl::StrCat(absl::StripAsciiWhitespace(program), " (pid ", pid,
                          ")");
    }
  }
  return "";
}

}  // namespace mycelium::meshctl
