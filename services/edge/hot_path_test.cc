// What a proxied request costs in allocations and system calls, counted.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <thread>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "lib/base/file.h"
#include "services/edge/edge.h"
#include "services/edge/route_table.h"
#include "services/edge/test_certificate.h"
#include "services/edge/traffic_policy.h"

namespace {

// Of all threads, while `counting`.
std::atomic<bool> counting{false};
std::atomic<int64_t> allocations{0};
// The calls by which the data plane does its I/O; the test's own peers make
// theirs by number.
std::atomic<int64_t> reads{0};
std::atomic<int64_t> writes{0};
std::atomic<int64_t> others{0};

void Count(std::atomic<int64_t>* counter) {
  if (counting.load(std::memory_order_relaxed)) counter->fetch_add(1);
}

}  // namespace

void* operator new(size_t size) {
  Count(&allocations);
  void* const memory = std::malloc(size);
  if (memory == nullptr) std::abort();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

extern "C" {
ssize_t recv(int fd, void* data, size_t size, int flags) {
  Count(&reads);
  return syscall(SYS_recvfrom, fd, data, size, flags, nullptr, nullptr);
}
ssize_t send(int fd, const void* data, size_t size, int flags) {
  Count(&writes);
  return syscall(SYS_sendto, fd, data, size, flags, nullptr, 0);
}
ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  Count(&writes);
  return syscall(SYS_sendmsg, fd, message, flags);
}
int epoll_ctl(int epoll, int what, int fd, epoll_event* event) noexcept {
  Count(&others);
  return static_cast<int>(syscall(SYS_epoll_ctl, epoll, what, fd, event));
}
int accept4(int fd, sockaddr* address, socklen_t* size, int flags) {
  Count(&others);
  return static_cast<int>(syscall(SYS_accept4, fd, address, size, flags));
}
}

namespace mycelium::edge {
namespace {

ssize_t Read(int fd, void* data, size_t size) {
  return syscall(SYS_read, fd, data, size);
}

void WriteAll(int fd, absl::string_view text) {
  ASSERT_EQ(syscall(SYS_write, fd, text.data(), text.size()),
            static_cast<ssize_t>(text.size()));
}

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

// Answers each read on its one connection, which is a whole request, the same.
class Origin {
 public:
  explicit Origin(std::string response)
      : response_(std::move(response)),
        listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = Loopback(0);
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address),
                   sizeof(address)),
              0);
    EXPECT_EQ(listen(listener_.get(), 1), 0);
    socklen_t size = sizeof(address);
    getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Serve(); });
  }
  ~Origin() {
    shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }

  int port() const { return port_; }

 private:
  void Serve() {
    const UniqueFd fd(accept(listener_.get(), nullptr, nullptr));
    if (!fd.valid()) return;
    std::array<char, 65536> buffer;
    while (Read(fd.get(), buffer.data(), buffer.size()) > 0)
      WriteAll(fd.get(), response_);
  }

  const std::string response_;
  UniqueFd listener_;
  int port_ = 0;
  std::thread thread_;
};

struct Cost {
  double allocations;
  double reads;
  double writes;
  double others;
};

struct FreeSsl {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};

