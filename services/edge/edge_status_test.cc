#include "services/edge/edge_status.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "lib/base/clock.h"
#include "services/edge/latency_proto.h"

namespace mycelium::edge {
namespace {

constexpr int kWorkers = 2;

// An edge that nobody connects to; the test counts in the workers' place.
class EdgeStatusTest : public ::testing::Test {
 protected:
  EdgeStatusTest() {
    RouteSnapshot snapshot;
    for (const char* name : {"shop", "blog"}) {
      auto app = std::make_shared<AppRoute>();
      app->name = name;
      app->stats = std::make_shared<AppStats>(kWorkers);
      for (const char* id : {"a", "b"}) {
        auto endpoint = std::make_shared<Endpoint>();
        endpoint->instance_id = absl::StrCat(name, "-", id);
        endpoint->stats = std::make_shared<EndpointStats>(kWorkers);
        app->ready.push_back(std::move(endpoint));
      }
      snapshot.apps[name] = std::move(app);
    }
    routes_.Publish(std::move(snapshot));
    Edge::Options options;
    options.listen = "127.0.0.1:0";
    options.workers = kWorkers;
    auto edge = Edge::Start(options, &routes_);
    EXPECT_TRUE(edge.ok()) << edge.status();
    edge_ = *std::move(edge);
    status_ = std::make_unique<EdgeStatus>("edge-1", edge_.get(), &routes_,
                                           Clock::Real());
  }

  const AppRoute& app(const std::string& name) {
    return *routes_.Current()->apps.at(name);
  }

  v1::EdgeStats Get(const std::string& app_name,
                    v1::StatsView view = v1::STATS_VIEW_UNSPECIFIED) {
    v1::GetStatsRequest request;
    request.set_app_name(app_name);
    request.set_view(view);
    const auto stats = status_->GetStats(request);
    EXPECT_TRUE(stats.ok()) << stats.status();
    return stats.value_or(v1::EdgeStats());
  }

