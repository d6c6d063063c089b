// Endpoints that come, go and change under load: what a fabric says goes
// through FabricRoutes to workers that serve real connections.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gflags/gflags.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"
#include "services/edge/edge.h"
#include "services/edge/fabric_routes.h"
#include "services/edge/stats.h"

DEFINE_int32(churn_seconds, 10, "how long endpoints change under load");

namespace mycelium::edge {
namespace {

using PbEndpoint = fabric::v1::Endpoint;
using PbNode = fabric::v1::Node;
using PbPlan = fabric::v1::Plan;
using telemetry::LatencyBuckets;

constexpr int kWorkers = 2;

template <typename Condition>
bool Eventually(Condition condition) {
  const absl::Time end = absl::Now() + absl::Seconds(20);
  while (absl::Now() < end) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return false;
}

// As many origins as 127.1.0.0/16 has addresses, on one thread. Each answers
// 200 to every request that comes in one read; requests for /wait are answered
// when Release is called.
class Origins {
 public:
  struct Counts {
    std::atomic<int> requests{0};
    std::atomic<int> accepted{0};
    std::atomic<int> open{0};
    std::atomic<int> waiting{0};
  };

  explicit Origins(int count)
      : counts_(static_cast<size_t>(count)),
        listener_(
            socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)),
        epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    const int on = 1;
    setsockopt(listener_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address),
                   sizeof(address)),
              0);
    EXPECT_EQ(listen(listener_.get(), 4096), 0);
    socklen_t size = sizeof(address);
    getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    Watch(listener_.get());
    thread_ = std::thread([this] { Serve(); });
  }
  ~Origins() {
    stop_ = true;
    thread_.join();
    for (size_t fd = 0; fd < of_.size(); ++fd) {
      if (of_[fd] >= 0) close(static_cast<int>(fd));
    }
  }

  std::string Url(int i) const {
    return absl::StrCat("http://127.1.", i / 250, ".", i % 250 + 1, ":", port_);
  }
  const Counts& of(int i) const { return counts_[static_cast<size_t>(i)]; }
  void Release() { released_ = true; }

 private:
  void Watch(int fd) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    EXPECT_EQ(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event), 0);
  }

  void Serve() {
    std::array<epoll_event, 256> events;
    while (!stop_) {
      const int count = epoll_wait(epoll_.get(), events.data(), 256, 5);
      for (int i = 0; i < count; ++i) {
        if (events[i].data.fd == listener_.get()) {
          Accept();
        } else {
          Read(events[i].data.fd);
        }
      }
      if (!released_) continue;
      for (const int fd : std::exchange(waiting_, {})) Answer(fd);
    }
  }

  void Accept() {
    for (;;) {
      const int fd = accept4(listener_.get(), nullptr, nullptr,
                             SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) return;
      sockaddr_in own{};
      socklen_t size = sizeof(own);
      getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size);
      const uint32_t address = ntohl(own.sin_addr.s_addr);
      if (of_.size() <= static_cast<size_t>(fd)) of_.resize(fd + 1, -1);
      of_[fd] =
          static_cast<int>((address >> 8 & 255) * 250 + (address & 255)) - 1;
      Counts& counts = counts_[static_cast<size_t>(of_[fd])];
      counts.accepted.fetch_add(1);
      counts.open.fetch_add(1);
      Watch(fd);
    }
  }

  void Read(int fd) {
    Counts& counts = counts_[static_cast<size_t>(of_[fd])];
    std::array<char, 4096> buffer;
    const ssize_t got = recv(fd, buffer.data(), buffer.size(), 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
      counts.open.fetch_sub(1);
      of_[fd] = -1;
      close(fd);
      return;
    }
    counts.requests.fetch_add(1);
    if (absl::StartsWith({buffer.data(), static_cast<size_t>(got)},
                         "GET /wait ")) {
      counts.waiting.fetch_add(1);
      waiting_.push_back(fd);
      return;
    }
    Answer(fd);
  }

  static void Answer(int fd) {
    constexpr absl::string_view kOk =
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    [[maybe_unused]] const ssize_t sent =
        send(fd, kOk.data(), kOk.size(), MSG_NOSIGNAL);
  }

  std::vector<Counts> counts_;
  UniqueFd listener_;
  UniqueFd epoll_;
  int port_ = 0;
  std::atomic<bool> stop_{false};
  std::atomic<bool> released_{false};
  // Of the thread.
  std::vector<int> of_;  // The origin of each descriptor, or -1.
  std::vector<int> waiting_;
  std::thread thread_;
};

