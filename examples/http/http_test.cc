#include "examples/http/http.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::examples {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::chrono::milliseconds kTimeout(5000);

// A server in a process of its own, since Serve never returns.
class ServerProcess {
 public:
  explicit ServerProcess(const Handler& handler) {
    int pipe_fds[2];
    EXPECT_EQ(pipe(pipe_fds), 0);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(pipe_fds[1], STDOUT_FILENO);
      const std::string error = Serve(0, handler);
      std::fprintf(stderr, "%s\n", error.c_str());
      _exit(1);
    }
    close(pipe_fds[1]);
    FILE* lines = fdopen(pipe_fds[0], "r");
    EXPECT_EQ(std::fscanf(lines, "listening on port %d", &port_), 1);
    std::fclose(lines);
  }
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;
  ~ServerProcess() {
    if (pid_ > 0) Stop(SIGKILL);
  }

  int port() const { return port_; }

  std::string Url(const std::string& target) const {
    return "http://127.0.0.1:" + std::to_string(port_) + target;
  }

  // The wait status after `signal`.
  int Stop(int signal) {
    int status = 0;
    kill(pid_, signal);
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return status;
  }

  // Sends raw bytes and returns all that comes back until the server closes.
  std::string Raw(const std::string& bytes) const {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port_));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(
        connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
    std::string answer;
    char buffer[4096];
    ssize_t count = 0;
    while ((count = recv(fd, buffer, sizeof(buffer), 0)) > 0) {
      answer.append(buffer, static_cast<size_t>(count));
    }
    close(fd);
    return answer;
  }

 private:
  pid_t pid_ = -1;
  int port_ = 0;
};

Response Echo(const Request& request) {
  return {.body = request.method + " " + request.path + "?" + request.query +
                  " " + request.body};
}

TEST(HttpTest, AnswersARequest) {
  const ServerProcess server(Echo);

  const Fetched fetched = Get(server.Url("/a/b?c=d"), {}, kTimeout);

  EXPECT_EQ(fetched.status, 200) << fetched.error;
  EXPECT_EQ(fetched.body, "GET /a/b?c=d ");
}

TEST(HttpTest, KeepsAConnectionForTheNextRequest) {
  const ServerProcess server(Echo);

  const std::string answer = server.Raw(
      "GET /one HTTP/1.1\r\nHost: x\r\n\r\n"
      "GET /two HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");

  EXPECT_THAT(answer, HasSubstr("GET /one"));
  EXPECT_THAT(answer, HasSubstr("GET /two"));
}

TEST(HttpTest, ReadsBodiesOfBothFramings) {
  const ServerProcess server(Echo);

  const std::string answer = server.Raw(
      "POST /l HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
      "POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
      "Connection: close\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n");

  EXPECT_THAT(answer, HasSubstr("POST /l? hello"));
  EXPECT_THAT(answer, HasSubstr("POST /c? abcde"));
}

TEST(HttpTest, SendsNoBodyToHead) {
  const ServerProcess server(Echo);

  const std::string answer =
      server.Raw("HEAD /x HTTP/1.1\r\nConnection: close\r\n\r\n");

  EXPECT_THAT(answer, HasSubstr("Content-Length: 9"));
  EXPECT_THAT(answer, testing::EndsWith("\r\n\r\n"));
}

TEST(HttpTest, RefusesWhatIsNoRequest) {
  const ServerProcess server(Echo);

  EXPECT_THAT(server.Raw("nonsense\r\n\r\n"), StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(server.Raw("POST / HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n"),
              StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(server.Raw("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
                         "zz\r\n"),
              StartsWith("HTTP/1.1 400"));
}

TEST(HttpTest, EndsAtOnceOnSigterm) {
  ServerProcess server(Echo);

  const int status = server.Stop(SIGTERM);

  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(HttpTest, GetSaysWhyThereIsNoAnswer) {
  int port = 0;
  {
    const ServerProcess server(Echo);
    port = server.port();
  }

  const Fetched refused =
      Get("http://127.0.0.1:" + std::to_string(port) + "/", {}, kTimeout);
  const Fetched nonsense = Get("ftp://x/", {}, kTimeout);

  EXPECT_EQ(refused.status, 0);
  EXPECT_THAT(refused.error, HasSubstr("refused"));
  EXPECT_THAT(nonsense.error, HasSubstr("not an http:// URL"));
}

TEST(HttpTest, GetGivesUpAfterItsTimeout) {
  const ServerProcess server([](const Request&) -> Response {
    pause();
    return {};
  });

  const Fetched fetched =
      Get(server.Url("/"), {}, std::chrono::milliseconds(50));

  EXPECT_EQ(fetched.status, 0);
  EXPECT_THAT(fetched.error, HasSubstr("within 50 ms"));
}

TEST(HttpTest, QuotesJson) {
  EXPECT_EQ(JsonString("a\"b\\c\n"), R"("a\"b\\c\u000a")");
}

}  // namespace
}  // namespace mycelium::examples
