#ifndef SERVICES_FABRIC_STORE_LEASE_TABLE_H_
#define SERVICES_FABRIC_STORE_LEASE_TABLE_H_

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_set.h"
#include "absl/container/node_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "services/fabric/store/store.h"

namespace mycelium::fabric {

// Leases, when they end, and the keys bound to them. Times are on the scale of
// a Clock's Monotonic(). Every operation costs at most the logarithm of the
// number of leases. Not thread-safe.
class LeaseTable {
 public:
  struct Lease {
    absl::Duration ttl;
    absl::Duration deadline;
    absl::flat_hash_set<std::string> keys;
  };

  // Adds a lease, which must not exist, with its full time.
  void Add(LeaseId id, absl::Duration ttl, absl::Duration now);

  // Forgets a lease, if it exists.
  void Remove(LeaseId id);

  // Gives a lease, which must exist, its full time again.
  void Renew(LeaseId id, absl::Duration now);

  // Null: no such lease. Valid until the lease is removed.
  const Lease* Find(LeaseId id) const;

  // The lease must exist.
  void Bind(LeaseId id, absl::string_view key);
  // A lease or key that does not exist is no change.
  void Unbind(LeaseId id, absl::string_view key);

  // Leases whose time is over, the longest overdue first; at most `limit`.
  std::vector<LeaseId> Due(absl::Duration now, size_t limit) const;

  // Infinite: there is no lease.
  absl::Duration NextDeadline() const;

  // In order of ids.
  std::vector<LeaseInfo> List(absl::Duration now) const;

  size_t size() const { return leases_.size(); }

 private:
  absl::node_hash_map<LeaseId, Lease> leases_;
  absl::btree_set<std::pair<absl::Duration, LeaseId>> deadlines_;
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_STORE_LEASE_TABLE_H_
