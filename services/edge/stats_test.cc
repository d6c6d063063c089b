#include "services/edge/stats.h"

#include <atomic>
#include <thread>

#include "gtest/gtest.h"

namespace mycelium::edge {
namespace {

EndedRequest Request(int status, int64_t micros) {
  EndedRequest request;
  request.method = 0;
  request.status = status;
  request.micros = micros;
  return request;
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

TEST(BoundedHistogramTest, CountsAValueOfABoundBelowIt) {
  DurationHistogram histogram;
  histogram.Add(kExportedBoundsMicros, 100);
  histogram.Add(kExportedBoundsMicros, 101);
  histogram.Add(kExportedBoundsMicros, 10'000'001);

  EXPECT_EQ(histogram.counts.front().value(), 1);
  EXPECT_EQ(histogram.counts[1].value(), 1);
  EXPECT_EQ(histogram.counts.back().value(), 1);
  EXPECT_EQ(histogram.sum.value(), 10'000'202);
}

TEST(CountRequestTest, CountsByMethodClassDurationAndSize) {
  AppCounters counters;
  EndedRequest request = Request(404, 300);
  request.method = 2;
  request.request_body_bytes = 5'000;
  request.response_body_bytes = 9;

  CountRequest(request, &counters);

  EXPECT_EQ(counters.methods.counts[2][4].value(), 1);
  EXPECT_EQ(counters.durations[4].counts[2].value(), 1);
  EXPECT_EQ(counters.request_bodies.counts[3].value(), 1);
  EXPECT_EQ(counters.response_bodies.counts[0].value(), 1);
  LatencySummary latency;
  counters.latency.MergeInto(&latency);
  EXPECT_EQ(latency.total(), 1);
  EXPECT_NEAR(latency.QuantileMicros(0.5), 300, 3);
}

TEST(TraceExemplarTest, IsReadWholeOrNotAtAll) {
  AppCounters counters;
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (uint64_t i = 1; i <= 50'000; ++i) {
      SetExemplar({{i, i}, 100, static_cast<int64_t>(i), 2}, &counters);
    }
    done = true;
  });

  while (!done) {
    const TraceExemplar::Value value = counters.exemplars[0].Get();
    ASSERT_EQ(value.trace_id[0], value.trace_id[1]);
    ASSERT_EQ(static_cast<uint64_t>(value.time_us), value.trace_id[0]);
  }
  writer.join();

  EXPECT_EQ(counters.exemplars[0].Get().time_us, 50'000);
  EXPECT_EQ(counters.exemplars[1].Get().time_us, 0);
}

// What 1,000 endpoints take on each worker.
TEST(EndpointCountersTest, AreSmallWhileLatenciesAreAlike) {
  EndpointStats stats(1);
  EndpointCounters& row = stats.row(0);
  for (int64_t micros = 400; micros < 20'000; micros += 7)
    row.latency.Add(micros);

  EXPECT_LE(static_cast<int64_t>(sizeof(EndpointCounters)) +
                row.latency.allocated_bytes(),
            5'000);
}

}  // namespace
}  // namespace mycelium::edge
