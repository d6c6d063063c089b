// Which spores may be deleted.

#ifndef SERVICES_REPO_COLLECTOR_H_
#define SERVICES_REPO_COLLECTOR_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "services/repo/spore_store.h"

namespace mycelium::repo {

// Who knows what is planned. Thread-safe.
class PlanSource {
 public:
  virtual ~PlanSource() = default;

  // The digest of every plan, with one of the apps that it is planned for.
  // Unavailable: it cannot be asked now. May block for some seconds.
  virtual absl::StatusOr<absl::flat_hash_map<std::string, std::string>>
  PlannedDigests() = 0;
};

// Deletes spores that nothing needs. Thread-safe; its methods block.
class Collector {
 public:
  static constexpr int kMaxKeepDigests = 10'000;

  // `plans` is null if the repo knows no fabric. All must outlive the
  // collector.
  Collector(SporeStore* store, PlanSource* plans, Clock* clock)
      : store_(*store), plans_(plans), clock_(*clock) {}

  // Whether a spore is deleted although a plan refers to it.
  enum class InUse { kRefuse, kForce };

  // Deletes a spore and returns the bytes that this frees.
  // InvalidArgument (DIGEST_INVALID), NotFound (SPORE_NOT_FOUND),
  // FailedPrecondition (SPORE_IN_USE), Unavailable (FABRIC_UNAVAILABLE).
  absl::StatusOr<int64_t> Delete(const std::string& digest, InUse in_use);

  struct GcRequest {
    std::vector<std::string> keep_digests;
    absl::Duration min_age = absl::Hours(1);
    bool dry_run = false;
    // Asked before each deletion; true ends the collection with Cancelled.
    std::function<bool()> cancelled;
  };

  struct GcResult {
    std::vector<std::string> deleted_digests;
    int64_t freed_bytes = 0;
    int64_t kept_count = 0;
  };

  // Deletes every spore that is old enough and that neither `keep_digests` nor
  // a plan names. InvalidArgument (REQUEST_INVALID), Unavailable
  // (FABRIC_UNAVAILABLE), FailedPrecondition (NO_REFERENCES): nothing was
  // deleted.
  absl::StatusOr<GcResult> Gc(const GcRequest& request);

 private:
  absl::StatusOr<absl::flat_hash_map<std::string, std::string>> Planned();

  SporeStore& store_;
  PlanSource* const plans_;
  Clock& clock_;
};

}  // namespace mycelium::repo

#endif  // SERVICES_REPO_COLLECTOR_H_
