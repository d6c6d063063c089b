#include "services/fabric/reconciler.h"

#include <algorithm>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::fabric {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr absl::Time kNow = absl::FromUnixSeconds(1'000'000);

v1::Plan PlanFor(int count, int64_t generation = 1) {
  v1::Plan plan;
  plan.set_app_name("billing");
  plan.set_digest(std::string(64, 'a'));
  plan.set_min(count);
  plan.set_max(std::max(count, 1));
  plan.set_count(count);
  plan.set_generation(generation);
  return plan;
}

v1::Budget BudgetFor(int instances, int64_t cpu_milli = 0,
                     int64_t memory_mb = 0) {
  v1::Budget budget;
  budget.set_max_instances(instances);
  budget.set_cpu_milli(cpu_milli);
  budget.set_memory_mb(memory_mb);
  return budget;
}

NodeInput NodeNamed(const std::string& id) {
  NodeInput node;
  node.id = id;
  node.ready = true;
  node.schedulable = true;
  node.capacity = {10'000, 10'000};
  node.free = node.capacity;
  return node;
}

SlotInput Held(int index, int64_t generation, v1::Slot::State state,
               absl::Duration since = absl::Minutes(1),
               const std::string& node = "n1") {
  SlotInput slot;
  slot.index = index;
  slot.generation = generation;
  slot.claimed = true;
  slot.node = node;
  slot.state = state;
  slot.since = kNow - since;
  slot.reserves = {100, 64};
  return slot;
}

SlotInput Ready(int index, int64_t generation,
                absl::Duration since = absl::Minutes(1)) {
  return Held(index, generation, v1::Slot::STATE_READY, since);
}

SlotInput Pending(int index, int64_t generation) {
  SlotInput slot;
  slot.index = index;
  slot.generation = generation;
  slot.since = kNow;
  slot.reserves = {100, 64};
  return slot;
}

SlotInput Surplus(SlotInput slot) {
  slot.surplus = true;
  return slot;
}

// Input and nodes together, since the input only points to the nodes.
struct Case {
  explicit Case(std::optional<v1::Plan> plan,
                std::vector<SlotInput> slots = {}) {
    input.plan = std::move(plan);
    input.slots = std::move(slots);
    input.now = kNow;
    nodes = {NodeNamed("n1"), NodeNamed("n2")};
  }

  Decision Decide() {
    input.nodes = &nodes;
    return Reconcile(input);
  }

  AppInput input;
  std::vector<NodeInput> nodes;
};

std::vector<SlotRef> Created(const Decision& decision) {
  std::vector<SlotRef> refs;
  for (const PendingReason& created : decision.create) {
    refs.push_back(created.slot);
  }
  return refs;
}

TEST(ReconcilerTest, CreatesAsManySlotsAsAreWanted) {
  const Decision decision = Case(PlanFor(3)).Decide();

  EXPECT_THAT(Created(decision),
              ElementsAre(SlotRef{0, 1}, SlotRef{1, 1}, SlotRef{2, 1}));
  EXPECT_EQ(decision.wanted, 3);
}

TEST(ReconcilerTest, LeavesAloneWhatIsAsItShouldBe) {
  const Decision decision =
      Case(PlanFor(2), {Ready(0, 1), Ready(1, 1)}).Decide();

  EXPECT_TRUE(decision.empty());
  EXPECT_EQ(decision.wake_up, absl::InfiniteFuture());
}

TEST(ReconcilerTest, ReusesTheLowestFreeIndex) {
  const Decision decision =
      Case(PlanFor(3), {Ready(0, 1), Ready(2, 1)}).Decide();

  EXPECT_THAT(Created(decision), ElementsAre(SlotRef{1, 1}));
}

TEST(ReconcilerTest, GivesUpTheLeastUsefulWhenFewerAreWanted) {
  const Decision decision =
      Case(PlanFor(1),
           {Ready(0, 1), Pending(1, 1), Held(2, 1, v1::Slot::STATE_STARTING)})
          .Decide();

  EXPECT_THAT(decision.remove, ElementsAre(SlotRef{1, 1}));
  EXPECT_THAT(decision.mark_surplus, ElementsAre(SlotRef{2, 1}));
}

