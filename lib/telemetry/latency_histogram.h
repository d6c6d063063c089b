#ifndef LIB_TELEMETRY_LATENCY_HISTOGRAM_H_
#define LIB_TELEMETRY_LATENCY_HISTOGRAM_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "lib/telemetry/counter.h"

namespace mycelium::telemetry {

// The buckets of all latency histograms, log-linear over whole microseconds:
// up to 127 us each value has one of its own, and above every power of two is
// cut into 64. The middle of a bucket is thus within 1/128 (0.8 %) of every
// value that it counts, from 0 to 2^37 us, about 38 hours; what is longer
// counts as that. The layout is part of the API and never changes: histograms
// of other threads, processes and versions are added bucket by bucket.
class LatencyBuckets {
 public:
  static constexpr int kSubBits = 6;
  static constexpr int kPerOctave = 1 << kSubBits;
  static constexpr int kOctaves = 32;
  static constexpr int kCount = kOctaves * kPerOctave;

  static int IndexOf(uint64_t micros);
  // The largest value that the bucket counts (but for the last, which has no
  // end).
  static int64_t UpperBoundMicros(int index);
  // The middle of a bucket.
  static double MicrosOf(int index);
};

// A histogram merged from any number of others. Not thread-safe.
class LatencySummary {
 public:
  LatencySummary() : counts_(LatencyBuckets::kCount) {}

  void Add(int index, int64_t count) {
    counts_[static_cast<size_t>(index)] += count;
    total_ += count;
  }
  void AddSum(int64_t micros) { sum_micros_ += micros; }
  void Merge(const LatencySummary& other);
  void Clear();

  int64_t total() const { return total_; }
  int64_t sum_micros() const { return sum_micros_; }
  // By index of LatencyBuckets.
  const std::vector<int64_t>& counts() const { return counts_; }

  // The latency that `quantile` (0 to 1) of all values do not exceed, within
  // 1/128 of itself; 0 if there are none.
  double QuantileMicros(double quantile) const;

 private:
  std::vector<int64_t> counts_;
  int64_t total_ = 0;
  int64_t sum_micros_ = 0;
};

// A histogram that one thread writes without locks, and any thread reads. It
// allocates the 512 bytes of a power of two when the first value falls into it,
// so one of values that lie close together takes about 1 KiB, and none more
// than 17 KiB.
class LatencyHistogram {
 public:
  LatencyHistogram() = default;
  LatencyHistogram(const LatencyHistogram&) = delete;
  LatencyHistogram& operator=(const LatencyHistogram&) = delete;

  // Counts a value; one below 0 counts as 0. By the writer's thread only.
  void Add(int64_t micros) {
    const int index =
        LatencyBuckets::IndexOf(static_cast<uint64_t>(micros < 0 ? 0 : micros));
    const auto octave = static_cast<size_t>(index >> LatencyBuckets::kSubBits);
    Octave* counters = octaves_[octave].load(std::memory_order_relaxed);
    if (counters == nullptr) counters = Allocate(octave);
    (*counters)[static_cast<size_t>(index & (LatencyBuckets::kPerOctave - 1))]
        .Add(1);
    sum_micros_.Add(micros < 0 ? 0 : micros);
  }

  // Allocates all that it may ever need. By the writer's thread only.
  void Reserve();

  // Adds what was counted so far.
  void MergeInto(LatencySummary* summary) const;

  int64_t sum_micros() const { return sum_micros_.value(); }
  // Memory beside the object itself.
  int64_t allocated_bytes() const;

 private:
  using Octave = std::array<Counter, LatencyBuckets::kPerOctave>;

  Octave* Allocate(size_t octave);

  std::array<std::atomic<Octave*>, LatencyBuckets::kOctaves> octaves_{};
  Counter sum_micros_;
  std::vector<std::unique_ptr<Octave>> owned_;  // Of the writer's thread.
};

}  // namespace mycelium::telemetry

#endif  // LIB_TELEMETRY_LATENCY_HISTOGRAM_H_
