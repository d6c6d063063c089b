#include "lib/telemetry/latency_histogram.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace mycelium::telemetry {
namespace {

constexpr double kError = 1.0 / 128;
constexpr int64_t kLargest = (int64_t{1} << 37) - 1;

// Values whose logarithms are spread evenly from 1 us to 2^37 us.
std::vector<int64_t> RandomLatencies(int count, uint32_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> exponent(0, 37);
  std::vector<int64_t> values;
  for (int i = 0; i < count; ++i) {
    values.push_back(
        std::min(kLargest, static_cast<int64_t>(std::exp2(exponent(random)))));
  }
  return values;
}

LatencySummary Summarize(const LatencyHistogram& histogram) {
  LatencySummary summary;
  histogram.MergeInto(&summary);
  return summary;
}

TEST(LatencyBucketsTest, KnowEachValueToWithinTheirBound) {
  for (const int64_t micros : RandomLatencies(200'000, 1)) {
    const int index = LatencyBuckets::IndexOf(static_cast<uint64_t>(micros));
    ASSERT_GE(index, 0);
    ASSERT_LT(index, LatencyBuckets::kCount);
    ASSERT_NEAR(LatencyBuckets::MicrosOf(index), static_cast<double>(micros),
                static_cast<double>(micros) * kError);
  }
}

TEST(LatencyBucketsTest, FollowEachOtherWithoutGapOrOverlap) {
  EXPECT_EQ(LatencyBuckets::IndexOf(0), 0);
  for (int i = 0; i + 1 < LatencyBuckets::kCount; ++i) {
    const int64_t last = LatencyBuckets::UpperBoundMicros(i);
    ASSERT_EQ(LatencyBuckets::IndexOf(static_cast<uint64_t>(last)), i);
    ASSERT_EQ(LatencyBuckets::IndexOf(static_cast<uint64_t>(last) + 1), i + 1);
  }
  EXPECT_EQ(LatencyBuckets::UpperBoundMicros(LatencyBuckets::kCount - 1),
            kLargest);
  EXPECT_EQ(LatencyBuckets::IndexOf(UINT64_MAX), LatencyBuckets::kCount - 1);
}

TEST(LatencySummaryTest, FindsEachQuantileToWithinTheBound) {
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    std::vector<int64_t> values = RandomLatencies(5'000, seed);
    LatencyHistogram histogram;
    for (const int64_t value : values) histogram.Add(value);
    std::sort(values.begin(), values.end());

    const LatencySummary summary = Summarize(histogram);

    for (const double quantile : {0.0, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0}) {
      const auto rank = static_cast<size_t>(
          quantile * static_cast<double>(values.size() - 1));
      const auto exact = static_cast<double>(values[rank]);
      ASSERT_NEAR(summary.QuantileMicros(quantile), exact, exact * kError)
          << "seed " << seed << ", quantile " << quantile;
    }
  }
}

TEST(LatencySummaryTest, IsOfNothingZero) {
  EXPECT_EQ(LatencySummary().total(), 0);
  EXPECT_EQ(LatencySummary().QuantileMicros(0.5), 0);
}

TEST(LatencySummaryTest, MergedEqualsOneThatCountedAll) {
  LatencyHistogram all;
  LatencyHistogram parts[3];
  const std::vector<int64_t> values = RandomLatencies(9'000, 7);
  for (size_t i = 0; i < values.size(); ++i) {
    all.Add(values[i]);
    parts[i % 3].Add(values[i]);
  }

  LatencySummary merged = Summarize(parts[0]);
  merged.Merge(Summarize(parts[1]));
  parts[2].MergeInto(&merged);

  const LatencySummary want = Summarize(all);
  EXPECT_EQ(merged.counts(), want.counts());
  EXPECT_EQ(merged.total(), 9'000);
  EXPECT_EQ(merged.sum_micros(), want.sum_micros());
}

TEST(LatencySummaryTest, IsEmptyAfterClear) {
  LatencyHistogram histogram;
  histogram.Add(5);
  LatencySummary summary = Summarize(histogram);

  summary.Clear();

  EXPECT_EQ(summary.total(), 0);
  EXPECT_EQ(summary.sum_micros(), 0);
  EXPECT_EQ(summary.counts(), LatencySummary().counts());
}

TEST(LatencyHistogramTest, CountsWhatIsOutOfRangeAtItsEnds) {
  LatencyHistogram histogram;

  histogram.Add(-5);
  histogram.Add(INT64_MAX / 4);

  const LatencySummary summary = Summarize(histogram);
  EXPECT_EQ(summary.counts().front(), 1);
  EXPECT_EQ(summary.counts().back(), 1);
}

TEST(LatencyHistogramTest, TakesMemoryOnlyForThePowersOfTwoThatItHasSeen) {
  LatencyHistogram histogram;
  EXPECT_EQ(histogram.allocated_bytes(), 0);

  for (int64_t micros = 300; micros < 1000; ++micros) histogram.Add(micros);
  EXPECT_LE(histogram.allocated_bytes(), 1300);

  histogram.Reserve();
  EXPECT_LE(histogram.allocated_bytes(), 17 * 1024);
  EXPECT_EQ(Summarize(histogram).total(), 700);
}

TEST(LatencyHistogramTest, CanBeReadWhileItIsWritten) {
  LatencyHistogram histogram;
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (const int64_t micros : RandomLatencies(100'000, 3))
      histogram.Add(micros);
    done = true;
  });

  int64_t last = 0;
  while (!done) {
    const int64_t total = Summarize(histogram).total();
    EXPECT_GE(total, last);
    last = total;
  }
  writer.join();

  EXPECT_EQ(Summarize(histogram).total(), 100'000);
}

}  // namespace
}  // namespace mycelium::telemetry