  RouteTable routes_;
  std::unique_ptr<Edge> edge_;
  std::unique_ptr<EdgeStatus> status_;
};

TEST_F(EdgeStatusTest, SumsWhatWorkersCountedOfAnApp) {
  for (int i = 0; i < kWorkers; ++i) {
    AppCounters& row = app("shop").stats->row(i);
    EndedRequest request;
    request.status = i == 0 ? 200 : 503;
    request.micros = 1000;
    request.bytes_in = 10;
    request.bytes_out = 20;
    CountRequest(request, &row);
    row.active.Set(3);
    row.retries.Add(1);
  }
  app("shop").stats->row(1).requests.by_reason[ReasonIndex("no_endpoint")].Add(
      1);

  const v1::EdgeStats stats = Get("");

  ASSERT_EQ(stats.apps_size(), 2);
  EXPECT_EQ(stats.apps(0).app_name(), "blog");
  EXPECT_EQ(stats.apps(0).requests().requests(), 0);
  const v1::RequestStats& shop = stats.apps(1).requests();
  EXPECT_EQ(shop.requests(), 2);
  ASSERT_EQ(shop.responses_by_class_size(), 5);
  EXPECT_EQ(shop.responses_by_class(1), 1);
  EXPECT_EQ(shop.responses_by_class(4), 1);
  EXPECT_EQ(shop.failures_by_reason().at("no_endpoint"), 1);
  EXPECT_EQ(shop.failures_by_reason_size(), 1);
  EXPECT_EQ(shop.in_flight(), 6);
  EXPECT_EQ(shop.retries(), 2);
  EXPECT_EQ(shop.received_bytes(), 20);
  EXPECT_EQ(shop.sent_bytes(), 40);
  EXPECT_EQ(shop.latency().count(), 2);
  EXPECT_EQ(shop.latency().sum_us(), 2000);
  EXPECT_NEAR(static_cast<double>(shop.latency().p50_us()), 1000, 8);
  EXPECT_EQ(stats.total().in_flight(), 6);
}

TEST_F(EdgeStatusTest, SaysTheSameOfEachEndpoint) {
  EndpointStats& counted = *app("shop").ready[1]->stats;
  for (int i = 0; i < kWorkers; ++i) {
    EndpointCounters& row = counted.row(i);
    row.requests.Add(4);
    row.in_flight.Set(1);
    row.by_class[2].Add(3);
    row.by_reason[ReasonIndex("connect_timeout")].Add(1);
    row.connect_failures.Add(1);
    row.ejections.Add(2);
    row.bytes_in.Add(100);
    row.bytes_out.Add(200);
    for (int64_t micros = 1; micros <= 1000; ++micros) row.latency.Add(micros);
  }

  const v1::EdgeStats stats = Get("shop", v1::STATS_VIEW_FULL);

  ASSERT_EQ(stats.apps_size(), 1);
  ASSERT_EQ(stats.apps(0).endpoints_size(), 2);
  const v1::EndpointStats& endpoint = stats.apps(0).endpoints(1);
  EXPECT_EQ(endpoint.instance_id(), "shop-b");
  const v1::RequestStats& requests = endpoint.requests();
  EXPECT_EQ(requests.requests(), 8);
  EXPECT_EQ(requests.in_flight(), 2);
  EXPECT_EQ(requests.responses_by_class(1), 6);
  EXPECT_EQ(requests.failures_by_reason().at("connect_timeout"), 2);
  EXPECT_EQ(requests.connect_failures(), 2);
  EXPECT_EQ(requests.ejections(), 4);
  EXPECT_EQ(requests.received_bytes(), 200);
  EXPECT_EQ(requests.sent_bytes(), 400);
  EXPECT_EQ(requests.latency().count(), 2000);
  EXPECT_NEAR(static_cast<double>(requests.latency().p90_us()), 900, 8);
  EXPECT_NEAR(static_cast<double>(requests.latency().p999_us()), 999, 8);
  telemetry::LatencySummary summary;
  EXPECT_TRUE(AddLatency(requests.latency(), &summary).ok());
  EXPECT_EQ(summary.total(), 2000);
  EXPECT_EQ(stats.apps(0).endpoints(0).requests().requests(), 0);
}

TEST_F(EdgeStatusTest, SendsTheBucketsThatTheViewNames) {
  app("shop").stats->row(0).latency.Add(500);
  app("shop").ready[0]->stats->row(0).latency.Add(500);
  const auto buckets = [this](v1::StatsView view) {
    const v1::EdgeStats stats = Get("shop", view);
    const v1::AppStats& shop = stats.apps(0);
    EXPECT_EQ(shop.requests().latency().count(), 1);
    EXPECT_EQ(shop.endpoints(0).requests().latency().count(), 1);
    return std::pair(shop.requests().latency().counts_size(),
                     shop.endpoints(0).requests().latency().counts_size());
  };

  EXPECT_EQ(buckets(v1::STATS_VIEW_BASIC), std::pair(0, 0));
  EXPECT_EQ(buckets(v1::STATS_VIEW_UNSPECIFIED), std::pair(1, 0));
  EXPECT_EQ(buckets(v1::STATS_VIEW_FULL), std::pair(1, 1));
}

TEST_F(EdgeStatusTest, FitsAThousandEndpointsIntoAMessage) {
  auto large = std::make_shared<AppRoute>();
  large->name = "large";
  large->stats = std::make_shared<AppStats>(kWorkers);
  for (int i = 0; i < 1000; ++i) {
    auto endpoint = std::make_shared<Endpoint>();
    endpoint->instance_id = absl::StrCat("large-", i);
    endpoint->stats = std::make_shared<EndpointStats>(kWorkers);
    for (int64_t micros = 300; micros < 30'000; micros += micros / 64)
      endpoint->stats->row(0).latency.Add(micros);
    large->ready.push_back(std::move(endpoint));
  }
  RouteSnapshot snapshot;
  snapshot.apps["large"] = std::move(large);
  routes_.Publish(std::move(snapshot));

  // Less than the 4 MiB that gRPC takes by default, even with all buckets.
  EXPECT_LT(Get("").ByteSizeLong(), 300'000);
  EXPECT_LT(Get("", v1::STATS_VIEW_FULL).ByteSizeLong(), 3'000'000);
}

TEST_F(EdgeStatusTest, RefusesWhatIsWrong) {
  v1::GetStatsRequest request;
  request.set_app_name("Not An App");
  EXPECT_EQ(status_->GetStats(request).status().code(),
            absl::StatusCode::kInvalidArgument);
  request.set_app_name("unknown");
  EXPECT_EQ(status_->GetStats(request).status().code(),
            absl::StatusCode::kNotFound);
  request.clear_app_name();
  request.set_view(static_cast<v1::StatsView>(7));
  EXPECT_EQ(status_->GetStats(request).status().code(),
            absl::StatusCode::kInvalidArgument);

  v1::WatchStatsRequest watch;
  EXPECT_TRUE(status_->CheckWatch(watch).ok());
  watch.set_view(static_cast<v1::StatsView>(7));
  EXPECT_EQ(status_->CheckWatch(watch).code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace mycelium::edge
