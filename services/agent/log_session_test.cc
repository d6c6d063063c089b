#include "services/agent/log_session.h"

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/fake_clock.h"
#include "lib/base/file.h"

namespace mycelium::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class LogSessionTest : public ::testing::Test {
 protected:
  LogSessionTest()
      : directory_(TempDirectory::Create("log-session").value()),
        clock_(absl::FromUnixSeconds(1'800'000'000)),
        store_(LogStore::Open(directory_.path(), {}, &clock_).value()) {
    request_.set_app_name("shop");
  }

  void Append(const std::string& id, const std::string& text, int64_t run = 1) {
    clock_.Advance(absl::Seconds(1));
    store_->Append(id, {{.time = clock_.Now(), .run = run, .text = text}});
  }

  void Know(const std::string& id, int64_t run, bool running,
            bool stopped = false) {
    known_.push_back({.instance_id = id,
                      .app_name = "shop",
                      .run = run,
                      .running = running,
                      .stopped = stopped});
  }

  // What is sent before `lines` lines have come, or the end.
  absl::Status Serve(size_t lines = 1000) {
    LogSession session(store_.get(), [this](const v1::GetLogsRequest&) {
      if (on_lookup_) on_lookup_();
      return known_;
    });
    return session.Serve(
        request_,
        [&](const v1::GetLogsResponse& response) {
          for (const v1::LogLine& line : response.lines()) {
            texts_.push_back(line.text());
          }
          return texts_.size() < lines;
        },
        [] { return false; });
  }

  TempDirectory directory_;
  FakeClock clock_;
  std::unique_ptr<LogStore> store_;
  std::vector<LogSession::Known> known_;
  std::function<void()> on_lookup_;
  v1::GetLogsRequest request_;
  std::vector<std::string> texts_;
};

TEST_F(LogSessionTest, MergesTheInstancesOfAnApp) {
  Know("shop-1", 1, true);
  Know("shop-2", 1, true);
  Append("shop-1", "a");
  Append("shop-2", "b");
  Append("shop-1", "c");

  ASSERT_TRUE(Serve().ok());

  EXPECT_THAT(texts_, ElementsAre("a", "b", "c"));
}

TEST_F(LogSessionTest, SendsTheLastHundredLinesUnlessToldOtherwise) {
  Know("shop-1", 1, true);
  for (int i = 0; i < 150; ++i) Append("shop-1", absl::StrCat(i));
  ASSERT_TRUE(Serve().ok());
  EXPECT_THAT(texts_, SizeIs(100));
  EXPECT_EQ(texts_.back(), "149");

  texts_.clear();
  request_.set_tail_lines(-1);
  ASSERT_TRUE(Serve().ok());
  EXPECT_THAT(texts_, SizeIs(150));

  texts_.clear();
  request_.set_tail_lines(0);
  ASSERT_TRUE(Serve().ok());
  EXPECT_THAT(texts_, IsEmpty());
}

TEST_F(LogSessionTest, SendsTheProcessBeforeThePresentOne) {
  Know("shop-1", 3, true);
  for (int run = 1; run <= 3; ++run) {
    Append("shop-1", absl::StrCat("run ", run), run);
  }
  request_.set_previous(true);

  ASSERT_TRUE(Serve().ok());

  EXPECT_THAT(texts_, ElementsAre("run 2"));
}

TEST_F(LogSessionTest, BetweenTwoProcessesTheLastOneIsThePreviousOne) {
  Know("shop-1", 3, false);
  for (int run = 1; run <= 3; ++run) {
    Append("shop-1", absl::StrCat("run ", run), run);
  }
  request_.set_previous(true);

  ASSERT_TRUE(Serve().ok());

  EXPECT_THAT(texts_, ElementsAre("run 3"));
}

TEST_F(LogSessionTest, LeavesOutWhatIsTooOld) {
  Know("shop-1", 1, true);
  Append("shop-1", "old");
  Append("shop-1", "new");
  request_.mutable_since_time()->set_seconds(absl::ToUnixSeconds(clock_.Now()));

  ASSERT_TRUE(Serve().ok());

  EXPECT_THAT(texts_, ElementsAre("new"));
}

TEST_F(LogSessionTest, FollowsInstancesThatComeLater) {
  request_.set_follow(true);
  int lookups = 0;
  on_lookup_ = [&] {
    if (++lookups == 2) {
      Know("shop-9", 1, true);
      Append("shop-9", "hello");
    }
  };

  ASSERT_TRUE(Serve(/*lines=*/1).ok());

  EXPECT_THAT(texts_, ElementsAre("hello"));
}

TEST_F(LogSessionTest, EndsWhenTheInstanceThatItFollowsIsGone) {
  Know("shop-1", 1, false, /*stopped=*/true);
  Append("shop-1", "last words");
  request_.clear_app_name();
  request_.set_instance_id("shop-1");
  request_.set_follow(true);

  ASSERT_TRUE(Serve().ok());

  EXPECT_THAT(texts_, ElementsAre("last words"));
}

TEST_F(LogSessionTest, SaysWhatIsNotThere) {
  EXPECT_EQ(ReasonOf(Serve()), "APP_NOT_FOUND");

  request_.clear_app_name();
  request_.set_instance_id("shop-1");
  request_.set_follow(true);
  EXPECT_EQ(ReasonOf(Serve()), "INSTANCE_NOT_FOUND");
}

TEST_F(LogSessionTest, ChecksItsFields) {
  EXPECT_TRUE(LogSession::Check(request_).ok());
  request_.set_instance_id("shop-1");
  EXPECT_EQ(ReasonOf(LogSession::Check(request_)), "REQUEST_INVALID");
  request_.clear_app_name();
  EXPECT_TRUE(LogSession::Check(request_).ok());
  request_.set_tail_lines(-2);
  EXPECT_FALSE(LogSession::Check(request_).ok());
}

}  // namespace
}  // namespace mycelium::agent
