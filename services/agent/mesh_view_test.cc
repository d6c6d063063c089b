#include "services/agent/mesh_view.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

fabric::v1::Slot SlotOf(const std::string& app, int index,
                        const std::string& node) {
  fabric::v1::Slot slot;
  slot.set_app_name(app);
  slot.set_index(index);
  slot.set_generation(1);
  slot.set_port(80);
  slot.mutable_nutrients()->set_cpu_milli(100);
  slot.mutable_nutrients()->set_memory_mb(10);
  if (!node.empty()) {
    slot.set_node_id(node);
    slot.set_claim_revision(7);
  }
  return slot;
}

TEST(MeshViewTest, KnowsWhatWaitsToBeClaimed) {
  MeshView view;
  view.PutSlot(SlotOf("shop", 0, ""));
  view.PutSlot(SlotOf("shop", 1, "node-1"));
  fabric::v1::Slot surplus = SlotOf("shop", 2, "");
  surplus.set_surplus(true);
  view.PutSlot(surplus);
  EXPECT_THAT(view.pending(), ElementsAre("shop/0/1"));

  view.PutSlot(SlotOf("shop", 0, "node-2"));

  EXPECT_THAT(view.pending(), IsEmpty());
}

TEST(MeshViewTest, SumsWhatIsClaimedOnANode) {
  MeshView view;
  view.PutSlot(SlotOf("shop", 0, "node-1"));
  view.PutSlot(SlotOf("shop", 1, "node-1"));
  view.PutSlot(SlotOf("mail", 0, "node-2"));

  const MeshView::Load& load = view.LoadOfNode("node-1");
  EXPECT_EQ(load.reserved, (Nutrients{200, 20}));
  EXPECT_EQ(load.instances.at("shop"), 2);
  EXPECT_TRUE(load.ports.contains(80));
}

TEST(MeshViewTest, ForgetsWhatMovedOrWasDeleted) {
  MeshView view;
  view.PutSlot(SlotOf("shop", 0, "node-1"));
  view.PutSlot(SlotOf("shop", 1, "node-1"));

  view.PutSlot(SlotOf("shop", 0, "node-2"));
  view.DeleteSlot("shop/1/1");
  view.DeleteSlot("shop/9/9");

  EXPECT_EQ(view.LoadOfNode("node-1").reserved, Nutrients());
  EXPECT_THAT(view.LoadOfNode("node-1").ports, IsEmpty());
  EXPECT_EQ(view.LoadOfNode("node-2").instances.at("shop"), 1);
  EXPECT_TRUE(view.HasSlotOf("shop"));
  view.DeleteSlot("shop/0/1");
  EXPECT_FALSE(view.HasSlotOf("shop"));
}

}  // namespace
}  // namespace mycelium::agent