// One keep-alive connection to an edge.
class Client {
 public:
  explicit Client(const std::string& address)
      : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(static_cast<uint16_t>(
        std::atoi(address.c_str() + address.rfind(':') + 1)));
    EXPECT_EQ(connect(fd_.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)),
              0);
  }

  // Whether `path` was answered 200.
  bool Get(const std::string& path = "/app/") {
    const std::string request =
        absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: e\r\n\r\n");
    if (send(fd_.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0)
      return false;
    std::array<char, 4096> buffer;
    const ssize_t got = recv(fd_.get(), buffer.data(), buffer.size(), 0);
    last_ = std::string(buffer.data(),
                        static_cast<size_t>(std::max<ssize_t>(got, 0)));
    return absl::StartsWith(last_, "HTTP/1.1 200") &&
           absl::EndsWith(last_, "\r\n\r\nok");
  }
  const std::string& last() const { return last_; }

 private:
  UniqueFd fd_;
  std::string last_;
};

// Clients that send one request after the other until they are stopped.
class Load {
 public:
  Load(const std::string& address, int clients, absl::Duration pause = {})
      : latencies_(static_cast<size_t>(clients)) {
    for (int i = 0; i < clients; ++i) {
      threads_.emplace_back([this, address, i, pause] {
        Client client(address);
        while (!stop_.load()) {
          const absl::Time begin = absl::Now();
          const bool ok = client.Get();
          latencies_[i].Add(
              LatencyBuckets::IndexOf(static_cast<uint64_t>(
                  absl::ToInt64Microseconds(absl::Now() - begin))),
              1);
          served_.fetch_add(ok ? 1 : 0);
          if (!ok) {
            if (failed_.fetch_add(1) < 5)
              ADD_FAILURE() << "answer: " << client.last();
            return;
          }
          if (pause > absl::ZeroDuration()) absl::SleepFor(pause);
        }
      });
    }
  }
  ~Load() { Stop(); }

