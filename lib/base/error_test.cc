#include "lib/base/error.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/types/optional.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"

namespace mycelium {
namespace {

TEST(MakeErrorTest, CarriesReasonAndMetadata) {
  const absl::Status status =
      MakeError(absl::StatusCode::kAborted, "fabric.mycelium",
                "REVISION_MISMATCH", "is at 7", {{"current_revision", "7"}});

  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(status), "REVISION_MISMATCH");
  EXPECT_EQ(MetadataOf(status, "current_revision"), "7");
  EXPECT_EQ(MetadataOf(status, "other"), "");
}

TEST(AnnotateTest, KeepsCodeAndPayloads) {
  const absl::Status status =
      Annotate(MakeError(absl::StatusCode::kNotFound, "d", "R", "gone"), "app");

  EXPECT_EQ(status.message(), "app: gone");
  EXPECT_EQ(ReasonOf(status), "R");
}

TEST(FieldViolationsTest, IsOkWhenNothingIsWrong) {
  EXPECT_TRUE(FieldViolations().ToStatus("d", "R").ok());
}

TEST(FieldViolationsTest, ListsEveryField) {
  FieldViolations violations;
  violations.Add("plan.min", "is 3, above max 2");
  violations.Add("plan.port", "is 70000, above 65535");

  const absl::Status status = violations.ToStatus("d", "PLAN_INVALID");

  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), "PLAN_INVALID");
  const absl::optional<absl::Cord> payload =
      status.GetPayload("type.googleapis.com/google.rpc.BadRequest");
  ASSERT_TRUE(payload.has_value());
  google::rpc::BadRequest details;
  ASSERT_TRUE(details.ParseFromString(std::string(*payload)));
  ASSERT_EQ(details.field_violations_size(), 2);
  EXPECT_EQ(details.field_violations(1).field(), "plan.port");
}

}  // namespace
}  // namespace mycelium
