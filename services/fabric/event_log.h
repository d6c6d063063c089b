#ifndef SERVICES_FABRIC_EVENT_LOG_H_
#define SERVICES_FABRIC_EVENT_LOG_H_

#include <cstdint>
#include <deque>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "lib/base/clock.h"
#include "lib/base/mutex.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "services/fabric/store/store.h"
#include "services/fabric/store_txn.h"

namespace mycelium::fabric {

// What happened, newest last: the last 10,000 events. Thread-safe.
class EventLog {
 public:
  // How many events are listed, and how many more are stored before the oldest
  // are deleted together.
  static constexpr size_t kKept = 10'000;
  static constexpr size_t kSlack = 1'000;

  // Both must outlive the log. Reads what the store holds.
  EventLog(Store* store, Clock* clock);

  // The write of an event that the fabric itself observed, to be part of the
  // transaction that it tells of.
  Op Record(absl::string_view type, v1::Event::Severity severity,
            v1::Event event);

  // Records what an agent or an edge observed.
  void Record(const v1::RecordEventsRequest& request,
              Done<v1::RecordEventsResponse> done);

  // One page, newest first.
  absl::StatusOr<v1::ListEventsResponse> List(
      const v1::ListEventsRequest& request);

  // Deletes the oldest events if there are kSlack too many. Called every few
  // seconds; waits for the store.
  absl::Status Trim();

 private:
  // The next sequence number; none is used twice.
  int64_t NextSequence() ABSL_LOCKS_EXCLUDED(mutex_);

  Store& store_;
  Clock& clock_;

  Mutex mutex_;
  int64_t last_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  // Ids that were recorded by request, oldest first, and as many as events are
  // kept; for skipping those that come again.
  std::deque<std::string> order_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<std::string> ids_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_EVENT_LOG_H_
