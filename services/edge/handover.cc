#include "services/edge/handover.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"

namespace mycelium::edge {
namespace {

constexpr char kVariable[] = "MYCELIUM_EDGE_HANDOVER_FD";
constexpr int kChildFd = 3;
constexpr size_t kMaxMessageBytes = 1024;
// Of one message; the kernel takes 253.
constexpr size_t kMaxFds = 128;
// For a process that was told to go to say that it accepts.
constexpr absl::Duration kGoTimeout = absl::Seconds(5);

absl::Status Send(int channel, absl::string_view text,
                  const std::vector<int>& fds = {}) {
  iovec part = {const_cast<char*>(text.data()), text.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFds * sizeof(int))> control;
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size() * sizeof(int));
  }
  if (sendmsg(channel, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
    return ErrnoStatus(errno, "cannot write to the other process");
  return absl::OkStatus();
}

struct Message {
  std::string text;  // Empty: the other side is gone.
  std::vector<UniqueFd> fds;
};

// Unavailable: there is none, or the other side is gone without a trace.
absl::StatusOr<Message> Receive(int channel) {
  std::array<char, kMaxMessageBytes> text;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFds * sizeof(int))> control;
  iovec part = {text.data(), text.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t got = 0;
  do {
    got = recvmsg(channel, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  // A process that was killed before it read everything resets the channel.
  if (got < 0 && errno == ECONNRESET) return Message();
  if (got < 0) return ErrnoStatus(errno, "cannot read from the other process");
  Message result;
  result.text.assign(text.data(), static_cast<size_t>(got));
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
      continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    std::array<int, kMaxFds> fds;
    std::memcpy(fds.data(), CMSG_DATA(header), count * sizeof(int));
    for (size_t i = 0; i < count; ++i) result.fds.emplace_back(fds[i]);
  }
  return result;
}

absl::Status SendHeritage(int channel, const Heritage& heritage) {
  for (const auto& [name, sockets] : heritage.listeners) {
    for (size_t i = 0; i < sockets.fds.size(); i += kMaxFds) {
      std::vector<int> fds;
      for (size_t j = i; j < std::min(i + kMaxFds, sockets.fds.size()); ++j)
        fds.push_back(sockets.fds[j].get());
      MYC_RETURN_IF_ERROR(
          Send(channel,
               absl::StrCat("listener ", name, " ",
                            sockets.kept_elsewhere ? "kept" : "own", " ",
                            sockets.address),
               fds));
    }
  }
  MYC_RETURN_IF_ERROR(
      Send(channel, absl::StrCat("edge_id ", heritage.edge_id)));
  if (!heritage.grpc_address.empty()) {
    MYC_RETURN_IF_ERROR(
        Send(channel, absl::StrCat("grpc ", heritage.grpc_address)));
  }
  if (heritage.name_free.valid()) {
    MYC_RETURN_IF_ERROR(Send(channel, "name_free", {heritage.name_free.get()}));
  }
  return Send(channel, "end");
}

// The environment of a successor: ours, but for what was said to us alone.
std::vector<std::string> EnvironmentOfChild() {
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const absl::string_view text(*entry);
    if (absl::StartsWith(text, "LISTEN_PID=") ||
        absl::StartsWith(text, "LISTEN_FDS=") ||
        absl::StartsWith(text, "LISTEN_FDNAMES=") ||
        absl::StartsWith(text, absl::StrCat(kVariable, "="))) {
      continue;
    }
    result.emplace_back(text);
  }
  result.push_back(absl::StrCat(kVariable, "=", kChildFd));
  return result;
}

std::vector<char*> Pointers(std::vector<std::string>* strings) {
  std::vector<char*> result;
  for (std::string& text : *strings) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

absl::StatusOr<pid_t> Spawn(const Program& program, int channel) {
  std::vector<std::string> arguments = program.arguments;
  std::vector<std::string> environment = EnvironmentOfChild();
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, channel, kChildFd);
  posix_spawn_file_actions_addclosefrom_np(&actions, kChildFd + 1);
  // Signals that we block stay blocked there, or one that comes before the new
  // process waits for them would end it.
  pid_t pid = -1;
  const int error =
      posix_spawn(&pid, program.path.c_str(), &actions, nullptr,
                  Pointers(&arguments).data(), Pointers(&environment).data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0)
    return ErrnoStatus(error, absl::StrCat("cannot start ", program.path));
  return pid;
}

std::string HowItEnded(int status) {
  if (WIFEXITED(status))
    return absl::StrCat("it exited with ", WEXITSTATUS(status));
  if (WIFSIGNALED(status))
    return absl::StrCat("it was ended by signal ", WTERMSIG(status));
  return "it ended";
}

}  // namespace

Program Program::OfThisProcess(int argc, char** argv) {
  Program program;
  // Unlike /proc/self/exe it neither follows links nor says "(deleted)" once
  // the file has been replaced.
  const auto* const executed =
      // NOLINTNEXTLINE(performance-no-int-to-ptr): it is how auxv says it.
      reinterpret_cast<const char*>(getauxval(AT_EXECFN));
  program.path = executed != nullptr ? executed : argv[0];
  if (!absl::StartsWith(program.path, "/")) {
    const std::unique_ptr<char, void (*)(void*)> directory(
        getcwd(nullptr, 0), [](void* memory) { std::free(memory); });
    if (directory != nullptr)
      program.path = JoinPath(directory.get(), program.path);
  }
  program.arguments.assign(argv, argv + argc);
  return program;
}

absl::StatusOr<std::unique_ptr<Successor>> Successor::Start(
    const Program& program, const Heritage& heritage, absl::Duration timeout,
    Clock* clock) {
  int ends[2] = {-1, -1};
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return ErrnoStatus(errno, "socketpair");
  UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  MYC_RETURN_IF_ERROR(SendHeritage(ours.get(), heritage));
  MYC_ASSIGN_OR_RETURN(const pid_t pid, Spawn(program, theirs.get()));
  return std::unique_ptr<Successor>(
      new Successor(std::move(ours), pid, timeout, clock));
}

Successor::Successor(UniqueFd channel, pid_t pid, absl::Duration timeout,
                     Clock* clock)
    : channel_(std::move(channel)),
      pid_(pid),
      clock_(*clock),
      timeout_(timeout),
      deadline_(clock->Monotonic() + timeout) {}

Successor::~Successor() {
  if (state_ == State::kStarting) Reap();
}

absl::Duration Successor::time_left() const {
  return std::max(absl::ZeroDuration(), deadline_ - clock_.Monotonic());
}

Successor::State Successor::Advance() {
  while (state_ == State::kStarting) {
    const absl::StatusOr<Message> message = Receive(channel_.get());
    if (!message.ok()) {
      if (time_left() > absl::ZeroDuration()) return state_;
      Reap();
      return Fail(absl::DeadlineExceededError(
          absl::StrCat("the new process ", pid_, " was not ",
                       was_ready_ ? "accepting" : "ready", " within ",
                       absl::FormatDuration(timeout_), " and was killed")));
    }
    if (message->text.empty()) {
      closed_ = true;
      return Fail(absl::UnavailableError(absl::StrCat(
          "the new process ", pid_, " did not get ready: ", Reap())));
    }
    if (message->text == "ready" && !was_ready_) {
      was_ready_ = true;
      timeout_ = kGoTimeout;
      deadline_ = clock_.Monotonic() + kGoTimeout;
      // If it fails, the end is what comes next.
      Send(channel_.get(), "go").IgnoreError();
    } else if (message->text == "accepting" && was_ready_) {
      state_ = State::kAccepting;
    }
  }
  return state_;
}

Successor::State Successor::Fail(absl::Status status) {
  failure_ = std::move(status);
  return state_ = State::kFailed;
}

std::string Successor::Reap() {
  if (gone_) return "it is gone";
  gone_ = true;
  int status = 0;
  if (closed_) {
    // It closes its channel a moment before it has ended by itself.
    const UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
    pollfd ended{.fd = process.get(), .events = POLLIN, .revents = 0};
    constexpr int kMomentMs = 500;
    if (process.valid() && poll(&ended, 1, kMomentMs) > 0 &&
        waitpid(pid_, &status, WNOHANG) == pid_) {
      return HowItEnded(status);
    }
  }
  kill(pid_, SIGKILL);
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  return HowItEnded(status);
}

absl::StatusOr<std::unique_ptr<Predecessor>> Predecessor::FromEnvironment() {
  // Called before other threads run.
  // NOLINTNEXTLINE(concurrency-mt-unsafe)
  const char* const value = std::getenv(kVariable);
  if (value == nullptr) return nullptr;
  const std::string text = value;
  unsetenv(kVariable);  // NOLINT(concurrency-mt-unsafe)
  int fd = -1;
  int type = 0;
  socklen_t size = sizeof(type);
  if (!absl::SimpleAtoi(text, &fd) || fd < 3 ||
      getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 ||
      type != SOCK_SEQPACKET) {
    return absl::InvalidArgumentError(
        absl::StrCat(kVariable, " is ", Quoted(text),
                     ", which is no channel to a running edge; unset it"));
  }
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  return std::unique_ptr<Predecessor>(new Predecessor(UniqueFd(fd)));
}

absl::StatusOr<Heritage> Predecessor::TakeHeritage() {
  Heritage heritage;
  // All of it was sent before this process began.
  for (;;) {
    MYC_ASSIGN_OR_RETURN(Message message, Receive(channel_.get()));
    if (message.text.empty())
      return absl::UnavailableError("the old process is gone");
    if (message.text == "end") return heritage;
    const std::vector<std::string> words =
        absl::StrSplit(message.text, absl::MaxSplits(' ', 3));
    if (words[0] == "listener" && words.size() == 4) {
      ListenSockets& sockets = heritage.listeners[words[1]];
      sockets.kept_elsewhere = words[2] == "kept";
      sockets.address = words[3];
      for (UniqueFd& fd : message.fds) sockets.fds.push_back(std::move(fd));
    } else if (words[0] == "edge_id" && words.size() == 2) {
      heritage.edge_id = words[1];
    } else if (words[0] == "grpc" && words.size() == 2) {
      heritage.grpc_address = words[1];
    } else if (words[0] == "name_free" && message.fds.size() == 1) {
      heritage.name_free = std::move(message.fds[0]);
    }
  }
}

absl::Status Predecessor::SayReady() { return Send(channel_.get(), "ready"); }

absl::StatusOr<bool> Predecessor::MayGo() {
  const absl::StatusOr<Message> message = Receive(channel_.get());
  if (!message.ok()) return false;
  if (message->text.empty())
    return absl::UnavailableError("the old process is gone");
  return message->text == "go";
}

absl::Status Predecessor::SayAccepting() {
  return Send(channel_.get(), "accepting");
}

}  // namespace mycelium::edge
