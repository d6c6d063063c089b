#include "services/agent/placement.h"

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::agent {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

fabric::v1::Slot SlotOf(int index) {
  fabric::v1::Slot slot;
  slot.set_app_name("shop");
  slot.set_index(index);
  slot.set_generation(1);
  slot.mutable_nutrients()->set_cpu_milli(100);
  slot.mutable_nutrients()->set_memory_mb(64);
  return slot;
}

Candidate Node(const std::string& id) {
  return {.node_id = id, .capacity = {4000, 4096}};
}

TEST(PlacementTest, PrefersTheNodeWithMoreFreeNutrients) {
  Candidate busy = Node("busy");
  busy.reserved = {3000, 100};

  EXPECT_EQ(RankOf("free", SlotOf(0), {busy, Node("free")}), 0);
  EXPECT_EQ(RankOf("busy", SlotOf(0), {busy, Node("free")}), 1);
}

TEST(PlacementTest, ThenPrefersTheNodeWithFewerInstancesOfTheApp) {
  Candidate has_one = Node("has-one");
  has_one.same_app = 1;
  has_one.reserved = {100, 64};

  EXPECT_EQ(RankOf("has-none", SlotOf(0), {has_one, Node("has-none")}), 0);
  EXPECT_EQ(RankOf("has-one", SlotOf(0), {has_one, Node("has-none")}), 1);
}

TEST(PlacementTest, ThenSpreadsOverTheLabel) {
  fabric::v1::Slot slot = SlotOf(0);
  slot.mutable_placement()->set_spread_label("zone");
  Candidate east1 = Node("east-1");
  east1.labels = {{"zone", "east"}};
  east1.same_app = 2;
  Candidate east2 = Node("east-2");
  east2.labels = {{"zone", "east"}};
  east2.same_app = 1;
  Candidate west = Node("west-1");
  west.labels = {{"zone", "west"}};
  west.same_app = 1;

  EXPECT_EQ(RankOf("west-1", slot, {east1, east2, west}), 0);
  EXPECT_EQ(RankOf("east-2", slot, {east1, east2, west}), 1);
  EXPECT_EQ(RankOf("east-1", slot, {east1, east2, west}), 2);
}

TEST(PlacementTest, SpreadsTiesOverTheNodesAndAgreesOnTheOrder) {
  std::vector<Candidate> nodes;
  for (int i = 0; i < 10; ++i) nodes.push_back(Node(absl::StrCat("node-", i)));
  std::map<std::string, int> first;

  for (int slot = 0; slot < 1000; ++slot) {
    std::vector<bool> seen(nodes.size());
    for (const Candidate& node : nodes) {
      const int rank = RankOf(node.node_id, SlotOf(slot), nodes);
      ASSERT_GE(rank, 0);
      EXPECT_FALSE(seen[rank]) << "rank " << rank << " is given twice";
      seen[rank] = true;
      if (rank == 0) ++first[node.node_id];
    }
  }

  for (const Candidate& node : nodes) {
    EXPECT_GT(first[node.node_id], 60) << node.node_id;
    EXPECT_LT(first[node.node_id], 150) << node.node_id;
  }
}

TEST(PlacementTest, LeavesOutNodesThatCannotTakeTheSlot) {
  Candidate full = Node("full");
  full.reserved = {3950, 0};
  Candidate drains = Node("drains");
  drains.schedulable = false;
  Candidate port = Node("port");
  port.port_taken = true;

  for (const Candidate& node : {full, drains, port}) {
    EXPECT_EQ(RankOf(node.node_id, SlotOf(0), {node, Node("other")}), -1);
    EXPECT_EQ(RankOf("other", SlotOf(0), {node, Node("other")}), 0);
  }
  EXPECT_EQ(RankOf("unknown", SlotOf(0), {Node("other")}), -1);
}

TEST(PlacementTest, SaysWhyANodeCannotTakeASlot) {
  fabric::v1::Slot slot = SlotOf(0);
  (*slot.mutable_placement()->mutable_required_labels())["disk"] = "ssd";
  Candidate node = Node("node-1");
  EXPECT_THAT(WhyNot(slot, node), HasSubstr("label disk is not 'ssd'"));
  node.labels = {{"disk", "hdd"}};
  EXPECT_THAT(WhyNot(slot, node), HasSubstr("label disk"));

  node.labels = {{"disk", "ssd"}};
  EXPECT_THAT(WhyNot(slot, node), IsEmpty());

  node.reserved = {0, 4090};
  EXPECT_EQ(WhyNot(slot, node), "memory_mb 64 of 6 free");
}

TEST(PlacementTest, DelaysTheWorsePlacedLongerUpToALimit) {
  EXPECT_EQ(ClaimDelay(0), absl::ZeroDuration());
  EXPECT_LT(ClaimDelay(1), ClaimDelay(2));
  EXPECT_EQ(ClaimDelay(1000), absl::Seconds(2));
}

TEST(PlacementTest, RendezvousWeightsAreFixedForEver) {
  // Agents of different versions must agree on the order.
  EXPECT_EQ(RendezvousWeight("node-1", "shop/0/1"), 3526035896138355375u);
}

}  // namespace
}  // namespace mycelium::agent
