#include "services/fabric/reconciler.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/fabric/resources.h"
#include "services/fabric/validate.h"

namespace mycelium::fabric {
namespace {

// How long a refused slot stays with the node that refused it: so long after
// the first node, doubled with each further one.
constexpr absl::Duration kFirstReoffer = absl::Seconds(5);
constexpr absl::Duration kLastReoffer = absl::Minutes(5);

// How often at most the words of a reason are renewed while the reason itself
// stays the same: its numbers change with every claim.
constexpr absl::Duration kRenewMessage = absl::Seconds(5);

// Nodes that one message names.
constexpr size_t kMaxNamedNodes = 5;

// A slot and what Reconcile has found out and decided about it.
struct Item {
  const SlotInput* slot;
  bool leaving = false;  // Of an older plan, or on a node that drains.
  bool on_draining_node = false;
  bool ready = false;
  bool stable = false;  // Ready for long enough to rely on.
  bool dropped = false;

  SlotRef ref() const { return {slot->index, slot->generation}; }

  // Whether its instance has ever served or may do so again by itself. What has
  // not is no loss.
  bool proven() const {
    return slot->claimed && (slot->state == v1::Slot::STATE_READY ||
                             slot->state == v1::Slot::STATE_UNHEALTHY ||
                             slot->state == v1::Slot::STATE_BACKOFF);
  }

  // The lower, the less is lost with it.
  int worth() const {
    if (!slot->claimed) return 0;
    if (!proven()) return 1;
    if (!ready) return 2;
    return stable ? 4 : 3;
  }
};

// The order in which slots are given up: the least worth first, and of equals
// the one with the highest index.
bool GoesBefore(const Item* a, const Item* b) {
  return std::tuple(a->worth(), !a->on_draining_node, -a->slot->index,
                    a->slot->generation) <
         std::tuple(b->worth(), !b->on_draining_node, -b->slot->index,
                    b->slot->generation);
}

bool HasLabels(const NodeInput& node, const v1::Placement& placement) {
  return std::all_of(placement.required_labels().begin(),
                     placement.required_labels().end(), [&](const auto& label) {
                       const auto it = node.labels.find(label.first);
                       return it != node.labels.end() &&
                              it->second == label.second;
                     });
}

std::vector<const NodeInput*> EligibleNodes(
    const v1::Plan& plan, const std::vector<NodeInput>& nodes) {
  std::vector<const NodeInput*> eligible;
  for (const NodeInput& node : nodes) {
    if (node.ready && node.schedulable && HasLabels(node, plan.placement())) {
      eligible.push_back(&node);
    }
  }
  return eligible;
}

std::string Describe(const Resources& resources) {
  return absl::StrCat(resources.cpu_milli, " cpu_milli and ",
                      resources.memory_mb, " memory_mb");
}

int SurgeOf(const v1::Plan& plan, int wanted) {
  if (plan.strategy().has_max_surge()) return plan.strategy().max_surge();
  return std::max(1, (wanted + 3) / 4);
}

absl::Duration MinReadyOf(const v1::Plan& plan) {
  return plan.strategy().has_min_ready()
             ? ToDuration(plan.strategy().min_ready())
             : kDefaultMinReady;
}

// What runs or may run, against a budget.
class Usage {
 public:
  explicit Usage(const v1::Budget* budget) : budget_(budget) {}

  void Add(const Resources& resources) {
    ++instances_;
    resources_ += resources;
  }
  void Remove(const Resources& resources) {
    --instances_;
    resources_ -= resources;
  }

  // The dimension that is exceeded if `more` is added; empty if none is.
  absl::string_view Exceeded(const Resources& more, int instances) const {
    if (budget_ == nullptr) return "";
    if (budget_->max_instances() != 0 &&
        instances_ + instances > budget_->max_instances()) {
      return "maxInstances";
    }
    if (budget_->cpu_milli() != 0 &&
        resources_.cpu_milli + more.cpu_milli > budget_->cpu_milli()) {
      return "cpu_milli";
    }
    if (budget_->memory_mb() != 0 &&
        resources_.memory_mb + more.memory_mb > budget_->memory_mb()) {
      return "memory_mb";
    }
    return "";
  }

