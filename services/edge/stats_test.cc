#include "services/edge/stats.h"

#include <cmath>

#include "gtest/gtest.h"

namespace mycelium::edge {
namespace {

TEST(LatencyBucketsTest, KnowEachValueToWithinOnePercent) {
  int last = -1;
  for (uint64_t micros = 0; micros < uint64_t{1} << 34;
       micros += 1 + micros / 100) {
    const int index = LatencyBuckets::IndexOf(micros);
    ASSERT_LT(index, LatencyBuckets::kCount);
    ASSERT_GE(index, last);
    last = index;
    ASSERT_GE(LatencyBuckets::UpperBoundMicros(index),
              static_cast<int64_t>(micros));
    ASSERT_NEAR(LatencyBuckets::MicrosOf(index), static_cast<double>(micros),
                static_cast<double>(micros) * 0.01)
        << micros;
  }
  EXPECT_EQ(LatencyBuckets::IndexOf(UINT64_MAX), LatencyBuckets::kCount - 1);
}

TEST(LatencySummaryTest, MergesWorkersAndFindsQuantiles) {
  AppStats stats(2);
  for (int i = 1; i <= 500; ++i) CountDuration(&stats.row(0), i * 100);
  for (int i = 501; i <= 1000; ++i) CountDuration(&stats.row(1), i * 100);

  const LatencySummary summary = SummarizeLatency(stats);

  EXPECT_EQ(summary.total(), 1000);
  EXPECT_NEAR(summary.QuantileMicros(0.5), 50'000, 500);
  EXPECT_NEAR(summary.QuantileMicros(0.99), 99'000, 990);
  EXPECT_NEAR(summary.QuantileMicros(1), 100'000, 1000);
  EXPECT_EQ(LatencySummary().QuantileMicros(0.5), 0);
}

TEST(RequestCountersTest, CountByClassOfStatus) {
  RequestCounters counters;
  counters.Add(200, 10, 20);
  counters.Add(503, 1, 2);
  counters.Add(0, 0, 0);
  counters.Add(999, 0, 0);

  EXPECT_EQ(counters.by_class[2].value(), 1);
  EXPECT_EQ(counters.by_class[5].value(), 1);
  EXPECT_EQ(counters.by_class[0].value(), 2);
  EXPECT_EQ(counters.bytes_out.value(), 22);
}

TEST(ReasonIndexTest, PutsWhatIsUnknownLast) {
  EXPECT_EQ(kReasons[ReasonIndex("connect_failed")], "connect_failed");
  EXPECT_EQ(kReasons[ReasonIndex("never heard of")], "other");
}

}  // namespace
}  // namespace mycelium::edge