  void Stop() {
    stop_ = true;
    for (std::thread& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }
  int served() const { return served_.load(); }
  int failed() const { return failed_.load(); }
  // After Stop.
  double QuantileMicros(double quantile) const {
    LatencySummary all;
    for (const LatencySummary& each : latencies_) {
      for (int i = 0; i < LatencyBuckets::kCount; ++i) {
        if (each.counts()[i] > 0) all.Add(i, each.counts()[i]);
      }
    }
    return all.QuantileMicros(quantile);
  }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<int> served_{0};
  std::atomic<int> failed_{0};
  std::vector<LatencySummary> latencies_;
  std::vector<std::thread> threads_;
};

class EdgeLoadTest : public ::testing::Test {
 protected:
  PbEndpoint EndpointOf(int i,
                        PbEndpoint::State state = PbEndpoint::STATE_READY,
                        int64_t claim = 1) const {
    PbEndpoint endpoint;
    endpoint.set_app_name("app");
    endpoint.set_instance_id(Id(i));
    endpoint.set_node_id(absl::StrCat("node-", i % 7));
    endpoint.set_url(origins_->Url(i));
    endpoint.set_state(state);
    endpoint.set_claim_revision(claim);
    return endpoint;
  }
  static std::string Id(int i) { return absl::StrCat("i", 10'000 + i); }

  template <typename T>
  fabric_client::WatchUpdate<T> Update(bool reset, std::vector<T> puts,
                                       std::vector<std::string> deletes = {}) {
    return {"epoch", ++revision_, reset, std::move(puts), std::move(deletes)};
  }
  void Put(std::vector<PbEndpoint> endpoints) {
    routes_.OnEndpoints(Update<PbEndpoint>(false, std::move(endpoints)));
  }
  void PutPlan(fabric::v1::Traffic::Balancing balancing, int slow_start_s = 0) {
    PbPlan plan;
    plan.set_app_name("app");
    plan.mutable_traffic()->set_balancing(balancing);
    if (slow_start_s > 0)
      plan.mutable_traffic()->mutable_slow_start()->set_seconds(slow_start_s);
    routes_.OnPlans(Update<PbPlan>(false, {plan}));
  }

  // An edge with the first `ready` of `count` origins.
  void Start(int count, int ready) {
    origins_ = std::make_unique<Origins>(count);
    Edge::Options options;
    options.listen = "127.0.0.1:0";
    options.workers = kWorkers;
    options.worker.upstream_idle_timeout_ms = 300'000;
    auto edge = Edge::Start(options, &table_);
    ASSERT_TRUE(edge.ok()) << edge.status();
    edge_ = *std::move(edge);
    std::vector<PbEndpoint> endpoints;
    for (int i = 0; i < ready; ++i) endpoints.push_back(EndpointOf(i));
    PbPlan plan;
    plan.set_app_name("app");
    routes_.OnPlans(Update<PbPlan>(true, {plan}));
    routes_.OnEndpoints(Update<PbEndpoint>(true, std::move(endpoints)));
    routes_.OnNodes(Update<PbNode>(true, {}));
    ASSERT_TRUE(Applied());
  }
  bool Applied() {
    const uint64_t version = table_.version();
    return Eventually([&] { return edge_->applied_version() >= version; });
  }
  // Prints how long updates of one endpoint, made by `endpoint_of`, take.
  template <typename EndpointOf>
  void MeasureUpdates(const std::string& what, EndpointOf endpoint_of) {
    constexpr int kUpdates = 300;
    std::vector<double> publish_us;
    std::vector<double> apply_us;
    for (int i = 0; i < kUpdates; ++i) {
      PbEndpoint endpoint = endpoint_of(i);
      const absl::Time begin = absl::Now();
      Put({std::move(endpoint)});
      const absl::Time published = absl::Now();
      const uint64_t version = table_.version();
      while (edge_->applied_version() < version) std::this_thread::yield();
      publish_us.push_back(absl::ToDoubleMicroseconds(published - begin));
      apply_us.push_back(absl::ToDoubleMicroseconds(absl::Now() - published));
    }
    std::sort(publish_us.begin(), publish_us.end());
    std::sort(apply_us.begin(), apply_us.end());
    std::printf(
        "%s: median %.0f us to publish, %.0f us until %d workers have it\n",
        what.c_str(), publish_us[kUpdates / 2], apply_us[kUpdates / 2],
        kWorkers);
    // Far above what it takes, and below what it takes when each endpoint is
    // looked for among all others.
    EXPECT_LT(publish_us[kUpdates / 2] + apply_us[kUpdates / 2], 5000);
  }
  int Requests(int i) const { return origins_->of(i).requests.load(); }

  int64_t revision_ = 0;
  std::unique_ptr<Origins> origins_;
  RouteTable table_;
  FabricRoutes routes_{{.workers = kWorkers}, Clock::Real(), &table_, [this] {
                         if (edge_ != nullptr) edge_->RoutesChanged();
                       }};
  std::unique_ptr<Edge> edge_;
};

TEST_F(EdgeLoadTest, GivesAnEndpointThatIsAddedItsShareAndFailsNothing) {
  Start(4, 3);
  Load load(edge_->address(), 4, absl::Milliseconds(1));
  ASSERT_TRUE(Eventually([&] { return load.served() > 100; }));

  Put({EndpointOf(3)});
  ASSERT_TRUE(Applied());
  std::array<int, 4> before;
  for (int i = 0; i < 4; ++i) before[i] = Requests(i);
  const int served = load.served();
  ASSERT_TRUE(Eventually([&] { return load.served() > served + 1000; }));
  load.Stop();

  EXPECT_EQ(load.failed(), 0);
  for (int i = 0; i < 4; ++i) {
    EXPECT_NEAR(
        static_cast<double>(Requests(i) - before[i]) / (load.served() - served),
        0.25, 0.05)
        << i;
  }
}

TEST_F(EdgeLoadTest, FinishesWhatAnEndpointHasAndSendsItNothingNew) {
  constexpr int kWaiting = 50;
  Start(3, 3);
  Load load(edge_->address(), 4, absl::Milliseconds(1));
  // Idle connections to it, to be closed.
  ASSERT_TRUE(Eventually([&] { return Requests(0) > 20; }));
  std::atomic<int> finished{0};
  std::vector<std::thread> waiting;
  for (int i = 0; i < 3 * kWaiting; ++i) {
    waiting.emplace_back([&] {
      Client client(edge_->address());
      finished.fetch_add(client.Get("/app/wait") ? 1 : 0);
    });
  }
  ASSERT_TRUE(Eventually([&] {
    int sum = 0;
    for (int i = 0; i < 3; ++i) sum += origins_->of(i).waiting.load();
    return sum == 3 * kWaiting;
  }));
  const int in_flight = origins_->of(0).waiting.load();
  EXPECT_NEAR(in_flight, kWaiting, 10);

  Put({EndpointOf(0, PbEndpoint::STATE_DRAINING)});
  ASSERT_TRUE(Applied());
  // What was sent before is read by now, or never.
  EXPECT_TRUE(Eventually([&] {
    return origins_->of(0).open.load() == in_flight;
  })) << "idle connections are closed";
  const int requests = Requests(0);
  const int served = load.served();
  ASSERT_TRUE(Eventually([&] { return load.served() > served + 300; }));
  routes_.OnEndpoints(
      Update<PbEndpoint>(false, {}, {absl::StrCat("app/", Id(0))}));
  ASSERT_TRUE(Applied());
  ASSERT_TRUE(Eventually([&] { return load.served() > served + 600; }));

  EXPECT_EQ(Requests(0), requests);
  EXPECT_EQ(finished.load(), 0);
  origins_->Release();
  for (std::thread& thread : waiting) thread.join();
  load.Stop();
  EXPECT_EQ(finished.load(), 3 * kWaiting);
  EXPECT_EQ(load.failed(), 0);
  EXPECT_TRUE(Eventually([&] { return origins_->of(0).open.load() == 0; }));
}

TEST_F(EdgeLoadTest, ChangesTheBalancingWithoutALostConnection) {
  Start(2, 2);
  // Round-robin sends every second request to the endpoint that hangs.
  std::thread hanging([&] {
    Client client(edge_->address());
    EXPECT_TRUE(client.Get("/app/wait"));
  });
  const auto waiting = [&](int i) { return origins_->of(i).waiting.load(); };
  ASSERT_TRUE(Eventually([&] { return waiting(0) + waiting(1) == 1; }));
  const int busy = waiting(0) == 1 ? 0 : 1;
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 8; ++i)
    clients.push_back(std::make_unique<Client>(edge_->address()));
  for (int round = 0; round < 20; ++round) {
    for (const auto& client : clients) ASSERT_TRUE(client->Get());
  }
  EXPECT_GT(Requests(busy), 40);
  const int accepted =
      origins_->of(0).accepted.load() + origins_->of(1).accepted.load();

  PutPlan(fabric::v1::Traffic::BALANCING_LEAST_REQUEST);
  ASSERT_TRUE(Applied());
  for (int round = 0; round < 20; ++round) {
    for (const auto& client : clients) ASSERT_TRUE(client->Get());
  }

  EXPECT_EQ(origins_->of(0).accepted.load() + origins_->of(1).accepted.load(),
            accepted);
  origins_->Release();
  hanging.join();
}

int64_t RssKib() {
  const absl::StatusOr<std::string> status = ReadFile("/proc/self/status");
  if (!status.ok()) return 0;
  for (const absl::string_view line : absl::StrSplit(*status, '\n')) {
    int64_t kib = 0;
    const std::vector<absl::string_view> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    if (words.size() > 1 && words[0] == "VmRSS:" &&
        absl::SimpleAtoi(words[1], &kib))
      return kib;
  }
  return 0;
}

TEST_F(EdgeLoadTest, LosesNoRequestAtAThousandEndpointUpdatesASecond) {
  constexpr int kStill = 10;
  constexpr int kAll = 60;
  constexpr int kClients = 4;
  Start(kAll, kAll);
  double p50 = 0;
  double p99 = 0;
  {
    Load quiet(edge_->address(), kClients);
    ASSERT_TRUE(Eventually([&] { return quiet.served() > 5000; }));
    quiet.Stop();
    p50 = quiet.QuantileMicros(0.5);
    p99 = quiet.QuantileMicros(0.99);
  }
  Load load(edge_->address(), kClients);
  std::mt19937 random(7);
  std::vector<PbEndpoint> state;
  for (int i = 0; i < kAll; ++i) state.push_back(EndpointOf(i));
  std::vector<bool> there(kAll, true);
  const absl::Time begin = absl::Now();
  const absl::Time end = begin + absl::Seconds(FLAGS_churn_seconds);
  int updates = 0;
  int64_t early_rss = 0;
  for (absl::Time next = begin; absl::Now() < end && load.failed() == 0;
       next += absl::Milliseconds(1), ++updates) {
    absl::SleepFor(next - absl::Now());
    // The heap has its size once everything has happened a few times.
    if (updates == 1000) early_rss = RssKib();
    const int i = kStill + static_cast<int>(random() % (kAll - kStill));
    if (updates % 100 == 99) {
      // The watch begins anew and says the same.
      std::vector<PbEndpoint> all;
      for (int n = 0; n < kAll; ++n) {
        if (there[n]) all.push_back(state[n]);
      }
      routes_.OnEndpoints(Update<PbEndpoint>(true, std::move(all)));
    } else if (updates % 100 == 49) {
      PutPlan(static_cast<fabric::v1::Traffic::Balancing>(1 + random() % 3),
              static_cast<int>(random() % 2) * 5);
    } else if (updates % 100 == 24) {
      PbNode node;
      node.set_node_id(absl::StrCat("node-", random() % 7));
      node.set_state(random() % 2 == 0 ? PbNode::STATE_SUSPECT
                                       : PbNode::STATE_READY);
      routes_.OnNodes(Update<PbNode>(false, {node}));
    } else if (there[i] && random() % 3 == 0) {
      there[i] = false;
      routes_.OnEndpoints(
          Update<PbEndpoint>(false, {}, {absl::StrCat("app/", Id(i))}));
    } else {
      constexpr PbEndpoint::State kStates[] = {
          PbEndpoint::STATE_READY, PbEndpoint::STATE_READY,
          PbEndpoint::STATE_UNREADY, PbEndpoint::STATE_DRAINING};
      there[i] = true;
      state[i] = EndpointOf(
          i, kStates[random() % 4],
          random() % 2 == 0 ? state[i].claim_revision() : revision_ + 1);
      Put({state[i]});
    }
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  load.Stop();
  const int64_t late_rss = RssKib();

  std::printf(
      "%d updates in %.1f s (%.0f/s), %d requests; p50 %.0f -> %.0f us, p99 "
      "%.0f "
      "-> %.0f us; RSS %d -> %d KiB\n",
      updates, seconds, updates / seconds, load.served(), p50,
      load.QuantileMicros(0.5), p99, load.QuantileMicros(0.99),
      static_cast<int>(early_rss), static_cast<int>(late_rss));
  EXPECT_EQ(load.failed(), 0);
  EXPECT_GT(load.served(), 1000);
  EXPECT_GT(updates, 100 * FLAGS_churn_seconds);
  ASSERT_TRUE(Applied());
#ifndef __SANITIZE_ADDRESS__
  if (early_rss > 0) {
    // What the arenas of malloc waver by; a leak would be a multiple of it.
    EXPECT_LT(late_rss - early_rss, 16 * 1024);
  }
#endif
  int churned = 0;
  for (int i = 0; i < kAll; ++i) {
    if (i >= kStill) churned += origins_->of(i).accepted.load();
  }
  // SUSPECT nodes take their endpoints out, and with them the connections; all
  // others keep theirs through all of it.
  std::printf("connections to the %d that changed: %d, to the others:",
              kAll - kStill, churned);
  for (int i = 0; i < kStill; ++i)
    std::printf(" %d", origins_->of(i).accepted.load());
  std::printf("\n");
}

TEST_F(EdgeLoadTest, KeepsThePoolsOfEndpointsThatDoNotChange) {
  constexpr int kStill = 5;
  constexpr int kAll = 40;
  constexpr int kClients = 4;
  Start(kAll, kAll);
  Load load(edge_->address(), kClients);
  ASSERT_TRUE(Eventually([&] { return load.served() > 2000; }));

  for (int update = 0; update < 2000 && load.failed() == 0; ++update) {
    const int i = kStill + update % (kAll - kStill);
    Put({EndpointOf(i, PbEndpoint::STATE_READY, update + 2)});
    if (update % 10 == 0) {
      ASSERT_TRUE(Applied());
    }
  }
  load.Stop();

  EXPECT_EQ(load.failed(), 0);
  for (int i = 0; i < kStill; ++i) {
    EXPECT_LE(origins_->of(i).accepted.load(), kClients * kWorkers) << i;
  }
}

TEST_F(EdgeLoadTest, AppliesAnUpdateOfOneOfAThousandEndpointsQuickly) {
  for (const int count : {100, 1000}) {
    edge_ = nullptr;
    Start(count, count);
    MeasureUpdates(absl::StrCat(count, " endpoints"), [&](int i) {
      return EndpointOf(i * 7 % count, PbEndpoint::STATE_READY, i + 2);
    });
  }
}

TEST_F(EdgeLoadTest, AppliesAnUpdateOfOneOfAThousandAppsQuickly) {
  constexpr int kApps = 1000;
  Start(kApps, 1);
  const auto endpoint_of = [this](int i, int64_t claim) {
    PbEndpoint endpoint = EndpointOf(i, PbEndpoint::STATE_READY, claim);
    endpoint.set_app_name(absl::StrCat("app-", i));
    return endpoint;
  };
  std::vector<PbPlan> plans(kApps);
  std::vector<PbEndpoint> endpoints;
  for (int i = 0; i < kApps; ++i) {
    plans[i].set_app_name(absl::StrCat("app-", i));
    endpoints.push_back(endpoint_of(i, 1));
  }
  routes_.OnPlans(Update<PbPlan>(false, std::move(plans)));
  Put(std::move(endpoints));
  ASSERT_TRUE(Applied());

  MeasureUpdates("1000 apps",
                 [&](int i) { return endpoint_of(i * 7 % kApps, i + 2); });
}

}  // namespace
}  // namespace mycelium::edge

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  return RUN_ALL_TESTS();
}
