#include "services/fabric/validate.h"

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "mycelium/fabric/v1/fabric.pb.h"

namespace mycelium::fabric {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// The fields that `check` finds wrong.
std::vector<std::string> Wrong(
    const std::function<void(FieldViolations*)>& check) {
  FieldViolations violations;
  check(&violations);
  const absl::Status status = violations.ToStatus("test", "INVALID");
  std::vector<std::string> fields;
  const auto payload =
      status.GetPayload("type.googleapis.com/google.rpc.BadRequest");
  google::rpc::BadRequest details;
  if (payload.has_value()) details.ParseFromString(std::string(*payload));
  for (const auto& violation : details.field_violations()) {
    fields.push_back(violation.field());
    EXPECT_FALSE(violation.description().empty());
  }
  return fields;
}

v1::Plan GoodPlan() {
  v1::Plan plan;
  plan.set_app_name("billing");
  plan.set_digest(std::string(64, '0'));
  plan.set_min(2);
  plan.set_max(4);
  return plan;
}

TEST(ValidateTest, TakesPlansThatAreFine) {
  v1::Plan plan = GoodPlan();
  plan.set_port(65535);
  plan.mutable_strategy()->set_kind(v1::Strategy::KIND_ROLLING);
  plan.mutable_strategy()->set_max_surge(1000);
  plan.mutable_strategy()->mutable_min_ready();
  plan.mutable_strategy()->mutable_drain_timeout()->set_seconds(3600);
  plan.mutable_strategy()->mutable_stop_timeout()->set_seconds(600);
  plan.mutable_strategy()->mutable_progress_deadline()->set_seconds(1);
  (*plan.mutable_placement()->mutable_required_labels())["zone"] = "";
  plan.mutable_placement()->set_spread_label("zone");
  v1::Traffic* traffic = plan.mutable_traffic();
  traffic->set_balancing(v1::Traffic::BALANCING_PEAK_EWMA);
  traffic->mutable_slow_start()->set_seconds(3600);
  traffic->mutable_hold()->mutable_max_wait()->set_seconds(300);
  traffic->mutable_hold()->set_max_requests(100'000);
  traffic->mutable_rate_limit()->set_requests_per_second(0.1);
  traffic->mutable_client_rate_limit()->set_requests_per_second(1e6);
  traffic->mutable_client_rate_limit()->set_burst(1'000'000);
  traffic->set_max_in_flight(1'000'000);
  traffic->set_max_in_flight_per_endpoint(1);
  traffic->set_max_request_body_bytes(int64_t{1} << 50);

  EXPECT_THAT(Wrong([&](auto* v) { CheckPlan(plan, v); }), IsEmpty());
}

TEST(ValidateTest, NamesEachWrongFieldOfAPlan) {
  struct Case {
    std::string field;
    std::function<void(v1::Plan*)> spoil;
  };
  const std::vector<Case> cases = {
      {"plan.appName", [](v1::Plan* p) { p->clear_app_name(); }},
      {"plan.appName", [](v1::Plan* p) { p->set_app_name("Billing"); }},
      {"plan.appName", [](v1::Plan* p) { p->set_app_name("-a"); }},
      {"plan.appName", [](v1::Plan* p) { p->set_app_name("a/../b"); }},
      {"plan.appName",
       [](v1::Plan* p) { p->set_app_name(std::string(64, 'a')); }},
      {"plan.digest", [](v1::Plan* p) { p->clear_digest(); }},
      {"plan.digest", [](v1::Plan* p) { p->set_digest(std::string(64, 'A')); }},
      {"plan.digest", [](v1::Plan* p) { p->set_digest(std::string(63, 'a')); }},
      {"plan.min", [](v1::Plan* p) { p->set_min(-1); }},
      {"plan.max", [](v1::Plan* p) { p->set_max(1); }},
      {"plan.max", [](v1::Plan* p) { p->set_max(1001); }},
      {"plan.max",
       [](v1::Plan* p) {
         p->set_min(0);
         p->set_max(0);
       }},
      {"plan.port", [](v1::Plan* p) { p->set_port(65536); }},
      {"plan.port", [](v1::Plan* p) { p->set_port(-1); }},
      {"plan.strategy.kind",
       [](v1::Plan* p) {
         p->mutable_strategy()->set_kind(static_cast<v1::Strategy::Kind>(99));
       }},
      {"plan.strategy.kind",
       [](v1::Plan* p) {
         p->mutable_strategy()->set_kind(v1::Strategy::KIND_CANARY);
       }},
      {"plan.strategy.maxSurge",
       [](v1::Plan* p) { p->mutable_strategy()->set_max_surge(0); }},
      {"plan.strategy.minReady",
       [](v1::Plan* p) {
         p->mutable_strategy()->mutable_min_ready()->set_seconds(-1);
       }},
      {"plan.strategy.drainTimeout",
       [](v1::Plan* p) {
         p->mutable_strategy()->mutable_drain_timeout()->set_seconds(3601);
       }},
      {"plan.strategy.drainTimeout",
       [](v1::Plan* p) {
         p->mutable_strategy()->mutable_drain_timeout()->set_nanos(
             2'000'000'000);
       }},
      {"plan.strategy.stopTimeout",
       [](v1::Plan* p) {
         p->mutable_strategy()->mutable_stop_timeout()->set_seconds(601);
       }},
      {"plan.strategy.progressDeadline",
       [](v1::Plan* p) {
         p->mutable_strategy()->mutable_progress_deadline()->set_seconds(0);
       }},
      {"plan.strategy.progressDeadline",
       [](v1::Plan* p) {
         p->mutable_strategy()->mutable_progress_deadline()->set_seconds(
             INT64_MAX);
       }},
      {"plan.traffic.balancing",
       [](v1::Plan* p) {
         p->mutable_traffic()->set_balancing(
             static_cast<v1::Traffic::Balancing>(4));
       }},
      {"plan.traffic.slowStart",
       [](v1::Plan* p) {
         p->mutable_traffic()->mutable_slow_start()->set_seconds(3601);
       }},
      {"plan.traffic.hold.maxWait",
       [](v1::Plan* p) {
         p->mutable_traffic()->mutable_hold()->mutable_max_wait();
       }},
      {"plan.traffic.hold.maxRequests",
       [](v1::Plan* p) {
         p->mutable_traffic()->mutable_hold()->set_max_requests(-1);
       }},
      {"plan.traffic.rateLimit.requestsPerSecond",
       [](v1::Plan* p) { p->mutable_traffic()->mutable_rate_limit(); }},
      {"plan.traffic.rateLimit.requestsPerSecond",
       [](v1::Plan* p) {
         p->mutable_traffic()->mutable_rate_limit()->set_requests_per_second(
             std::numeric_limits<double>::quiet_NaN());
       }},
      {"plan.traffic.clientRateLimit.burst",
       [](v1::Plan* p) {
         auto* limit = p->mutable_traffic()->mutable_client_rate_limit();
         limit->set_requests_per_second(1);
         limit->set_burst(1'000'001);
       }},
      {"plan.traffic.maxInFlight",
       [](v1::Plan* p) { p->mutable_traffic()->set_max_in_flight(-1); }},
      {"plan.traffic.maxInFlightPerEndpoint",
       [](v1::Plan* p) {
         p->mutable_traffic()->set_max_in_flight_per_endpoint(1'000'001);
       }},
      {"plan.traffic.maxRequestBodyBytes",
       [](v1::Plan* p) {
         p->mutable_traffic()->set_max_request_body_bytes(-1);
       }},
      {"plan.placement.requiredLabels",
       [](v1::Plan* p) {
         for (int i = 0; i < 17; ++i) {
           (*p->mutable_placement()
                 ->mutable_required_labels())[absl::StrCat("l", i)] = "v";
         }
       }},
      {"plan.placement.requiredLabels[' ']",
       [](v1::Plan* p) {
         (*p->mutable_placement()->mutable_required_labels())[" "] = "v";
       }},
      {"plan.placement.requiredLabels['zone']",
       [](v1::Plan* p) {
         (*p->mutable_placement()->mutable_required_labels())["zone"] =
             std::string(64, 'v');
       }},
      {"plan.placement.spreadLabel",
       [](v1::Plan* p) { p->mutable_placement()->set_spread_label("a b"); }},
  };
  for (const Case& c : cases) {
    v1::Plan plan = GoodPlan();
    c.spoil(&plan);
    EXPECT_THAT(Wrong([&](auto* v) { CheckPlan(plan, v); }),
                ElementsAre(c.field))
        << plan.ShortDebugString();
  }
}

TEST(ValidateTest, NamesFieldsOfBudgetsAsJsonDoes) {
  v1::Budget budget;
  budget.set_app_name("billing");
  EXPECT_THAT(Wrong([&](auto* v) { CheckBudget(budget, v); }), IsEmpty());

  budget.set_max_instances(1001);
  budget.set_cpu_milli(-1);
  budget.set_memory_mb(INT64_MAX);

  EXPECT_THAT(Wrong([&](auto* v) { CheckBudget(budget, v); }),
              ElementsAre("budget.maxInstances", "budget.cpu_milli",
                          "budget.memory_mb"));
}

TEST(ValidateTest, TakesUrlsOfHostAndPortOnly) {
  const auto is_url = [](const std::string& url) {
    return Wrong([&](auto* v) { CheckUrl("url", url, v); }).empty();
  };
  for (const char* url : {"http://127.0.0.1:8081", "http://[::1]:80",
                          "http://node-1.lan:1", "http://localhost:65535"}) {
    EXPECT_TRUE(is_url(url)) << url;
  }
  for (const char* url :
       {"", "127.0.0.1:8081", "https://127.0.0.1:8081", "http://127.0.0.1",
        "http://127.0.0.1:0", "http://127.0.0.1:65536", "http://127.0.0.1:+1",
        "http://127.0.0.1:80/", "http://127.0.0.1:80?x", "http://a b:80",
        "http://user@host:80", "http://:80", "http://1.2.3:80",
        "http://256.1.1.1:80", "http://[::1:80", "http://-a:80",
        "http://a..b:80", "http://host:8081\r\nX: y", "http://h:"}) {
    EXPECT_FALSE(is_url(url)) << url;
  }
}

TEST(ValidateTest, NamesEachWrongFieldOfAnEndpoint) {
  v1::Endpoint endpoint;
  endpoint.set_app_name("billing");
  endpoint.set_url("http://127.0.0.1:8081");
  endpoint.set_node_id("node-1");
  endpoint.set_instance_id("i-1");
  endpoint.set_digest(std::string(64, 'a'));
  endpoint.set_generation(1);
  endpoint.set_claim_revision(7);
  EXPECT_THAT(Wrong([&](auto* v) { CheckEndpoint(endpoint, v); }), IsEmpty());

  endpoint.set_node_id("node/1");
  endpoint.set_instance_id("");
  endpoint.set_state(v1::Endpoint::STATE_DRAINED);
  endpoint.set_index(-1);
  endpoint.set_generation(0);
  endpoint.set_claim_revision(0);
  endpoint.mutable_drain_deadline()->set_nanos(-1);

  EXPECT_THAT(
      Wrong([&](auto* v) { CheckEndpoint(endpoint, v); }),
      ElementsAre("endpoint.nodeID", "endpoint.instanceId", "endpoint.state",
                  "endpoint.index", "endpoint.generation",
                  "endpoint.claimRevision", "endpoint.drainDeadline"));
}

TEST(ValidateTest, NamesEachWrongFieldOfANode) {
  v1::Node node;
  node.set_node_id("node-1");
  node.set_address("10.0.0.1:7703");
  EXPECT_THAT(Wrong([&](auto* v) { CheckNode(node, v); }), IsEmpty());

  node.set_node_id("");
  node.set_address("somewhere");
  node.mutable_capacity()->set_cpu_milli(-5);
  (*node.mutable_labels())["zone"] = "a\nb\x01";
  node.set_agent_version(std::string(65, 'v'));

  EXPECT_THAT(
      Wrong([&](auto* v) { CheckNode(node, v); }),
      ElementsAre("node.nodeID", "node.address", "node.capacity.cpu_milli",
                  "node.labels['zone']", "node.agentVersion"));
}

TEST(ValidateTest, TakesWellFormedTextOnly) {
  const auto is_text = [](absl::string_view text) {
    return Wrong([&](auto* v) { CheckText("t", text, 16, v); }).empty();
  };
  EXPECT_TRUE(is_text(""));
  EXPECT_TRUE(is_text("tab\tand\nline"));
  EXPECT_TRUE(is_text("gr\xc3\xbc\xc3\x9f"));
  EXPECT_TRUE(is_text("\xf0\x9f\x8d\x84"));
  EXPECT_FALSE(is_text(std::string(17, 'a')));
  EXPECT_FALSE(is_text("\xc3"));
  EXPECT_FALSE(is_text("\xc0\xaf"));
  EXPECT_FALSE(is_text("\xed\xa0\x80"));
  EXPECT_FALSE(is_text("\xf4\x90\x80\x80"));
  EXPECT_FALSE(is_text("\xff"));
  EXPECT_FALSE(is_text("\x1b[31m"));
  EXPECT_FALSE(is_text(absl::string_view("a\0b", 3)));
}

TEST(ValidateTest, NamesEachWrongFieldOfAnEvent) {
  v1::Event event;
  event.set_type("INSTANCE_READY");
  EXPECT_THAT(Wrong([&](auto* v) { CheckEvent("events[0]", event, v); }),
              IsEmpty());

  event.set_event_id(std::string(65, 'e'));
  event.set_type("lower");
  event.set_severity(static_cast<v1::Event::Severity>(9));
  event.set_app_name("A");
  event.set_message(std::string(4097, 'm'));
  (*event.mutable_details())["k"] = std::string(1025, 'd');

  EXPECT_THAT(Wrong([&](auto* v) { CheckEvent("events[0]", event, v); }),
              ElementsAre("events[0].eventId", "events[0].type",
                          "events[0].severity", "events[0].appName",
                          "events[0].message", "events[0].details['k']"));
}

TEST(ValidateTest, TellsValueAndRule) {
  FieldViolations violations;
  CheckRange("plan.min", -3, 0, 1000, &violations);
  CheckAppName("plan.appName", "Billing\n", &violations);

  const std::string message(violations.ToStatus("test", "INVALID").message());

  EXPECT_THAT(message, HasSubstr("plan.min: -3 must be between 0 and 1000"));
  EXPECT_THAT(message, HasSubstr("'Billing\\n' must be a DNS label"));
}

TEST(ValidateTest, ConvertsTimesThereAndBack) {
  for (const absl::Time time :
       {absl::UnixEpoch(), absl::FromUnixNanos(-1),
        absl::FromUnixNanos(1'234'567'890'123'456'789)}) {
    EXPECT_EQ(ToTime(FromTime(time)), time);
    EXPECT_GE(FromTime(time).nanos(), 0);
  }
  for (const absl::Duration duration :
       {absl::ZeroDuration(), absl::Milliseconds(-1500), absl::Hours(1)}) {
    EXPECT_EQ(ToDuration(FromDuration(duration)), duration);
  }
}

}  // namespace
}  // namespace mycelium::fabric
