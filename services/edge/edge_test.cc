// Routes that change under load, in one process.

#include "services/edge/edge.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "lib/base/file.h"
#include "lib/base/mutex.h"
#include "services/edge/app_limiter.h"
#include "services/edge/traffic_policy.h"

namespace mycelium::edge {
namespace {

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

UniqueFd Connect(int port) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = Loopback(port);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address),
              sizeof(address)) != 0) {
    fd.reset();
  }
  return fd;
}

// Larger than all buffers on its way.
const std::string& LargeBody() {
  static const std::string kBody = [] {
    std::string body(size_t{16} << 20, ' ');
    for (size_t i = 0; i < body.size(); ++i)
      body[i] = static_cast<char>('a' + (i ^ (i >> 9)) % 23);
    return body;
  }();
  return kBody;
}

// Answers every request, each of which comes in one read, with its name. A
// request for /wait is answered when Release is called, /ws upgrades, /large
// has a large answer and /cut half of it.
class Origin {
 public:
  explicit Origin(std::string name)
      : name_(std::move(name)),
        listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = Loopback(0);
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address),
                   sizeof(address)),
              0);
    EXPECT_EQ(listen(listener_.get(), 64), 0);
    socklen_t size = sizeof(address);
    getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { Accept(); });
  }
  ~Origin() {
    Release();
    shutdown(listener_.get(), SHUT_RDWR);
    acceptor_.join();
    for (const UniqueFd& fd : connections_) shutdown(fd.get(), SHUT_RDWR);
    for (std::thread& thread : threads_) thread.join();
  }

  std::shared_ptr<const Endpoint> endpoint() const { return endpoint_; }
  void MakeEndpoint(int workers) {
    Endpoint endpoint =
        *ParseEndpointUrl(absl::StrCat("http://127.0.0.1:", port_));
    endpoint.instance_id = name_;
    endpoint.stats = std::make_shared<EndpointStats>(workers);
    endpoint.slots = std::make_shared<SlotCounter>();
    endpoint_ = std::make_shared<const Endpoint>(std::move(endpoint));
  }
  int64_t in_flight() const {
    return endpoint_->stats->Sum(
        [](const EndpointCounters& row) -> const Counter& {
          return row.in_flight;
        });
  }
  int requests() const { return requests_.load(); }

  void Release() {
    MutexLock lock(mutex_);
    released_ = true;
    changed_.NotifyAll();
  }

 private:
  void Accept() {
    for (;;) {
      const int fd = accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) return;
      connections_.emplace_back(fd);
      threads_.emplace_back([this, fd] { Serve(fd); });
    }
  }

  void Serve(int fd) {
    std::array<char, 4096> buffer;
    const std::string ok = absl::StrCat(
        "HTTP/1.1 200 OK\r\nContent-Length: ", name_.size(), "\r\n\r\n", name_);
    bool tunnel = false;
    for (;;) {
      const ssize_t got = recv(fd, buffer.data(), buffer.size(), 0);
      if (got <= 0) break;
      const absl::string_view text(buffer.data(), static_cast<size_t>(got));
      std::string answer = ok;
      if (tunnel) {
        answer = std::string(text);
      } else if (absl::StartsWith(text, "GET /ws ")) {
        tunnel = true;
        answer =
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: "
            "Upgrade\r\n\r\n";
      } else if (absl::StartsWith(text, "GET /large ") ||
                 absl::StartsWith(text, "GET /cut ")) {
        absl::string_view body = LargeBody();
        const std::string head = absl::StrCat(
            "HTTP/1.1 200 OK\r\nContent-Length: ", body.size(), "\r\n\r\n");
        const bool cut = absl::StartsWith(text, "GET /cut ");
        if (cut) body = body.substr(0, body.size() / 2);
        if (send(fd, head.data(), head.size(), MSG_NOSIGNAL) < 0 ||
            send(fd, body.data(), body.size(), MSG_NOSIGNAL) < 0 || cut) {
          break;
        }
        continue;
      } else if (absl::StartsWith(text, "GET /wait ")) {
        requests_.fetch_add(1);
        MutexLock lock(mutex_);
        while (!released_) changed_.Wait(mutex_);
      } else {
        requests_.fetch_add(1);
      }
      if (send(fd, answer.data(), answer.size(), MSG_NOSIGNAL) < 0) break;
    }
    shutdown(fd, SHUT_RDWR);
  }

  const std::string name_;
  UniqueFd listener_;
  int port_ = 0;
  std::shared_ptr<const Endpoint> endpoint_;
  std::atomic<int> requests_{0};
  std::vector<UniqueFd> connections_;  // Of the acceptor's thread.
  std::vector<std::thread> threads_;
  std::thread acceptor_;

  Mutex mutex_;
  CondVar changed_;
  bool released_ ABSL_GUARDED_BY(mutex_) = false;
};

