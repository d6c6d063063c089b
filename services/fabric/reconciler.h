// What should change about the slots of one app: a pure function, without
// clock, store or lock, so that it can be tested by example, by property and in
// simulations. docs/fabric.md explains its rules.
#ifndef SERVICES_FABRIC_RECONCILER_H_
#define SERVICES_FABRIC_RECONCILER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "mycelium/fabric/v1/fabric.pb.h"

namespace mycelium::fabric {

// An amount of what instances use.
struct Resources {
  int64_t cpu_milli = 0;
  int64_t memory_mb = 0;

  Resources& operator+=(const Resources& other) {
    cpu_milli += other.cpu_milli;
    memory_mb += other.memory_mb;
    return *this;
  }
  Resources& operator-=(const Resources& other) {
    cpu_milli -= other.cpu_milli;
    memory_mb -= other.memory_mb;
    return *this;
  }
  bool Covers(const Resources& other) const {
    return cpu_milli >= other.cpu_milli && memory_mb >= other.memory_mb;
  }
};

// A node as the reconciler sees it.
struct NodeInput {
  std::string id;
  std::map<std::string, std::string> labels;
  bool ready = false;        // Its agent reports.
  bool schedulable = false;  // It takes new instances.
  bool draining = false;     // Its instances are to move.
  Resources capacity;
  Resources free;
};

// A slot with its claim.
struct SlotInput {
  int32_t index = 0;
  int64_t generation = 0;
  bool surplus = false;
  // What it reserves, and the fixed port that it listens on; 0 if any will do.
  Resources reserves;
  int port = 0;

  bool claimed = false;
  std::string node;
  v1::Slot::State state = v1::Slot::STATE_PENDING;
  // Since when it is in its state.
  absl::Time since;
  // The reason and message that are stored for it while nobody claims it, and
  // when they were written.
  std::string reason;
  std::string message;
  absl::Time reason_time = absl::InfinitePast();
  // Nodes whose agents refused the spore.
  std::vector<std::string> refused_by;
};

// Everything that the wanted slots of one app follow from.
struct AppInput {
  // Null: the plan is deleted, nothing is wanted.
  std::optional<v1::Plan> plan;
  // With cpu_milli, memory_mb and max_instances 0 for "no limit".
  std::optional<v1::Budget> budget;
  std::vector<SlotInput> slots;
  // All nodes of the mesh, in the order of ids.
  const std::vector<NodeInput>* nodes = nullptr;
  absl::Time now;
};

// A slot by its index and generation.
struct SlotRef {
  int32_t index = 0;
  int64_t generation = 0;

  friend bool operator==(const SlotRef& a, const SlotRef& b) {
    return a.index == b.index && a.generation == b.generation;
  }
};

// Why nobody has claimed a slot yet.
struct PendingReason {
  SlotRef slot;
  std::string reason;   // UPPER_SNAKE_CASE.
  std::string message;  // With the values that matter.
};

// A slot to be taken from who refused it, if anyone holds it, and offered to
// all nodes but these.
struct Reoffer {
  SlotRef slot;
  std::vector<std::string> refused_by;
};

// What to write. The order of the lists is the order of decisions.
struct Decision {
  // New slots of the plan's generation, with their reasons.
  std::vector<PendingReason> create;
  // Slots that nobody holds, to be deleted.
  std::vector<SlotRef> remove;
  // Slots whose holder is to drain and stop its instance.
  std::vector<SlotRef> mark_surplus;
  // Slots that were refused.
  std::vector<Reoffer> reoffer;
  // Slots that wait, whose stored reason is out of date.
  std::vector<PendingReason> reasons;

  // How many instances are wanted: the count within the plan's bounds and the
  // budget; and what bounds it if that is the budget ("maxInstances",
  // "cpu_milli" or "memory_mb"), empty otherwise.
  int wanted = 0;
  std::string bound_by;
  // Why an update replaces instances in place, that is, stops an old one before
  // a new one runs; empty if it does not.
  std::string in_place_because;

  // When to look again even if nothing changes; InfiniteFuture if never.
  absl::Time wake_up = absl::InfiniteFuture();

  bool empty() const {
    return create.empty() && remove.empty() && mark_surplus.empty() &&
           reoffer.empty() && reasons.empty();
  }
};

// Decides what to change now. Applying a decision and asking again, with
// nothing else changed, gives an empty one.
//
// Holds whatever the input:
// - slots that are created, together with all that may still run, stay within
//   the budget and within wanted + surge;
// - an instance that is READY is marked surplus only for one that has been
//   READY for the plan's min_ready, because too many are READY, because the
//   plan is gone, or in place (`in_place_because`);
// - a slot that someone holds is never removed.
Decision Reconcile(const AppInput& input);

// What one instance of a plan reserves.
Resources InstanceResources(const v1::Plan& plan);

// How many instances of `plan` its budget allows, and by which dimension.
struct BudgetBound {
  int instances = 0;
  std::string dimension;  // Empty: nothing bounds it.
  int64_t limit = 0;
};
BudgetBound BoundOf(const v1::Plan& plan, const v1::Budget* budget);

// Why no node takes an instance of `plan` now, as a reason and a message;
// nullopt if one does.
struct Obstacle {
  std::string reason;
  std::string message;
};
std::optional<Obstacle> FindObstacle(const v1::Plan& plan,
                                     const std::vector<NodeInput>& nodes);

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_RECONCILER_H_
