#include "services/fabric/resources.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "glog/logging.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "lib/base/status_macros.h"
#include "services/fabric/errors.h"

namespace mycelium::fabric {
namespace {

template <typename Message>
Message Parse(const Entry& entry) {
  Message message;
  // Only this process writes the store, and the store checks its files.
  CHECK(message.ParseFromString(entry.value)) << "cannot parse " << entry.key;
  return message;
}

}  // namespace

absl::StatusOr<EntryPtr> Get(Store& store, absl::string_view key) {
  absl::StatusOr<RangeResponse> range = store.Range(RangeRequest::Key(key));
  if (!range.ok()) return FromStore(range.status());
  if (range->entries.empty()) return EntryPtr();
  return std::move(range->entries.front());
}

int64_t NumberOf(const Entry* entry, int64_t absent) {
  int64_t number = 0;
  if (entry == nullptr || !absl::SimpleAtoi(entry->value, &number)) {
    return absent;
  }
  return number;
}

v1::Plan PlanOf(const Entry& plan, const Entry* count) {
  v1::Plan result = Parse<v1::Plan>(plan);
  result.set_revision(plan.mod_revision);
  result.set_count(static_cast<int32_t>(std::clamp<int64_t>(
      NumberOf(count, result.min()), result.min(), result.max())));
  return result;
}

v1::Budget BudgetOf(const Entry& budget) {
  v1::Budget result = Parse<v1::Budget>(budget);
  result.set_revision(budget.mod_revision);
  return result;
}

v1::Endpoint EndpointOf(const Entry& endpoint) {
  v1::Endpoint result = Parse<v1::Endpoint>(endpoint);
  result.set_revision(endpoint.mod_revision);
  return result;
}

v1::Node NodeOf(const Entry& node, const Entry* alive) {
  v1::Node result = Parse<v1::Node>(node);
  result.set_revision(node.mod_revision);
  if (alive == nullptr) {
    if (result.state() != v1::Node::STATE_LEFT) {
      result.set_state(v1::Node::STATE_LOST);
    }
    return result;
  }
  result.set_revision(std::max(node.mod_revision, alive->mod_revision));
  const v1::Node liveness = Parse<v1::Node>(*alive);
  if (result.state() == v1::Node::STATE_LEFT) return result;
  result.set_state(liveness.state());
  *result.mutable_state_time() = liveness.state_time();
  return result;
}

v1::Slot SlotOf(const Entry& slot, const Entry* claim) {
  v1::Slot result = Parse<v1::Slot>(slot);
  result.set_revision(slot.mod_revision);
  if (claim == nullptr) {
    result.set_state(v1::Slot::STATE_PENDING);
    return result;
  }
  v1::Slot reported = Parse<v1::Slot>(*claim);
  result.set_revision(std::max(slot.mod_revision, claim->mod_revision));
  result.set_claim_revision(claim->create_revision);
  result.set_node_id(std::move(*reported.mutable_node_id()));
  result.set_instance_id(std::move(*reported.mutable_instance_id()));
  result.set_state(reported.state());
  result.set_reason(std::move(*reported.mutable_reason()));
  result.set_message(std::move(*reported.mutable_message()));
  result.clear_since_time();
  if (reported.has_since_time()) {
    result.mutable_since_time()->Swap(reported.mutable_since_time());
  }
  result.clear_until_time();
  if (reported.has_until_time()) {
    result.mutable_until_time()->Swap(reported.mutable_until_time());
  }
  result.set_restarts(reported.restarts());
  // What was reserved when it was claimed is what it may use.
  if (reported.has_nutrients()) {
    result.mutable_nutrients()->Swap(reported.mutable_nutrients());
  }
  return result;
}

v1::EdgeInfo EdgeOf(const Entry& edge) {
  v1::EdgeInfo result = Parse<v1::EdgeInfo>(edge);
  result.set_revision(edge.mod_revision);
  return result;
}

v1::Event EventOf(const Entry& event) {
  v1::Event result = Parse<v1::Event>(event);
  result.set_revision(event.mod_revision);
  return result;
}

mycelium::spore::v1::Nutrients NutrientsOf(const v1::Plan& plan) {
  if (plan.spore().has_nutrients()) return plan.spore().nutrients();
  mycelium::spore::v1::Nutrients nutrients;
  nutrients.set_cpu_milli(kDefaultCpuMilli);
  nutrients.set_memory_mb(kDefaultMemoryMb);
  return nutrients;
}

std::string Serialize(const google::protobuf::MessageLite& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  return bytes;
}

}  // namespace mycelium::fabric
