#include "services/edge/latency_proto.h"

#include <cstdint>

#include "absl/strings/str_cat.h"

namespace mycelium::edge {

using telemetry::LatencyBuckets;
using telemetry::LatencySummary;

void SetLatency(const LatencySummary& summary, bool buckets,
                v1::LatencyHistogram* out) {
  for (int i = 0; buckets && i < LatencyBuckets::kCount; ++i) {
    const int64_t count = summary.counts()[static_cast<size_t>(i)];
    if (count == 0) continue;
    out->add_upper_bounds_us(LatencyBuckets::UpperBoundMicros(i));
    out->add_counts(count);
  }
  out->set_count(summary.total());
  out->set_sum_us(summary.sum_micros());
  const auto quantile = [&summary](double of) {
    return static_cast<int64_t>(summary.QuantileMicros(of));
  };
  out->set_p50_us(quantile(0.5));
  out->set_p90_us(quantile(0.9));
  out->set_p99_us(quantile(0.99));
  out->set_p999_us(quantile(0.999));
}

absl::Status AddLatency(const v1::LatencyHistogram& histogram,
                        LatencySummary* summary) {
  if (histogram.upper_bounds_us_size() != histogram.counts_size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a histogram has ", histogram.upper_bounds_us_size(), " bounds and ",
        histogram.counts_size(), " counts; want as many"));
  }
  LatencySummary added;
  for (int i = 0; i < histogram.counts_size(); ++i) {
    const int64_t bound = histogram.upper_bounds_us(i);
    const int index =
        bound < 0 ? 0 : LatencyBuckets::IndexOf(static_cast<uint64_t>(bound));
    if (LatencyBuckets::UpperBoundMicros(index) != bound) {
      return absl::InvalidArgumentError(
          absl::StrCat("a bucket of a histogram ends at ", bound,
                       " us, where none of ours does"));
    }
    if (histogram.counts(i) < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("a bucket of a histogram counts ", histogram.counts(i)));
    }
    added.Add(index, histogram.counts(i));
  }
  added.AddSum(histogram.sum_us());
  summary->Merge(added);
  return absl::OkStatus();
}

}  // namespace mycelium::edge
