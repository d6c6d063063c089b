#include "services/agent/process_launcher.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"
#include "services/agent/log_reader.h"
#include "services/agent/process_tree.h"

namespace mycelium::agent {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class ProcessLauncherTest : public ::testing::Test {
 protected:
  ProcessLauncherTest()
      : directory_(TempDirectory::Create("launcher").value()),
        logs_(LogStore::Open(directory_.path() + "/logs", {}, Clock::Real())
                  .value()),
        pump_(LogPump::Start(logs_.get(), Clock::Real()).value()) {
    absl::StatusOr<std::unique_ptr<CgroupRoot>> cgroups =
        CgroupRoot::Create(directory_.path());
    if (cgroups.ok()) cgroups_ = *std::move(cgroups);
    Open();
  }

  void Open() {
    launcher_ =
        ProcessLauncher::Create({.record_directory = RecordDirectory(),
                                 .cgroups = cgroups_.get(),
                                 .no_cgroups_reason = "none here"},
                                pump_.get(), Clock::Real(),
                                [this](const std::string& id, int64_t run,
                                       const v1::ExitStatus& exit) {
                                  MutexLock lock(mutex_);
                                  exits_[absl::StrCat(id, ".", run)] = exit;
                                  exited_.NotifyAll();
                                })
            .value();
  }

  std::string RecordDirectory() const { return directory_.path() + "/run"; }

  LaunchSpec Shell(const std::string& script) {
    return {.instance_id = id_,
            .program = "/bin/sh",
            .arguments = {"-c", script},
            .environment = {absl::StrCat("MYCELIUM_INSTANCE=", id_),
                            "PATH=/usr/bin:/bin"},
            .work_directory = directory_.path() + "/work"};
  }

  v1::ExitStatus WaitForExit(int64_t run = 1) {
    MutexLock lock(mutex_);
    const std::string key = absl::StrCat(id_, ".", run);
    while (!exits_.contains(key)) exited_.Wait(mutex_);
    return exits_[key];
  }

  // Waits until the instance has said `text`.
  void WaitForOutput(const std::string& text) {
    while (!absl::StrContains(Output(), text)) {
      logs_->WaitForChange(logs_->change_count(), absl::Milliseconds(100));
    }
  }

  std::string Output() {
    LogReader reader(logs_.get(), {});
    reader.AddSource({.instance_id = id_});
    std::string all;
    for (const LogReader::Line& line : reader.Read(int64_t{1} << 30)) {
      absl::StrAppend(&all, line.text, "\n");
    }
    return all;
  }

  const std::string id_ = absl::StrCat("shop-", RandomHex(6));
  TempDirectory directory_;
  std::unique_ptr<LogStore> logs_;
  std::unique_ptr<LogPump> pump_;
  std::unique_ptr<CgroupRoot> cgroups_;

  Mutex mutex_;
  CondVar exited_;
  std::map<std::string, v1::ExitStatus> exits_;