TEST(ReconcilerTest, DrainsEverythingOfADeletedPlan) {
  const Decision decision =
      Case(std::nullopt, {Ready(0, 1), Pending(1, 1), Surplus(Ready(2, 1)),
                          Surplus(Pending(3, 1))})
          .Decide();

  EXPECT_THAT(decision.mark_surplus, ElementsAre(SlotRef{0, 1}));
  EXPECT_THAT(decision.remove, ElementsAre(SlotRef{1, 1}, SlotRef{3, 1}));
}

TEST(ReconcilerTest, NeverWantsMoreThanTheBudgetAllows) {
  Case instances(PlanFor(5));
  instances.input.budget = BudgetFor(3);
  Case cpu(PlanFor(5));
  cpu.input.budget = BudgetFor(0, 250);
  Case memory(PlanFor(5));
  memory.input.budget = BudgetFor(0, 0, int64_t{64} * 4);

  EXPECT_THAT(instances.Decide().create, SizeIs(3));
  EXPECT_EQ(instances.Decide().bound_by, "maxInstances");
  EXPECT_THAT(cpu.Decide().create, SizeIs(2));
  EXPECT_EQ(cpu.Decide().bound_by, "cpu_milli");
  EXPECT_THAT(memory.Decide().create, SizeIs(4));
  EXPECT_EQ(memory.Decide().bound_by, "memory_mb");
}

TEST(ReconcilerTest, StopsTheSurplusOfABudgetThatShrank) {
  Case shrunk(PlanFor(3), {Ready(0, 1), Ready(1, 1), Ready(2, 1)});
  shrunk.input.budget = BudgetFor(1);

  const Decision decision = shrunk.Decide();

  EXPECT_THAT(decision.mark_surplus, SizeIs(2));
  EXPECT_THAT(decision.create, IsEmpty());
}

TEST(ReconcilerTest, CountsWhatIsStillStoppingAgainstTheBudget) {
  Case stopping(PlanFor(2), {Surplus(Ready(0, 1)), Surplus(Ready(1, 1))});
  stopping.input.budget = BudgetFor(2);

  EXPECT_THAT(stopping.Decide().create, IsEmpty());
}

TEST(ReconcilerTest, StartsAnUpdateWithASurge) {
  const Decision decision =
      Case(PlanFor(4, 2), {Ready(0, 1), Ready(1, 1), Ready(2, 1), Ready(3, 1)})
          .Decide();

  EXPECT_THAT(Created(decision), ElementsAre(SlotRef{0, 2}));
  EXPECT_THAT(decision.mark_surplus, IsEmpty());
  EXPECT_THAT(decision.remove, IsEmpty());
}

TEST(ReconcilerTest, SurgesAsFarAsThePlanAllows) {
  v1::Plan plan = PlanFor(4, 2);
  plan.mutable_strategy()->set_max_surge(3);

  const Decision decision =
      Case(plan, {Ready(0, 1), Ready(1, 1), Ready(2, 1), Ready(3, 1)}).Decide();

  EXPECT_THAT(decision.create, SizeIs(3));
}

TEST(ReconcilerTest, WaitsUntilANewInstanceHasBeenReadyForLongEnough) {
  Case fresh(PlanFor(1, 2), {Ready(0, 1), Ready(0, 2, absl::Seconds(1))});

  const Decision early = fresh.Decide();
  EXPECT_THAT(early.mark_surplus, IsEmpty());
  EXPECT_EQ(early.wake_up, kNow + absl::Seconds(2));

  fresh.input.now = early.wake_up;
  EXPECT_THAT(fresh.Decide().mark_surplus, ElementsAre(SlotRef{0, 1}));
}

TEST(ReconcilerTest, ACrashingNewVersionDoesNotCostAnOldInstance) {
  const Decision decision =
      Case(PlanFor(2, 2),
           {Ready(0, 1), Ready(1, 1), Held(0, 2, v1::Slot::STATE_BACKOFF)})
          .Decide();

  EXPECT_TRUE(decision.empty());
}

