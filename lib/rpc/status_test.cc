#include "lib/rpc/status.h"

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"

namespace mycelium::rpc {
namespace {

TEST(StatusTest, OkIsOk) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_TRUE(ToAbslStatus(grpc::Status::OK).ok());
}

TEST(StatusTest, ErrorsSurviveTheRoundTrip) {
  const absl::Status error = MakeError(
      absl::StatusCode::kAborted, "fabric.mycelium", "REVISION_MISMATCH",
      "plan is at revision 7, not 5", {{"current_revision", "7"}});

  const absl::Status back = ToAbslStatus(ToGrpcStatus(error));

  EXPECT_EQ(back, error);
  EXPECT_EQ(ReasonOf(back), "REVISION_MISMATCH");
}

TEST(StatusTest, ErrorsOfOthersHaveNoReason) {
  EXPECT_EQ(ReasonOf(absl::UnavailableError("connection refused")), "");
}

}  // namespace
}  // namespace mycelium::rpc
