#ifndef SERVICES_AGENT_MESH_VIEW_H_
#define SERVICES_AGENT_MESH_VIEW_H_

#include <compare>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/string_view.h"
#include "lib/nutrients/nutrients.h"
#include "mycelium/fabric/v1/fabric.pb.h"

namespace mycelium::agent {

// What identifies a slot.
struct SlotKey {
  std::string app_name;
  int32_t index = 0;
  int64_t generation = 0;

  static SlotKey Of(const fabric::v1::Slot& slot);
  // `APP/INDEX/GENERATION`, as deletions have it.
  std::string ToString() const;

  friend auto operator<=>(const SlotKey&, const SlotKey&) = default;
};

// The slots and nodes of the mesh as the fabric's watches tell them, with the
// sums that placement needs. Not thread-safe.
class MeshView {
 public:
  using SlotMap = std::map<std::string, fabric::v1::Slot, std::less<>>;
  using NodeMap = std::map<std::string, fabric::v1::Node, std::less<>>;

  // What is claimed on one node.
  struct Load {
    Nutrients reserved;
    std::map<std::string, int, std::less<>> instances;  // By app.
    std::multiset<int32_t> ports;                       // Fixed ones.
  };

  // Forget everything, before a reset is applied.
  void ClearSlots();
  void ClearNodes();

  void PutSlot(const fabric::v1::Slot& slot);
  // `key` as in deletions; an unknown one is ignored.
  void DeleteSlot(absl::string_view key);
  void PutNode(const fabric::v1::Node& node);
  void DeleteNode(absl::string_view node_id);

  // By `APP/INDEX/GENERATION`.
  const SlotMap& slots() const { return slots_; }
  const NodeMap& nodes() const { return nodes_; }

  // Keys of the slots that wait to be claimed.
  const std::set<std::string, std::less<>>& pending() const { return pending_; }

  // Null if there is none.
  const fabric::v1::Slot* FindSlot(absl::string_view key) const;
  const fabric::v1::Node* FindNode(absl::string_view node_id) const;

  // What is claimed on `node_id`.
  const Load& LoadOfNode(absl::string_view node_id) const;

  // Whether any slot of the app is known.
  bool HasSlotOf(absl::string_view app_name) const;

 private:
  // Adds (`by` 1) or takes away (-1) what `slot` weighs.
  void Count(const fabric::v1::Slot& slot, int by);

  SlotMap slots_;
  NodeMap nodes_;
  std::set<std::string, std::less<>> pending_;
  std::map<std::string, Load, std::less<>> loads_;
  std::map<std::string, int, std::less<>> apps_;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_MESH_VIEW_H_