  std::unique_ptr<ProcessLauncher> launcher_;
};

TEST_F(ProcessLauncherTest, RunsAProgramAndReportsItsExitCode) {
  const absl::StatusOr<LaunchedProcess> process =
      launcher_->Launch(Shell("echo out; echo err >&2; exit 42"));
  ASSERT_TRUE(process.ok()) << process.status();
  EXPECT_GT(process->pid, 0);

  const v1::ExitStatus exit = WaitForExit();

  EXPECT_EQ(exit.code(), 42);
  EXPECT_FALSE(exit.has_signal());
  EXPECT_THAT(exit.last_lines(), ElementsAre("err"));
  EXPECT_THAT(Output(), HasSubstr("out\n"));
}

TEST_F(ProcessLauncherTest, ReportsTheSignalThatKilledIt) {
  ASSERT_TRUE(launcher_->Launch(Shell("kill -SEGV $$")).ok());

  const v1::ExitStatus exit = WaitForExit();

  EXPECT_EQ(exit.signal(), SIGSEGV);
  EXPECT_FALSE(exit.has_code());
}

TEST_F(ProcessLauncherTest, GivesTheProgramNothingThatItWasNotMeantToHave) {
  ASSERT_EQ(setenv("AGENT_SECRET", "x", 1), 0);
  const UniqueFd leaked(open("/dev/null", O_RDONLY));
  ASSERT_TRUE(
      launcher_
          ->Launch(Shell("env; readlink /proc/self/fd/0; ls /proc/$$/fd; "
                         "grep -E 'NoNewPrivs|SigBlk|SigIgn' /proc/self/status;"
                         "pwd; umask; ulimit -c"))
          .ok());
  WaitForExit();

  const std::string output = Output();
  EXPECT_THAT(output, Not(HasSubstr("AGENT_SECRET")));
  EXPECT_THAT(output, HasSubstr("/dev/null\n0\n1\n2\n"));
  EXPECT_THAT(output, HasSubstr("NoNewPrivs:\t1"));
  EXPECT_THAT(output, HasSubstr("SigBlk:\t0000000000000000"));
  EXPECT_THAT(output, HasSubstr("SigIgn:\t0000000000000000"));
  EXPECT_THAT(output, HasSubstr(directory_.path() + "/work\n0077\n0\n"));
}

TEST_F(ProcessLauncherTest, IsTheLeaderOfAGroupAndASessionOfItsOwn) {
  const absl::StatusOr<LaunchedProcess> process =
      launcher_->Launch(Shell("sleep 1000"));
  ASSERT_TRUE(process.ok());

  EXPECT_EQ(getpgid(static_cast<pid_t>(process->pid)), process->pid);
  EXPECT_EQ(getsid(static_cast<pid_t>(process->pid)), process->pid);
}

TEST_F(ProcessLauncherTest, SaysWhichStepFailed) {
  LaunchSpec spec = Shell("");
  spec.program = "/no/such/program";

  const absl::Status status = launcher_->Launch(spec).status();

  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("executing the program (/no/such/program) failed"));
  EXPECT_THAT(ListDirectory(RecordDirectory()).value(), IsEmpty());
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "a child was left";
}

TEST_F(ProcessLauncherTest, TerminatesTheWholeGroup) {
  ASSERT_TRUE(launcher_
                  ->Launch(Shell("trap 'echo asked; exit 3' TERM; echo ready; "
                                 "sleep 1000 & wait"))
                  .ok());
  WaitForOutput("ready");

  launcher_->Terminate(id_);

  EXPECT_EQ(WaitForExit().code(), 3);
  EXPECT_THAT(Output(), HasSubstr("asked"));
}

TEST_F(ProcessLauncherTest, KillsWhatIgnoresSigterm) {
  ASSERT_TRUE(
      launcher_
          ->Launch(Shell("trap '' TERM; echo ready; while :; do sleep 1; done"))
          .ok());
  WaitForOutput("ready");
  launcher_->Terminate(id_);

  launcher_->Kill(id_);

  EXPECT_EQ(WaitForExit().signal(), SIGKILL);
}

TEST_F(ProcessLauncherTest, LeavesNoDaemonBehind) {
  ASSERT_TRUE(launcher_
                  ->Launch(Shell("setsid -f sh -c 'setsid -f sleep 1000; sleep "
                                 "1000'; sleep 1000 & echo ready; "
                                 "read nothing; sleep 1000"))
                  .ok());
  WaitForOutput("ready");
  while (FindProcesses(id_, 0).size() < 4) {
    absl::SleepFor(absl::Milliseconds(5));
  }

  launcher_->Kill(id_);
  WaitForExit();

  EXPECT_THAT(FindProcesses(id_, 0), IsEmpty());
}

