#include "services/agent/placement.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "lib/base/ids.h"
#include "services/agent/mesh_view.h"

namespace mycelium::agent {
namespace {

constexpr absl::Duration kDelayPerRank = absl::Milliseconds(100);
constexpr int kLastDelayedRank = 20;

// The order of two nodes: the smaller comes first.
using Score = std::tuple<int, int, int, uint64_t>;

// A tenth of the node is one step.
int LoadStep(const Nutrients& used, const Nutrients& capacity) {
  constexpr int kSteps = 10;
  const double load = std::min(LoadOf(used, capacity), 10.0);
  return static_cast<int>(load * kSteps);
}

absl::string_view LabelOf(const Candidate& node, const std::string& name) {
  const auto label = node.labels.find(name);
  return label == node.labels.end() ? absl::string_view()
                                    : absl::string_view(label->second);
}

}  // namespace

std::string WhyNot(const fabric::v1::Slot& slot, const Candidate& node) {
  if (!node.schedulable) return "the node takes no new instances";
  const Nutrients need = Nutrients::FromProto(slot.nutrients());
  const Nutrients room = node.capacity - node.reserved;
  if (need.cpu_milli > 0 && need.cpu_milli > room.cpu_milli) {
    return absl::StrCat("cpu_milli ", need.cpu_milli, " of ", room.cpu_milli,
                        " free");
  }
  if (need.memory_mb > 0 && need.memory_mb > room.memory_mb) {
    return absl::StrCat("memory_mb ", need.memory_mb, " of ", room.memory_mb,
                        " free");
  }
  for (const auto& [name, value] : slot.placement().required_labels()) {
    const auto label = node.labels.find(name);
    if (label == node.labels.end() || label->second != value) {
      return absl::StrCat("label ", name, " is not ", Quoted(value));
    }
  }
  if (node.port_taken) {
    return absl::StrCat("port ", slot.port(), " is taken");
  }
  return "";
}

int RankOf(absl::string_view node_id, const fabric::v1::Slot& slot,
           const std::vector<Candidate>& nodes) {
  const std::string& spread_label = slot.placement().spread_label();
  std::map<absl::string_view, int> spread;
  if (!spread_label.empty()) {
    for (const Candidate& node : nodes) {
      spread[LabelOf(node, spread_label)] += node.same_app;
    }
  }
  const std::string key = SlotKey::Of(slot).ToString();
  const Nutrients need = Nutrients::FromProto(slot.nutrients());
  const auto score = [&](const Candidate& node) {
    const int same_value =
        spread_label.empty() ? 0 : spread[LabelOf(node, spread_label)];
    return Score(LoadStep(node.reserved + need, node.capacity), node.same_app,
                 same_value, ~RendezvousWeight(node.node_id, key));
  };

  const auto self = std::find_if(
      nodes.begin(), nodes.end(),
      [&](const Candidate& node) { return node.node_id == node_id; });
  if (self == nodes.end() || !WhyNot(slot, *self).empty()) return -1;
  const Score own = score(*self);
  int rank = 0;
  for (const Candidate& node : nodes) {
    if (&node == &*self || !WhyNot(slot, node).empty()) continue;
    if (score(node) < own) ++rank;
  }
  return rank;
}

absl::Duration ClaimDelay(int rank) {
  return kDelayPerRank * std::min(rank, kLastDelayedRank);
}

uint64_t RendezvousWeight(absl::string_view node_id, absl::string_view key) {
  // FNV-1a over both, with a byte between them that neither has, and the
  // finalizer of MurmurHash3, without which near names have near weights.
  uint64_t hash = 0xcbf29ce484222325;
  const auto mix = [&hash](absl::string_view text) {
    for (const char c : text) {
      hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    }
  };
  mix(node_id);
  mix(absl::string_view("\xff", 1));
  mix(key);
  hash = (hash ^ (hash >> 33)) * 0xff51afd7ed558ccd;
  hash = (hash ^ (hash >> 33)) * 0xc4ceb9fe1a85ec53;
  return hash ^ (hash >> 33);
}

}  // namespace mycelium::agent
