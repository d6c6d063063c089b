#include "tools/meshctl/rollout.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::meshctl {
namespace {

using ::testing::HasSubstr;
using State = RolloutView::State;
using fabric::v1::Slot;

Slot SlotOf(int index, int64_t generation, Slot::State state,
            const std::string& reason = "") {
  Slot slot;
  slot.set_app_name("billing");
  slot.set_index(index);
  slot.set_generation(generation);
  slot.set_state(state);
  slot.set_reason(reason);
  if (state != Slot::STATE_PENDING) {
    slot.set_node_id("node-1");
    slot.set_instance_id(absl::StrCat("billing-", index));
  }
  return slot;
}

Slots SlotsOf(const std::vector<Slot>& list) {
  Slots slots;
  for (const Slot& slot : list) {
    slots[absl::StrCat(slot.index(), "/", slot.generation())] = slot;
  }
  return slots;
}

TEST(RolloutTest, IsReadyWhenAllWantedInstancesAre) {
  const Slots slots = SlotsOf(
      {SlotOf(0, 2, Slot::STATE_READY), SlotOf(1, 2, Slot::STATE_READY)});

  EXPECT_EQ(JudgeRollout(slots, 2, 2).state, State::kReady);
}

TEST(RolloutTest, DoesNotCountTheInstancesOfTheGenerationBefore) {
  const Slots slots =
      SlotsOf({SlotOf(0, 1, Slot::STATE_READY), SlotOf(1, 1, Slot::STATE_READY),
               SlotOf(0, 2, Slot::STATE_STARTING)});

  const RolloutView view = JudgeRollout(slots, 2, 2);

  EXPECT_EQ(view.state, State::kWaiting);
  EXPECT_EQ(view.ready, 0);
  EXPECT_THAT(view.text, HasSubstr("billing/0 on node-1 is starting"));
}

TEST(RolloutTest, SaysWhatItWaitsForWhenNothingIsThereYet) {
  const RolloutView view = JudgeRollout({}, 1, 3);

  EXPECT_EQ(view.state, State::kWaiting);
  EXPECT_THAT(view.text, HasSubstr("0 of 3"));
}

TEST(RolloutTest, FailsOnARefusedSporeAndOnACrashLoop) {
  EXPECT_EQ(
      JudgeRollout(SlotsOf({SlotOf(0, 1, Slot::STATE_REFUSED)}), 1, 1).state,
      State::kFailed);
  const RolloutView view =
      JudgeRollout(SlotsOf({SlotOf(0, 1, Slot::STATE_BACKOFF, "CRASHLOOP"),
                            SlotOf(1, 1, Slot::STATE_READY)}),
                   1, 2);
  EXPECT_EQ(view.state, State::kFailed);
  EXPECT_EQ(view.culprit.instance_id(), "billing-0");
  EXPECT_EQ(view.ready, 1);
}

TEST(RolloutTest, WaitsForAnInstanceThatCrashedOnce) {
  EXPECT_EQ(
      JudgeRollout(SlotsOf({SlotOf(0, 1, Slot::STATE_BACKOFF, "EXITED")}), 1, 1)
          .state,
      State::kWaiting);
}

TEST(RolloutTest, HasNoRoomWhenAllThatIsMissingCannotBePlaced) {
  const Slots stuck =
      SlotsOf({SlotOf(0, 1, Slot::STATE_READY),
               SlotOf(1, 1, Slot::STATE_PENDING, "NO_CAPACITY")});
  const Slots moving =
      SlotsOf({SlotOf(0, 1, Slot::STATE_STARTING),
               SlotOf(1, 1, Slot::STATE_PENDING, "NO_CAPACITY")});

  EXPECT_EQ(JudgeRollout(stuck, 1, 2).state, State::kNoRoom);
  EXPECT_EQ(JudgeRollout(moving, 1, 2).state, State::kWaiting);
}

TEST(RolloutTest, IsSupersededByALaterGeneration) {
  EXPECT_EQ(JudgeRollout(SlotsOf({SlotOf(0, 1, Slot::STATE_READY),
                                  SlotOf(0, 2, Slot::STATE_PENDING)}),
                         1, 1)
                .state,
            State::kSuperseded);
}

TEST(RolloutTest, IgnoresSurplusSlots) {
  Slot surplus = SlotOf(1, 1, Slot::STATE_READY);
  surplus.set_surplus(true);

  EXPECT_EQ(
      JudgeRollout(SlotsOf({SlotOf(0, 1, Slot::STATE_READY), surplus}), 1, 2)
          .ready,
      1);
}

}  // namespace
}  // namespace mycelium::meshctl
