#ifndef SERVICES_REPO_FABRIC_PLAN_SOURCE_H_
#define SERVICES_REPO_FABRIC_PLAN_SOURCE_H_

#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mycelium/fabric/v1/fabric.grpc.pb.h"
#include "services/repo/collector.h"

namespace mycelium::repo {

// Asks a fabric for its plans. Thread-safe.
class FabricPlanSource final : public PlanSource {
 public:
  // `timeout` is for the whole question.
  FabricPlanSource(std::unique_ptr<fabric::v1::Fabric::StubInterface> fabric,
                   absl::Duration timeout)
      : fabric_(std::move(fabric)), timeout_(timeout) {}

  absl::StatusOr<absl::flat_hash_map<std::string, std::string>> PlannedDigests()
      override;

 private:
  const std::unique_ptr<fabric::v1::Fabric::StubInterface> fabric_;
  const absl::Duration timeout_;
};

}  // namespace mycelium::repo

#endif  // SERVICES_REPO_FABRIC_PLAN_SOURCE_H_
