#ifndef SERVICES_FABRIC_RECONCILE_DRIVER_H_
#define SERVICES_FABRIC_RECONCILE_DRIVER_H_

#include <map>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/base/mutex.h"
#include "services/fabric/change_feed.h"
#include "services/fabric/event_log.h"
#include "services/fabric/node_ledger.h"
#include "services/fabric/reconciler.h"
#include "services/fabric/store/store.h"

namespace mycelium::fabric {

// Calls Reconcile for every app that something has changed about, or whose time
// has come, and writes what it decides: one transaction per app, only if what
// was decided on still holds. What did not change costs nothing. Thread-safe.
//
// One driver runs per store: it relies on nobody else creating slots.
class ReconcileDriver final : public ChangeConsumer {
 public:
  // How long changes gather before they are looked at together.
  static constexpr absl::Duration kDebounce = absl::Milliseconds(2);
  // How often an app that waits for room looks whether there is some.
  static constexpr absl::Duration kPendingInterval = absl::Seconds(1);
  // While apps change faster than they can be looked at, each rests after a
  // look for so many times what the look took, for each app that is looked at
  // in the same round, so that looking takes a fifth of a core; but not for
  // longer than kMaxRest.
  static constexpr int kRestFactor = 4;
  static constexpr absl::Duration kMaxRest = absl::Milliseconds(500);

  // All must outlive the driver. The ledger must be given each batch before the
  // driver is.
  ReconcileDriver(Store* store, Clock* clock, EventLog* events,
                  NodeLedger* ledger)
      : store_(*store), clock_(*clock), events_(*events), ledger_(*ledger) {}
  ~ReconcileDriver() override { Stop(); }

  // Runs on a thread of its own until Stop().
  void Start();
  void Stop();

  // Reconciles all apps that are due by `time` on the clock's monotonic scale,
  // on the calling thread; for others than the driver without Start() only.
  void RunDue(absl::Duration time);

  void Reset(const StoreSnapshot& snapshot) override;
  void Apply(const Batch& batch) override;
  void Flush() override;

 private:
  // What the driver remembers of an app between two looks.
  struct App {
    absl::Duration due = absl::InfiniteDuration();
    // It is not looked at again before.
    absl::Duration rests_until = -absl::InfiniteDuration();
    std::string bound_by;
    std::string in_place_because;
    // When the reasons of its slots were written, and when slots lost their
    // holders, by slot name.
    absl::flat_hash_map<std::string, absl::Time> reason_times;
    absl::flat_hash_map<std::string, absl::Time> freed;
  };

  void Run();
  void MakeDue(absl::string_view app, absl::Duration at)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // After a look at `app` that took that long, all apps of the round
  // considered.
  void Rest(const std::string& app, absl::Duration took);
  void MakePendingDue(absl::Duration at) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Looks at one app and writes. False: it must look again, since what it read
  // changed meanwhile or since not all fitted into one transaction.
  absl::StatusOr<bool> ReconcileApp(const std::string& app);

  Store& store_;
  Clock& clock_;
  EventLog& events_;
  NodeLedger& ledger_;

  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<std::string, App, std::less<>> apps_ ABSL_GUARDED_BY(mutex_);
  // The apps with a finite `due`, and those with slots that wait.
  absl::btree_set<std::pair<absl::Duration, std::string>> due_
      ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<std::string> pending_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_RECONCILE_DRIVER_H_
