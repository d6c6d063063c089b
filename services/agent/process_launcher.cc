#include "services/agent/process_launcher.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "glog/logging.h"
#include "lib/base/status_macros.h"
#include "services/agent/process_tree.h"

// Newer than the headers of some systems, older than every kernel that we run
// on.
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

namespace mycelium::agent {
namespace {

constexpr absl::string_view kRecordSuffix = ".process";
constexpr int kLaunchTimeoutMs = 10'000;
constexpr absl::Duration kKillTimeout = absl::Seconds(2);
// Rather the workload than the agent, when the machine runs out of memory.
constexpr absl::string_view kOomScore = "500";

// The steps between clone and exec, as a child that fails reports them.
enum class Step : int {
  kRelease,
  kSession,
  kDirectory,
  kDescriptors,
  kLimits,
  kPrivileges,
  kExec,
};

absl::string_view NameOf(Step step) {
  switch (step) {
    case Step::kRelease:
      return "waiting for the agent";
    case Step::kSession:
      return "starting a session";
    case Step::kDirectory:
      return "entering the work directory";
    case Step::kDescriptors:
      return "arranging file descriptors";
    case Step::kLimits:
      return "setting limits";
    case Step::kPrivileges:
      return "giving up privileges";
    case Step::kExec:
      break;
  }
  return "executing the program";
}

struct Failure {
  Step step;
  int error;
};

// What the child needs, made before it exists: between clone and exec nothing
// may allocate, since another thread may hold the allocator's lock.
struct ChildPlan {
  const char* program;
  char* const* argv;
  char* const* envp;
  const char* work_directory;
  int null_fd;
  int out_fd;
  int err_fd;
  int go_fd;
  int failure_fd;
};

[[noreturn]] void Fail(const ChildPlan& plan, Step step) {
  const Failure failure = {.step = step, .error = errno};
  [[maybe_unused]] const ssize_t written =
      write(plan.failure_fd, &failure, sizeof(failure));
  _exit(127);
}

// Async-signal-safe throughout.
[[noreturn]] void RunChild(const ChildPlan& plan) {
  char go = 0;
  ssize_t count = 0;
  do {
    count = read(plan.go_fd, &go, 1);
  } while (count < 0 && errno == EINTR);
  // The agent died before it wrote the record: nobody would find this process.
  if (count != 1) Fail(plan, Step::kRelease);

  if (setsid() < 0) Fail(plan, Step::kSession);
  umask(077);
  if (chdir(plan.work_directory) != 0) Fail(plan, Step::kDirectory);
  if (dup2(plan.null_fd, 0) < 0 || dup2(plan.out_fd, 1) < 0 ||
      dup2(plan.err_fd, 2) < 0 ||
      syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC) != 0) {
    Fail(plan, Step::kDescriptors);
  }
  const rlimit no_core = {.rlim_cur = 0, .rlim_max = 0};
  if (setrlimit(RLIMIT_CORE, &no_core) != 0) Fail(plan, Step::kLimits);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    Fail(plan, Step::kPrivileges);
  }
  // What the agent ignores or blocks must not be inherited.
  // (The kernel is asked directly, because libc keeps two signals to itself.)
  constexpr size_t kSignalSetBytes = 8;
  const uint64_t default_action[4] = {};  // SIG_DFL, no flags, no mask.
  for (int signal = 1; signal < NSIG; ++signal) {
    syscall(SYS_rt_sigaction, signal, default_action, nullptr, kSignalSetBytes);
  }
  sigset_t none;
  sigemptyset(&none);
  pthread_sigmask(SIG_SETMASK, &none, nullptr);
  execve(plan.program, plan.argv, plan.envp);
  Fail(plan, Step::kExec);
}

struct PipeEnds {
  UniqueFd read;
  UniqueFd write;
};

absl::StatusOr<PipeEnds> MakePipe() {
  int fds[2] = {-1, -1};
  if (pipe2(fds, O_CLOEXEC) != 0)
    return ErrnoStatus(errno, "cannot make a pipe");
  PipeEnds ends = {.read = UniqueFd(fds[0]), .write = UniqueFd(fds[1])};
  // RunChild puts 0 to 2 in place and must not overwrite what it still needs.
  if (fds[0] < 3 || fds[1] < 3) {
    return absl::FailedPreconditionError(
        "the agent's own stdin, stdout and stderr must be open");
  }
  return ends;
}

// A fork that runs no handlers of libraries and returns a pidfd.
pid_t Clone(int* pidfd) {
  clone_args args = {};
  args.flags = CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(pidfd);
  args.exit_signal = SIGCHLD;
  return static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof(args)));
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  for (const std::string& string : strings) {
    pointers.push_back(const_cast<char*>(string.c_str()));
  }
  pointers.push_back(nullptr);
  return pointers;
}

