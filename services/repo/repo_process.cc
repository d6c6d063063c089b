#include "services/repo/repo_process.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"
#include "lib/base/status_macros.h"

namespace mycelium::repo {
namespace {

constexpr absl::Duration kStartTimeout = absl::Seconds(20);

}  // namespace

absl::StatusOr<std::unique_ptr<RepoProcess>> RepoProcess::Start(
    const std::string& binary, const std::string& directory,
    const std::vector<std::string>& flags) {
  MYC_RETURN_IF_ERROR(MakeDirectories(directory));
  const std::string port_file = JoinPath(directory, "port");
  unlink(port_file.c_str());
  std::vector<std::string> arguments = {
      binary, "--listen=127.0.0.1:0", absl::StrCat("--port_file=", port_file),
      absl::StrCat("--data_dir=", JoinPath(directory, "data"))};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);

  std::unique_ptr<RepoProcess> process(new RepoProcess());
  if (const int error = posix_spawn(&process->pid_, binary.c_str(), nullptr,
                                    nullptr, argv.data(), environ);
      error != 0) {
    process->pid_ = -1;
    return ErrnoStatus(error, absl::StrCat("cannot start ", binary));
  }
  const absl::Duration give_up = Clock::Real()->Monotonic() + kStartTimeout;
  while (Clock::Real()->Monotonic() < give_up) {
    if (absl::StatusOr<std::string> text = ReadFile(port_file); text.ok()) {
      process->address_ = std::string(absl::StripSuffix(*text, "\n"));
      return process;
    }
    if (waitpid(process->pid_, nullptr, WNOHANG) == process->pid_) {
      process->pid_ = -1;
      return absl::UnavailableError(
          absl::StrCat(binary, " ended before it served; its log says why"));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return absl::DeadlineExceededError(absl::StrCat(
      binary, " does not serve after ", absl::FormatDuration(kStartTimeout)));
}

RepoProcess::~RepoProcess() {
  if (pid_ > 0) Stop(SIGKILL);
}

int RepoProcess::Stop(int signal) {
  int wait_status = 0;
  kill(pid_, signal);
  while (waitpid(pid_, &wait_status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return wait_status;
}

int64_t RepoProcess::PeakResidentKib() const {
  const absl::StatusOr<std::string> text =
      ReadFile(absl::StrCat("/proc/", pid_, "/status"));
  if (!text.ok()) return 0;
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    int64_t kib = 0;
    if (absl::ConsumePrefix(&line, "VmHWM:") &&
        absl::ConsumeSuffix(&line, " kB") && absl::SimpleAtoi(line, &kib)) {
      return kib;
    }
  }
  return 0;
}

absl::Duration RepoProcess::ProcessorTime() const {
  const absl::StatusOr<std::string> text =
      ReadFile(absl::StrCat("/proc/", pid_, "/stat"));
  if (!text.ok()) return absl::ZeroDuration();
  // The name in parentheses may hold anything; count from behind it.
  const std::vector<std::string> fields =
      absl::StrSplit(text->substr(text->rfind(')') + 1), ' ');
  constexpr size_t kUserTicks = 12;  // utime, the 14th field of all.
  int64_t user = 0;
  int64_t kernel = 0;
  if (fields.size() <= kUserTicks + 1 ||
      !absl::SimpleAtoi(fields[kUserTicks], &user) ||
      !absl::SimpleAtoi(fields[kUserTicks + 1], &kernel)) {
    return absl::ZeroDuration();
  }
  return absl::Seconds(user + kernel) / sysconf(_SC_CLK_TCK);
}

}  // namespace mycelium::repo
