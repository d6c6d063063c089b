#include "services/edge/fabric_routes.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/fake_clock.h"

namespace mycelium::edge {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;
using PbEndpoint = fabric::v1::Endpoint;
using PbNode = fabric::v1::Node;
using PbPlan = fabric::v1::Plan;

PbPlan PlanOf(const std::string& app) {
  PbPlan plan;
  plan.set_app_name(app);
  return plan;
}

PbEndpoint EndpointOf(const std::string& app, const std::string& id,
                      PbEndpoint::State state = PbEndpoint::STATE_READY,
                      int64_t claim = 1) {
  PbEndpoint endpoint;
  endpoint.set_app_name(app);
  endpoint.set_instance_id(id);
  endpoint.set_node_id("node-" + id);
  endpoint.set_url("http://127.0.0.1:8000");
  endpoint.set_state(state);
  endpoint.set_claim_revision(claim);
  return endpoint;
}

PbNode NodeOf(const std::string& id, PbNode::State state) {
  PbNode node;
  node.set_node_id(id);
  node.set_state(state);
  return node;
}

class FabricRoutesTest : public ::testing::Test {
 protected:
  template <typename T>
  fabric_client::WatchUpdate<T> Update(bool reset, std::vector<T> puts,
                                       std::vector<std::string> deletes = {}) {
    return {epoch_, ++revision_, reset, std::move(puts), std::move(deletes)};
  }

  // A snapshot with one app that has two instances.
  void Begin() {
    routes_.OnPlans(Update<PbPlan>(true, {PlanOf("app")}));
    routes_.OnEndpoints(Update<PbEndpoint>(
        true, {EndpointOf("app", "a"), EndpointOf("app", "b")}));
    routes_.OnNodes(Update<PbNode>(true, {}));
  }

  std::vector<std::string> Ready(const std::string& app = "app") {
    std::vector<std::string> ids;
    const auto& apps = table_.Current()->apps;
    if (!apps.contains(app)) return {"unknown"};
    for (const auto& endpoint : apps.at(app)->ready)
      ids.push_back(endpoint->instance_id);
    return ids;
  }

  const EndpointStats* StatsOf(const std::string& id) {
    for (const auto& endpoint : table_.Current()->apps.at("app")->ready) {
      if (endpoint->instance_id == id) return endpoint->stats.get();
    }
    return nullptr;
  }

