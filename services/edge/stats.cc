#include "services/edge/stats.h"

#include <algorithm>

namespace mycelium::edge {

int ReasonIndex(absl::string_view reason) {
  const auto* const found = std::find(kReasons.begin(), kReasons.end(), reason);
  return static_cast<int>(
      std::min<int64_t>(found - kReasons.begin(), kReasons.size() - 1));
}

void RequestCounters::Add(int status, int64_t in, int64_t out) {
  by_class[StatusClass(status)].Add(1);
  bytes_in.Add(in);
  bytes_out.Add(out);
}

// A sequence lock. Each store of the data is a release, and each load an
// acquire, so that none can be seen outside of the two of the sequence.
void TraceExemplar::Set(const Value& value) {
  const uint32_t sequence = sequence_.load(std::memory_order_relaxed);
  sequence_.store(sequence + 1, std::memory_order_relaxed);
  for (size_t i = 0; i < trace_id_.size(); ++i)
    trace_id_[i].store(value.trace_id[i], std::memory_order_release);
  micros_.store(value.micros, std::memory_order_release);
  time_us_.store(value.time_us, std::memory_order_release);
  status_class_.store(value.status_class, std::memory_order_release);
  sequence_.store(sequence + 2, std::memory_order_release);
}

TraceExemplar::Value TraceExemplar::Get() const {
  const uint32_t before = sequence_.load(std::memory_order_acquire);
  Value value;
  for (size_t i = 0; i < trace_id_.size(); ++i)
    value.trace_id[i] = trace_id_[i].load(std::memory_order_acquire);
  value.micros = micros_.load(std::memory_order_acquire);
  value.time_us = time_us_.load(std::memory_order_acquire);
  value.status_class = status_class_.load(std::memory_order_acquire);
  const uint32_t after = sequence_.load(std::memory_order_relaxed);
  return before == after && before % 2 == 0 ? value : Value();
}

void CountRequest(const EndedRequest& request, AppCounters* counters) {
  counters->requests.Add(request.status, request.bytes_in, request.bytes_out);
  counters->methods.Add(request.method, request.status);
  counters->durations[StatusClass(request.status)].Add(kExportedBoundsMicros,
                                                       request.micros);
  counters->latency.Add(request.micros);
  counters->request_bodies.Add(kExportedBodyBytes, request.request_body_bytes);
  counters->response_bodies.Add(kExportedBodyBytes,
                                request.response_body_bytes);
}

void SetExemplar(const TraceExemplar::Value& exemplar, AppCounters* counters) {
  const auto* const bound =
      std::lower_bound(kExportedBoundsMicros.begin(),
                       kExportedBoundsMicros.end(), exemplar.micros);
  counters
      ->exemplars[static_cast<size_t>(bound - kExportedBoundsMicros.begin())]
      .Set(exemplar);
}

}  // namespace mycelium::edge
