#ifndef SERVICES_FABRIC_CHANGE_FEED_H_
#define SERVICES_FABRIC_CHANGE_FEED_H_

#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "lib/base/mutex.h"
#include "services/fabric/store/store.h"

namespace mycelium::fabric {

using EntryPtr = std::shared_ptr<const Entry>;

// Someone who follows the store's changes. Called by one feed, on one thread at
// a time, with no lock of the feed held.
class ChangeConsumer {
 public:
  virtual ~ChangeConsumer() = default;

  // Forget all, and begin with what the store holds.
  virtual void Reset(const StoreSnapshot& snapshot) = 0;

  // The next revision. None is left out and none comes twice.
  virtual void Apply(const Batch& batch) = 0;

  // All that was there has been applied; the time to tell others.
  virtual void Flush() {}
};

// Hands the store's changes to consumers, in order, on a thread of its own: so
// neither a slow consumer nor the waking of a thousand watchers keeps the store
// from acknowledging the next write. Thread-safe.
class ChangeFeed {
 public:
  // How the feed runs: kOwn has a thread; kNone waits for calls of Pump().
  using Threads = StoreOptions::Threads;

  // Resets the consumers at once. All must outlive the feed.
  ChangeFeed(Store* store, std::vector<ChangeConsumer*> consumers,
             Threads threads);
  ~ChangeFeed();

  ChangeFeed(const ChangeFeed&) = delete;
  ChangeFeed& operator=(const ChangeFeed&) = delete;

  // Hands over all that the store has committed. With kNone only.
  void Pump();

 private:
  void Run();
  void ResetAll();

  Store& store_;
  const std::vector<ChangeConsumer*> consumers_;
  int64_t applied_ = 0;  // Of the thread, or of who calls Pump().

  Mutex mutex_;
  CondVar changed_;
  int64_t newest_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::unique_ptr<StoreListener> listener_;
  std::thread thread_;
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_CHANGE_FEED_H_