 private:
  const v1::Budget* budget_;
  int instances_ = 0;
  Resources resources_;
};

// The work of one call of Reconcile.
class Run {
 public:
  Run(const AppInput& input, const v1::Plan& plan)
      : input_(input),
        plan_(plan),
        need_(InstanceResources(plan)),
        eligible_(EligibleNodes(plan, *input.nodes)),
        obstacle_(FindObstacle(plan, *input.nodes)) {}

  Decision Decide();

 private:
  const v1::Budget* budget() const {
    return input_.budget.has_value() ? &*input_.budget : nullptr;
  }

  void Classify();
  void Drop(Item* item);
  // Drops the least worthy of `items` until `keep` are left.
  void Trim(std::vector<Item*> items, size_t keep);
  std::vector<Item*> Kept(bool leaving);
  void GiveUpWhatIsNotNeeded();
  void StayWithinBudget();
  void Create();
  std::string PortObstacle(size_t pending);
  // Stops one old instance, if it is time. Returns whether that made room.
  bool ReplaceInPlace(const std::string& because);
  void Reoffer();
  void Explain();
  PendingReason ReasonFor(const SlotRef& ref,
                          const std::vector<std::string>& refused_by);
  // Why a slot that some node has not refused waits.
  Obstacle CommonObstacle();
  void WakeUpAt(absl::Time time) {
    decision_.wake_up = std::min(decision_.wake_up, time);
  }

