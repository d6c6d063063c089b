#include "services/edge/metrics.h"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::edge {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kWorkers = 2;

std::shared_ptr<const Endpoint> MakeEndpoint(const std::string& id) {
  auto endpoint = std::make_shared<Endpoint>();
  endpoint->instance_id = id;
  endpoint->node_id = "node-1";
  endpoint->stats = std::make_shared<EndpointStats>(kWorkers);
  return endpoint;
}

// A snapshot with one app of `count` instances, i-0 to i-<count - 1>.
RouteSnapshot SnapshotOf(int count) {
  auto app = std::make_shared<AppRoute>();
  app->name = "shop";
  app->stats = std::make_shared<AppStats>(kWorkers);
  for (int i = 0; i < count; ++i)
    app->ready.push_back(MakeEndpoint(absl::StrCat("i-", i)));
  RouteSnapshot snapshot;
  snapshot.apps["shop"] = std::move(app);
  return snapshot;
}

class MetricsTest : public ::testing::Test {
 protected:
  std::string Format(
      const RouteSnapshot* routes,
      telemetry::ExpositionFormat format = telemetry::ExpositionFormat::kText) {
    source_.workers = &workers_;
    source_.routes = routes;
    return FormatMetrics(source_, format);
  }

  PerWorker<WorkerCounters> workers_{kWorkers};
  MetricsSource source_;
};

TEST_F(MetricsTest, SumWorkers) {
  const RouteSnapshot routes = SnapshotOf(1);
  const AppRoute& app = *routes.apps.at("shop");
  for (int i = 0; i < kWorkers; ++i) {
    EndedRequest request;
    request.method = 0;
    request.status = 200;
    request.micros = 300;
    CountRequest(request, &app.stats->row(i));
    app.ready[0]->stats->row(i).requests.Add(1);
    workers_.row(i).accepted.Add(5);
  }

  const std::string page = Format(&routes);

  for (const char* line :
       {"mycelium_edge_accepted_connections_total 10\n",
        "mycelium_edge_requests_total{mycelium_app=\"shop\","
        "http_request_method=\"GET\",http_response_status_class=\"2xx\"} 2\n",
        "http_server_request_duration_seconds_bucket{mycelium_app=\"shop\","
        "http_response_status_class=\"2xx\",le=\"0.00025\"} 0\n",
        "http_server_request_duration_seconds_bucket{mycelium_app=\"shop\","
        "http_response_status_class=\"2xx\",le=\"0.0005\"} 2\n",
        "http_server_request_duration_seconds_sum{mycelium_app=\"shop\","
        "http_response_status_class=\"2xx\"} 0.0006\n",
        "mycelium_edge_endpoint_requests_total{mycelium_app=\"shop\","
        "instance=\"i-0\"} 2\n"}) {
    EXPECT_THAT(page, HasSubstr(line));
  }
}

TEST_F(MetricsTest, SayHowStaleTheRoutesOfAFabricAre) {
  EXPECT_THAT(Format(nullptr), Not(HasSubstr("staleness")));

  source_.fabric.used = true;
  source_.fabric.revision = 42;
  source_.fabric.staleness = absl::Milliseconds(90'500);

  EXPECT_THAT(Format(nullptr),
              HasSubstr("\nmycelium_edge_config_staleness_seconds 90.5\n"));
  EXPECT_THAT(Format(nullptr),
              HasSubstr("\nmycelium_edge_config_revision 42\n"));
}

TEST_F(MetricsTest, NameAnInstanceHealthyWhileAnyWorkerUsesIt) {
  const RouteSnapshot routes = SnapshotOf(1);
  EndpointStats& stats = *routes.apps.at("shop")->ready[0]->stats;
  const std::string family =
      "mycelium_edge_endpoint_healthy{mycelium_app=\"shop\",instance=\"i-0\","
      "node=\"node-1\"} ";

  stats.row(0).ejected.Set(1);
  EXPECT_THAT(Format(&routes), HasSubstr(family + "1\n"));
  stats.row(1).ejected.Set(1);
  EXPECT_THAT(Format(&routes), HasSubstr(family + "0\n"));
}

TEST_F(MetricsTest, AreBoundedHoweverManyInstancesThereAre) {
  constexpr int kMore = 500;
  const RouteSnapshot routes = SnapshotOf(kMaxMetricInstances + kMore);
  for (const auto& endpoint : routes.apps.at("shop")->ready)
    endpoint->stats->row(0).requests.Add(1);

  const std::string page = Format(&routes);

  int series = 0;
  for (const absl::string_view line : absl::StrSplit(page, '\n')) {
    if (absl::StartsWith(line, "mycelium_edge_endpoint_requests_total{"))
      ++series;
  }
  EXPECT_EQ(series, kMaxMetricInstances + 1);
  EXPECT_THAT(page, HasSubstr(absl::StrCat(
                        "mycelium_edge_endpoint_requests_total{mycelium_app="
                        "\"shop\",instance=\"_other\"} ",
                        kMore, "\n")));
}

TEST_F(MetricsTest, ShowTheNewestTraceOfABucketAndClass) {
  const RouteSnapshot routes = SnapshotOf(1);
  AppStats& stats = *routes.apps.at("shop")->stats;
  EndedRequest request;
  request.status = 200;
  request.micros = 300;
  CountRequest(request, &stats.row(0));
  SetExemplar({{1, 2}, 300, 1'000'000, 2}, &stats.row(0));
  SetExemplar({{3, 4}, 400, 2'000'000, 2}, &stats.row(1));

  const std::string page =
      Format(&routes, telemetry::ExpositionFormat::kOpenMetrics);

  EXPECT_THAT(page, HasSubstr("le=\"0.0005\"} 1 # {trace_id=\""
                              "00000000000000030000000000000004\"} 0.0004 2"));
  EXPECT_THAT(page, Not(HasSubstr("0001000000000000000")));
}

}  // namespace
}  // namespace mycelium::edge