TEST(ReconcilerTest, AnOldSetThatNeverServedIsReplacedAtOnce) {
  const Decision decision =
      Case(PlanFor(2, 2), {Held(0, 1, v1::Slot::STATE_REFUSED), Pending(1, 1)})
          .Decide();

  EXPECT_THAT(decision.mark_surplus, ElementsAre(SlotRef{0, 1}));
  EXPECT_THAT(decision.remove, ElementsAre(SlotRef{1, 1}));
  EXPECT_THAT(decision.create, SizeIs(2));
}

TEST(ReconcilerTest, KeepsAnOldSlotThatLostItsNodeWhileTheNewOneIsUnproven) {
  const Decision decision =
      Case(PlanFor(2, 2),
           {Ready(0, 1), Pending(1, 1), Held(0, 2, v1::Slot::STATE_STARTING)})
          .Decide();

  EXPECT_THAT(decision.remove, IsEmpty());
  EXPECT_THAT(decision.mark_surplus, IsEmpty());
}

TEST(ReconcilerTest, ReplacesInPlaceWhenTheBudgetIsFullAndSaysSo) {
  Case full(PlanFor(2, 2), {Ready(0, 1), Ready(1, 1)});
  full.input.budget = BudgetFor(2);

  const Decision first = full.Decide();
  EXPECT_THAT(first.mark_surplus, ElementsAre(SlotRef{1, 1}));
  EXPECT_THAT(first.create, IsEmpty());
  EXPECT_THAT(first.in_place_because, HasSubstr("maxInstances"));

  // Nothing more until the place is free, and then one new one.
  full.input.slots = {Ready(0, 1), Surplus(Ready(1, 1))};
  EXPECT_TRUE(full.Decide().empty());
  full.input.slots = {Ready(0, 1)};
  EXPECT_THAT(Created(full.Decide()), ElementsAre(SlotRef{0, 2}));

  // The next only when that one has proved itself.
  full.input.slots = {Ready(0, 1), Held(0, 2, v1::Slot::STATE_BACKOFF)};
  EXPECT_THAT(full.Decide().mark_surplus, IsEmpty());
  full.input.slots = {Ready(0, 1), Ready(0, 2)};
  EXPECT_THAT(full.Decide().mark_surplus, ElementsAre(SlotRef{0, 1}));
}

TEST(ReconcilerTest, ReplacesInPlaceWhenTheOldInstancesHoldTheFixedPort) {
  v1::Plan plan = PlanFor(2, 2);
  plan.set_port(8081);
  Case fixed(plan, {Held(0, 1, v1::Slot::STATE_READY, absl::Minutes(1), "n1"),
                    Held(1, 1, v1::Slot::STATE_READY, absl::Minutes(1), "n2")});
  for (SlotInput& slot : fixed.input.slots) slot.port = 8081;

  const Decision decision = fixed.Decide();

  EXPECT_THAT(decision.mark_surplus, SizeIs(1));
  EXPECT_THAT(decision.in_place_because, HasSubstr("8081"));
}

TEST(ReconcilerTest, MovesInstancesOffADrainingNodeReplacementFirst) {
  Case draining(PlanFor(2), {Ready(0, 1), Ready(1, 1)});
  draining.input.slots[1].node = "n2";
  draining.nodes[1].draining = true;
  draining.nodes[1].schedulable = false;

  const Decision first = draining.Decide();
  EXPECT_THAT(Created(first), ElementsAre(SlotRef{2, 1}));
  EXPECT_THAT(first.mark_surplus, IsEmpty());

  draining.input.slots.push_back(Ready(2, 1));
  EXPECT_THAT(draining.Decide().mark_surplus, ElementsAre(SlotRef{1, 1}));
}

