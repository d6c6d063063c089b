#include "tools/meshctl/json.h"

#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "mycelium/fabric/v1/fabric.pb.h"

namespace mycelium::meshctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(JsonTest, KeepsTheOrderOfMembers) {
  Json json = Json::Object();
  json.Set("b", 1).Set("a", Json::Strings({"x", "y"})).Set("c", Json());

  EXPECT_EQ(json.Compact(), R"({"b":1,"a":["x","y"],"c":null})");
}

TEST(JsonTest, IndentsForPeople) {
  Json json = Json::Object();
  json.Set("a", Json::Array().Add(true)).Set("b", Json::Object());

  EXPECT_EQ(json.Pretty(), "{\n  \"a\": [\n    true\n  ],\n  \"b\": {}\n}\n");
}

TEST(JsonTest, EscapesWhatJsonMust) {
  EXPECT_EQ(JsonQuoted("a\"\\\n\x01"), R"("a\"\\\n\u0001")");
  EXPECT_EQ(JsonQuoted("grün"), "\"grün\"");
}

TEST(JsonTest, ReplacesWhatIsNotUtf8) {
  EXPECT_EQ(JsonQuoted("a\xff"), "\"a\xef\xbf\xbd\"");
  EXPECT_EQ(JsonQuoted("\xed\xa0\x80"),
            "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
}

TEST(JsonTest, WritesNumbersThatJsonHas) {
  EXPECT_EQ(Json(0.5).Compact(), "0.5");
  EXPECT_EQ(Json(3.0).Compact(), "3");
  EXPECT_EQ(Json(std::numeric_limits<double>::infinity()).Compact(), "null");
}

TEST(JsonTest, WritesYaml) {
  Json inner = Json::Object();
  inner.Set("a", 1).Set("b", "no");
  Json json = Json::Object();
  json.Set("list", Json::Array().Add(std::move(inner)).Add("x"))
      .Set("empty", Json::Array());

  EXPECT_EQ(json.Yaml(), "list:\n  - a: 1\n    b: \"no\"\n  - x\nempty: []\n");
}

TEST(FromProtoTest, PrintsAPlanAsTheDataContractHasIt) {
  fabric::v1::Plan plan;
  plan.set_app_name("billing");
  plan.set_digest("ab");
  plan.set_min(2);
  plan.set_max(4);

  EXPECT_THAT(
      FromProto(plan).Compact(),
      HasSubstr(
          R"({"appName":"billing","digest":"ab","min":2,"max":4,"port":0)"));
}

TEST(FromProtoTest, PrintsABudgetWithNumbers) {
  fabric::v1::Budget budget;
  budget.set_app_name("billing");
  budget.set_max_instances(4);
  budget.set_cpu_milli(500);
  budget.set_memory_mb(256);

  EXPECT_THAT(FromProto(budget).Compact(),
              HasSubstr(R"({"appName":"billing","maxInstances":4,)"
                        R"("cpu_milli":500,"memory_mb":256)"));
}

TEST(FromProtoTest, PrintsAnEndpointWithItsNode) {
  fabric::v1::Endpoint endpoint;
  endpoint.set_app_name("billing");
  endpoint.set_url("http://127.0.0.1:8081");
  endpoint.set_node_id("node-1");

  EXPECT_THAT(FromProto(endpoint).Compact(),
              HasSubstr(R"({"appName":"billing",)"
                        R"("url":"http://127.0.0.1:8081","nodeID":"node-1")"));
}

TEST(FromProtoTest, PrintsTimesAndDurationsAsProtoJsonDoes) {
  fabric::v1::Plan plan;
  plan.mutable_create_time()->set_seconds(1);
  plan.mutable_create_time()->set_nanos(500'000'000);
  plan.mutable_strategy()->mutable_min_ready()->set_seconds(3);

  const std::string json = FromProto(plan).Compact();

  EXPECT_THAT(json, HasSubstr(R"("createTime":"1970-01-01T00:00:01.5Z")"));
  EXPECT_THAT(json, HasSubstr(R"("minReady":"3s")"));
  EXPECT_THAT(json, Not(HasSubstr("updateTime")));
}

TEST(FromProtoTest, PrintsLargeNumbersAsStringsSoThatTheyStayExact) {
  fabric::v1::Plan plan;
  plan.set_revision(int64_t{1} << 60);

  EXPECT_THAT(FromProto(plan).Compact(),
              HasSubstr(R"("revision":"1152921504606846976")"));
}

TEST(FromProtoTest, PrintsTheReasonOfAStatus) {
  google::rpc::ErrorInfo info;
  info.set_reason("NO_CAPACITY");
  google::rpc::Status status;
  status.set_code(8);
  status.set_message("full");
  status.add_details()->PackFrom(info);

  EXPECT_EQ(FromProto(status).Compact(),
            R"({"code":8,"message":"full","reason":"NO_CAPACITY"})");
}

}  // namespace
}  // namespace mycelium::meshctl
