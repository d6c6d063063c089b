#include "services/fabric/store/lease_table.h"

#include <algorithm>

namespace mycelium::fabric {

void LeaseTable::Add(LeaseId id, absl::Duration ttl, absl::Duration now) {
  Lease& lease = leases_[id];
  lease.ttl = ttl;
  lease.deadline = now + ttl;
  deadlines_.emplace(lease.deadline, id);
}

void LeaseTable::Remove(LeaseId id) {
  const auto found = leases_.find(id);
  if (found == leases_.end()) return;
  deadlines_.erase({found->second.deadline, id});
  leases_.erase(found);
}

void LeaseTable::Renew(LeaseId id, absl::Duration now) {
  const auto found = leases_.find(id);
  if (found == leases_.end()) return;
  Lease& lease = found->second;
  deadlines_.erase({lease.deadline, id});
  lease.deadline = now + lease.ttl;
  deadlines_.emplace(lease.deadline, id);
}

const LeaseTable::Lease* LeaseTable::Find(LeaseId id) const {
  const auto found = leases_.find(id);
  return found == leases_.end() ? nullptr : &found->second;
}

void LeaseTable::Bind(LeaseId id, absl::string_view key) {
  const auto found = leases_.find(id);
  if (found != leases_.end()) found->second.keys.emplace(key);
}

void LeaseTable::Unbind(LeaseId id, absl::string_view key) {
  const auto found = leases_.find(id);
  if (found != leases_.end()) found->second.keys.erase(key);
}

std::vector<LeaseId> LeaseTable::Due(absl::Duration now, size_t limit) const {
  std::vector<LeaseId> due;
  for (const auto& [deadline, id] : deadlines_) {
    if (deadline > now || due.size() == limit) break;
    due.push_back(id);
  }
  return due;
}

absl::Duration LeaseTable::NextDeadline() const {
  return deadlines_.empty() ? absl::InfiniteDuration()
                            : deadlines_.begin()->first;
}

std::vector<LeaseInfo> LeaseTable::List(absl::Duration now) const {
  std::vector<LeaseInfo> list;
  list.reserve(leases_.size());
  for (const auto& [id, lease] : leases_) {
    list.push_back(
        {.id = id,
         .ttl = lease.ttl,
         .remaining = std::max(lease.deadline - now, absl::ZeroDuration()),
         .key_count = lease.keys.size()});
  }
  std::sort(list.begin(), list.end(),
            [](const LeaseInfo& a, const LeaseInfo& b) { return a.id < b.id; });
  return list;
}

}  // namespace mycelium::fabric
