// Upgrades and ends of real processes under load: nothing is refused, reset or
// cut short.

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "lib/base/file.h"
#include "lib/base/mutex.h"
#include "services/edge/listen_sockets.h"

namespace mycelium::edge {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(30);

template <typename Condition>
bool Eventually(Condition condition, absl::Duration within = kPatience) {
  const absl::Time end = absl::Now() + within;
  while (!condition()) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

int PortOf(absl::string_view address) {
  int port = 0;
  EXPECT_TRUE(absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port))
      << address;
  return port;
}

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

// A blocking connection that gives up after a while.
class Client {
 public:
  // `error()` says why there is none.
  explicit Client(int port)
      : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const timeval patience = {20, 0};
    setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    const sockaddr_in address = Loopback(port);
    if (connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address),
                sizeof(address)) != 0) {
      error_ = absl::StrCat("connect: ", strerror(errno));
    }
  }

  bool Send(absl::string_view data) {
    while (error_.empty() && !data.empty()) {
      const ssize_t sent =
          send(fd_.get(), data.data(), data.size(), MSG_NOSIGNAL);
      if (sent < 0) {
        error_ = absl::StrCat("send: ", strerror(errno));
      } else {
        data.remove_prefix(static_cast<size_t>(sent));
      }
    }
    return error_.empty();
  }

  // Reads at least a byte more; false at the end and after an error.
  bool Read() {
    if (!error_.empty()) return false;
    std::array<char, 65536> bytes;
    const ssize_t got = recv(fd_.get(), bytes.data(), bytes.size(), 0);
    if (got < 0) error_ = absl::StrCat("recv: ", strerror(errno));
    if (got > 0) in_.append(bytes.data(), static_cast<size_t>(got));
    return got > 0;
  }

  // One response with a Content-Length; "" if it does not come.
  std::string ReadResponse() {
    for (;;) {
      const size_t head = in_.find("\r\n\r\n");
      const size_t field = in_.find("Content-Length: ");
      size_t length = 0;
      if (head != std::string::npos && field < head &&
          absl::SimpleAtoi(
              in_.substr(field + 16, in_.find('\r', field) - field - 16),
              &length) &&
          in_.size() >= head + 4 + length) {
        std::string response = in_.substr(0, head + 4 + length);
        in_.erase(0, head + 4 + length);
        return response;
      }
      if (!Read()) {
        if (error_.empty())
          error_ = absl::StrCat("ended after ", in_.size(), " bytes");
        return "";
      }
    }
  }

  std::string Ask(absl::string_view request) {
    return Send(request) ? ReadResponse() : "";
  }

  std::string& in() { return in_; }
  const std::string& error() const { return error_; }
  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
  std::string in_;
  std::string error_;
};

std::string Get(absl::string_view path, absl::string_view fields = "") {
  return absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: e.test\r\n", fields,
                      "\r\n");
}

constexpr size_t kPieceBytes = 16384;
constexpr int kPieces = 30;

// An app: answers "ok"; /long sends kPieces slowly; a POST is counted; /ws
// echoes.
class Origin {
 public:
  Origin() : sockets_(*Listen("127.0.0.1:0", 1)) {
    // Blocking, for a thread of its own.
    fcntl(sockets_.fds[0].get(), F_SETFL, 0);
    acceptor_ = std::thread([this] { Accept(); });
  }
  ~Origin() {
    shutdown(sockets_.fds[0].get(), SHUT_RDWR);
    acceptor_.join();
    {
      MutexLock lock(mutex_);
      for (const int fd : open_) shutdown(fd, SHUT_RDWR);
    }
    while (active_.load() > 0) absl::SleepFor(absl::Milliseconds(1));
  }

  const std::string& address() const { return sockets_.address; }

 private:
  void Accept() {
    for (;;) {
      const int fd =
          accept4(sockets_.fds[0].get(), nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) return;
      ++active_;
      {
        MutexLock lock(mutex_);
        open_.insert(fd);
      }
      std::thread([this, fd] {
        Serve(fd);
        {
          MutexLock lock(mutex_);
          open_.erase(fd);
        }
        close(fd);
        --active_;
      }).detach();
    }
  }

