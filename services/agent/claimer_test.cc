#include "services/agent/claimer.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/fake_clock.h"

namespace mycelium::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class ClaimerTest : public ::testing::Test {
 protected:
  ClaimerTest()
      : clock_(absl::FromUnixSeconds(1'800'000'000)),
        claimer_("node-1", &clock_) {
    self_.node_id = "node-1";
    self_.capacity = {4000, 4096};
  }

  void PutNode(const std::string& id, fabric::v1::Node::State state) {
    fabric::v1::Node node;
    node.set_node_id(id);
    node.set_state(state);
    node.mutable_capacity()->set_cpu_milli(4000);
    node.mutable_capacity()->set_memory_mb(4096);
    view_.PutNode(node);
  }

  fabric::v1::Slot PutSlot(const std::string& app, int index, int port = 0) {
    fabric::v1::Slot slot;
    slot.set_app_name(app);
    slot.set_index(index);
    slot.set_generation(1);
    slot.set_port(port);
    slot.mutable_nutrients()->set_cpu_milli(1000);
    view_.PutSlot(slot);
    return slot;
  }

  std::vector<std::string> Take(int limit = 100) {
    std::vector<std::string> keys;
    for (const fabric::v1::Slot& slot : claimer_.TakeDue(
             view_, self_, limit, [this](int) { return port_free_; },
             [this](const std::string&) { return may_start_; })) {
      keys.push_back(SlotKey::Of(slot).ToString());
    }
    return keys;
  }

  FakeClock clock_;
  MeshView view_;
  OwnNode self_;
  bool port_free_ = true;
  bool may_start_ = true;
  Claimer claimer_;
};

TEST_F(ClaimerTest, ClaimsAtOnceWhenItIsAlone) {
  PutSlot("shop", 0);

  EXPECT_THAT(Take(), ElementsAre("shop/0/1"));
  EXPECT_THAT(Take(), IsEmpty()) << "once is enough";
}

TEST_F(ClaimerTest, LeavesASlotToABetterPlacedNodeForAWhile) {
  PutNode("node-2", fabric::v1::Node::STATE_READY);
  self_.reserved = {2000, 0};
  PutSlot("shop", 0);
  EXPECT_THAT(Take(), IsEmpty());
  EXPECT_EQ(claimer_.next_due(), clock_.Monotonic() + absl::Milliseconds(100));

  clock_.Advance(absl::Milliseconds(100));

  EXPECT_THAT(Take(), ElementsAre("shop/0/1"));
}

TEST_F(ClaimerTest, DoesNotWaitForNodesThatAreNotThere) {
  PutNode("node-2", fabric::v1::Node::STATE_LOST);
  PutNode("node-3", fabric::v1::Node::STATE_SUSPECT);
  self_.reserved = {2000, 0};
  PutSlot("shop", 0);

  EXPECT_THAT(Take(), ElementsAre("shop/0/1"));
}

TEST_F(ClaimerTest, TakesNoMoreThanFits) {
  for (int i = 0; i < 10; ++i) PutSlot(absl::StrCat("app-", i), 0);

  EXPECT_EQ(Take().size(), 4u);
}

TEST_F(ClaimerTest, TakesOneOfAnAppARound) {
  PutSlot("shop", 0);
  PutSlot("shop", 1);

  EXPECT_THAT(Take(), ElementsAre("shop/0/1"));
  EXPECT_EQ(claimer_.next_due(), clock_.Monotonic());
  EXPECT_THAT(Take(), ElementsAre("shop/1/1"));
}

TEST_F(ClaimerTest, KeepsToTheLimitOfARound) {
  PutSlot("a", 0);
  PutSlot("b", 0);

  EXPECT_EQ(Take(1).size(), 1u);
  EXPECT_EQ(Take(1).size(), 1u);
}

TEST_F(ClaimerTest, ClaimsNothingThatMayNotStartNow) {
  PutSlot("shop", 0);
  may_start_ = false;
  EXPECT_THAT(Take(), IsEmpty());
  EXPECT_LE(claimer_.next_due(), clock_.Monotonic() + absl::Milliseconds(200));

  may_start_ = true;
  EXPECT_THAT(Take(), ElementsAre("shop/0/1"));
}

TEST_F(ClaimerTest, ClaimsOneInstanceForEachFixedPort) {
  PutSlot("mail", 0, 8025);
  PutSlot("shop", 0, 8025);

  EXPECT_THAT(Take(), ElementsAre("mail/0/1"));
  self_.ports = {8025};
  EXPECT_THAT(Take(), IsEmpty());
}

TEST_F(ClaimerTest, ClaimsNoFixedPortThatAStrangerListensOn) {
  PutSlot("shop", 0, 8025);
  port_free_ = false;

  EXPECT_THAT(Take(), IsEmpty());
}

TEST_F(ClaimerTest, ClaimsNothingWhileTheNodeIsCordoned) {
  fabric::v1::Node node;
  node.set_node_id("node-1");
  node.set_scheduling(fabric::v1::Node::SCHEDULING_CORDONED);
  view_.PutNode(node);
  PutSlot("shop", 0);

  EXPECT_THAT(Take(), IsEmpty());
}

TEST_F(ClaimerTest, TriesAgainAfterAFailure) {
  PutSlot("shop", 0);
  Take();

  claimer_.OnFailed("shop/0/1", absl::UnavailableError("fabric away"));
  EXPECT_THAT(Take(), IsEmpty());
  clock_.Advance(absl::Milliseconds(500));
  EXPECT_THAT(Take(), ElementsAre("shop/0/1"));

  claimer_.OnFailed("shop/0/1",
                    MakeError(absl::StatusCode::kFailedPrecondition,
                              "fabric.mycelium", "BUDGET_EXCEEDED", "no room"));
  clock_.Advance(absl::Milliseconds(500));
  EXPECT_THAT(Take(), IsEmpty());
  clock_.Advance(absl::Milliseconds(1500));
  EXPECT_THAT(Take(), ElementsAre("shop/0/1"));
}

TEST_F(ClaimerTest, ClaimsAgainWhatItGaveUp) {
  PutSlot("shop", 0);
  Take();

  claimer_.Forget("shop/0/1");

  EXPECT_THAT(Take(), ElementsAre("shop/0/1"));
}

TEST_F(ClaimerTest, ClaimsASlotAgainThatSomeoneHadInBetween) {
  fabric::v1::Slot slot = PutSlot("shop", 0);
  Take();
  slot.set_node_id("node-2");
  slot.set_claim_revision(9);
  view_.PutSlot(slot);
  Take();

  PutSlot("shop", 0);

  EXPECT_THAT(Take(), ElementsAre("shop/0/1"));
}

}  // namespace
}  // namespace mycelium::agent