TEST_F(ProcessLauncherTest, LeavesNoDaemonBehindWithoutCgroupsEither) {
  launcher_.reset();
  cgroups_.reset();
  Open();
  ASSERT_TRUE(launcher_
                  ->Launch(Shell("setsid -f sh -c 'setsid -f sleep 1000; sleep "
                                 "1000'; sleep 1000 & echo ready; sleep 1000"))
                  .ok());
  WaitForOutput("ready");
  while (FindProcesses(id_, 0).size() < 5) {
    absl::SleepFor(absl::Milliseconds(5));
  }

  launcher_->Kill(id_);
  WaitForExit();

  EXPECT_THAT(FindProcesses(id_, 0), IsEmpty());
}

TEST_F(ProcessLauncherTest, EndsTheTreeWhenTheFirstProcessExits) {
  ASSERT_TRUE(launcher_->Launch(Shell("setsid -f sleep 1000; exit 0")).ok());

  EXPECT_EQ(WaitForExit().code(), 0);

  EXPECT_THAT(FindProcesses(id_, 0), IsEmpty());
}

TEST_F(ProcessLauncherTest, StartsTheNextRunOfAnInstance) {
  LaunchSpec spec = Shell("exit 1");
  ASSERT_TRUE(launcher_->Launch(spec).ok());
  WaitForExit(1);
  spec.run = 2;
  spec.arguments = {"-c", "exit 2"};

  ASSERT_TRUE(launcher_->Launch(spec).ok());

  EXPECT_EQ(WaitForExit(2).code(), 2);
}

TEST_F(ProcessLauncherTest, KillsWhatRunsWhenItIsDestroyed) {
  ASSERT_TRUE(launcher_->Launch(Shell("sleep 1000")).ok());

  launcher_.reset();

  EXPECT_THAT(FindProcesses(id_, 0), IsEmpty());
  EXPECT_THAT(ListDirectory(RecordDirectory()).value(), IsEmpty());
}

TEST_F(ProcessLauncherTest, ReportsItsLayersHonestly) {
  std::map<std::string, v1::IsolationLayer> layers;
  for (const v1::IsolationLayer& layer : launcher_->Layers()) {
    layers[layer.name()] = layer;
  }

  EXPECT_EQ(layers["process-group"].state(),
            v1::IsolationLayer::STATE_ENFORCED);
  EXPECT_EQ(layers["seccomp"].state(), v1::IsolationLayer::STATE_MISSING);
  EXPECT_FALSE(layers["seccomp"].detail().empty());
  EXPECT_NE(layers["cgroup"].state(), v1::IsolationLayer::STATE_ENFORCED);
}

// A process as a former agent would have left it: not a child of this one.
int64_t StartOrphan(const std::string& id, const std::string& record_directory,
                    const std::string& script) {
  int pipe_fds[2] = {-1, -1};
  EXPECT_EQ(pipe(pipe_fds), 0);
  const pid_t middle = fork();
  if (middle == 0) {
    const pid_t orphan = fork();
    if (orphan == 0) {
      setsid();
      const std::string variable = "MYCELIUM_INSTANCE=" + id;
      char* const argv[] = {const_cast<char*>("sh"), const_cast<char*>("-c"),
                            const_cast<char*>(script.c_str()), nullptr};
      char* const envp[] = {const_cast<char*>(variable.c_str()), nullptr};
      execve("/bin/sh", argv, envp);
      _exit(127);
    }
    if (write(pipe_fds[1], &orphan, sizeof(orphan)) < 0) _exit(1);
    _exit(0);
  }
  waitpid(middle, nullptr, 0);
  pid_t orphan = 0;
  EXPECT_EQ(read(pipe_fds[0], &orphan, sizeof(orphan)),
            static_cast<ssize_t>(sizeof(orphan)));
  close(pipe_fds[0]);
  close(pipe_fds[1]);
  while (getsid(orphan) != orphan) absl::SleepFor(absl::Milliseconds(1));
  const ProcessRecord record = {
      .instance_id = id,
      .run = 1,
      .boot_id = ReadBootId().value(),
      .pid = orphan,
      .start_ticks = ReadProcessStat(orphan).value().start_ticks,
      .cgroup = ""};
  EXPECT_TRUE(WriteFileAtomically(record_directory + "/" + id + ".process",
                                  record.Serialize())
                  .ok());
  return orphan;
}