  static bool SendAll(int fd, absl::string_view data) {
    while (!data.empty()) {
      const ssize_t sent = send(fd, data.data(), data.size(), MSG_NOSIGNAL);
      if (sent < 0) return false;
      data.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }

  static void Serve(int fd) {
    std::string in;
    std::vector<char> bytes(65536);
    bool echo = false;
    const auto more = [&] {
      const ssize_t got = recv(fd, bytes.data(), bytes.size(), 0);
      if (got > 0) in.append(bytes.data(), static_cast<size_t>(got));
      return got > 0;
    };
    for (;;) {
      const size_t head = in.find("\r\n\r\n");
      if (echo) {
        if (!SendAll(fd, in)) return;
        in.clear();
      } else if (head != std::string::npos) {
        const std::string request = in.substr(0, head + 4);
        in.erase(0, head + 4);
        if (!Answer(fd, request, &in, &echo, more)) return;
        continue;
      }
      if (!more()) return;
    }
  }

  static bool Answer(int fd, const std::string& request, std::string* in,
                     bool* echo, const std::function<bool()>& more) {
    if (absl::StartsWith(request, "GET /ws ")) {
      *echo = true;
      return SendAll(fd,
                     "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\n"
                     "Connection: Upgrade\r\n\r\n");
    }
    if (absl::StartsWith(request, "GET /long ")) {
      if (!SendAll(fd, absl::StrCat("HTTP/1.1 200 OK\r\nContent-Length: ",
                                    kPieces * kPieceBytes, "\r\n\r\n"))) {
        return false;
      }
      const std::string piece(kPieceBytes, 'x');
      for (int i = 0; i < kPieces; ++i) {
        if (!SendAll(fd, piece)) return false;
        absl::SleepFor(absl::Milliseconds(50));
      }
      return true;
    }
    std::string body = "ok";
    const size_t field = request.find("Content-Length: ");
    size_t length = 0;
    if (field != std::string::npos &&
        absl::SimpleAtoi(
            request.substr(field + 16, request.find('\r', field) - field - 16),
            &length)) {
      while (in->size() < length) {
        if (!more()) return false;
      }
      in->erase(0, length);
      body = absl::StrCat("got ", length);
    }
    return SendAll(fd, absl::StrCat("HTTP/1.1 200 OK\r\nContent-Length: ",
                                    body.size(), "\r\n\r\n", body));
  }

  const ListenSockets sockets_;
  std::thread acceptor_;
  std::atomic<int> active_{0};
  Mutex mutex_;
  std::set<int> open_ ABSL_GUARDED_BY(mutex_);
};

// Clients of every kind, until Stop.
class Load {
 public:
  explicit Load(int port) : port_(port) {
    for (int i = 0; i < 3; ++i) Run([this] { NewConnection(); });
    for (int i = 0; i < 3; ++i) {
      Run([this, client = std::shared_ptr<Client>()]() mutable {
        KeepAlive(&client);
      });
    }
    for (int i = 0; i < 2; ++i) Run([this] { Upload(); });
    for (int i = 0; i < 4; ++i) Run([this] { Download(); });
    Run([this, client = std::shared_ptr<Client>()]() mutable {
      Tunnel(&client);
    });
  }
  ~Load() { Stop(); }

