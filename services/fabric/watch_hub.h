#ifndef SERVICES_FABRIC_WATCH_HUB_H_
#define SERVICES_FABRIC_WATCH_HUB_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/base/mutex.h"
#include "services/fabric/change_feed.h"
#include "services/fabric/store/store.h"
#include "services/fabric/watch_view.h"

namespace mycelium::fabric {

class WatchHub;

// Bounds of a hub.
struct WatchOptions {
  // The log of recent changes, which all watchers share. A watcher that is
  // further behind gets a RESYNC and a snapshot.
  size_t max_log_bytes = size_t{16} << 20;
  size_t max_log_steps = 65'536;
  // A message is closed when it is that long; only one transaction, or one
  // resume over a restart, makes a longer one.
  size_t max_message_bytes = size_t{256} << 10;
  // What one message may be at most; a resume that would need more becomes a
  // RESYNC. Below the 4 MiB that gRPC clients accept by default.
  size_t max_resume_bytes = size_t{3} << 20;
  size_t max_watchers = 100'000;
  // A watcher to which nothing was sent for so long gets a bookmark at the next
  // Tick(); at most a second is promised.
  absl::Duration bookmark_interval = absl::Milliseconds(800);
};

// What one watcher has been told and what it is told next. It holds a position
// in the hub's shared log and no messages of its own, so a slow reader costs
// nothing but time: when it reads on, what it missed is merged by key, and if
// the log has moved past it, it starts anew. Thread-safe.
class Watcher : public std::enable_shared_from_this<Watcher> {
 public:
  // The next message: the bytes of a WatchXResponse, shared by all who get the
  // same. Null: there is none now, and `ready` will be called once when there
  // may be.
  //
  // Unavailable (STOPPING): the fabric stops; nothing will ever follow.
  absl::StatusOr<Record> Next();

  // Ends the watch: `ready` is not called after this, except by a call that is
  // in progress.
  void Cancel();

  ~Watcher();

 private:
  friend class WatchHub;

  struct Snapshot;
  enum class Phase { kStart, kSnapshot, kLive };

  Watcher(WatchHub* hub, std::string app, std::string epoch,
          int64_t after_revision, std::function<void()> ready)
      : hub_(*hub),
        app_(std::move(app)),
        resume_epoch_(std::move(epoch)),
        position_(after_revision),
        ready_(std::move(ready)) {}

  WatchHub& hub_;
  const std::string app_;  // Empty: all.
  const std::string resume_epoch_;

  // The rest is guarded by the hub's mutex.
  int64_t position_;      // Everything up to here has been told.
  int64_t asked_at_ = 0;  // The hub's head when the watch began.
  Phase phase_ = Phase::kStart;
  bool armed_ = false;  // Waits for `ready`.
  bool cancelled_ = false;
  std::shared_ptr<const Snapshot> snapshot_;
  size_t next_message_ = 0;  // Of the snapshot.
  absl::Duration last_sent_ = -absl::InfiniteDuration();
  std::function<void()> ready_;
};

// Turns the store's changes into the messages of one kind of watch, as the
// comment on `service Fabric` in fabric.proto promises: a snapshot, then every
// change in the order of revisions, exact resume, bookmarks, and RESYNC rather
// than a silent gap. Every change is encoded once, however many watch it.
// Thread-safe.
class WatchHub final : public ChangeConsumer {
 public:
  // `store` and `clock` must outlive the hub; it must be fed by a ChangeFeed of
  // the same store. Reads what the store's log still knows, so that watches
  // resume over a restart.
  WatchHub(WatchSchema schema, Store* store, Clock* clock,
           WatchOptions options);
  ~WatchHub() override;

  // A watch from the beginning (`after_revision` 0) or from after what the
  // client has. `ready` runs on the feed's or the ticking thread, with no lock
  // held, and must not block. The watcher must not outlive the hub.
  //
  // ResourceExhausted (OVERLOADED): there are max_watchers already.
  // Unavailable (STOPPING).
  absl::StatusOr<std::shared_ptr<Watcher>> Watch(std::string app,
                                                 std::string epoch,
                                                 int64_t after_revision,
                                                 std::function<void()> ready);