// A record must be there before the program runs, and need not survive a power
// cut, because the process does not either.
absl::Status WriteRecord(const std::string& path, absl::string_view text) {
  const std::string temporary = absl::StrCat(path, ".new");
  const UniqueFd fd(open(temporary.c_str(),
                         O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
                         0600));
  if (!fd.valid()) {
    return ErrnoStatus(errno, absl::StrCat("cannot open ", temporary));
  }
  MYC_RETURN_IF_ERROR(WriteFully(fd.get(), text));
  if (rename(temporary.c_str(), path.c_str()) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot rename ", temporary));
  }
  return absl::OkStatus();
}

v1::IsolationLayer Layer(absl::string_view name,
                         v1::IsolationLayer::State state,
                         absl::string_view detail) {
  v1::IsolationLayer layer;
  layer.set_name(std::string(name));
  layer.set_state(state);
  layer.set_detail(std::string(detail));
  return layer;
}

v1::ExitStatus ExitOf(const siginfo_t& info) {
  v1::ExitStatus exit;
  if (info.si_code == CLD_EXITED) {
    exit.set_code(info.si_status);
  } else {
    exit.set_signal(info.si_status);
  }
  return exit;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ProcessLauncher>> ProcessLauncher::Create(
    const Options& options, LogPump* pump, Clock* clock, ExitCallback on_exit) {
  MYC_RETURN_IF_ERROR(MakeDirectories(options.record_directory, 0700));
  MYC_ASSIGN_OR_RETURN(std::string boot_id, ReadBootId());
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  UniqueFd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!epoll.valid() || !wake.valid() || !null.valid()) {
    return ErrnoStatus(errno, "cannot prepare the start of instances");
  }
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.fd = wake.get();
  if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &event) != 0) {
    return ErrnoStatus(errno, "cannot watch processes");
  }
  return std::unique_ptr<ProcessLauncher>(new ProcessLauncher(
      options, pump, clock, std::move(on_exit), std::move(boot_id),
      std::move(epoll), std::move(wake), std::move(null)));
}

ProcessLauncher::ProcessLauncher(const Options& options, LogPump* pump,
                                 Clock* clock, ExitCallback on_exit,
                                 std::string boot_id, UniqueFd epoll,
                                 UniqueFd wake, UniqueFd null)
    : options_(options),
      pump_(*pump),
      clock_(*clock),
      on_exit_(std::move(on_exit)),
      boot_id_(std::move(boot_id)),
      epoll_(std::move(epoll)),
      wake_(std::move(wake)),
      null_(std::move(null)) {
  thread_ = std::thread([this] { Run(); });
}

ProcessLauncher::~ProcessLauncher() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written =
      write(wake_.get(), &one, sizeof(one));
  thread_.join();
  std::vector<int> left;
  {
    MutexLock lock(mutex_);
    for (const auto& [fd, child] : children_) left.push_back(fd);
  }
  for (const int fd : left) Reap(fd);
}