  // What went wrong, at most 20 of each kind.
  std::vector<std::string> Stop() {
    stopping_ = true;
    for (std::thread& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
    MutexLock lock(mutex_);
    return failures_;
  }

  int64_t connections() const { return connections_.load(); }
  int64_t requests() const { return requests_.load(); }
  int64_t transfers() const { return transfers_.load(); }
  int64_t echoes() const { return echoes_.load(); }

  // Waits until `count` more of what `what` counts are done.
  bool WaitForMore(int64_t (Load::*what)() const, int64_t count) const {
    const int64_t wanted = (this->*what)() + count;
    return Eventually([&] { return (this->*what)() >= wanted; });
  }

 private:
  void Run(std::function<void()> once) {
    threads_.emplace_back([this, once = std::move(once)]() mutable {
      while (!stopping_) once();
    });
  }

  void Fail(absl::string_view what, const std::string& why) {
    MutexLock lock(mutex_);
    if (failures_.size() < 20)
      failures_.push_back(absl::StrCat(what, ": ", why));
  }

  void NewConnection() {
    Client client(port_);
    const std::string response =
        client.Ask(Get("/app/", "Connection: close\r\n"));
    if (!absl::StartsWith(response, "HTTP/1.1 200 ")) {
      Fail("new connection", absl::StrCat(client.error(), " ", response));
    }
    ++connections_;
    // Some thousand per second and no more, or there is no time for others.
    absl::SleepFor(absl::Microseconds(500));
  }

  void KeepAlive(std::shared_ptr<Client>* client) {
    if (*client == nullptr) *client = std::make_shared<Client>(port_);
    const std::string response = (*client)->Ask(Get("/app/"));
    if (!absl::StartsWith(response, "HTTP/1.1 200 ")) {
      Fail("keep-alive", absl::StrCat((*client)->error(), " ", response));
      client->reset();
    } else if (absl::StrContains(response, "Connection: close")) {
      client->reset();
    }
    ++requests_;
    absl::SleepFor(absl::Milliseconds(1));
  }

  void Upload() {
    Client client(port_);
    client.Send(absl::StrCat("POST /app/ HTTP/1.1\r\nHost: e.test\r\n",
                             "Content-Length: ", kPieces * kPieceBytes,
                             "\r\n\r\n"));
    const std::string piece(kPieceBytes, 'y');
    for (int i = 0; i < kPieces && client.Send(piece); ++i)
      absl::SleepFor(absl::Milliseconds(50));
    const std::string response = client.ReadResponse();
    if (!absl::EndsWith(response,
                        absl::StrCat("got ", kPieces * kPieceBytes))) {
      Fail("upload", absl::StrCat(client.error(), " ", response));
    }
    ++transfers_;
  }

  void Download() {
    Client client(port_);
    const std::string response = client.Ask(Get("/app/long"));
    if (!absl::StartsWith(response, "HTTP/1.1 200 ") ||
        !absl::EndsWith(response, "xxxx")) {
      Fail("download", client.error());
    }
    ++transfers_;
  }

  // One tunnel from the beginning to the end.
  void Tunnel(std::shared_ptr<Client>* tunnel) {
    if (*tunnel == nullptr) {
      *tunnel = std::make_shared<Client>(port_);
      (*tunnel)->Send(
          Get("/app/ws", "Connection: Upgrade\r\nUpgrade: echo\r\n"));
      while (!absl::EndsWith((*tunnel)->in(), "\r\n\r\n") &&
             (*tunnel)->Read()) {
      }
      if (!absl::StartsWith((*tunnel)->in(), "HTTP/1.1 101 "))
        return Fail("tunnel", (*tunnel)->in());
    }
    (*tunnel)->in().clear();
    (*tunnel)->Send("ping");
    while ((*tunnel)->in().size() < 4 && (*tunnel)->Read()) {
    }
    if ((*tunnel)->in() != "ping") {
      Fail("tunnel", absl::StrCat((*tunnel)->error(), " ", (*tunnel)->in()));
      absl::SleepFor(absl::Milliseconds(100));
    }
    ++echoes_;
    absl::SleepFor(absl::Milliseconds(5));
  }

  const int port_;
  std::atomic<bool> stopping_{false};
  std::atomic<int64_t> connections_{0};
  std::atomic<int64_t> requests_{0};
  std::atomic<int64_t> transfers_{0};
  std::atomic<int64_t> echoes_{0};
  std::vector<std::thread> threads_;
  Mutex mutex_;
  std::vector<std::string> failures_ ABSL_GUARDED_BY(mutex_);
};

class HandoverTest : public testing::Test {
 protected:
  HandoverTest() : directory_(*TempDirectory::Create("handover")) {
    // Successors are not our children, until their parents have ended.
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    binary_ =
        absl::StrCat(std::getenv("TEST_SRCDIR"), "/",
                     std::getenv("TEST_WORKSPACE"), "/services/edge/edge");
    // What is upgraded, by being replaced.
    EXPECT_EQ(symlink(binary_.c_str(), program().c_str()), 0);
  }