  // Wakes those to whom a bookmark is due. Called several times a second.
  void Tick();

  // From now on every watcher is told that the fabric stops.
  void Stop();

  size_t watcher_count();
  // Resources that there are.
  size_t size();

  void Reset(const StoreSnapshot& snapshot) override;
  void Apply(const Batch& batch) override;
  void Flush() override;

 private:
  friend class Watcher;

  // A resource as it is now.
  struct Item {
    EntryPtr base;
    EntryPtr side;
    std::string app;
    Record put;  // Null while there is no base, and so no resource.
  };
  // A change of one resource.
  struct Delta {
    std::string name;
    std::string app;
    Record record;
  };
  // All that one revision changed.
  struct Step {
    int64_t revision;
    std::vector<Delta> deltas;
    size_t bytes = 0;
  };
  // A message that was composed since the head last moved.
  struct ComposedKey {
    int64_t from;
    std::string app;

    friend bool operator==(const ComposedKey& a, const ComposedKey& b) {
      return a.from == b.from && a.app == b.app;
    }
    template <typename H>
    friend H AbslHashValue(H h, const ComposedKey& key) {
      return H::combine(std::move(h), key.from, key.app);
    }
  };
  struct Composed {
    Record message;  // Null: nothing for this reader in there.
    int64_t to = 0;
  };

  void LoadHistory() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes one entry into the state. Returns the name of the resource that it is
  // part of; empty if none.
  absl::string_view Take(const std::string& key, const EntryPtr& entry)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Encodes the resource `name` as it is now. False if there was none before
  // and is none now.
  bool Encode(absl::string_view name, int64_t revision, Delta* delta)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Append(Step step) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The message that takes a reader of `app` on from `from`. False: that is no
  // longer known, or too much for one message.
  bool Compose(int64_t from, const std::string& app, Composed* composed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Record Message(int64_t revision, v1::WatchKind kind,
                 const std::vector<Record>& records) const;
  Record Bookmark() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What there is of `app`, as of a revision that is not below `not_before`.
  std::shared_ptr<const Watcher::Snapshot> SnapshotFor(const std::string& app,
                                                       int64_t not_before)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Record> NextFor(Watcher* watcher);
  Record NextLive(Watcher* watcher) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Record StartSnapshot(Watcher* watcher, bool resync)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remove(Watcher* watcher);
  // Wakes the watchers in `woken` without the lock.
  static void Wake(const std::vector<std::shared_ptr<Watcher>>& woken);

  const WatchSchema schema_;
  Store& store_;
  Clock& clock_;
  const WatchOptions options_;
  const std::string epoch_;

  Mutex mutex_;
  absl::btree_map<std::string, Item, std::less<>> items_
      ABSL_GUARDED_BY(mutex_);
  size_t size_ ABSL_GUARDED_BY(mutex_) = 0;
  // The revision that `items_` are true at.
  int64_t head_ ABSL_GUARDED_BY(mutex_) = 0;
  // The log, oldest first, and the revision after which it is complete.
  std::deque<Step> log_ ABSL_GUARDED_BY(mutex_);
  size_t log_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t floor_ ABSL_GUARDED_BY(mutex_) = 0;
  // Steps up to here, from before this process, carry the state of this
  // revision: a reader from before gets all of them in one message.
  int64_t barrier_ ABSL_GUARDED_BY(mutex_) = 0;
  // What the steps since the last Flush() touched.
  absl::flat_hash_set<std::string> touched_apps_ ABSL_GUARDED_BY(mutex_);
  bool touched_ ABSL_GUARDED_BY(mutex_) = false;

  // Messages that several readers get: valid while the head does not move.
  absl::flat_hash_map<ComposedKey, Composed> composed_ ABSL_GUARDED_BY(mutex_);
  Record bookmark_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, std::shared_ptr<const Watcher::Snapshot>>
      snapshots_ ABSL_GUARDED_BY(mutex_);
  // When the first of them was made.
  absl::Duration snapshots_since_ ABSL_GUARDED_BY(mutex_);

  absl::flat_hash_map<Watcher*, std::weak_ptr<Watcher>> watchers_
      ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_WATCH_HUB_H_