TEST(ReconcilerTest, KeepsTheInstancesOfADrainingNodeThatNobodyCanReplace) {
  Case alone(PlanFor(1), {Ready(0, 1), Pending(1, 1)});
  alone.nodes = {NodeNamed("n1")};
  alone.nodes[0].draining = true;
  alone.nodes[0].schedulable = false;

  const Decision decision = alone.Decide();

  EXPECT_THAT(decision.mark_surplus, IsEmpty());
  ASSERT_THAT(decision.reasons, SizeIs(1));
  EXPECT_EQ(decision.reasons[0].reason, "NO_NODE");
}

TEST(ReconcilerTest, OffersARefusedSlotToOtherNodesAfterAPause) {
  Case refused(PlanFor(1),
               {Held(0, 1, v1::Slot::STATE_REFUSED, absl::Seconds(1))});

  const Decision early = refused.Decide();
  EXPECT_THAT(early.reoffer, IsEmpty());
  EXPECT_EQ(early.wake_up, kNow + absl::Seconds(4));

  refused.input.now = early.wake_up;
  const Decision late = refused.Decide();
  ASSERT_THAT(late.reoffer, SizeIs(1));
  EXPECT_EQ(late.reoffer[0].slot, (SlotRef{0, 1}));
  EXPECT_THAT(late.reoffer[0].refused_by, ElementsAre("n1"));
}

TEST(ReconcilerTest, OffersASlotThatAllRefusedToAllAgainAfterALongPause) {
  Case refused(PlanFor(1),
               {Held(0, 1, v1::Slot::STATE_REFUSED, absl::Minutes(4), "n2")});
  refused.input.slots[0].refused_by = {"n1"};

  EXPECT_THAT(refused.Decide().reoffer, IsEmpty());

  refused.input.now = kNow + absl::Minutes(1);
  const Decision late = refused.Decide();
  ASSERT_THAT(late.reoffer, SizeIs(1));
  EXPECT_THAT(late.reoffer[0].refused_by, IsEmpty());
}

TEST(ReconcilerTest, SaysWhatKeepsASlotWaiting) {
  Case no_nodes(PlanFor(1));
  no_nodes.nodes.clear();
  EXPECT_EQ(no_nodes.Decide().create[0].reason, "NO_NODE");

  Case labels(PlanFor(1));
  (*labels.input.plan->mutable_placement()->mutable_required_labels())["zone"] =
      "a";
  EXPECT_EQ(labels.Decide().create[0].reason, "NO_NODE");
  EXPECT_THAT(labels.Decide().create[0].message, HasSubstr("zone=a"));

  Case full(PlanFor(1));
  for (NodeInput& node : full.nodes) node.free = {50, 5000};
  EXPECT_EQ(full.Decide().create[0].reason, "NO_CAPACITY");
  EXPECT_THAT(full.Decide().create[0].message,
              HasSubstr("n1 has 50 cpu_milli and 5000 memory_mb free"));

  Case open(PlanFor(1));
  EXPECT_EQ(open.Decide().create[0].reason, "UNCLAIMED");
}

TEST(ReconcilerTest, RenewsTheWordsOfAReasonNowAndThenOnly) {
  Case waiting(PlanFor(1), {Pending(0, 1)});
  waiting.input.slots[0].reason = "UNCLAIMED";
  waiting.input.slots[0].message = "old words";
  waiting.input.slots[0].reason_time = kNow - absl::Seconds(1);

  const Decision early = waiting.Decide();
  EXPECT_THAT(early.reasons, IsEmpty());
  EXPECT_EQ(early.wake_up, kNow + absl::Seconds(4));

  waiting.input.now = early.wake_up;
  EXPECT_THAT(waiting.Decide().reasons, SizeIs(1));
}

// One app in a made-up mesh: agents claim, start, crash and stop at random,
// operators change plans, budgets and nodes at random, and after every step the
// invariants are checked.
class RandomMesh {
 public:
  explicit RandomMesh(uint32_t seed) : random_(seed) {
    for (int i = 0; i < 4; ++i) {
      nodes_.push_back(NodeNamed(absl::StrCat("n", i)));
    }
    plan_ = PlanFor(1 + Pick(5));
    plan_->set_max(8);
    now_ = kNow;
  }