  ~HandoverTest() override {
    Reap();
    for (const pid_t pid : Running()) kill(pid, SIGKILL);
    EXPECT_TRUE(Eventually([this] {
      Reap();
      return waitpid(-1, nullptr, WNOHANG) < 0;
    })) << "processes are left";
    if (HasFailure()) GTEST_LOG_(INFO) << Log();
  }

  std::string Path(absl::string_view name) const {
    return JoinPath(directory_.path(), name);
  }
  std::string program() const { return Path("edge"); }
  std::string Log() const { return *ReadFile(Path("log")); }

  // Makes what an upgrade starts a script.
  void ReplaceProgram(const std::string& script, mode_t mode = 0755) {
    ASSERT_EQ(unlink(program().c_str()), 0);
    ASSERT_TRUE(WriteFileAtomically(program(),
                                    absl::StrCat("#!/bin/sh\n", script), mode)
                    .ok());
  }
  void RestoreProgram() {
    ASSERT_EQ(unlink(program().c_str()), 0);
    ASSERT_EQ(symlink(binary_.c_str(), program().c_str()), 0);
  }

  // Starts the program and waits until it listens. `listener` becomes its
  // descriptor 3, as a service manager would give it.
  void Start(const std::vector<std::string>& more = {}, int listener = -1) {
    std::vector<std::string> arguments = {
        program(),
        "--listen=127.0.0.1:0",
        absl::StrCat("--port_file=", Path("port")),
        absl::StrCat("--pid_file=", Path("pid")),
        absl::StrCat("--static_endpoints=app=http://", origin_.address()),
        "--workers=2",
        "--handover_drain_timeout_ms=30000"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    if (listener >= 0) {
      arguments.insert(arguments.begin(),
                       {"/bin/sh", "-c", "LISTEN_PID=$$ exec \"$@\"", "sh"});
    }
    std::vector<std::string> environment = environment_;
    if (listener >= 0) environment.push_back("LISTEN_FDS=1");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    const UniqueFd log(open(Path("log").c_str(),
                            O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
    posix_spawn_file_actions_adddup2(&actions, log.get(), 2);
    if (listener >= 0) posix_spawn_file_actions_adddup2(&actions, listener, 3);
    std::vector<char*> argv;
    for (std::string& text : arguments) argv.push_back(text.data());
    argv.push_back(nullptr);
    std::vector<char*> envp;
    for (std::string& text : environment) envp.push_back(text.data());
    envp.push_back(nullptr);
    unlink(Path("port").c_str());
    unlink(Path("pid").c_str());
    pid_t pid = -1;
    ASSERT_EQ(
        posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), envp.data()),
        0);
    posix_spawn_file_actions_destroy(&actions);
    ASSERT_TRUE(Eventually([&] { return Serving() == pid; })) << Log();
    port_ = PortOf(absl::StripSuffix(*ReadFile(Path("port")), "\n"));
  }

  // The process that serves, or 0.
  pid_t Serving() {
    const absl::StatusOr<std::string> text = ReadFile(Path("pid"));
    pid_t pid = 0;
    if (!text.ok() || !absl::SimpleAtoi(*text, &pid)) return 0;
    known_.insert(pid);
    return pid;
  }

  // Sends `signal` and waits until another process serves.
  void Upgrade(int signal = SIGHUP) {
    const pid_t old = Serving();
    ASSERT_EQ(kill(old, signal), 0);
    ASSERT_TRUE(Eventually([&] { return Serving() != old; })) << Log();
  }

  // Collects what has ended.
  void Reap() {
    int status = 0;
    while (true) {
      const pid_t pid = waitpid(-1, &status, WNOHANG);
      if (pid <= 0) return;
      ended_[pid] = status;
    }
  }

  std::vector<pid_t> Running() {
    std::vector<pid_t> running;
    for (const pid_t pid : known_) {
      if (!ended_.contains(pid)) running.push_back(pid);
    }
    return running;
  }

  // Waits for the end of `pid`, and returns its exit status, or -1.
  int ExitOf(pid_t pid) {
    if (!Eventually([&] {
          Reap();
          return ended_.contains(pid);
        })) {
      return -1;
    }
    return WIFEXITED(ended_[pid]) ? WEXITSTATUS(ended_[pid])
                                  : 128 + WTERMSIG(ended_[pid]);
  }

  // Waits until only `pid` is left, and expects that all others exited with 0.
  void ExpectOthersEndWell(pid_t pid) {
    for (const pid_t other : std::set<pid_t>(known_)) {
      if (other == pid) continue;
      EXPECT_EQ(ExitOf(other), 0) << Log();
    }
  }

  void ExpectServes() {
    Client client(port_);
    EXPECT_TRUE(absl::EndsWith(client.Ask(Get("/app/")), "ok"))
        << client.error();
  }

  int CountOf(absl::string_view text) const {
    const std::string log = Log();
    int count = 0;
    for (size_t at = log.find(text.data(), 0, text.size());
         at != std::string::npos;
         at = log.find(text.data(), at + 1, text.size())) {
      ++count;
    }
    return count;
  }

  bool LogSays(absl::string_view text) {
    return Eventually([&] { return absl::StrContains(Log(), text); });
  }

  Origin origin_;
  TempDirectory directory_;
  std::string binary_;
  std::vector<std::string> environment_ = {"PATH=/usr/bin:/bin"};
  int port_ = 0;
  std::set<pid_t> known_;
  std::map<pid_t, int> ended_;
};

TEST_F(HandoverTest, UpgradesUnderLoadLoseNothing) {
  Start();
  const absl::Time begin = absl::Now();
  Load load(port_);
  ASSERT_TRUE(load.WaitForMore(&Load::echoes, 10));

  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(load.WaitForMore(&Load::connections, 1000));
    Upgrade(i == 1 ? SIGUSR2 : SIGHUP);
  }
  ASSERT_TRUE(load.WaitForMore(&Load::connections, 1000));
  ASSERT_TRUE(load.WaitForMore(&Load::transfers, 12));
  ASSERT_TRUE(load.WaitForMore(&Load::echoes, 10));
  const absl::Duration lasted = absl::Now() - begin;