template <typename Condition>
bool Eventually(Condition condition) {
  const absl::Time end = absl::Now() + absl::Seconds(10);
  while (absl::Now() < end) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return false;
}

class EdgeTest : public ::testing::Test {
 protected:
  static constexpr int kWorkers = 2;

  EdgeTest() {
    for (const char* name : {"a", "b", "c"}) {
      origins_.push_back(std::make_unique<Origin>(name));
      origins_.back()->MakeEndpoint(kWorkers);
    }
    app_stats_ = std::make_shared<AppStats>(kWorkers);
    limiter_ = std::make_shared<AppLimiter>(kWorkers);
  }

  void Start(int64_t drain_timeout_ms = 10'000) {
    Edge::Options options;
    options.listen = "127.0.0.1:0";
    options.workers = kWorkers;
    options.worker.drain_timeout_ms = drain_timeout_ms;
    auto edge = Edge::Start(options, &routes_);
    ASSERT_TRUE(edge.ok()) << edge.status();
    edge_ = *std::move(edge);
    const std::string& address = edge_->address();
    port_ = std::atoi(address.c_str() + address.rfind(':') + 1);
  }

  // Publishes that the origins in `ready` get requests and those in `draining`
  // none, and waits until no worker thinks otherwise.
  void Route(const std::vector<int>& ready,
             const std::vector<int>& draining = {}, bool wait = true) {
    auto app = std::make_shared<AppRoute>();
    app->name = "app";
    app->stats = app_stats_;
    app->traffic = traffic_;
    app->limiter = limiter_;
    for (const int i : ready) app->ready.push_back(origins_[i]->endpoint());
    for (const int i : draining)
      app->draining.push_back(origins_[i]->endpoint());
    RouteSnapshot snapshot;
    snapshot.apps["app"] = std::move(app);
    const uint64_t version = routes_.Publish(std::move(snapshot));
    if (edge_ == nullptr) return;
    edge_->RoutesChanged();
    if (wait) {
      ASSERT_TRUE(
          Eventually([&] { return edge_->applied_version() >= version; }));
    }
  }

  // What comes back for `path` on `fd`: at least `size` bytes.
  static std::string Ask(int fd, const std::string& path,
                         const std::string& fields = "") {
    const std::string request =
        absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: e\r\n", fields, "\r\n");
    if (send(fd, request.data(), request.size(), MSG_NOSIGNAL) < 0) return "";
    std::array<char, 4096> buffer;
    const ssize_t got = recv(fd, buffer.data(), buffer.size(), 0);
    return got < 0 ? "" : std::string(buffer.data(), static_cast<size_t>(got));
  }

  // Requests that wait for an endpoint.
  int64_t Waiting() const {
    return app_stats_->Sum(
        [](const AppCounters& row) -> const Counter& { return row.waiting; });
  }

  std::string Once(const std::string& path) {
    const UniqueFd fd = Connect(port_);
    return Ask(fd.get(), path);
  }

  RouteTable routes_;
  std::vector<std::unique_ptr<Origin>> origins_;
  std::shared_ptr<AppStats> app_stats_;
  std::shared_ptr<AppLimiter> limiter_;
  TrafficPolicy traffic_;
  std::unique_ptr<Edge> edge_;
  int port_ = 0;
};

TEST_F(EdgeTest, IsReadyWithItsFirstRoutes) {
  Start();
  EXPECT_TRUE(absl::StartsWith(Once("/_mesh/ready"), "HTTP/1.1 503"));

  Route({0});

  EXPECT_TRUE(absl::StartsWith(Once("/_mesh/ready"), "HTTP/1.1 200"));
  EXPECT_TRUE(absl::EndsWith(Once("/app/"), "a"));
}

TEST_F(EdgeTest, SharesRequestsAndFollowsChangesAtOnce) {
  Route({0, 1});
  Start();
  const UniqueFd fd = Connect(port_);
  for (int i = 0; i < 20; ++i) ASSERT_FALSE(Ask(fd.get(), "/app/").empty());
  EXPECT_EQ(origins_[0]->requests(), 10);
  EXPECT_EQ(origins_[1]->requests(), 10);

  Route({2});
  for (int i = 0; i < 20; ++i)
    ASSERT_TRUE(absl::EndsWith(Ask(fd.get(), "/app/"), "c"));
}