// The cost per request of many on one connection, once it is warm, with all
// that is counted and logged of it.
Cost Measure(const std::string& request, const std::string& response,
             const TrafficPolicy& traffic = {}, bool tls = false) {
  constexpr int kRequests = 2000;
  Origin origin(response);
  RouteTable routes;
  absl::flat_hash_map<std::string, TrafficPolicy> policies;
  policies["app"] = traffic;
  routes.Publish(*ParseStaticEndpoints(
      absl::StrCat("app=http://127.0.0.1:", origin.port()), 1,
      BalancePolicy::kRoundRobin, policies));
  // A latency of a power of two that was never seen allocates its buckets, once
  // in the life of an app or endpoint.
  const AppRoute& app = *routes.Current()->apps.at("app");
  app.stats->row(0).latency.Reserve();
  app.ready[0]->stats->row(0).latency.Reserve();
  const auto directory = TempDirectory::Create("hot_path");
  EXPECT_TRUE(directory.ok()) << directory.status();
  Edge::Options options;
  options.listen = "127.0.0.1:0";
  const TempDirectory certificates = *TempDirectory::Create("hot-path-test");
  if (tls) {
    EXPECT_TRUE(WriteTestCertificate(certificates.path(), "a", {"a"}).ok());
    options.tls_listen = "127.0.0.1:0";
    options.tls.certificates = certificates.path();
  }
  options.access_log = JoinPath(directory->path(), "log");
  options.log.max_per_second = 1'000'000;
  options.worker.tracing = true;
  options.worker.trace_sample = 1;
  auto edge = Edge::Start(options, &routes);
  EXPECT_TRUE(edge.ok()) << edge.status();
  const std::string& address =
      tls ? (*edge)->tls_address() : (*edge)->address();
  const sockaddr_in at =
      Loopback(std::atoi(address.c_str() + address.rfind(':') + 1));
  const UniqueFd client(socket(AF_INET, SOCK_STREAM, 0));
  EXPECT_EQ(
      connect(client.get(), reinterpret_cast<const sockaddr*>(&at), sizeof(at)),
      0);

  // OpenSSL's sockets read and write by other calls than those counted.
  std::unique_ptr<SSL_CTX, FreeSsl> context;
  std::unique_ptr<SSL, FreeSsl> ssl;
  if (tls) {
    context.reset(SSL_CTX_new(TLS_client_method()));
    ssl.reset(SSL_new(context.get()));
    SSL_set_fd(ssl.get(), client.get());
    EXPECT_EQ(SSL_connect(ssl.get()), 1);
  }

  std::array<char, 65536> buffer;
  const auto ask = [&] {
    if (tls) {
      EXPECT_EQ(SSL_write(ssl.get(), request.data(),
                          static_cast<int>(request.size())),
                static_cast<int>(request.size()));
      EXPECT_GT(SSL_read(ssl.get(), buffer.data(), buffer.size()), 12);
    } else {
      WriteAll(client.get(), request);
      EXPECT_GT(Read(client.get(), buffer.data(), buffer.size()), 12);
    }
    EXPECT_EQ(absl::string_view(buffer.data(), 12), "HTTP/1.1 200");
  };
  for (int i = 0; i < 100; ++i) ask();
  allocations = reads = writes = others = 0;
  counting = true;
  for (int i = 0; i < kRequests; ++i) ask();
  counting = false;
  edge->reset();
  const auto log = ReadFile(options.access_log);
  EXPECT_TRUE(log.ok()) << log.status();
  EXPECT_EQ(std::count(log->begin(), log->end(), '\n'), 100 + kRequests);
  return {static_cast<double>(allocations) / kRequests,
          static_cast<double>(reads) / kRequests,
          static_cast<double>(writes) / kRequests,
          static_cast<double>(others) / kRequests};
}

TEST(HotPathTest, AGetCostsNoAllocationAndFourSystemCalls) {
  const Cost cost =
      Measure("GET /app/x HTTP/1.1\r\nHost: e.test\r\nX-A: 1\r\nTE: x\r\n\r\n",
              "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");

  EXPECT_EQ(cost.allocations, 0);
  EXPECT_EQ(cost.reads, 2);
  EXPECT_EQ(cost.writes, 2);
  EXPECT_EQ(cost.others, 0);
}

TEST(HotPathTest, LimitsThatAreNotReachedCostNeither) {
  TrafficPolicy traffic;
  traffic.hold = HoldPolicy();
  traffic.rate_limit = RateLimit{1, 1'000'000'000};
  traffic.client_rate_limit = RateLimit{1, 1'000'000'000};
  traffic.max_in_flight = 10;
  traffic.max_in_flight_per_endpoint = 10;
  traffic.max_request_body_bytes = 10;

  const Cost cost =
      Measure("GET /app/x HTTP/1.1\r\nHost: e.test\r\n\r\n",
              "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", traffic);

  EXPECT_EQ(cost.allocations, 0);
  EXPECT_EQ(cost.reads, 2);
  EXPECT_EQ(cost.writes, 2);
  EXPECT_EQ(cost.others, 0);
}

TEST(HotPathTest, AChunkedResponseCostsTheSame) {
  const Cost cost =
      Measure("GET /app/x HTTP/1.1\r\nHost: e.test\r\n\r\n",
              "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
              "5\r\nhello\r\n0\r\n\r\n");

  EXPECT_EQ(cost.allocations, 0);
  EXPECT_EQ(cost.reads, 2);
  EXPECT_EQ(cost.writes, 2);
}

TEST(HotPathTest, TlsCostsNoSystemCallMore) {
  const Cost cost =
      Measure("GET /app/x HTTP/1.1\r\nHost: e.test\r\nX-A: 1\r\nTE: x\r\n\r\n",
              "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", {}, true);

  EXPECT_EQ(cost.allocations, 0);
  EXPECT_EQ(cost.reads, 2);
  EXPECT_EQ(cost.writes, 2);
  EXPECT_EQ(cost.others, 0);
}

TEST(HotPathTest, ABodyThatMayNotBeSentTwiceCostsOneLookMore) {
  const Cost cost = Measure(
      "POST /app/x HTTP/1.1\r\nHost: e.test\r\nContent-Length: 2\r\n\r\nhi",
      "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");

  EXPECT_EQ(cost.allocations, 0);
  EXPECT_EQ(cost.reads, 3);
  EXPECT_EQ(cost.writes, 2);
}

}  // namespace
}  // namespace mycelium::edge