  const std::vector<std::string> failures = load.Stop();
  EXPECT_TRUE(failures.empty()) << absl::StrJoin(failures, "\n");
  EXPECT_EQ(known_.size(), 5);
  ExpectOthersEndWell(Serving());
  ExpectServes();
  GTEST_LOG_(INFO) << load.connections() << " connections, "
                   << load.connections() / absl::ToDoubleSeconds(lasted)
                   << " per second; " << load.requests() << " kept alive, "
                   << load.transfers() << " transfers";
}

TEST_F(HandoverTest, ASuccessorMayHaveAnotherNumberOfWorkers) {
  for (const int workers : {1, 5}) {
    Start();
    const pid_t old = Serving();
    Load load(port_);
    ASSERT_TRUE(load.WaitForMore(&Load::connections, 500));
    ReplaceProgram(
        absl::StrCat("exec ", binary_, " \"$@\" --workers=", workers, "\n"));

    Upgrade();

    ASSERT_TRUE(load.WaitForMore(&Load::connections, 500));
    const std::vector<std::string> failures = load.Stop();
    EXPECT_TRUE(failures.empty()) << absl::StrJoin(failures, "\n");
    EXPECT_EQ(ExitOf(old), 0);
    ExpectServes();
    ASSERT_EQ(kill(Serving(), SIGTERM), 0);
    ExpectOthersEndWell(0);
    RestoreProgram();
  }
}

TEST_F(HandoverTest, AProgramThatCrashesLeavesTheOldOneServing) {
  Start();
  const pid_t old = Serving();
  ReplaceProgram("exit 7\n");

  ASSERT_EQ(kill(old, SIGHUP), 0);

  EXPECT_TRUE(LogSays("it exited with 7"));
  EXPECT_EQ(Serving(), old);
  ExpectServes();
  RestoreProgram();
  Upgrade();
  ExpectServes();
  EXPECT_EQ(ExitOf(old), 0);
}

TEST_F(HandoverTest, AProgramThatHangsIsKilledAndTheOldOneServes) {
  Start({"--handover_timeout_ms=300"});
  const pid_t old = Serving();
  ReplaceProgram(
      absl::StrCat("echo $$ > ", Path("hung"), "; exec sleep 600\n"));

  ASSERT_EQ(kill(old, SIGHUP), 0);

  EXPECT_TRUE(LogSays("was not ready within 300ms and was killed"));
  EXPECT_EQ(Serving(), old);
  ExpectServes();
  pid_t hung = 0;
  ASSERT_TRUE(absl::SimpleAtoi(*ReadFile(Path("hung")), &hung));
  EXPECT_EQ(kill(hung, 0), -1) << "it is gone";
}

TEST_F(HandoverTest, AFileThatCannotBeExecutedLeavesTheOldOneServing) {
  Start();
  const pid_t old = Serving();
  ReplaceProgram("exit 0\n", 0644);

  ASSERT_EQ(kill(old, SIGHUP), 0);

  EXPECT_TRUE(LogSays(absl::StrCat("cannot start ", program())));
  EXPECT_EQ(Serving(), old);
  ExpectServes();
}

TEST_F(HandoverTest, SigtermDuringAnUpgradeEndsBothProcesses) {
  Start();
  const pid_t old = Serving();
  ReplaceProgram(
      absl::StrCat("echo $$ > ", Path("hung"), "; exec sleep 600\n"));
  ASSERT_EQ(kill(old, SIGHUP), 0);
  pid_t hung = 0;
  ASSERT_TRUE(Eventually([&] {
    const absl::StatusOr<std::string> text = ReadFile(Path("hung"));
    return text.ok() && absl::SimpleAtoi(*text, &hung);
  }));

  ASSERT_EQ(kill(old, SIGTERM), 0);

  EXPECT_EQ(ExitOf(old), 0);
  EXPECT_EQ(kill(hung, 0), -1) << "it is gone";
  EXPECT_FALSE(ReadFile(Path("pid")).ok()) << "no process serves";
}

TEST_F(HandoverTest, SignalsInQuickSuccessionEndWithOneProcess) {
  Start();
  const pid_t first = Serving();
  Load load(port_);
  ASSERT_TRUE(load.WaitForMore(&Load::connections, 200));

  // The second comes while the successor starts, or a moment later.
  ASSERT_EQ(kill(first, SIGHUP), 0);
  ASSERT_TRUE(LogSays("handing over"));
  ASSERT_EQ(kill(first, SIGUSR2), 0);
  ASSERT_TRUE(Eventually([&] {
    Serving();
    return CountOf("took over") == 2;
  })) << Log();

  ASSERT_TRUE(load.WaitForMore(&Load::connections, 200));
  const std::vector<std::string> failures = load.Stop();
  EXPECT_TRUE(failures.empty()) << absl::StrJoin(failures, "\n");
  ExpectOthersEndWell(Serving());
  ExpectServes();
}

TEST_F(HandoverTest, SigtermAfterAnUpgradeShortensTheOldOnesEnd) {
  Start({"--drain_timeout_ms=200", "--handover_drain_timeout_ms=600000"});
  const pid_t old = Serving();
  Client tunnel(port_);
  tunnel.Send(Get("/app/ws", "Connection: Upgrade\r\nUpgrade: echo\r\n"));
  ASSERT_TRUE(tunnel.Read());
  Upgrade();
  ASSERT_TRUE(LogSays("serves now"));

  ASSERT_EQ(kill(old, SIGTERM), 0);

  EXPECT_EQ(ExitOf(old), 0);
  EXPECT_FALSE(tunnel.Send("x") && tunnel.Read());
  ExpectServes();
}

TEST_F(HandoverTest, ALameDuckIsNotReadyAndStillAccepts) {
  Start({"--lame_duck_ms=2000"});
  const pid_t pid = Serving();
  const auto ready = [&] { return Client(port_).Ask(Get("/_mesh/ready")); };
  ASSERT_TRUE(absl::StartsWith(ready(), "HTTP/1.1 200 "));

  ASSERT_EQ(kill(pid, SIGTERM), 0);

  EXPECT_TRUE(
      Eventually([&] { return absl::StartsWith(ready(), "HTTP/1.1 503 "); }));
  Client client(port_);
  const std::string response = client.Ask(Get("/app/"));
  EXPECT_TRUE(absl::StartsWith(response, "HTTP/1.1 200 ")) << client.error();
  EXPECT_TRUE(absl::StrContains(response, "Connection: close")) << response;
  EXPECT_EQ(ExitOf(pid), 0);
}

TEST_F(HandoverTest, SigtermResetsNoConnectionThatHasBegun) {
  Start();
  std::atomic<int> answered{0};
  Mutex mutex;
  std::set<std::string> broken;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (;;) {
        Client client(port_);
        // That nobody listens any more is an answer, too.
        if (absl::StrContains(client.error(), "refused")) return;
        const std::string response =
            client.Ask(Get("/app/", "Connection: close\r\n"));
        if (!absl::StartsWith(response, "HTTP/1.1 200 ")) {
          MutexLock lock(mutex);
          broken.insert(client.error());
          return;
        }
        ++answered;
      }
    });
  }
  ASSERT_TRUE(Eventually([&] { return answered > 500; }));

  ASSERT_EQ(kill(Serving(), SIGTERM), 0);

  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(broken.empty()) << absl::StrJoin(broken, "\n");
}

