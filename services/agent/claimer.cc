#include "services/agent/claimer.h"

#include <algorithm>
#include <utility>

#include "lib/base/error.h"

namespace mycelium::agent {
namespace {

// What cannot be claimed now is looked at again so often, because nothing tells
// when a port or a place among the starts becomes free.
constexpr absl::Duration kRecheck = absl::Milliseconds(200);
constexpr absl::Duration kRetry = absl::Milliseconds(500);
constexpr absl::Duration kRetryLimited = absl::Seconds(2);

std::vector<Candidate> CandidatesOf(const MeshView& view, const OwnNode& self,
                                    const fabric::v1::Slot& slot) {
  std::vector<Candidate> candidates;
  for (const auto& [id, node] : view.nodes()) {
    if (id == self.node_id) continue;
    if (node.state() != fabric::v1::Node::STATE_READY) continue;
    const MeshView::Load& load = view.LoadOfNode(id);
    Candidate& candidate = candidates.emplace_back();
    candidate.node_id = id;
    candidate.capacity = Nutrients::FromProto(node.capacity());
    candidate.reserved = load.reserved;
    candidate.labels.insert(node.labels().begin(), node.labels().end());
    candidate.schedulable =
        node.scheduling() != fabric::v1::Node::SCHEDULING_CORDONED &&
        node.scheduling() != fabric::v1::Node::SCHEDULING_DRAINING;
    const auto same_app = load.instances.find(slot.app_name());
    if (same_app != load.instances.end()) {
      candidate.same_app = same_app->second;
    }
    candidate.port_taken = slot.port() != 0 && load.ports.contains(slot.port());
  }
  return candidates;
}

Candidate CandidateOf(const MeshView& view, const OwnNode& self,
                      const fabric::v1::Slot& slot) {
  Candidate own = {.node_id = self.node_id,
                   .capacity = self.capacity,
                   .reserved = self.reserved,
                   .labels = self.labels};
  if (const fabric::v1::Node* node = view.FindNode(self.node_id)) {
    own.schedulable =
        node->scheduling() != fabric::v1::Node::SCHEDULING_CORDONED &&
        node->scheduling() != fabric::v1::Node::SCHEDULING_DRAINING;
  }
  const auto same_app = self.instances.find(slot.app_name());
  if (same_app != self.instances.end()) own.same_app = same_app->second;
  own.port_taken = slot.port() != 0 && self.ports.contains(slot.port());
  return own;
}

}  // namespace

std::vector<fabric::v1::Slot> Claimer::TakeDue(
    const MeshView& view, const OwnNode& self, int limit,
    const std::function<bool(int32_t)>& port_free,
    const std::function<bool(const std::string&)>& may_start) {
  const absl::Duration now = clock_.Monotonic();
  next_due_ = absl::InfiniteDuration();

  std::erase_if(waits_, [&](const auto& wait) {
    return !view.pending().contains(wait.first);
  });
  std::vector<std::pair<absl::Duration, const std::string*>> order;
  for (const std::string& key : view.pending()) {
    const auto [wait, inserted] =
        waits_.try_emplace(key, Wait{.since = now, .not_before = now});
    if (wait->second.taken) continue;
    order.emplace_back(wait->second.since, &wait->first);
  }
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::tie(a.first, *a.second) < std::tie(b.first, *b.second);
  });

  // What is taken in this round weighs already for what comes after it.
  OwnNode own = self;
  std::map<std::string, int> taken_of_app;
  std::vector<fabric::v1::Slot> due;
  for (const auto& [since, key] : order) {
    if (static_cast<int>(due.size()) >= limit) {
      next_due_ = std::min(next_due_, now + kRecheck);
      break;
    }
    Wait& wait = waits_.find(*key)->second;
    if (wait.not_before > now) {
      next_due_ = std::min(next_due_, wait.not_before);
      continue;
    }
    const fabric::v1::Slot& slot = *view.FindSlot(*key);
    std::vector<Candidate> candidates = CandidatesOf(view, own, slot);
    candidates.push_back(CandidateOf(view, own, slot));
    const int rank = RankOf(node_id_, slot, candidates);
    if (rank < 0) continue;  // A change of a watch or of this node moves it.

    const absl::Duration claim_at = wait.since + ClaimDelay(rank);
    if (claim_at > now) {
      next_due_ = std::min(next_due_, claim_at);
      continue;
    }
    // `may_start` does not know of this round: the next one follows at once.
    if (taken_of_app[slot.app_name()] > 0) {
      next_due_ = now;
      continue;
    }
    if (!may_start(slot.app_name()) ||
        (slot.port() != 0 && !port_free(slot.port()))) {
      next_due_ = std::min(next_due_, now + kRecheck);
      continue;
    }
    wait.taken = true;
    ++taken_of_app[slot.app_name()];
    own.reserved += Nutrients::FromProto(slot.nutrients());
    ++own.instances[slot.app_name()];
    if (slot.port() != 0) own.ports.insert(slot.port());
    due.push_back(slot);
  }
  return due;
}

void Claimer::OnFailed(const std::string& key, const absl::Status& status) {
  const auto wait = waits_.find(key);
  if (wait == waits_.end()) return;
  const std::string reason = ReasonOf(status);
  const bool limited = reason == "BUDGET_EXCEEDED" ||
                       reason == "NODE_NOT_SCHEDULABLE" ||
                       reason == "SLOT_REFUSED";
  wait->second.taken = false;
  wait->second.not_before =
      clock_.Monotonic() + (limited ? kRetryLimited : kRetry);
  next_due_ = std::min(next_due_, wait->second.not_before);
}

void Claimer::Forget(const std::string& key) { waits_.erase(key); }

}  // namespace mycelium::agent