absl::StatusOr<LaunchedProcess> ProcessLauncher::Launch(
    const LaunchSpec& spec) {
  MYC_RETURN_IF_ERROR(MakeDirectories(spec.work_directory, 0700));
  MYC_ASSIGN_OR_RETURN(PipeEnds out, MakePipe());
  MYC_ASSIGN_OR_RETURN(PipeEnds err, MakePipe());
  MYC_ASSIGN_OR_RETURN(PipeEnds go, MakePipe());
  MYC_ASSIGN_OR_RETURN(PipeEnds failures, MakePipe());

  auto child = std::make_unique<Child>();
  child->instance_id = spec.instance_id;
  child->run = spec.run;
  absl::Status cgroup_status =
      absl::UnavailableError(options_.no_cgroups_reason);
  if (options_.cgroups != nullptr) {
    absl::StatusOr<std::string> cgroup =
        options_.cgroups->MakeFor(spec.instance_id, spec.run);
    cgroup_status = cgroup.status();
    if (cgroup.ok()) child->cgroup = *std::move(cgroup);
  }

  std::vector<std::string> arguments = {spec.program};
  arguments.insert(arguments.end(), spec.arguments.begin(),
                   spec.arguments.end());
  const std::vector<char*> argv = Pointers(arguments);
  const std::vector<char*> envp = Pointers(spec.environment);
  const ChildPlan plan = {.program = spec.program.c_str(),
                          .argv = argv.data(),
                          .envp = envp.data(),
                          .work_directory = spec.work_directory.c_str(),
                          .null_fd = null_.get(),
                          .out_fd = out.write.get(),
                          .err_fd = err.write.get(),
                          .go_fd = go.read.get(),
                          .failure_fd = failures.write.get()};
  int pidfd = -1;
  // The child must not hold the write end of the pipe that it waits on, or it
  // would never see the agent die.
  const int go_write = go.write.get();
  const pid_t pid = Clone(&pidfd);
  if (pid == 0) {
    close(go_write);
    RunChild(plan);
  }
  if (pid < 0) {
    const int error = errno;
    CgroupRoot::Remove(child->cgroup);
    return ErrnoStatus(error, "cannot start a process");
  }
  child->pid = pid;
  child->pidfd = UniqueFd(pidfd);
  out.write.reset();
  err.write.reset();
  go.read.reset();
  failures.write.reset();

  absl::Status status;
  if (!child->cgroup.empty()) {
    cgroup_status = CgroupRoot::Enter(child->cgroup, pid);
    if (!cgroup_status.ok()) {
      CgroupRoot::Remove(child->cgroup);
      child->cgroup.clear();
    }
  }
  status = Release(spec, *child, go.write.get());
  if (status.ok()) {
    pollfd waiting = {
        .fd = failures.read.get(), .events = POLLIN, .revents = 0};
    Failure failure = {};
    if (poll(&waiting, 1, kLaunchTimeoutMs) != 1) {
      status = absl::DeadlineExceededError(
          absl::StrCat("the program was not executed within ",
                       kLaunchTimeoutMs / 1000, " s"));
    } else if (read(failures.read.get(), &failure, sizeof(failure)) ==
               sizeof(failure)) {
      status = ErrnoStatus(
          failure.error,
          absl::StrCat(NameOf(failure.step), " (", spec.program, ") failed"));
    }
  }
  if (!status.ok()) {
    // It may not have come to its own session yet.
    kill(pid, SIGKILL);
    KillProcesses(spec.instance_id, pid, child->cgroup, kKillTimeout);
    siginfo_t info = {};
    waitid(P_PIDFD, child->pidfd.get(), &info, WEXITED);
    if (!child->cgroup.empty()) CgroupRoot::Remove(child->cgroup);
    unlink(RecordPath(spec.instance_id).c_str());
    return status;
  }

  pump_.Add(spec.instance_id, spec.run, std::move(out.read),
            std::move(err.read));
  LaunchedProcess process = {.pid = pid, .layers = LayersWith(cgroup_status)};
  const int fd = child->pidfd.get();
  {
    MutexLock lock(mutex_);
    children_[fd] = std::move(child);
  }
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.fd = fd;
  epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
  return process;
}

void ProcessLauncher::Terminate(absl::string_view instance_id) {
  MutexLock lock(mutex_);
  for (const auto& [fd, child] : children_) {
    // Not reaped while it is in the map, so the group is still its own.
    if (child->instance_id == instance_id) {
      kill(static_cast<pid_t>(-child->pid), SIGTERM);
    }
  }
}

void ProcessLauncher::Kill(absl::string_view instance_id) {
  MutexLock lock(mutex_);
  for (const auto& [fd, child] : children_) {
    if (child->instance_id != instance_id) continue;
    // When the first process is gone, Reap sees to the rest.
    if (!child->cgroup.empty()) CgroupRoot::Kill(child->cgroup);
    kill(static_cast<pid_t>(-child->pid), SIGKILL);
  }
}

std::vector<v1::IsolationLayer> ProcessLauncher::Layers() const {
  return LayersWith(options_.cgroups != nullptr
                        ? absl::OkStatus()
                        : absl::UnavailableError(options_.no_cgroups_reason));
}

std::vector<std::string> ProcessLauncher::EndLeftovers(
    const std::string& record_directory, absl::Duration grace) {
  std::vector<std::string> ended;
  const absl::StatusOr<std::vector<std::string>> names =
      ListDirectory(record_directory);
  const absl::StatusOr<std::string> boot_id = ReadBootId();
  if (!names.ok() || !boot_id.ok()) return ended;

  std::vector<std::thread> threads;
  Mutex mutex;
  for (const std::string& name : *names) {
    if (!absl::StrContains(name, kRecordSuffix)) continue;
    const std::string path = JoinPath(record_directory, name);
    const absl::StatusOr<std::string> text = ReadFile(path);
    absl::StatusOr<ProcessRecord> record =
        text.ok() ? ProcessRecord::Parse(*text) : text.status();
    if (!record.ok()) {
      LOG(WARNING) << path << " is ignored: " << record.status();
      unlink(path.c_str());
      continue;
    }
    // They wait for their grace side by side.
    threads.emplace_back([&, path, record = *std::move(record)] {
      if (EndLeftover(record, *boot_id, grace) > 0) {
        MutexLock lock(mutex);
        ended.push_back(record.instance_id);
      }
      unlink(path.c_str());
    });
  }
  for (std::thread& thread : threads) thread.join();
  return ended;
}