TEST_F(HandoverTest, ASocketOfTheServiceManagerOutlivesTheProcess) {
  const absl::StatusOr<ListenSockets> sockets = Listen("127.0.0.1:0", 1);
  ASSERT_TRUE(sockets.ok()) << sockets.status();
  const int listener = sockets->fds[0].get();
  Start({}, listener);
  EXPECT_EQ(port_, PortOf(sockets->address));
  ExpectServes();
  Upgrade();
  ExpectServes();
  const pid_t second = Serving();
  ASSERT_EQ(kill(second, SIGTERM), 0);
  EXPECT_EQ(ExitOf(second), 0);

  Client waiting(port_);
  ASSERT_TRUE(waiting.Send(Get("/app/"))) << waiting.error();
  Start({}, listener);

  EXPECT_TRUE(absl::EndsWith(waiting.ReadResponse(), "ok")) << waiting.error();
  ExpectOthersEndWell(Serving());
}

TEST_F(HandoverTest, TheServiceManagerLearnsOfTheNewProcess) {
  const UniqueFd manager(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = Path("notify");
  ASSERT_LT(path.size(), sizeof(address.sun_path));
  std::memcpy(address.sun_path, path.c_str(), path.size());
  ASSERT_EQ(bind(manager.get(), reinterpret_cast<sockaddr*>(&address),
                 sizeof(address)),
            0);
  environment_.push_back(absl::StrCat("NOTIFY_SOCKET=", path));
  const auto next = [&] {
    std::array<char, 256> text;
    pollfd wait = {manager.get(), POLLIN, 0};
    if (poll(&wait, 1, 10'000) != 1) return std::string();
    const ssize_t got = recv(manager.get(), text.data(), text.size(), 0);
    return std::string(text.data(),
                       static_cast<size_t>(std::max<ssize_t>(got, 0)));
  };
  Start();
  EXPECT_EQ(next(), absl::StrCat("MAINPID=", Serving(), "\nREADY=1"));

  Upgrade();

  EXPECT_TRUE(absl::StartsWith(next(), "RELOADING=1\nMONOTONIC_USEC="));
  // Said by both processes: only one of them is believed.
  const std::string ready = absl::StrCat("MAINPID=", Serving(), "\nREADY=1");
  EXPECT_EQ(next(), ready);
  EXPECT_EQ(next(), ready);
  ASSERT_EQ(kill(Serving(), SIGTERM), 0);
  EXPECT_EQ(next(), "STOPPING=1");
}

}  // namespace
}  // namespace mycelium::edge
