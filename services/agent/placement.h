// Which node is the best for a slot. Every agent computes the same order from
// the same watches, and claims the sooner the better it is placed.

#ifndef SERVICES_AGENT_PLACEMENT_H_
#define SERVICES_AGENT_PLACEMENT_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/nutrients/nutrients.h"
#include "mycelium/fabric/v1/fabric.pb.h"

namespace mycelium::agent {

// What counts about a node when a slot is placed.
struct Candidate {
  std::string node_id;
  Nutrients capacity;
  Nutrients reserved;
  std::map<std::string, std::string> labels;
  // Whether the node takes new instances and its agent reports.
  bool schedulable = true;
  // How many instances of the slot's app it has.
  int same_app = 0;
  // Whether the fixed port that the slot asks for is taken there.
  bool port_taken = false;
};

// Why a node cannot take a slot, in words; empty if it can.
std::string WhyNot(const fabric::v1::Slot& slot, const Candidate& node);

// The place of `node_id` among the `nodes` that can take `slot`: 0 is the best.
// -1 if it cannot take it, or is not among them.
//
// The order: the most free nutrients, in steps of a tenth so that small
// differences do not decide; then the fewest instances of the app; then the
// fewest where the spread label has the same value; then a rendezvous hash,
// which spreads ties over the nodes.
int RankOf(absl::string_view node_id, const fabric::v1::Slot& slot,
           const std::vector<Candidate>& nodes);

// How long a node of this rank leaves a slot to those before it.
absl::Duration ClaimDelay(int rank);

// The weight of `node_id` for `key` in rendezvous (highest random weight)
// hashing: the same on every machine and in every version.
uint64_t RendezvousWeight(absl::string_view node_id, absl::string_view key);

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_PLACEMENT_H_
