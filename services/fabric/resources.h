// The resources of the fabric as its API shows them, made from the entries of
// the store that hold their parts. What depends on revisions and on other
// entries is filled in here and never stored.
#ifndef SERVICES_FABRIC_RESOURCES_H_
#define SERVICES_FABRIC_RESOURCES_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "services/fabric/store/store.h"

namespace mycelium::fabric {

using EntryPtr = std::shared_ptr<const Entry>;

// What one instance reserves when its manifest does not say.
inline constexpr int64_t kDefaultCpuMilli = 100;
inline constexpr int64_t kDefaultMemoryMb = 64;

// The newest entry under `key`; null if there is none.
absl::StatusOr<EntryPtr> Get(Store& store, absl::string_view key);

// The decimal number in an entry; `absent` for a null one.
int64_t NumberOf(const Entry* entry, int64_t absent);

// The revision that last wrote an entry; 0 for a null one.
inline int64_t RevisionOf(const EntryPtr& entry) {
  return entry == nullptr ? 0 : entry->mod_revision;
}

// A plan with its count: what ScaleApp set, or `min`, within the plan's bounds.
v1::Plan PlanOf(const Entry& plan, const Entry* count);

v1::Budget BudgetOf(const Entry& budget);

v1::Endpoint EndpointOf(const Entry& endpoint);

// A node in the state that its liveness says: without `alive` it is LEFT if it
// said so and LOST otherwise.
v1::Node NodeOf(const Entry& node, const Entry* alive);

// A slot as wanted, with what the holder of its claim reports.
v1::Slot SlotOf(const Entry& slot, const Entry* claim);

v1::EdgeInfo EdgeOf(const Entry& edge);

v1::Event EventOf(const Entry& event);

// What one instance of a plan reserves.
mycelium::spore::v1::Nutrients NutrientsOf(const v1::Plan& plan);

// The same bytes for equal messages, whatever the order of their maps.
std::string Serialize(const google::protobuf::MessageLite& message);

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_RESOURCES_H_
