#include "services/edge/stats.h"

#include <algorithm>

namespace mycelium::edge {

int LatencyBuckets::IndexOf(uint64_t micros) {
  constexpr uint64_t kSub = uint64_t{1} << kSubBits;
  if (micros < kSub) return static_cast<int>(micros);
  const int shift = 63 - __builtin_clzll(micros) - kSubBits;
  const int index = (shift << kSubBits) + static_cast<int>(micros >> shift);
  return std::min(index, kCount - 1);
}

int64_t LatencyBuckets::UpperBoundMicros(int index) {
  constexpr int64_t kSub = int64_t{1} << kSubBits;
  if (index < 2 * kSub) return index;
  const int shift = (index >> kSubBits) - 1;
  return ((kSub + (index & (kSub - 1)) + 1) << shift) - 1;
}

double LatencyBuckets::MicrosOf(int index) {
  constexpr int kSub = 1 << kSubBits;
  if (index < 2 * kSub) return index;
  const int shift = (index >> kSubBits) - 1;
  const double low = static_cast<double>(
      static_cast<uint64_t>(kSub + (index & (kSub - 1))) << shift);
  return low + static_cast<double>(uint64_t{1} << shift) / 2;
}

double LatencySummary::QuantileMicros(double quantile) const {
  if (total_ == 0) return 0;
  const auto rank =
      static_cast<int64_t>(quantile * static_cast<double>(total_ - 1));
  int64_t seen = 0;
  for (int i = 0; i < LatencyBuckets::kCount; ++i) {
    seen += counts_[i];
    if (seen > rank) return LatencyBuckets::MicrosOf(i);
  }
  return LatencyBuckets::MicrosOf(LatencyBuckets::kCount - 1);
}

int ReasonIndex(absl::string_view reason) {
  const auto* const found = std::find(kReasons.begin(), kReasons.end(), reason);
  return static_cast<int>(
      std::min<int64_t>(found - kReasons.begin(), kReasons.size() - 1));
}

void RequestCounters::Add(int status, int64_t in, int64_t out) {
  const int status_class = status / 100;
  by_class[status_class >= 1 && status_class <= 5 ? status_class : 0].Add(1);
  bytes_in.Add(in);
  bytes_out.Add(out);
}

void CountDuration(AppCounters* counters, int64_t micros) {
  counters->micros.Add(micros);
  const auto* const bound = std::lower_bound(
      kExportedBoundsMicros.begin(), kExportedBoundsMicros.end(), micros);
  counters->exported[static_cast<size_t>(bound - kExportedBoundsMicros.begin())]
      .Add(1);
  counters->latency[LatencyBuckets::IndexOf(static_cast<uint64_t>(micros))].Add(
      1);
}

LatencySummary SummarizeLatency(const AppStats& stats) {
  LatencySummary summary;
  for (const AppCounters& row : stats.rows()) {
    for (int i = 0; i < LatencyBuckets::kCount; ++i) {
      const int64_t count = row.latency[i].value();
      if (count > 0) summary.Add(i, count);
    }
  }
  return summary;
}

}  // namespace mycelium::edge