  void Step() {
    now_ += absl::Milliseconds(Pick(3000));
    switch (Pick(12)) {
      case 0:
        ChangePlan();
        break;
      case 1:
        ChangeBudget();
        break;
      case 2:
        ChangeNode();
        break;
      default:
        ChangeSlot();
    }
    Settle();
  }

 private:
  int Pick(int below) {
    return std::uniform_int_distribution<int>(0, below - 1)(random_);
  }

  void ChangePlan() {
    switch (Pick(4)) {
      case 0:
        plan_.reset();
        return;
      case 1:
        if (plan_.has_value()) {
          plan_->set_generation(++generation_);
          return;
        }
        break;
      default:
        break;
    }
    if (!plan_.has_value()) {
      plan_ = PlanFor(1, ++generation_);
      plan_->set_max(8);
    }
    plan_->set_min(Pick(4));
    plan_->set_count(plan_->min() + Pick(5));
    if (Pick(2) == 0) plan_->mutable_strategy()->set_max_surge(1 + Pick(3));
  }

  void ChangeBudget() {
    if (Pick(3) == 0) {
      budget_.reset();
    } else {
      budget_ =
          BudgetFor(Pick(6), int64_t{100} * Pick(7), int64_t{64} * Pick(7));
    }
  }

  void ChangeNode() {
    NodeInput& node = nodes_[static_cast<size_t>(Pick(4))];
    switch (Pick(3)) {
      case 0:
        node.draining = !node.draining;
        node.schedulable = !node.draining;
        break;
      case 1:
        // Lost: its claims go.
        node.ready = false;
        for (SlotInput& slot : slots_) {
          if (slot.node == node.id) Release(&slot);
        }
        break;
      default:
        node.ready = true;
    }
  }

  void Release(SlotInput* slot) {
    slot->claimed = false;
    slot->node.clear();
    slot->state = v1::Slot::STATE_PENDING;
    slot->since = now_;
  }

  void ChangeSlot() {
    if (slots_.empty()) return;
    SlotInput& slot =
        slots_[static_cast<size_t>(Pick(static_cast<int>(slots_.size())))];
    if (slot.claimed && slot.surplus) {
      Release(&slot);
      return;
    }
    if (!slot.claimed) {
      const NodeInput& node = nodes_[static_cast<size_t>(Pick(4))];
      if (!node.ready || !node.schedulable || slot.surplus) return;
      slot.claimed = true;
      slot.node = node.id;
      slot.state = v1::Slot::STATE_CLAIMED;
    } else {
      constexpr v1::Slot::State kStates[] = {
          v1::Slot::STATE_READY,   v1::Slot::STATE_READY,
          v1::Slot::STATE_READY,   v1::Slot::STATE_STARTING,
          v1::Slot::STATE_BACKOFF, v1::Slot::STATE_UNHEALTHY,
          v1::Slot::STATE_REFUSED};
      slot.state = kStates[Pick(7)];
    }
    slot.since = now_;
  }

  Decision Decide() {
    AppInput input;
    input.plan = plan_;
    input.budget = budget_;
    input.slots = slots_;
    input.nodes = &nodes_;
    input.now = now_;
    return Reconcile(input);
  }

  SlotInput* Find(const SlotRef& ref) {
    for (SlotInput& slot : slots_) {
      if (SlotRef{slot.index, slot.generation} == ref) return &slot;
    }
    return nullptr;
  }

