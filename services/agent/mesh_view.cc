#include "services/agent/mesh_view.h"

#include "absl/strings/str_cat.h"

namespace mycelium::agent {

SlotKey SlotKey::Of(const fabric::v1::Slot& slot) {
  return {.app_name = slot.app_name(),
          .index = slot.index(),
          .generation = slot.generation()};
}

std::string SlotKey::ToString() const {
  return absl::StrCat(app_name, "/", index, "/", generation);
}

void MeshView::ClearSlots() {
  slots_.clear();
  pending_.clear();
  loads_.clear();
  apps_.clear();
}

void MeshView::ClearNodes() { nodes_.clear(); }

void MeshView::PutSlot(const fabric::v1::Slot& slot) {
  const std::string key = SlotKey::Of(slot).ToString();
  const auto [entry, inserted] = slots_.try_emplace(key);
  if (!inserted) Count(entry->second, -1);
  entry->second = slot;
  Count(slot, 1);
  if (slot.claim_revision() == 0 && !slot.surplus()) {
    pending_.insert(key);
  } else {
    pending_.erase(key);
  }
}

void MeshView::DeleteSlot(absl::string_view key) {
  const auto entry = slots_.find(key);
  if (entry == slots_.end()) return;
  Count(entry->second, -1);
  pending_.erase(entry->first);
  slots_.erase(entry);
}

void MeshView::PutNode(const fabric::v1::Node& node) {
  nodes_[node.node_id()] = node;
}

void MeshView::DeleteNode(absl::string_view node_id) {
  const auto node = nodes_.find(node_id);
  if (node != nodes_.end()) nodes_.erase(node);
}

const fabric::v1::Slot* MeshView::FindSlot(absl::string_view key) const {
  const auto slot = slots_.find(key);
  return slot == slots_.end() ? nullptr : &slot->second;
}

const fabric::v1::Node* MeshView::FindNode(absl::string_view node_id) const {
  const auto node = nodes_.find(node_id);
  return node == nodes_.end() ? nullptr : &node->second;
}

const MeshView::Load& MeshView::LoadOfNode(absl::string_view node_id) const {
  static const Load* const nothing = new Load();
  const auto load = loads_.find(node_id);
  return load == loads_.end() ? *nothing : load->second;
}

bool MeshView::HasSlotOf(absl::string_view app_name) const {
  return apps_.contains(app_name);
}

void MeshView::Count(const fabric::v1::Slot& slot, int by) {
  int& of_app = apps_[slot.app_name()];
  of_app += by;
  if (of_app == 0) apps_.erase(slot.app_name());

  if (slot.claim_revision() == 0) return;
  Load& load = loads_[slot.node_id()];
  const Nutrients amount = Nutrients::FromProto(slot.nutrients());
  int& instances = load.instances[slot.app_name()];
  instances += by;
  if (by > 0) {
    load.reserved += amount;
    if (slot.port() != 0) load.ports.insert(slot.port());
  } else {
    load.reserved -= amount;
    const auto port = load.ports.find(slot.port());
    if (port != load.ports.end()) load.ports.erase(port);
  }
  if (instances == 0) load.instances.erase(slot.app_name());
  if (load.instances.empty()) loads_.erase(slot.node_id());
}

}  // namespace mycelium::agent
