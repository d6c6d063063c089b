#include "services/repo/fabric_plan_source.h"

#include "lib/base/clock.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/status.h"

namespace mycelium::repo {
namespace {

constexpr int kPageSize = 1000;

}  // namespace

absl::StatusOr<absl::flat_hash_map<std::string, std::string>>
FabricPlanSource::PlannedDigests() {
  Clock* const clock = Clock::Real();
  const absl::Duration give_up = clock->Monotonic() + timeout_;
  absl::flat_hash_map<std::string, std::string> planned;
  fabric::v1::ListPlansRequest request;
  request.set_page_size(kPageSize);
  do {
    grpc::ClientContext context;
    rpc::SetDeadline(context, give_up - clock->Monotonic());
    fabric::v1::ListPlansResponse response;
    if (const grpc::Status status =
            fabric_->ListPlans(&context, request, &response);
        !status.ok()) {
      return rpc::ToAbslStatus(status);
    }
    for (const fabric::v1::Plan& plan : response.plans()) {
      planned.emplace(plan.digest(), plan.app_name());
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return planned;
}

}  // namespace mycelium::repo