std::string ProcessLauncher::RecordPath(absl::string_view instance_id) const {
  return JoinPath(options_.record_directory,
                  absl::StrCat(instance_id, kRecordSuffix));
}

absl::Status ProcessLauncher::Release(const LaunchSpec& spec,
                                      const Child& child, int go_fd) const {
  MYC_ASSIGN_OR_RETURN(const ProcessStat stat, ReadProcessStat(child.pid));
  const ProcessRecord record = {.instance_id = spec.instance_id,
                                .run = spec.run,
                                .boot_id = boot_id_,
                                .pid = child.pid,
                                .start_ticks = stat.start_ticks,
                                .cgroup = child.cgroup};
  MYC_RETURN_IF_ERROR(
      WriteRecord(RecordPath(spec.instance_id), record.Serialize()));
  const UniqueFd score(
      open(absl::StrCat("/proc/", child.pid, "/oom_score_adj").c_str(),
           O_WRONLY | O_CLOEXEC));
  if (score.valid() && !WriteFully(score.get(), kOomScore).ok()) {
    VLOG(1) << "cannot set the OOM score of " << child.pid;
  }
  return WriteFully(go_fd, "g");
}

std::vector<v1::IsolationLayer> ProcessLauncher::LayersWith(
    const absl::Status& cgroup_status) const {
  using Layers = v1::IsolationLayer;
  constexpr absl::string_view kNotYet = "this agent does not have it";
  return {
      Layer("process-group", Layers::STATE_ENFORCED, ""),
      Layer("no-new-privileges", Layers::STATE_ENFORCED, ""),
      Layer("environment", Layers::STATE_ENFORCED, ""),
      cgroup_status.ok()
          ? Layer("cgroup", Layers::STATE_DEGRADED,
                  "holds and ends the whole tree; sets no limits")
          : Layer("cgroup", Layers::STATE_MISSING, cgroup_status.message()),
      Layer("capabilities", Layers::STATE_MISSING, kNotYet),
      Layer("landlock", Layers::STATE_MISSING, kNotYet),
      Layer("mount-namespace", Layers::STATE_MISSING, kNotYet),
      Layer("pid-namespace", Layers::STATE_MISSING, kNotYet),
      Layer("read-only-fs", Layers::STATE_MISSING, kNotYet),
      Layer("seccomp", Layers::STATE_MISSING, kNotYet),
      Layer("user", Layers::STATE_MISSING, kNotYet),
  };
}

void ProcessLauncher::Run() {
  constexpr int kMaxEvents = 16;
  epoll_event events[kMaxEvents];
  while (true) {
    const int count = epoll_wait(epoll_.get(), events, kMaxEvents, -1);
    {
      MutexLock lock(mutex_);
      if (stopping_) return;
    }
    for (int i = 0; i < count; ++i) {
      if (events[i].data.fd != wake_.get()) Reap(events[i].data.fd);
    }
  }
}

void ProcessLauncher::Reap(int pidfd) {
  const Child* child = nullptr;
  bool stopping = false;
  {
    MutexLock lock(mutex_);
    const auto entry = children_.find(pidfd);
    if (entry == children_.end()) return;
    child = entry->second.get();
    stopping = stopping_;
  }
  // The first process is not reaped before its tree is gone: as long as it is a
  // zombie the kernel gives the number of its session to nobody else.
  if (stopping) kill(static_cast<pid_t>(-child->pid), SIGKILL);
  const int left = KillProcesses(child->instance_id, child->pid, child->cgroup,
                                 kKillTimeout);
  if (left > 0) {
    LOG(ERROR) << left << " processes of " << child->instance_id
               << " do not die";
  }
  std::vector<std::string> last_lines =
      pump_.Finish(child->instance_id, child->run);
  siginfo_t info = {};
  waitid(P_PIDFD, pidfd, &info, WEXITED);
  if (!child->cgroup.empty()) CgroupRoot::Remove(child->cgroup);
  unlink(RecordPath(child->instance_id).c_str());

  v1::ExitStatus exit = ExitOf(info);
  exit.mutable_time()->set_seconds(absl::ToUnixSeconds(clock_.Now()));
  for (std::string& line : last_lines) {
    exit.add_last_lines(std::move(line));
  }
  std::unique_ptr<Child> gone;
  {
    MutexLock lock(mutex_);
    const auto entry = children_.find(pidfd);
    gone = std::move(entry->second);
    children_.erase(entry);
  }
  if (!stopping) on_exit_(gone->instance_id, gone->run, exit);
}

}  // namespace mycelium::agent