TEST_F(EdgeTest, LosesNoRequestWhileRoutesChangeAThousandTimesASecond) {
  Route({0, 1, 2});
  Start();
  std::atomic<bool> stop{false};
  std::atomic<int> failed{0};
  std::atomic<int> served{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&] {
      const UniqueFd fd = Connect(port_);
      while (!stop.load()) {
        if (absl::StartsWith(Ask(fd.get(), "/app/"), "HTTP/1.1 200")) {
          served.fetch_add(1);
        } else {
          failed.fetch_add(1);
        }
      }
    });
  }

  const std::vector<std::pair<std::vector<int>, std::vector<int>>> turns = {
      {{0, 1}, {2}},
      {{1, 2}, {}},
      {{0, 2}, {1}},
      {{0}, {1, 2}},
      {{0, 1, 2}, {}}};
  const absl::Time begin = absl::Now();
  int changes = 0;
  for (; absl::Now() < begin + absl::Seconds(2); ++changes) {
    const auto& [ready, draining] = turns[changes % turns.size()];
    Route(ready, draining, /*wait=*/false);
    absl::SleepFor(absl::Microseconds(700));
  }
  stop = true;
  for (std::thread& client : clients) client.join();

  EXPECT_EQ(failed.load(), 0);
  EXPECT_GT(served.load(), 100);
  EXPECT_GT(changes, 500);
}

TEST_F(EdgeTest, LetsADrainingEndpointFinishAndSaysWhenItHas) {
  Route({0});
  Start();
  const UniqueFd fd = Connect(port_);
  std::string answer;
  std::thread client([&] { answer = Ask(fd.get(), "/app/wait"); });
  ASSERT_TRUE(Eventually([&] { return origins_[0]->in_flight() == 1; }));

  Route({1}, {0});
  EXPECT_TRUE(absl::EndsWith(Once("/app/"), "b"));
  EXPECT_EQ(origins_[0]->in_flight(), 1);
  origins_[0]->Release();
  client.join();

  EXPECT_TRUE(absl::EndsWith(answer, "a")) << answer;
  EXPECT_TRUE(Eventually([&] { return origins_[0]->in_flight() == 0; }));
}

TEST_F(EdgeTest, FinishesRequestsOfAnAppThatIsRemoved) {
  Route({0});
  Start();
  const UniqueFd fd = Connect(port_);
  std::string answer;
  std::thread client([&] { answer = Ask(fd.get(), "/app/wait"); });
  ASSERT_TRUE(Eventually([&] { return origins_[0]->in_flight() == 1; }));

  const uint64_t version = routes_.Publish({});
  edge_->RoutesChanged();
  ASSERT_TRUE(Eventually([&] { return edge_->applied_version() >= version; }));
  EXPECT_TRUE(absl::StartsWith(Once("/app/"), "HTTP/1.1 404"));
  origins_[0]->Release();
  client.join();

  EXPECT_TRUE(absl::EndsWith(answer, "a")) << answer;
  EXPECT_TRUE(absl::StartsWith(Ask(fd.get(), "/app/"), "HTTP/1.1 404"));
}

TEST_F(EdgeTest, KeepsATunnelOverChangesOfOthersAndForAWhileOverItsOwn) {
  Route({0});
  Start(/*drain_timeout_ms=*/300);
  const UniqueFd fd = Connect(port_);
  const std::string upgrade = "Connection: Upgrade\r\nUpgrade: echo\r\n";
  ASSERT_TRUE(
      absl::StartsWith(Ask(fd.get(), "/app/ws", upgrade), "HTTP/1.1 101"));

  Route({0, 1});
  Route({0});
  ASSERT_EQ(send(fd.get(), "one", 3, 0), 3);
  std::array<char, 16> buffer;
  ASSERT_EQ(recv(fd.get(), buffer.data(), buffer.size(), 0), 3);

  Route({1});
  const absl::Time removed = absl::Now();
  ASSERT_EQ(send(fd.get(), "two", 3, 0), 3);
  ASSERT_EQ(recv(fd.get(), buffer.data(), buffer.size(), 0), 3);
  EXPECT_EQ(recv(fd.get(), buffer.data(), buffer.size(), 0), 0)
      << "closed in the end";
  EXPECT_GT(absl::Now() - removed, absl::Milliseconds(250));
}

