#include "services/agent/health_prober.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/file.h"

namespace mycelium::agent {
namespace {

using ::testing::HasSubstr;

// Listens on a port of its own.
class Listener {
 public:
  Listener() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    EXPECT_EQ(bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), length),
              0);
    EXPECT_EQ(listen(fd_.get(), 16), 0);
    EXPECT_EQ(
        getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&address), &length),
        0);
    port_ = ntohs(address.sin_port);
  }

  int port() const { return port_; }
  UniqueFd Accept() { return UniqueFd(accept(fd_.get(), nullptr, nullptr)); }

 private:
  UniqueFd fd_;
  int port_ = 0;
};

class HealthProberTest : public ::testing::Test {
 protected:
  HealthProberTest()
      : prober_(SocketProber::Start("127.0.0.1", Clock::Real()).value()) {}

  struct Result {
    bool success;
    std::string detail;
  };

  std::future<Result> Probe(const ProbeTarget& target,
                            absl::Duration timeout = absl::Seconds(10)) {
    auto promise = std::make_shared<std::promise<Result>>();
    prober_->Probe(target, timeout,
                   [promise](bool success, std::string detail) {
                     promise->set_value({success, std::move(detail)});
                   });
    return promise->get_future();
  }

  // Probes an instance that answers `answer`, in pieces.
  Result ProbeAnswer(const std::vector<std::string>& answer,
                     std::string* request = nullptr) {
    Listener listener;
    std::thread server([&] {
      const UniqueFd fd = listener.Accept();
      std::string received;
      char c = 0;
      while (!absl::EndsWith(received, "\r\n\r\n") &&
             read(fd.get(), &c, 1) == 1) {
        received.push_back(c);
      }
      if (request != nullptr) *request = received;
      for (const std::string& piece : answer) {
        EXPECT_TRUE(WriteFully(fd.get(), piece).ok());
        absl::SleepFor(absl::Milliseconds(1));
      }
    });
    const Result result =
        Probe({.port = listener.port(), .path = "/health"}).get();
    server.join();
    return result;
  }

  std::unique_ptr<SocketProber> prober_;
};

TEST_F(HealthProberTest, SucceedsOnEvery2xx) {
  for (const char* status : {"200 OK", "204 No Content", "299 Odd"}) {
    EXPECT_TRUE(
        ProbeAnswer({std::string("HTTP/1.1 ") + status + "\r\n\r\n"}).success)
        << status;
  }
}

TEST_F(HealthProberTest, FailsOnEverythingElse) {
  for (const char* status : {"100 Continue", "301 Moved", "404 Not Found",
                             "500 Error", "503 Unavailable"}) {
    const Result result =
        ProbeAnswer({std::string("HTTP/1.0 ") + status + "\r\n\r\n"});
    EXPECT_FALSE(result.success) << status;
    EXPECT_THAT(result.detail, HasSubstr(std::string(status, 3)));
  }
}

TEST_F(HealthProberTest, UnderstandsAnAnswerInPieces) {
  EXPECT_TRUE(ProbeAnswer({"HT", "TP/1.1 2", "00 OK\r", "\n\r\nbody"}).success);
}

TEST_F(HealthProberTest, SendsAPlainRequest) {
  std::string request;

  ProbeAnswer({"HTTP/1.1 200 OK\r\n\r\n"}, &request);

  EXPECT_THAT(request, HasSubstr("GET /health HTTP/1.1\r\n"));
  EXPECT_THAT(request, HasSubstr("\r\nHost: 127.0.0.1:"));
  EXPECT_THAT(request, HasSubstr("\r\nConnection: close\r\n"));
}

TEST_F(HealthProberTest, FailsOnWhatIsNotHttp) {
  EXPECT_THAT(ProbeAnswer({"SSH-2.0-OpenSSH\r\n"}).detail,
              HasSubstr("does not answer with HTTP"));
  EXPECT_THAT(ProbeAnswer({std::string(4000, 'x')}).detail,
              HasSubstr("does not answer with HTTP"));
  EXPECT_THAT(ProbeAnswer({""}).detail, HasSubstr("without an answer"));
}

TEST_F(HealthProberTest, FailsWhenNobodyListens) {
  int port = 0;
  { port = Listener().port(); }

  const Result result = Probe({.port = port, .path = "/"}).get();

  EXPECT_FALSE(result.success);
  EXPECT_THAT(result.detail, HasSubstr("refused"));
}

TEST_F(HealthProberTest, GivesUpAtTheTimeout) {
  Listener listener;  // Accepts in the kernel, and never answers.

  const Result result =
      Probe({.port = listener.port(), .path = "/"}, absl::Milliseconds(30))
          .get();

  EXPECT_FALSE(result.success);
  EXPECT_THAT(result.detail, HasSubstr("no answer within 30ms"));
}

TEST_F(HealthProberTest, IsContentWithAConnectionWithoutAPath) {
  Listener listener;

  EXPECT_TRUE(Probe({.port = listener.port(), .path = ""}).get().success);
}

TEST_F(HealthProberTest, AHangingInstanceDelaysNoOther) {
  Listener hanging;
  Listener healthy;
  std::vector<std::future<Result>> stuck;
  for (int i = 0; i < 10; ++i) {
    stuck.push_back(Probe({.port = hanging.port(), .path = "/"}));
  }

  EXPECT_TRUE(Probe({.port = healthy.port(), .path = ""}).get().success);
  prober_.reset();
}

TEST(SocketProberTest, RefusesAHostThatIsNone) {
  EXPECT_EQ(SocketProber::Start("no such host", Clock::Real()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace mycelium::agent
