#include "tools/meshctl/failure.h"

#include <set>
#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"

namespace mycelium::meshctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(FailureTest, PassesThroughAStatusUnchanged) {
  Failure failure;
  failure.exit = ExitCode::kRolloutFailed;
  failure.message = "cannot";
  failure.why = "because";
  failure.fixes = {"this", "that"};
  failure.more = "meshctl why x";
  failure.output = {"line 1", "", "line 3"};

  const Failure back = ToFailure(ToStatus(failure));

  EXPECT_EQ(back.exit, ExitCode::kRolloutFailed);
  EXPECT_EQ(back.message, "cannot");
  EXPECT_EQ(back.why, "because");
  EXPECT_THAT(back.fixes, ElementsAre("this", "that"));
  EXPECT_EQ(back.more, "meshctl why x");
  EXPECT_THAT(back.output, ElementsAre("line 1", "", "line 3"));
}

TEST(FailureTest, GivesErrorsOfServicesTheirExitCodes) {
  const struct {
    absl::StatusCode code;
    const char* reason;
    ExitCode exit;
  } cases[] = {
      {absl::StatusCode::kInvalidArgument, "PLAN_INVALID", ExitCode::kUsage},
      {absl::StatusCode::kOutOfRange, "COUNT_OUT_OF_RANGE", ExitCode::kUsage},
      {absl::StatusCode::kNotFound, "PLAN_NOT_FOUND", ExitCode::kNotFound},
      {absl::StatusCode::kPermissionDenied, "SPORE_UNTRUSTED",
       ExitCode::kUntrusted},
      {absl::StatusCode::kInvalidArgument, "SPORE_REFUSED",
       ExitCode::kUntrusted},
      {absl::StatusCode::kInvalidArgument, "E_SIG", ExitCode::kUntrusted},
      {absl::StatusCode::kAborted, "REVISION_MISMATCH", ExitCode::kConflict},
      {absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE",
       ExitCode::kUnavailable},
      {absl::StatusCode::kDeadlineExceeded, "X", ExitCode::kTimeout},
      {absl::StatusCode::kFailedPrecondition, "BUDGET_EXCEEDED",
       ExitCode::kNoCapacity},
      {absl::StatusCode::kInternal, "X", ExitCode::kError},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(ToFailure(MakeError(c.code, "x", c.reason, "m")).exit, c.exit)
        << c.reason;
  }
}

TEST(FailureTest, NamesEveryWrongFieldThatTheMessageDoesNotName) {
  FieldViolations violations;
  violations.Add("plan.max", "0 must be at least 1");
  violations.Add("plan.digest", "'x' must be hex");
  const absl::Status status =
      violations.ToStatus("fabric.mycelium", "PLAN_INVALID");

  const Failure failure = ToFailure(status);

  EXPECT_THAT(failure.message + failure.why, HasSubstr("plan.max"));
  EXPECT_THAT(failure.message + failure.why, HasSubstr("plan.digest"));
}

TEST(FailureTest, ExplainsWhatCouldNotBeDone) {
  const absl::Status status =
      Explain(MakeError(absl::StatusCode::kNotFound, "fabric.mycelium",
                        "PLAN_NOT_FOUND", "app 'x' has no plan"),
              "cannot scale x");

  const Failure failure = ToFailure(status);

  EXPECT_EQ(failure.exit, ExitCode::kNotFound);
  EXPECT_EQ(failure.message, "cannot scale x: app 'x' has no plan");
  EXPECT_THAT(failure.fixes, ElementsAre(HasSubstr("meshctl list")));
}

TEST(FailureTest, ShowsPeopleWhyAndWhatToDo) {
  Failure failure;
  failure.message = "cannot apply hello";
  failure.why = "its key is not trusted";
  failure.fixes = {"trust it", "use another"};
  failure.output = {"last words"};
  failure.more = "meshctl help trust";

  EXPECT_EQ(FormatFailure(failure, "x"),
            "x cannot apply hello\n"
            "  why  its key is not trusted\n"
            "  fix  trust it\n"
            "       or use another\n"
            "  last output:\n"
            "    | last words\n"
            "  more meshctl help trust\n");
}

TEST(FailureTest, GivesProgramsOneObject) {
  Failure failure;
  failure.exit = ExitCode::kUntrusted;
  failure.message = "no";
  failure.fixes = {"a"};

  EXPECT_EQ(FormatFailureJson(failure),
            R"({"error":{"code":"UNTRUSTED","exit":4,"message":"no",)"
            R"("fix":["a"]}})"
            "\n");
}

TEST(FailureTest, EveryExitCodeHasANameOfItsOwn) {
  std::set<int> codes;
  std::set<std::string> names;
  for (const ExitCodeInfo& info : ExitCodes()) {
    EXPECT_TRUE(codes.insert(static_cast<int>(info.code)).second);
    EXPECT_TRUE(names.insert(std::string(info.name)).second);
    EXPECT_FALSE(info.meaning.empty());
  }
  EXPECT_EQ(ExitCodeName(ExitCode::kRolloutFailed), "ROLLOUT_FAILED");
}

TEST(FailureTest, AQuietExitSaysNothing) {
  const absl::Status status = QuietExit(ExitCode::kChanges);

  EXPECT_TRUE(IsQuietExit(status));
  EXPECT_EQ(ToFailure(status).exit, ExitCode::kChanges);
  EXPECT_TRUE(IsQuietExit(Explain(status, "x")));
}

}  // namespace
}  // namespace mycelium::meshctl