TEST_F(EdgeTest, NeverUsesAConnectionOfAnOlderInstanceAtTheSameAddress) {
  Route({0});
  Start();
  const UniqueFd fd = Connect(port_);
  ASSERT_TRUE(absl::EndsWith(Ask(fd.get(), "/app/"), "a"));

  // The same address, but another instance: the idle connection has to go.
  origins_[0]->MakeEndpoint(kWorkers);
  Route({0});

  EXPECT_TRUE(Eventually([&] {
    return edge_->counters().Sum(
               [](const WorkerCounters& row) -> const Counter& {
                 return row.upstream_connections;
               }) == 0;
  }));
  EXPECT_TRUE(absl::EndsWith(Ask(fd.get(), "/app/"), "a"));
}

TEST_F(EdgeTest, HoldsRequestsOfAnAppThatStartsUntilAnEndpointArrives) {
  traffic_.hold = HoldPolicy();
  Route({});
  Start();
  std::vector<std::string> answers(6);
  std::vector<std::thread> clients;
  for (std::string& answer : answers)
    clients.emplace_back([&] { answer = Once("/app/"); });
  ASSERT_TRUE(Eventually([&] { return Waiting() == 6; }));

  Route({0});
  for (std::thread& client : clients) client.join();

  for (const std::string& answer : answers)
    EXPECT_TRUE(absl::EndsWith(answer, "a")) << answer;
  EXPECT_EQ(Waiting(), 0);
  EXPECT_EQ(limiter_->held.taken(), 0);
}

TEST_F(EdgeTest, AnswersHeldRequestsOfAnAppThatIsRemoved) {
  traffic_.hold = HoldPolicy();
  Route({});
  Start();
  std::string answer;
  std::thread client([&] { answer = Once("/app/"); });
  ASSERT_TRUE(Eventually([&] { return Waiting() == 1; }));

  routes_.Publish({});
  edge_->RoutesChanged();
  client.join();

  EXPECT_TRUE(absl::StartsWith(answer, "HTTP/1.1 404")) << answer;
}

TEST_F(EdgeTest, LetsHeldRequestsGoWhenALimitIsRaised) {
  traffic_.hold = HoldPolicy();
  traffic_.max_in_flight = 1;
  Route({0});
  Start();
  std::string first;
  std::thread waiting([&] { first = Once("/app/wait"); });
  ASSERT_TRUE(Eventually([&] { return origins_[0]->in_flight() == 1; }));
  std::string second;
  std::thread held([&] { second = Once("/app/"); });
  ASSERT_TRUE(Eventually([&] { return Waiting() == 1; }));

  traffic_.max_in_flight = 2;
  Route({0});
  held.join();

  EXPECT_TRUE(absl::EndsWith(second, "a")) << second;
  origins_[0]->Release();
  waiting.join();
  EXPECT_TRUE(absl::EndsWith(first, "a")) << first;
}

TEST_F(EdgeTest, FillsEveryEndpointBeforeItRefuses) {
  traffic_.max_in_flight_per_endpoint = 1;
  Route({0, 1});
  Start();
  std::vector<std::thread> clients;
  for (int i = 0; i < 2; ++i) {
    clients.emplace_back([&] { Once("/app/wait"); });
    ASSERT_TRUE(Eventually([&] {
      return origins_[0]->in_flight() + origins_[1]->in_flight() == i + 1;
    }));
  }
  EXPECT_EQ(origins_[0]->in_flight(), 1);
  EXPECT_EQ(origins_[1]->in_flight(), 1);

  const std::string answer = Once("/app/");
  for (const auto& origin : origins_) origin->Release();
  for (std::thread& client : clients) client.join();

  EXPECT_TRUE(absl::StartsWith(answer, "HTTP/1.1 503")) << answer;
  EXPECT_TRUE(absl::StrContains(answer, "X-Mycelium-Reason: overloaded"));
  EXPECT_TRUE(Eventually([&] {
    return absl::StartsWith(Once("/app/"), "HTTP/1.1 200");
  })) << "slots come back";
}

TEST_F(EdgeTest, WorkersPassOnWhatComesFree) {
  traffic_.hold = HoldPolicy();
  traffic_.max_in_flight = 1;
  traffic_.max_in_flight_per_endpoint = 1;
  Route({0, 1});
  Start();
  constexpr int kClients = 8;
  constexpr int kRequests = 100;
  std::atomic<int> served{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&] {
      const UniqueFd fd = Connect(port_);
      for (int j = 0; j < kRequests; ++j) {
        if (absl::StartsWith(Ask(fd.get(), "/app/"), "HTTP/1.1 200"))
          served.fetch_add(1);
      }
    });
  }
  for (std::thread& client : clients) client.join();

  EXPECT_EQ(served.load(), kClients * kRequests);
  EXPECT_EQ(limiter_->in_flight.taken(), 0);
  EXPECT_EQ(limiter_->held.taken(), 0);
}