  const AppInput& input_;
  const v1::Plan& plan_;
  const Resources need_;
  const std::vector<const NodeInput*> eligible_;
  const std::optional<Obstacle> obstacle_;
  int wanted_ = 0;
  int surge_ = 0;
  std::vector<Item> items_;
  std::optional<Obstacle> common_;
  Decision decision_;
};

Decision Run::Decide() {
  const BudgetBound bound = BoundOf(plan_, budget());
  const int count = std::clamp(plan_.count(), plan_.min(), plan_.max());
  wanted_ = std::min(count, bound.instances);
  surge_ = SurgeOf(plan_, wanted_);
  decision_.wanted = wanted_;
  if (wanted_ < count) decision_.bound_by = bound.dimension;

  Classify();
  GiveUpWhatIsNotNeeded();
  StayWithinBudget();
  Create();
  Reoffer();
  Explain();
  return std::move(decision_);
}

void Run::Classify() {
  std::set<std::string> draining;
  for (const NodeInput& node : *input_.nodes) {
    if (node.draining) draining.insert(node.id);
  }
  items_.reserve(input_.slots.size());
  for (const SlotInput& slot : input_.slots) {
    Item item;
    item.slot = &slot;
    item.on_draining_node = slot.claimed && draining.count(slot.node) > 0;
    item.leaving =
        slot.generation != plan_.generation() || item.on_draining_node;
    item.ready = slot.claimed && slot.state == v1::Slot::STATE_READY;
    const absl::Time stable_at = slot.since + MinReadyOf(plan_);
    item.stable = item.ready && stable_at <= input_.now;
    items_.push_back(item);
    if (item.ready && !item.stable && !item.leaving && !slot.surplus) {
      WakeUpAt(stable_at);
    }
  }
  for (Item& item : items_) {
    // The holder of a surplus slot stops its instance; what nobody holds goes.
    if (item.slot->surplus && !item.slot->claimed) {
      decision_.remove.push_back(item.ref());
    }
  }
}

void Run::Drop(Item* item) {
  item->dropped = true;
  if (item->slot->claimed) {
    decision_.mark_surplus.push_back(item->ref());
  } else {
    decision_.remove.push_back(item->ref());
  }
}

std::vector<Item*> Run::Kept(bool leaving) {
  std::vector<Item*> kept;
  for (Item& item : items_) {
    if (!item.slot->surplus && !item.dropped && item.leaving == leaving) {
      kept.push_back(&item);
    }
  }
  return kept;
}

void Run::Trim(std::vector<Item*> items, size_t keep) {
  std::sort(items.begin(), items.end(), GoesBefore);
  for (size_t i = 0; i + keep < items.size(); ++i) Drop(items[i]);
}

void Run::GiveUpWhatIsNotNeeded() {
  const size_t wanted = static_cast<size_t>(wanted_);
  std::vector<Item*> fresh = Kept(/*leaving=*/false);
  const size_t stable = static_cast<size_t>(
      std::count_if(fresh.begin(), fresh.end(),
                    [](const Item* item) { return item->stable; }));

  // An old set of which nothing has ever served protects nothing.
  std::vector<Item*> leaving = Kept(/*leaving=*/true);
  const bool nothing_proven =
      std::none_of(leaving.begin(), leaving.end(),
                   [](const Item* item) { return item->proven(); });
  // Otherwise each one that leaves needs one that has proved itself.
  Trim(leaving, nothing_proven ? 0 : wanted - std::min(wanted, stable));

  // New ones beyond what is wanted, or beyond what may run beside the old ones.
  const size_t old = Kept(/*leaving=*/true).size();
  const size_t most = wanted + static_cast<size_t>(surge_);
  const size_t beside_old = most - std::min(most, old);
  Trim(fresh, std::min(wanted, std::max(beside_old, stable)));
}

void Run::StayWithinBudget() {
  Usage usage(budget());
  std::vector<Item*> kept;
  for (Item& item : items_) {
    if (item.slot->surplus || item.dropped) continue;
    usage.Add(item.slot->reserves);
    kept.push_back(&item);
  }
  std::sort(kept.begin(), kept.end(), [](const Item* a, const Item* b) {
    // Whether new or old matters less than whether it serves.
    if (a->worth() / 3 != b->worth() / 3) return a->worth() < b->worth();
    if (a->leaving != b->leaving) return a->leaving;
    return GoesBefore(a, b);
  });
  for (Item* item : kept) {
    if (usage.Exceeded({}, 0).empty()) return;
    usage.Remove(item->slot->reserves);
    Drop(item);
  }
}

void Run::Create() {
  size_t fresh = Kept(/*leaving=*/false).size();
  const size_t leaving = Kept(/*leaving=*/true).size();
  const size_t wanted = static_cast<size_t>(wanted_);

  // All that may run, with what is on its way out.
  Usage usage(budget());
  size_t running = 0;
  size_t pending = 0;
  std::set<int32_t> used;
  for (const Item& item : items_) {
    if (item.slot->generation == plan_.generation()) {
      used.insert(item.slot->index);
    }
    const bool runs =
        item.slot->claimed || (!item.slot->surplus && !item.dropped);
    if (!runs) continue;
    usage.Add(item.slot->reserves);
    ++running;
    if (!item.slot->claimed) ++pending;
  }

  std::string blocked;
  int32_t index = 0;
  while (fresh < wanted && running < wanted + static_cast<size_t>(surge_)) {
    const absl::string_view exceeded = usage.Exceeded(need_, 1);
    if (!exceeded.empty()) {
      blocked = absl::StrCat(
          "the budget leaves no room for one more instance "
          "(",
          exceeded, ")");
      break;
    }
    // Without an old instance to wait for, a slot that waits for a port is
    // better than no slot: it says what it waits for.
    if (leaving > 0) {
      blocked = PortObstacle(pending);
      if (!blocked.empty()) break;
    }
    while (used.count(index) > 0) ++index;
    used.insert(index);
    decision_.create.push_back(ReasonFor({index, plan_.generation()}, {}));
    usage.Add(need_);
    ++fresh;
    ++running;
    ++pending;
  }
  // Giving up what nobody holds makes room at once.
  if (!blocked.empty() && leaving > 0 && ReplaceInPlace(blocked)) Create();
}

std::string Run::PortObstacle(size_t pending) {
  if (plan_.port() == 0 || eligible_.empty()) return "";
  size_t free_nodes = 0;
  for (const NodeInput* node : eligible_) {
    free_nodes += std::none_of(items_.begin(), items_.end(),
                               [&](const Item& item) {
                                 return item.slot->claimed &&
                                        item.slot->node == node->id &&
                                        item.slot->port == plan_.port();
                               })
                      ? 1
                      : 0;
  }
  if (free_nodes > pending) return "";
  return absl::StrCat("port ", plan_.port(),
                      " is taken by an old instance on every node");
}

bool Run::ReplaceInPlace(const std::string& because) {
  decision_.in_place_because = because;
  // One at a time: the next only when the last one has proved itself, so that a
  // new version that does not work costs one instance.
  for (const Item& item : items_) {
    const bool on_its_way_out =
        item.slot->claimed && (item.slot->surplus || item.dropped);
    const bool on_its_way_in =
        !item.slot->surplus && !item.dropped && !item.leaving && !item.stable;
    if (on_its_way_out || on_its_way_in) return false;
  }
  if (!decision_.create.empty()) return false;
  std::vector<Item*> leaving = Kept(/*leaving=*/true);
  Item* least = *std::min_element(leaving.begin(), leaving.end(), GoesBefore);
  Drop(least);
  return !least->slot->claimed;
}

void Run::Reoffer() {
  for (const Item& item : items_) {
    if (item.dropped || item.slot->surplus) continue;
    const bool refused =
        item.slot->claimed && item.slot->state == v1::Slot::STATE_REFUSED;
    if (!refused && (item.slot->claimed || item.slot->refused_by.empty())) {
      continue;
    }
    std::vector<std::string> refused_by = item.slot->refused_by;
    if (refused) refused_by.push_back(item.slot->node);
    std::sort(refused_by.begin(), refused_by.end());
    refused_by.erase(std::unique(refused_by.begin(), refused_by.end()),
                     refused_by.end());
    const bool another = std::any_of(
        eligible_.begin(), eligible_.end(), [&](const NodeInput* node) {
          return !std::binary_search(refused_by.begin(), refused_by.end(),
                                     node->id);
        });
    // When every node has refused it, it is offered to all of them again, after
    // the longest time; a trust store may have been mended meanwhile.
    if (!refused && another) continue;
    absl::Duration delay = kLastReoffer;
    if (another) {
      const size_t doublings = std::min<size_t>(refused_by.size() - 1, 10);
      delay = std::min(kLastReoffer,
                       kFirstReoffer * static_cast<double>(1 << doublings));
    } else {
      refused_by.clear();
    }
    const absl::Time due = item.slot->since + delay;
    if (due > input_.now) {
      WakeUpAt(due);
      continue;
    }
    decision_.reoffer.push_back({item.ref(), std::move(refused_by)});
  }
}

void Run::Explain() {
  for (const Item& item : items_) {
    const SlotInput& slot = *item.slot;
    if (slot.claimed || slot.surplus || item.dropped) continue;
    PendingReason reason = ReasonFor(item.ref(), slot.refused_by);
    if (reason.reason == slot.reason) {
      if (reason.message == slot.message) continue;
      const absl::Time due = slot.reason_time + kRenewMessage;
      if (due > input_.now) {
        WakeUpAt(due);
        continue;
      }
    }
    decision_.reasons.push_back(std::move(reason));
  }
}

PendingReason Run::ReasonFor(const SlotRef& ref,
                             const std::vector<std::string>& refused_by) {
  PendingReason result;
  result.slot = ref;
  if (obstacle_.has_value()) {
    result.reason = obstacle_->reason;
    result.message = obstacle_->message;
    return result;
  }
  const bool all_refused = std::all_of(
      eligible_.begin(), eligible_.end(), [&](const NodeInput* node) {
        return std::find(refused_by.begin(), refused_by.end(), node->id) !=
               refused_by.end();
      });
  if (all_refused) {
    result.reason = "REFUSED";
    result.message =
        absl::StrCat("the spore was refused by every node that may run it: ",
                     absl::StrJoin(refused_by, ", "));
    return result;
  }
  // The same for all slots: what it follows from is not decided here.
  if (!common_.has_value()) common_ = CommonObstacle();
  result.reason = common_->reason;
  result.message = common_->message;
  return result;
}

Obstacle Run::CommonObstacle() {
  Usage claimed(budget());
  for (const Item& item : items_) {
    if (item.slot->claimed) claimed.Add(item.slot->reserves);
  }
  const absl::string_view exceeded = claimed.Exceeded(need_, 1);
  if (!exceeded.empty()) {
    return {"BUDGET", absl::StrCat("the budget (", exceeded,
                                   ") has no room until an instance on its way "
                                   "out has stopped")};
  }
  const std::string port = PortObstacle(0);
  if (!port.empty()) {
    return {"NO_PORT", absl::StrCat("port ", plan_.port(),
                                    " is taken by another instance of the app "
                                    "on every node that may run it")};
  }
  const size_t with_room = static_cast<size_t>(std::count_if(
      eligible_.begin(), eligible_.end(),
      [&](const NodeInput* node) { return node->free.Covers(need_); }));
  return {"UNCLAIMED",
          absl::StrCat("waits for an agent to claim it; ", with_room,
                       with_room == 1 ? " node has" : " nodes have", " room")};
}

}  // namespace

Resources InstanceResources(const v1::Plan& plan) {
  const mycelium::spore::v1::Nutrients nutrients = NutrientsOf(plan);
  return {nutrients.cpu_milli(), nutrients.memory_mb()};
}

BudgetBound BoundOf(const v1::Plan& plan, const v1::Budget* budget) {
  BudgetBound bound;
  bound.instances = plan.max();
  if (budget == nullptr) return bound;
  const Resources need = InstanceResources(plan);
  const auto consider = [&bound](absl::string_view dimension, int64_t limit,
                                 int64_t each) {
    if (limit == 0 || each == 0 || limit / each >= bound.instances) return;
    bound.instances = static_cast<int>(limit / each);
    bound.dimension = std::string(dimension);
    bound.limit = limit;
  };
  consider("maxInstances", budget->max_instances(), 1);
  consider("cpu_milli", budget->cpu_milli(), need.cpu_milli);
  consider("memory_mb", budget->memory_mb(), need.memory_mb);
  return bound;
}

std::optional<Obstacle> FindObstacle(const v1::Plan& plan,
                                     const std::vector<NodeInput>& nodes) {
  const std::vector<const NodeInput*> eligible = EligibleNodes(plan, nodes);
  if (eligible.empty()) {
    const auto count = [&nodes](auto has) {
      return std::count_if(nodes.begin(), nodes.end(), has);
    };
    const auto ready = count([](const NodeInput& n) { return n.ready; });
    const auto open =
        count([](const NodeInput& n) { return n.ready && n.schedulable; });
    std::string message =
        absl::StrCat("no node takes it: of ", nodes.size(), " nodes ", ready,
                     " are ready, ", open, " of them take new instances");
    if (open > 0) {
      std::vector<std::string> labels;
      for (const auto& [key, value] : plan.placement().required_labels()) {
        labels.push_back(absl::StrCat(key, "=", value));
      }
      std::sort(labels.begin(), labels.end());
      absl::StrAppend(&message, ", and none of these has the labels ",
                      absl::StrJoin(labels, ","));
    }
    return Obstacle{"NO_NODE", std::move(message)};
  }
  const Resources need = InstanceResources(plan);
  std::vector<std::string> rooms;
  for (const NodeInput* node : eligible) {
    if (node->free.Covers(need)) return std::nullopt;
    if (rooms.size() < kMaxNamedNodes) {
      rooms.push_back(
          absl::StrCat(node->id, " has ", Describe(node->free), " free"));
    }
  }
  if (eligible.size() > rooms.size()) {
    rooms.push_back(
        absl::StrCat("and ", eligible.size() - rooms.size(), " more"));
  }
  return Obstacle{"NO_CAPACITY", absl::StrCat("needs ", Describe(need), "; ",
                                              absl::StrJoin(rooms, ", "))};
}

Decision Reconcile(const AppInput& input) {
  if (input.plan.has_value()) return Run(input, *input.plan).Decide();
  Decision decision;
  for (const SlotInput& slot : input.slots) {
    if (!slot.claimed) {
      decision.remove.push_back({slot.index, slot.generation});
    } else if (!slot.surplus) {
      decision.mark_surplus.push_back({slot.index, slot.generation});
    }
  }
  return decision;
}

}  // namespace mycelium::fabric
