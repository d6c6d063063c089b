#ifndef SERVICES_FABRIC_STORE_WATCH_H_
#define SERVICES_FABRIC_STORE_WATCH_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "lib/base/mutex.h"
#include "services/fabric/store/store.h"

namespace mycelium::fabric {

// Delivers the changes of a store in order, one batch per revision, from a
// revision on until it is destroyed. It keeps nothing but its position: who
// takes so long that the store's log has moved on is told so.
class StoreWatch {
 public:
  struct Options {
    // Only changes of keys that begin with one of these; none: all changes.
    std::vector<std::string> prefixes;
    // The first batch is one after this revision.
    int64_t after_revision = 0;
  };

  // Called with one batch at a time, none of them empty; last, if the changes
  // to come next are no longer kept, with OutOfRange (kReasonCompacted). Runs
  // on the thread that calls Start, until that returns, and on the store's
  // notifier thread, never on both at once.
  using Sink =
      std::function<void(absl::StatusOr<std::shared_ptr<const Batch>>)>;

  // Delivers what has happened since, and goes on from there. `store` must
  // outlive the watch. A batch of which only a part matches is delivered as a
  // batch of that part; others are those that all readers share.
  //
  // OutOfRange (kReasonCompacted, kReasonFutureRevision).
  static absl::StatusOr<std::unique_ptr<StoreWatch>> Start(Store* store,
                                                           Options options,
                                                           Sink sink);

  // Waits for a call of the sink in progress; not to be called by the sink.
  ~StoreWatch() = default;

  StoreWatch(const StoreWatch&) = delete;
  StoreWatch& operator=(const StoreWatch&) = delete;

 private:
  StoreWatch(Store* store, Options options, Sink sink);

  // Delivers all up to `revision`, unless another thread is at it, which then
  // does it.
  void Deliver(int64_t revision);
  // Delivers a bounded part of what follows `cursor`, and returns how far it
  // came; -1 after an error.
  int64_t DeliverSome(int64_t cursor);
  std::shared_ptr<const Batch> Filter(
      const std::shared_ptr<const Batch>& batch) const;

  Store& store_;
  const Options options_;
  const Sink sink_;

  Mutex mutex_;
  int64_t cursor_ ABSL_GUARDED_BY(mutex_);
  int64_t wanted_ ABSL_GUARDED_BY(mutex_);
  bool delivering_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;

  // Last, so that it ends before what its calls use.
  std::unique_ptr<StoreListener> listener_;
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_STORE_WATCH_H_
