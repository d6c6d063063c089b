#include "services/agent/health_tracker.h"

#include <algorithm>

namespace mycelium::agent {

HealthTracker::HealthTracker(const HealthOptions& options, absl::Duration now)
    : options_(options), started_interval_(options.started_first_interval) {
  started_probes_.due = now + started_interval_;
}

std::vector<HealthTracker::Probe> HealthTracker::TakeDue(absl::Duration now) {
  std::vector<Probe> probes;
  const auto take = [&](Series& series, ProbeKind kind,
                        absl::Duration timeout) {
    if (series.under_way || series.due > now) return;
    series.under_way = true;
    probes.push_back({.kind = kind, .timeout = timeout});
  };
  take(started_probes_, ProbeKind::kStarted, options_.started_timeout);
  take(ready_probes_, ProbeKind::kReady, options_.ready_timeout);
  take(live_, ProbeKind::kLive, options_.live_timeout);
  return probes;
}

absl::Duration HealthTracker::next_due() const {
  absl::Duration due = absl::InfiniteDuration();
  for (const Series* series : {&started_probes_, &ready_probes_, &live_}) {
    if (!series->under_way) due = std::min(due, series->due);
  }
  return due;
}

void HealthTracker::OnResult(ProbeKind kind, bool success, absl::Duration now) {
  Series& series = SeriesOf(kind);
  if (!series.under_way) return;
  series.under_way = false;
  series.failures = success ? 0 : series.failures + 1;

  switch (kind) {
    case ProbeKind::kStarted:
      if (success) {
        started_ = true;
        ready_ = true;
        series.due = absl::InfiniteDuration();
        ready_probes_.due = now + options_.ready_interval;
        live_.due = now + options_.live_interval;
      } else {
        series.due = now + started_interval_;
        started_interval_ =
            std::min(started_interval_ * 1.5, options_.started_max_interval);
      }
      break;
    case ProbeKind::kReady:
      if (success) ready_ = true;
      if (series.failures >= options_.ready_failures) ready_ = false;
      series.due = now + options_.ready_interval;
      break;
    case ProbeKind::kLive:
      series.due = now + options_.live_interval;
      break;
  }
}

HealthTracker::Series& HealthTracker::SeriesOf(ProbeKind kind) {
  switch (kind) {
    case ProbeKind::kReady:
      return ready_probes_;
    case ProbeKind::kLive:
      return live_;
    case ProbeKind::kStarted:
      break;
  }
  return started_probes_;
}

}  // namespace mycelium::agent
