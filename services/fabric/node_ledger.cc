#include "services/fabric/node_ledger.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "services/fabric/keys.h"
#include "services/fabric/resources.h"

namespace mycelium::fabric {

std::shared_ptr<const std::vector<NodeInput>> NodeLedger::Nodes() {
  MutexLock lock(mutex_);
  if (shared_ != nullptr) return shared_;
  auto nodes = std::make_shared<std::vector<NodeInput>>();
  nodes->reserve(nodes_.size());
  for (const auto& [id, state] : nodes_) {
    if (state.record == nullptr) continue;
    nodes->push_back(state.input);
    nodes->back().free -= state.reserved;
  }
  shared_ = std::move(nodes);
  return shared_;
}

Resources NodeLedger::ReservedOn(absl::string_view node) {
  MutexLock lock(mutex_);
  const auto it = nodes_.find(node);
  return it == nodes_.end() ? Resources() : it->second.reserved;
}

std::vector<std::string> NodeLedger::AppsOn(absl::string_view node) {
  MutexLock lock(mutex_);
  std::vector<std::string> apps;
  const auto it = nodes_.find(node);
  if (it == nodes_.end()) return apps;
  for (const auto& [app, claims] : it->second.apps) apps.push_back(app);
  std::sort(apps.begin(), apps.end());
  return apps;
}

void NodeLedger::Reset(const StoreSnapshot& snapshot) {
  MutexLock lock(mutex_);
  nodes_.clear();
  claims_.clear();
  for (const EntryPtr& entry : snapshot.entries) Put(entry->key, entry);
}

void NodeLedger::Apply(const Batch& batch) {
  MutexLock lock(mutex_);
  for (const Change& change : batch.changes) Put(change.key(), change.entry);
}

void NodeLedger::Read(const std::string& id, NodeState* state) {
  if (state->record == nullptr) return;
  const v1::Node node = NodeOf(*state->record, state->alive.get());
  NodeInput& input = state->input;
  input.id = id;
  input.labels = {node.labels().begin(), node.labels().end()};
  input.ready = node.state() == v1::Node::STATE_READY;
  input.draining = node.scheduling() == v1::Node::SCHEDULING_DRAINING;
  input.schedulable = node.scheduling() == v1::Node::SCHEDULING_ENABLED;
  input.capacity = {node.capacity().cpu_milli(), node.capacity().memory_mb()};
  input.free = input.capacity;
}

void NodeLedger::Put(const std::string& key, const EntryPtr& entry) {
  const absl::string_view text = key;
  if (absl::StartsWith(text, kNodes)) {
    const std::string node(text.substr(kNodes.size()));
    NodeState& state = nodes_[node];
    state.record = entry;
    Read(node, &state);
    EraseIfEmpty(node);
  } else if (absl::StartsWith(text, kAlive)) {
    const std::string node(text.substr(kAlive.size()));
    NodeState& state = nodes_[node];
    state.alive = entry;
    Read(node, &state);
    EraseIfEmpty(node);
  } else if (absl::StartsWith(text, kClaims)) {
    const std::string name(text.substr(kClaims.size()));
    const auto it = claims_.find(name);
    if (it != claims_.end()) {
      NodeState& state = nodes_[it->second.node];
      state.reserved -= it->second.reserved;
      const auto app = state.apps.find(AppOf(name));
      if (--app->second == 0) state.apps.erase(app);
      EraseIfEmpty(it->second.node);
      claims_.erase(it);
    }
    if (entry != nullptr) {
      v1::Slot claim;
      claim.ParseFromString(entry->value);
      const Resources reserved = {claim.nutrients().cpu_milli(),
                                  claim.nutrients().memory_mb()};
      NodeState& state = nodes_[claim.node_id()];
      state.reserved += reserved;
      ++state.apps[AppOf(name)];
      claims_[name] = {claim.node_id(), reserved};
    }
  } else {
    return;
  }
  shared_.reset();
}

void NodeLedger::EraseIfEmpty(const std::string& node) {
  const auto it = nodes_.find(node);
  if (it == nodes_.end()) return;
  const NodeState& state = it->second;
  if (state.record == nullptr && state.alive == nullptr && state.apps.empty()) {
    nodes_.erase(it);
  }
}

}  // namespace mycelium::fabric
