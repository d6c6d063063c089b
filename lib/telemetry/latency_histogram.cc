#include "lib/telemetry/latency_histogram.h"

#include <algorithm>
#include <bit>
#include <cstddef>

namespace mycelium::telemetry {

int LatencyBuckets::IndexOf(uint64_t micros) {
  if (micros < kPerOctave) return static_cast<int>(micros);
  const int shift = static_cast<int>(std::bit_width(micros)) - 1 - kSubBits;
  if (shift >= kOctaves - 1) return kCount - 1;
  return (shift << kSubBits) + static_cast<int>(micros >> shift);
}

int64_t LatencyBuckets::UpperBoundMicros(int index) {
  if (index < 2 * kPerOctave) return index;
  const int shift = (index >> kSubBits) - 1;
  const int64_t sub = kPerOctave + (index & (kPerOctave - 1));
  return ((sub + 1) << shift) - 1;
}

double LatencyBuckets::MicrosOf(int index) {
  if (index < 2 * kPerOctave) return index;
  const int shift = (index >> kSubBits) - 1;
  const int64_t sub = kPerOctave + (index & (kPerOctave - 1));
  return static_cast<double>(sub << shift) +
         static_cast<double>(int64_t{1} << shift) / 2;
}

void LatencySummary::Merge(const LatencySummary& other) {
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  total_ += other.total_;
  sum_micros_ += other.sum_micros_;
}

void LatencySummary::Clear() {
  std::fill(counts_.begin(), counts_.end(), 0);
  total_ = sum_micros_ = 0;
}

double LatencySummary::QuantileMicros(double quantile) const {
  if (total_ == 0) return 0;
  const auto rank =
      static_cast<int64_t>(quantile * static_cast<double>(total_ - 1));
  int64_t seen = 0;
  for (int i = 0; i < LatencyBuckets::kCount; ++i) {
    seen += counts_[static_cast<size_t>(i)];
    if (seen > rank) return LatencyBuckets::MicrosOf(i);
  }
  return LatencyBuckets::MicrosOf(LatencyBuckets::kCount - 1);
}

void LatencyHistogram::Reserve() {
  for (size_t i = 0; i < octaves_.size(); ++i) {
    if (octaves_[i].load(std::memory_order_relaxed) == nullptr) Allocate(i);
  }
}

LatencyHistogram::Octave* LatencyHistogram::Allocate(size_t octave) {
  // Room for all of them at once: the next ones allocate only themselves.
  owned_.reserve(octaves_.size());
  owned_.push_back(std::make_unique<Octave>());
  octaves_[octave].store(owned_.back().get(), std::memory_order_release);
  return owned_.back().get();
}

void LatencyHistogram::MergeInto(LatencySummary* summary) const {
  for (size_t i = 0; i < octaves_.size(); ++i) {
    const Octave* const octave = octaves_[i].load(std::memory_order_acquire);
    if (octave == nullptr) continue;
    for (size_t j = 0; j < octave->size(); ++j) {
      const int64_t count = (*octave)[j].value();
      if (count > 0) {
        summary->Add(static_cast<int>(i * octave->size() + j), count);
      }
    }
  }
  summary->AddSum(sum_micros_.value());
}

int64_t LatencyHistogram::allocated_bytes() const {
  int64_t bytes = 0;
  for (const std::atomic<Octave*>& octave : octaves_) {
    if (octave.load(std::memory_order_acquire) != nullptr)
      bytes += static_cast<int64_t>(sizeof(Octave));
  }
  // owned_ holds a pointer per octave as soon as there is one.
  return bytes == 0
             ? 0
             : bytes + static_cast<int64_t>(octaves_.size() * sizeof(Octave*));
}

}  // namespace mycelium::telemetry