  void Settle() {
    const Decision decision = Decide();
    CheckDecision(decision);
    for (const SlotRef& ref : decision.mark_surplus) Find(ref)->surplus = true;
    for (const SlotRef& ref : decision.remove) {
      slots_.erase(slots_.begin() + (Find(ref) - slots_.data()));
    }
    for (const Reoffer& reoffer : decision.reoffer) {
      SlotInput* slot = Find(reoffer.slot);
      Release(slot);
      slot->refused_by = reoffer.refused_by;
    }
    for (const PendingReason& created : decision.create) {
      SlotInput slot = Pending(created.slot.index, created.slot.generation);
      slot.since = now_;
      slot.reason = created.reason;
      slot.message = created.message;
      slot.reason_time = now_;
      slots_.push_back(slot);
    }
    for (const PendingReason& reason : decision.reasons) {
      SlotInput* slot = Find(reason.slot);
      slot->reason = reason.reason;
      slot->message = reason.message;
      slot->reason_time = now_;
    }
    const Decision again = Decide();
    EXPECT_THAT(again.create, IsEmpty());
    EXPECT_THAT(again.remove, IsEmpty());
    EXPECT_THAT(again.mark_surplus, IsEmpty());
    EXPECT_THAT(again.reoffer, IsEmpty());
  }

  void CheckDecision(const Decision& decision) {
    for (const SlotRef& ref : decision.remove) {
      ASSERT_NE(Find(ref), nullptr);
      EXPECT_FALSE(Find(ref)->claimed) << "a held slot is removed";
    }
    for (const PendingReason& created : decision.create) {
      EXPECT_EQ(Find(created.slot), nullptr) << "an index is used twice";
      EXPECT_FALSE(created.reason.empty());
      EXPECT_FALSE(created.message.empty());
    }
    if (!plan_.has_value()) {
      EXPECT_THAT(decision.create, IsEmpty());
      return;
    }

    int running = static_cast<int>(decision.create.size());
    int kept_ready = 0;
    int was_ready = 0;
    int ready_dropped = 0;
    Resources used;
    for (const SlotInput& slot : slots_) {
      const SlotRef ref = {slot.index, slot.generation};
      const auto in = [&ref](const std::vector<SlotRef>& refs) {
        return std::find(refs.begin(), refs.end(), ref) != refs.end();
      };
      const bool ready =
          slot.claimed && !slot.surplus && slot.state == v1::Slot::STATE_READY;
      was_ready += ready ? 1 : 0;
      if (in(decision.mark_surplus)) {
        EXPECT_TRUE(slot.claimed);
        ready_dropped += ready ? 1 : 0;
      } else {
        kept_ready += ready ? 1 : 0;
      }
      if (in(decision.remove)) continue;
      ++running;
      used += slot.reserves;
    }
    for (size_t i = 0; i < decision.create.size(); ++i) used += {100, 64};
    const int surge = plan_->strategy().has_max_surge()
                          ? plan_->strategy().max_surge()
                          : std::max(1, (decision.wanted + 3) / 4);
    if (!decision.create.empty()) {
      EXPECT_LE(running, decision.wanted + surge);
      if (budget_.has_value()) {
        if (budget_->max_instances() != 0) {
          EXPECT_LE(running, budget_->max_instances());
        }
        if (budget_->cpu_milli() != 0) {
          EXPECT_LE(used.cpu_milli, budget_->cpu_milli());
        }
        if (budget_->memory_mb() != 0) {
          EXPECT_LE(used.memory_mb, budget_->memory_mb());
        }
      }
    }
    // What serves is only given up for what serves, or in place, or because
    // fewer are wanted.
    if (ready_dropped > 0 && decision.in_place_because.empty()) {
      EXPECT_GE(kept_ready, std::min(decision.wanted, was_ready));
    }
    if (ready_dropped > 0 && !decision.in_place_because.empty()) {
      EXPECT_GE(kept_ready, std::min(decision.wanted, was_ready) - 1);
    }
    EXPECT_LE(decision.wanted, plan_->max());
    if (!budget_.has_value()) {
      EXPECT_GE(decision.wanted, plan_->min());
    }
  }

  std::mt19937 random_;
  absl::Time now_;
  int64_t generation_ = 1;
  std::optional<v1::Plan> plan_;
  std::optional<v1::Budget> budget_;
  std::vector<NodeInput> nodes_;
  std::vector<SlotInput> slots_;
};

TEST(ReconcilerPropertyTest, KeepsItsPromisesWhateverHappens) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    RandomMesh mesh(seed);
    for (int step = 0; step < 200; ++step) {
      mesh.Step();
      if (testing::Test::HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace mycelium::fabric