  std::string epoch_ = "one";
  int64_t revision_ = 0;
  FakeClock clock_{absl::UnixEpoch()};
  RouteTable table_;
  int changes_ = 0;
  FabricRoutes routes_{{}, &clock_, &table_, [this] { ++changes_; }};
};

TEST_F(FabricRoutesTest, PublishesNothingBeforeAllIsKnown) {
  routes_.OnEndpoints(Update<PbEndpoint>(true, {EndpointOf("app", "a")}));
  routes_.OnNodes(Update<PbNode>(true, {}));
  EXPECT_EQ(table_.version(), 0);

  routes_.OnPlans(Update<PbPlan>(true, {}));

  EXPECT_EQ(table_.version(), 1);
  EXPECT_THAT(Ready(), ElementsAre("unknown"));
}

TEST_F(FabricRoutesTest, KnowsAnAppByItsPlan) {
  Begin();
  EXPECT_THAT(Ready(), ElementsAre("a", "b"));

  routes_.OnEndpoints(Update<PbEndpoint>(false, {}, {"app/a", "app/b"}));
  EXPECT_THAT(Ready(), IsEmpty());

  routes_.OnPlans(Update<PbPlan>(false, {}, {"app"}));
  EXPECT_THAT(Ready(), ElementsAre("unknown"));
}

TEST_F(FabricRoutesTest, MakesNothingAnewForEndpointsThatHaveNotChanged) {
  Begin();
  const auto before = table_.Current()->apps.at("app")->ready;

  routes_.OnEndpoints(Update<PbEndpoint>(false, {EndpointOf("app", "b")}));
  routes_.OnNodes(
      Update<PbNode>(false, {NodeOf("node-c", PbNode::STATE_SUSPECT)}));

  const auto after = table_.Current()->apps.at("app")->ready;
  EXPECT_EQ(after[0], before[0]);
  EXPECT_NE(after[1], before[1]);
  EXPECT_EQ(after[1]->stats, before[1]->stats);
}

TEST_F(FabricRoutesTest, KnowsSinceWhenAnEndpointIsReady) {
  const auto ready_for = [this](const std::string& id) {
    for (const auto& endpoint : table_.Current()->apps.at("app")->ready) {
      if (endpoint->instance_id == id) {
        return clock_.Monotonic() -
               absl::Microseconds(endpoint->ready_since_us);
      }
    }
    return absl::InfiniteDuration();
  };
  clock_.Advance(absl::Seconds(5000));
  PbEndpoint old = EndpointOf("app", "a");
  old.mutable_state_time()->set_seconds(
      absl::ToUnixSeconds(clock_.Now() - absl::Seconds(40)));
  PbEndpoint of_the_future = EndpointOf("app", "b");
  of_the_future.mutable_state_time()->set_seconds(
      absl::ToUnixSeconds(clock_.Now() + absl::Seconds(40)));
  routes_.OnPlans(Update<PbPlan>(true, {PlanOf("app")}));
  routes_.OnEndpoints(Update<PbEndpoint>(true, {old, of_the_future}));
  routes_.OnNodes(Update<PbNode>(true, {}));

  EXPECT_EQ(ready_for("a"), absl::Seconds(40));
  EXPECT_EQ(ready_for("b"), absl::ZeroDuration());

  clock_.Advance(absl::Seconds(10));
  routes_.OnEndpoints(Update<PbEndpoint>(
      false, {EndpointOf("app", "a"), EndpointOf("app", "c")}));
  EXPECT_EQ(ready_for("a"), absl::Seconds(50)) << "it was ready before";
  EXPECT_EQ(ready_for("c"), absl::ZeroDuration())
      << "seen as it happens, so the fabric's clock does not count";

  routes_.OnEndpoints(Update<PbEndpoint>(
      false, {EndpointOf("app", "a", PbEndpoint::STATE_UNREADY)}));
  clock_.Advance(absl::Seconds(10));
  routes_.OnEndpoints(Update<PbEndpoint>(
      false, {EndpointOf("app", "a"),
              EndpointOf("app", "c", PbEndpoint::STATE_READY, 2)}));
  EXPECT_EQ(ready_for("a"), absl::ZeroDuration()) << "ready again";
  EXPECT_EQ(ready_for("c"), absl::ZeroDuration()) << "another claim";
  EXPECT_EQ(ready_for("b"), absl::Seconds(20));
}

TEST_F(FabricRoutesTest, SendsNothingNewToEndpointsThatAreNotReady) {
  Begin();

  routes_.OnEndpoints(Update<PbEndpoint>(
      false, {EndpointOf("app", "a", PbEndpoint::STATE_DRAINING)}));
  EXPECT_THAT(Ready(), ElementsAre("b"));
  EXPECT_EQ(table_.Current()->apps.at("app")->draining.size(), 1);

  routes_.OnEndpoints(Update<PbEndpoint>(
      false, {EndpointOf("app", "b", PbEndpoint::STATE_UNREADY)}));
  EXPECT_THAT(Ready(), IsEmpty());
}

TEST_F(FabricRoutesTest, PrefersNodesThatReportButUsesOthersRatherThanNone) {
  Begin();

  routes_.OnNodes(
      Update<PbNode>(false, {NodeOf("node-a", PbNode::STATE_SUSPECT)}));
  EXPECT_THAT(Ready(), ElementsAre("b"));
  routes_.OnNodes(
      Update<PbNode>(false, {NodeOf("node-b", PbNode::STATE_SUSPECT)}));
  EXPECT_THAT(Ready(), ElementsAre("a", "b"));
  routes_.OnNodes(
      Update<PbNode>(false, {NodeOf("node-a", PbNode::STATE_READY)}));
  EXPECT_THAT(Ready(), ElementsAre("a"));
}

TEST_F(FabricRoutesTest, KeepsTheIdentityOfAnInstanceOverChangesOfItsState) {
  Begin();
  const EndpointStats* const before = StatsOf("a");

  routes_.OnEndpoints(Update<PbEndpoint>(
      false, {EndpointOf("app", "a", PbEndpoint::STATE_DRAINING)}));
  routes_.OnEndpoints(Update<PbEndpoint>(false, {EndpointOf("app", "a")}));
  EXPECT_EQ(StatsOf("a"), before);

  // The same address and name under another claim is another instance.
  routes_.OnEndpoints(Update<PbEndpoint>(
      false, {EndpointOf("app", "a", PbEndpoint::STATE_READY, 2)}));
  EXPECT_NE(StatsOf("a"), before);
}

TEST_F(FabricRoutesTest, TakesASnapshotOfTheSameEpochForAllThereIs) {
  Begin();
  const EndpointStats* const before = StatsOf("a");

  routes_.OnEndpoints(Update<PbEndpoint>(true, {EndpointOf("app", "a")}));

  EXPECT_THAT(Ready(), ElementsAre("a"));
  EXPECT_EQ(StatsOf("a"), before);
}

TEST_F(FabricRoutesTest, HoldsWhatAFabricThatLostItsStoreHasForgotten) {
  Begin();
  epoch_ = "two";
  routes_.OnPlans(Update<PbPlan>(true, {}));
  routes_.OnEndpoints(Update<PbEndpoint>(true, {}));
  routes_.OnNodes(Update<PbNode>(true, {}));
  EXPECT_THAT(Ready(), ElementsAre("a", "b"));

  routes_.OnPlans(Update<PbPlan>(false, {PlanOf("app")}));
  routes_.OnEndpoints(Update<PbEndpoint>(false, {EndpointOf("app", "b")}));
  clock_.Advance(absl::Seconds(16));
  routes_.Tick();

  EXPECT_THAT(Ready(), ElementsAre("b"));
}

TEST_F(FabricRoutesTest, LetsGoOfPlansThatNobodyPutsAgain) {
  Begin();
  epoch_ = "two";
  routes_.OnPlans(Update<PbPlan>(true, {}));

  clock_.Advance(absl::Seconds(16));
  routes_.Tick();

  EXPECT_THAT(Ready(), ElementsAre("unknown"));
}

TEST_F(FabricRoutesTest, ReportsTheRevisionThatWorkersHaveApplied) {
  Begin();
  const uint64_t first = table_.version();
  EXPECT_EQ(routes_.AppliedAt(0).revision, 0);
  EXPECT_EQ(routes_.AppliedAt(first).revision, 0)
      << "no endpoint update since the first version";

  routes_.OnEndpoints(Update<PbEndpoint>(
      false, {EndpointOf("app", "a", PbEndpoint::STATE_DRAINING)}));
  const int64_t draining_at = revision_;
  EXPECT_LT(routes_.AppliedAt(first).revision, draining_at);
  EXPECT_EQ(routes_.AppliedAt(table_.version()).revision, draining_at);

  // A revision that changes no route needs no version.
  routes_.OnEndpoints(Update<PbEndpoint>(false, {}));
  EXPECT_EQ(routes_.AppliedAt(table_.version()).revision, draining_at + 1);
  EXPECT_EQ(routes_.AppliedAt(table_.version()).epoch, "one");
}

TEST_F(FabricRoutesTest, CountsWhatIsInFlightOnDrainingEndpointsOnly) {
  Begin();
  table_.Current()->apps.at("app")->ready[0]->stats->row(0).in_flight.Set(3);
  EXPECT_THAT(routes_.DrainingLoads(), IsEmpty());

  routes_.OnEndpoints(Update<PbEndpoint>(
      false, {EndpointOf("app", "a", PbEndpoint::STATE_DRAINING)}));

  const auto loads = routes_.DrainingLoads();
  ASSERT_EQ(loads.size(), 1);
  EXPECT_EQ(loads[0].instance_id(), "a");
  EXPECT_EQ(loads[0].in_flight(), 3);
}

TEST_F(FabricRoutesTest, TreatsRequestsAsThePlanSaysAtOnce) {
  Begin();
  EXPECT_EQ(table_.Current()->apps.at("app")->traffic.max_in_flight, 0);

  PbPlan plan = PlanOf("app");
  plan.mutable_traffic()->set_max_in_flight(7);
  plan.mutable_traffic()->mutable_hold();
  routes_.OnPlans(Update<PbPlan>(false, {plan}));

  const TrafficPolicy& traffic = table_.Current()->apps.at("app")->traffic;
  EXPECT_EQ(traffic.max_in_flight, 7);
  EXPECT_TRUE(traffic.hold.has_value());
}

TEST_F(FabricRoutesTest, KeepsThePolicyWhenAPlanCannotBeUnderstood) {
  Begin();
  PbPlan plan = PlanOf("app");
  plan.mutable_traffic()->set_max_in_flight(7);
  routes_.OnPlans(Update<PbPlan>(false, {plan}));

  plan.mutable_traffic()->set_max_in_flight(-1);
  routes_.OnPlans(Update<PbPlan>(false, {plan}));

  EXPECT_EQ(table_.Current()->apps.at("app")->traffic.max_in_flight, 7);
}

TEST_F(FabricRoutesTest, KeepsWhatIsUsedOfLimitsOverChanges) {
  Begin();
  const AppLimiter* const limiter =
      table_.Current()->apps.at("app")->limiter.get();
  const SlotCounter* const slots =
      table_.Current()->apps.at("app")->ready[0]->slots.get();
  ASSERT_NE(limiter, nullptr);
  ASSERT_NE(slots, nullptr);

  PbPlan plan = PlanOf("app");
  plan.mutable_traffic()->set_max_in_flight(7);
  routes_.OnPlans(Update<PbPlan>(false, {plan}));

  EXPECT_EQ(table_.Current()->apps.at("app")->limiter.get(), limiter);
  EXPECT_EQ(table_.Current()->apps.at("app")->ready[0]->slots.get(), slots);
}

TEST_F(FabricRoutesTest, SharesTheRoutesOfAppsThatDidNotChange) {
  Begin();
  routes_.OnPlans(Update<PbPlan>(false, {PlanOf("other")}));
  const auto before = table_.Current()->apps.at("other");

  routes_.OnEndpoints(Update<PbEndpoint>(false, {EndpointOf("app", "c")}));

  EXPECT_EQ(table_.Current()->apps.at("other"), before);
}

}  // namespace
}  // namespace mycelium::edge