TEST_F(EdgeTest, HeldRequestsGetTheirChanceWhileTheEdgeDrains) {
  traffic_.hold = HoldPolicy();
  Route({});
  Start();
  std::string answer;
  std::thread client([&] { answer = Once("/app/"); });
  ASSERT_TRUE(Eventually([&] { return Waiting() == 1; }));

  edge_->Drain();
  Route({0}, {}, /*wait=*/false);
  client.join();

  EXPECT_TRUE(absl::EndsWith(answer, "a")) << answer;
  EXPECT_TRUE(absl::StrContains(answer, "Connection: close")) << answer;
}

TEST_F(EdgeTest, HeldRequestsAreAnsweredBeforeTheDrainIsOver) {
  traffic_.hold = HoldPolicy();
  Route({});
  Start(/*drain_timeout_ms=*/300);
  std::string answer;
  std::thread client([&] { answer = Once("/app/"); });
  ASSERT_TRUE(Eventually([&] { return Waiting() == 1; }));

  edge_->Drain();
  client.join();

  EXPECT_TRUE(absl::StartsWith(answer, "HTTP/1.1 503")) << answer;
  EXPECT_TRUE(absl::StrContains(answer, "X-Mycelium-Reason: hold_timeout"));
}

// Sends `request` and reads until the body has `size` bytes or there is no
// more.
std::string ReadBody(int fd, const std::string& path, size_t size) {
  const std::string request =
      absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: e\r\n\r\n");
  if (send(fd, request.data(), request.size(), MSG_NOSIGNAL) < 0) return "";
  std::string answer;
  size_t head = std::string::npos;
  std::array<char, 65536> buffer;
  while (head == std::string::npos || answer.size() < head + 4 + size) {
    const ssize_t got = recv(fd, buffer.data(), buffer.size(), 0);
    if (got <= 0) break;
    answer.append(buffer.data(), static_cast<size_t>(got));
    if (head == std::string::npos) head = answer.find("\r\n\r\n");
  }
  return head == std::string::npos ? "" : answer.substr(head + 4);
}

TEST_F(EdgeTest, PassesLargeBodiesOnWholeAndInOrder) {
  Route({0});
  Start();
  const std::string& body = LargeBody();
  const UniqueFd fd = Connect(port_);

  EXPECT_TRUE(ReadBody(fd.get(), "/app/large", body.size()) == body);
  EXPECT_TRUE(ReadBody(fd.get(), "/app/large", body.size()) == body);
  EXPECT_EQ(ReadBody(fd.get(), "/app/x", 1), "a");
}

TEST_F(EdgeTest, PassesMoreLargeBodiesAtATimeThanItHasPipes) {
  Route({0});
  Start();
  const std::string& body = LargeBody();
  // None of them reads at first, so all are under way at once.
  std::vector<UniqueFd> waiting;
  const std::string request = "GET /app/large HTTP/1.1\r\nHost: e\r\n\r\n";
  for (int i = 0; i < 2 * 64 + 8; ++i) {
    waiting.push_back(Connect(port_));
    ASSERT_EQ(send(waiting.back().get(), request.data(), request.size(), 0),
              static_cast<ssize_t>(request.size()));
  }
  ASSERT_TRUE(Eventually([&] {
    return origins_[0]->in_flight() == static_cast<int64_t>(waiting.size());
  }));

  const UniqueFd fd = Connect(port_);
  EXPECT_TRUE(ReadBody(fd.get(), "/app/large", body.size()) == body);
}

TEST_F(EdgeTest, EndsALargeBodyThatIsCutShortBeforeItsLength) {
  Route({0});
  Start();
  const std::string& body = LargeBody();
  const UniqueFd fd = Connect(port_);

  const std::string got = ReadBody(fd.get(), "/app/cut", body.size());

  EXPECT_TRUE(got == body.substr(0, body.size() / 2));
}

TEST_F(EdgeTest, NamesAnAddressThatIsTakenOrNone) {
  Start();
  Edge::Options options;
  options.listen = edge_->address();
  EXPECT_EQ(Edge::Start(options, &routes_).status().code(),
            absl::StatusCode::kAlreadyExists);
  for (const char* listen :
       {"", "nonsense", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999"}) {
    options.listen = listen;
    EXPECT_EQ(Edge::Start(options, &routes_).status().code(),
              absl::StatusCode::kInvalidArgument)
        << listen;
  }
}

}  // namespace
}  // namespace mycelium::edge
