#include "tools/meshctl/log_merger.h"

#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::meshctl {
namespace {

using ::testing::ElementsAre;

constexpr absl::Duration kLong = absl::Seconds(60);

agent::v1::LogLine LineAt(int seconds, const std::string& text) {
  agent::v1::LogLine line;
  line.mutable_time()->set_seconds(seconds);
  line.set_text(text);
  return line;
}

std::vector<std::string> Drain(LogMerger& merger) {
  std::vector<std::string> lines;
  while (const auto next = merger.Next(kLong)) {
    lines.push_back(next->source + ":" + next->line.text());
  }
  return lines;
}

TEST(LogMergerTest, MergesByTime) {
  LogMerger merger(Clock::Real(), kLong);
  merger.Open("a");
  merger.Open("b");
  merger.Add("a", LineAt(1, "one"));
  merger.Add("a", LineAt(4, "four"));
  merger.Add("b", LineAt(2, "two"));
  merger.Add("b", LineAt(3, "three"));
  merger.Close("a");
  merger.Close("b");

  EXPECT_THAT(Drain(merger),
              ElementsAre("a:one", "b:two", "b:three", "a:four"));
  EXPECT_TRUE(merger.drained());
}

TEST(LogMergerTest, WaitsForAStreamThatMayHaveAnOlderLine) {
  LogMerger merger(Clock::Real(), kLong);
  merger.Open("a");
  merger.Open("b");
  merger.Add("a", LineAt(2, "two"));

  EXPECT_FALSE(merger.Next(absl::ZeroDuration()).has_value());
  merger.Add("b", LineAt(1, "one"));
  EXPECT_EQ(merger.Next(kLong)->line.text(), "one");
}

TEST(LogMergerTest, DoesNotWaitForASilentStreamForEver) {
  LogMerger merger(Clock::Real(), absl::Milliseconds(1));
  merger.Open("a");
  merger.Open("silent");
  merger.Add("a", LineAt(2, "two"));

  EXPECT_EQ(merger.Next(kLong)->line.text(), "two");
}

TEST(LogMergerTest, HoldsBackAStreamThatIsAhead) {
  LogMerger merger(Clock::Real(), kLong);
  merger.Open("a");
  std::thread writer([&merger] {
    for (int i = 0; i < 5000; ++i) merger.Add("a", LineAt(i, "x"));
    merger.Close("a");
  });

  EXPECT_EQ(Drain(merger).size(), 5000u);
  writer.join();
}

TEST(LogMergerTest, ClosingReleasesAWriterThatWaits) {
  LogMerger merger(Clock::Real(), kLong);
  merger.Open("a");
  bool refused = false;
  std::thread writer([&] {
    while (merger.Add("a", LineAt(1, "x"))) {
    }
    refused = true;
  });

  merger.CloseAll();
  writer.join();

  EXPECT_TRUE(refused);
}

}  // namespace
}  // namespace mycelium::meshctl
