#include "services/fabric/node_ledger.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "services/fabric/keys.h"
#include "services/fabric/resources.h"

namespace mycelium::fabric {

std::shared_ptr<const std::vector<NodeInput>> NodeLedger::Nodes() {
  MutexLock lock(mutex_);
  if (shared_ != nullptr) return shared_;
  auto nodes = std::make_shared<std::vector<NodeInput>>();
  for (const auto& [id, state] : nodes_) {
    if (state.record == nullptr) continue;
    const v1::Node node = NodeOf(*state.record, state.alive.get());
    NodeInput input;
    input.id = id;
    input.labels = {node.labels().begin(), node.labels().end()};
    input.ready = node.state() == v1::Node::STATE_READY;
    input.draining = node.scheduling() == v1::Node::SCHEDULING_DRAINING;
    input.schedulable = node.scheduling() == v1::Node::SCHEDULING_ENABLED;
    input.capacity = {node.capacity().cpu_milli(), node.capacity().memory_mb()};
    input.free = input.capacity;
    input.free -= state.reserved;
    nodes->push_back(std::move(input));
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
  absl::flat_hash_set<absl::string_view> seen;
  std::vector<std::string> apps;
  for (const auto& [name, claim] : claims_) {
    if (claim.node == node && seen.insert(AppOf(name)).second) {
      apps.emplace_back(AppOf(name));
    }
  }
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

void NodeLedger::Put(const std::string& key, const EntryPtr& entry) {
  const absl::string_view text = key;
  if (absl::StartsWith(text, kNodes)) {
    const std::string node(text.substr(kNodes.size()));
    nodes_[node].record = entry;
    EraseIfEmpty(node);
  } else if (absl::StartsWith(text, kAlive)) {
    const std::string node(text.substr(kAlive.size()));
    nodes_[node].alive = entry;
    EraseIfEmpty(node);
  } else if (absl::StartsWith(text, kClaims)) {
    const std::string name(text.substr(kClaims.size()));
    const auto it = claims_.find(name);
    if (it != claims_.end()) {
      nodes_[it->second.node].reserved -= it->second.reserved;
      EraseIfEmpty(it->second.node);
      claims_.erase(it);
    }
    if (entry != nullptr) {
      v1::Slot claim;
      claim.ParseFromString(entry->value);
      const Resources reserved = {claim.nutrients().cpu_milli(),
                                  claim.nutrients().memory_mb()};
      nodes_[claim.node_id()].reserved += reserved;
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
  if (state.record == nullptr && state.alive == nullptr &&
      state.reserved.cpu_milli == 0 && state.reserved.memory_mb == 0) {
    nodes_.erase(it);
  }
}

}  // namespace mycelium::fabric