bool IsRunning(int64_t pid) {
  const absl::StatusOr<ProcessStat> stat = ReadProcessStat(pid);
  return stat.ok() && stat->state != 'Z';
}

TEST_F(ProcessLauncherTest, EndsWhatAFormerAgentLeft) {
  const int64_t pid = StartOrphan(id_, RecordDirectory(), "exec sleep 1000");

  const std::vector<std::string> ended =
      ProcessLauncher::EndLeftovers(RecordDirectory(), absl::Seconds(1));

  EXPECT_THAT(ended, ElementsAre(id_));
  EXPECT_FALSE(IsRunning(pid));
  EXPECT_THAT(ListDirectory(RecordDirectory()).value(), IsEmpty());
}

TEST_F(ProcessLauncherTest, EndsLeftoversThatIgnoreSigterm) {
  const int64_t pid = StartOrphan(id_, RecordDirectory(),
                                  "trap '' TERM; while :; do sleep 1; done");

  ProcessLauncher::EndLeftovers(RecordDirectory(), absl::Milliseconds(50));

  EXPECT_FALSE(IsRunning(pid));
}

TEST_F(ProcessLauncherTest, NeverTouchesAStrangerWithTheSamePid) {
  const int64_t pid =
      StartOrphan("stranger", RecordDirectory(), "exec sleep 1000");
  const std::string path = RecordDirectory() + "/stranger.process";
  ProcessRecord record = ProcessRecord::Parse(ReadFile(path).value()).value();
  record.instance_id = id_;
  record.start_ticks -= 1;
  ASSERT_TRUE(WriteFileAtomically(path, record.Serialize()).ok());

  EXPECT_THAT(
      ProcessLauncher::EndLeftovers(RecordDirectory(), absl::Milliseconds(50)),
      IsEmpty());

  EXPECT_TRUE(IsRunning(pid));
  kill(static_cast<pid_t>(pid), SIGKILL);
}

TEST_F(ProcessLauncherTest, ForgetsRecordsOfAnotherBoot) {
  const int64_t pid =
      StartOrphan("stranger", RecordDirectory(), "exec sleep 1000");
  const std::string path = RecordDirectory() + "/stranger.process";
  ProcessRecord record = ProcessRecord::Parse(ReadFile(path).value()).value();
  record.boot_id = "another-boot";
  ASSERT_TRUE(WriteFileAtomically(path, record.Serialize()).ok());

  ProcessLauncher::EndLeftovers(RecordDirectory(), absl::Milliseconds(50));

  EXPECT_TRUE(IsRunning(pid));
  EXPECT_THAT(ListDirectory(RecordDirectory()).value(), IsEmpty());
  kill(static_cast<pid_t>(pid), SIGKILL);
}

TEST_F(ProcessLauncherTest, IgnoresATornRecord) {
  ASSERT_TRUE(
      WriteFileAtomically(RecordDirectory() + "/x.process", "mycelium-pro")
          .ok());

  EXPECT_THAT(
      ProcessLauncher::EndLeftovers(RecordDirectory(), absl::Seconds(1)),
      IsEmpty());
  EXPECT_THAT(ListDirectory(RecordDirectory()).value(), IsEmpty());
}

TEST_F(ProcessLauncherTest, StartsInAFreshCgroupAfterAKill) {
  // Some kernels kill at birth what is put into a cgroup that was killed once.
  for (int64_t run = 1; run <= 5; ++run) {
    LaunchSpec spec = Shell("echo ready; sleep 1000");
    spec.run = run;
    ASSERT_TRUE(launcher_->Launch(spec).ok()) << "run " << run;
    launcher_->Kill(id_);
    EXPECT_EQ(WaitForExit(run).signal(), SIGKILL);
  }
  LaunchSpec spec = Shell("exit 7");
  spec.run = 6;
  ASSERT_TRUE(launcher_->Launch(spec).ok());
  EXPECT_EQ(WaitForExit(6).code(), 7);
}

}  // namespace
}  // namespace mycelium::agent
