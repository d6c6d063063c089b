#include "services/edge/latency_proto.h"

#include <string>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace mycelium::edge {
namespace {

using telemetry::LatencyHistogram;
using telemetry::LatencySummary;

// What an edge sends that has seen `from` to `to` us, each once.
std::string Sent(int64_t from, int64_t to) {
  LatencyHistogram histogram;
  for (int64_t micros = from; micros <= to; ++micros) histogram.Add(micros);
  LatencySummary summary;
  histogram.MergeInto(&summary);
  v1::LatencyHistogram proto;
  SetLatency(summary, /*buckets=*/true, &proto);
  return proto.SerializeAsString();
}

v1::LatencyHistogram Parse(const std::string& bytes) {
  v1::LatencyHistogram proto;
  EXPECT_TRUE(proto.ParseFromString(bytes));
  return proto;
}

TEST(LatencyProtoTest, MergesAcrossEdgesAsIfOneHadSeenAll) {
  LatencySummary merged;
  EXPECT_TRUE(AddLatency(Parse(Sent(1, 5'000)), &merged).ok());
  EXPECT_TRUE(AddLatency(Parse(Sent(5'001, 20'000)), &merged).ok());

  v1::LatencyHistogram proto;
  SetLatency(merged, /*buckets=*/true, &proto);
  EXPECT_EQ(proto.SerializeAsString(), Sent(1, 20'000));
  EXPECT_EQ(proto.count(), 20'000);
  EXPECT_EQ(proto.sum_us(), int64_t{20'000} * 20'001 / 2);
  EXPECT_NEAR(static_cast<double>(proto.p50_us()), 10'000, 10'000 / 128.0 + 1);
  EXPECT_NEAR(static_cast<double>(proto.p90_us()), 18'000, 18'000 / 128.0 + 1);
  EXPECT_NEAR(static_cast<double>(proto.p999_us()), 19'980, 19'980 / 128.0 + 1);
}

TEST(LatencyProtoTest, LeavesOutBucketsButNotPercentiles) {
  LatencySummary summary;
  ASSERT_TRUE(AddLatency(Parse(Sent(100, 200)), &summary).ok());

  v1::LatencyHistogram proto;
  SetLatency(summary, /*buckets=*/false, &proto);

  EXPECT_EQ(proto.counts_size(), 0);
  EXPECT_EQ(proto.count(), 101);
  EXPECT_GT(proto.p50_us(), 0);
}

TEST(LatencyProtoTest, RefusesForeignBuckets) {
  v1::LatencyHistogram lengths;
  lengths.add_upper_bounds_us(5);
  v1::LatencyHistogram bound;
  bound.add_upper_bounds_us(1000);
  bound.add_counts(1);
  v1::LatencyHistogram negative;
  negative.add_upper_bounds_us(5);
  negative.add_counts(-1);
  v1::LatencyHistogram below;
  below.add_upper_bounds_us(-5);
  below.add_counts(1);
  for (const v1::LatencyHistogram& bad : {lengths, bound, negative, below}) {
    LatencySummary summary;
    EXPECT_EQ(AddLatency(bad, &summary).code(),
              absl::StatusCode::kInvalidArgument)
        << bad.ShortDebugString();
    EXPECT_EQ(summary.total(), 0);
  }
}

}  // namespace
}  // namespace mycelium::edge
