#include "services/fabric/watch_hub.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "glog/logging.h"
#include "services/fabric/errors.h"
#include "services/fabric/keys.h"

namespace mycelium::fabric {
namespace {

// A cached snapshot is given to other watchers if it is not older than their
// watch, the log takes them on from it, and it is not much older than this many
// steps: else they would get many things twice.
constexpr int64_t kSnapshotReuse = 1'000;
// Nor is it kept for longer: it costs as much memory as the state.
constexpr absl::Duration kSnapshotKept = absl::Seconds(5);

// How many composed messages are kept for other readers while nothing changes.
constexpr size_t kMaxComposed = 64;

// What a record costs beside its bytes.
constexpr size_t kDeltaOverhead = 128;

}  // namespace

// A snapshot as messages, shared by all who start at about the same time.
struct Watcher::Snapshot {
  int64_t revision = 0;
  std::vector<Record> messages;
};

absl::StatusOr<Record> Watcher::Next() { return hub_.NextFor(this); }

void Watcher::Cancel() {
  MutexLock lock(hub_.mutex_);
  cancelled_ = true;
  armed_ = false;
}

Watcher::~Watcher() { hub_.Remove(this); }

WatchHub::WatchHub(WatchSchema schema, Store* store, Clock* clock,
                   WatchOptions options)
    : schema_(std::move(schema)),
      store_(*store),
      clock_(*clock),
      options_(options),
      epoch_(store->Epoch()) {}

WatchHub::~WatchHub() {
  MutexLock lock(mutex_);
  CHECK(watchers_.empty()) << "watchers of " << schema_.name
                           << " outlive their hub";
}

absl::StatusOr<std::shared_ptr<Watcher>> WatchHub::Watch(
    std::string app, std::string epoch, int64_t after_revision,
    std::function<void()> ready) {
  std::shared_ptr<Watcher> watcher(new Watcher(this, std::move(app),
                                               std::move(epoch), after_revision,
                                               std::move(ready)));
  bool refused = false;
  {
    MutexLock lock(mutex_);
    if (stopping_) {
      refused = true;
    } else if (watchers_.size() < options_.max_watchers) {
      watcher->asked_at_ = head_;
      watchers_.emplace(watcher.get(), watcher);
      return watcher;
    }
  }
  if (refused) return StoppingError();
  return FabricError(absl::StatusCode::kResourceExhausted, "OVERLOADED",
                     absl::StrCat("there are ", options_.max_watchers,
                                  " watches of ", schema_.name, " already"));
}

void WatchHub::Remove(Watcher* watcher) {
  MutexLock lock(mutex_);
  watchers_.erase(watcher);
}

size_t WatchHub::watcher_count() {
  MutexLock lock(mutex_);
  return watchers_.size();
}

size_t WatchHub::size() {
  MutexLock lock(mutex_);
  return size_;
}

void WatchHub::Reset(const StoreSnapshot& snapshot) {
  MutexLock lock(mutex_);
  const bool first = head_ == 0 && items_.empty() && floor_ == 0;
  items_.clear();
  log_.clear();
  log_bytes_ = 0;
  composed_.clear();
  snapshots_.clear();
  bookmark_.reset();
  std::vector<std::string> names;
  for (const EntryPtr& entry : snapshot.entries) {
    const absl::string_view name = Take(entry->key, entry);
    if (!name.empty()) names.emplace_back(name);
  }
  size_ = 0;
  for (const std::string& name : names) {
    Delta ignored;
    Encode(name, snapshot.revision, &ignored);
  }
  head_ = snapshot.revision;
  floor_ = snapshot.revision;
  barrier_ = snapshot.revision;
  touched_ = true;
  if (first) LoadHistory();
}

void WatchHub::LoadHistory() {
  const int64_t oldest = store_.CompactRevision();
  // The last change of each resource is enough: whoever resumes from before
  // this process is told what is there now, once.
  absl::flat_hash_map<std::string, std::pair<int64_t, bool>> last;
  int64_t position = oldest;
  while (position < head_) {
    const absl::StatusOr<Changes> changes =
        store_.ReadChanges(position, options_.max_log_bytes);
    if (!changes.ok() || changes->batches.empty()) return;
    for (const std::shared_ptr<const Batch>& batch : changes->batches) {
      if (batch->revision > head_) break;
      for (const Change& change : batch->changes) {
        const absl::string_view key = change.key();
        for (const std::string* prefix :
             {&schema_.base_prefix, &schema_.side_prefix}) {
          if (prefix->empty() || !absl::StartsWith(key, *prefix)) continue;
          last[std::string(key.substr(prefix->size()))].first = batch->revision;
        }
      }
    }
    position = changes->batches.back()->revision;
  }
  floor_ = oldest;
  std::vector<std::pair<int64_t, std::string>> ordered;
  ordered.reserve(last.size());
  for (const auto& [name, change] : last) {
    ordered.emplace_back(change.first, name);
  }
  std::sort(ordered.begin(), ordered.end());
  for (const auto& [revision, name] : ordered) {
    Step step;
    step.revision = revision;
    Delta delta;
    delta.name = name;
    const auto it = items_.find(name);
    if (it != items_.end() && it->second.put != nullptr) {
      delta.app = it->second.app;
      delta.record = it->second.put;
    } else if (schema_.tells_deletions) {
      delta.app = std::string(AppOf(name));
      delta.record = EncodeDelete(schema_.public_key(name), revision);
    } else {
      continue;
    }
    if (!log_.empty() && log_.back().revision == revision) {
      log_bytes_ += delta.record->size() + kDeltaOverhead;
      log_.back().bytes += delta.record->size() + kDeltaOverhead;
      log_.back().deltas.push_back(std::move(delta));
    } else {
      step.deltas.push_back(std::move(delta));
      Append(std::move(step));
    }
  }
}

absl::string_view WatchHub::Take(const std::string& key,
                                 const EntryPtr& entry) {
  const absl::string_view text = key;
  const bool is_base = absl::StartsWith(text, schema_.base_prefix);
  const bool is_side = !is_base && !schema_.side_prefix.empty() &&
                       absl::StartsWith(text, schema_.side_prefix);
  if (!is_base && !is_side) return "";
  const absl::string_view name =
      text.substr((is_base ? schema_.base_prefix : schema_.side_prefix).size());
  auto it = items_.find(name);
  if (it == items_.end()) {
    it = items_.emplace(std::string(name), Item()).first;
  }
  (is_base ? it->second.base : it->second.side) = entry;
  return it->first;
}

bool WatchHub::Encode(absl::string_view name, int64_t revision, Delta* delta) {
  const auto it = items_.find(name);
  Item& item = it->second;
  const bool existed = item.put != nullptr;
  delta->name = it->first;
  if (item.base != nullptr) {
    item.app = schema_.app_of(name, *item.base);
    item.put = EncodePut(schema_.encode(*item.base, item.side.get()));
    if (!existed) ++size_;
    delta->app = item.app;
    delta->record = item.put;
    return true;
  }
  delta->app = item.app;
  item.put.reset();
  if (existed) --size_;
  if (item.side == nullptr) items_.erase(it);
  if (!existed || !schema_.tells_deletions) return false;
  delta->record = EncodeDelete(schema_.public_key(delta->name), revision);
  return true;
}

void WatchHub::Append(Step step) {
  for (const Delta& delta : step.deltas) {
    step.bytes += delta.record->size() + kDeltaOverhead;
  }
  log_bytes_ += step.bytes;
  log_.push_back(std::move(step));
  while (log_.size() > 1 && (log_bytes_ > options_.max_log_bytes ||
                             log_.size() > options_.max_log_steps)) {
    log_bytes_ -= log_.front().bytes;
    floor_ = log_.front().revision;
    log_.pop_front();
  }
}

void WatchHub::Apply(const Batch& batch) {
  MutexLock lock(mutex_);
  // A resource of two entries may change in both; it is one change.
  std::vector<std::string> names;
  for (const Change& change : batch.changes) {
    const absl::string_view name = Take(change.key(), change.entry);
    if (!name.empty()) names.emplace_back(name);
  }
  head_ = batch.revision;
  composed_.clear();
  bookmark_.reset();
  if (names.empty()) return;
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  Step step;
  step.revision = batch.revision;
  for (const std::string& name : names) {
    Delta delta;
    if (!Encode(name, batch.revision, &delta)) continue;
    touched_apps_.insert(delta.app);
    step.deltas.push_back(std::move(delta));
  }
  if (step.deltas.empty()) return;
  touched_ = true;
  Append(std::move(step));
}

void WatchHub::Flush() {
  std::vector<std::shared_ptr<Watcher>> woken;
  {
    MutexLock lock(mutex_);
    if (!std::exchange(touched_, false)) return;
    for (const auto& [pointer, weak] : watchers_) {
      if (!pointer->armed_) continue;
      if (!pointer->app_.empty() && !touched_apps_.contains(pointer->app_)) {
        continue;
      }
      std::shared_ptr<Watcher> watcher = weak.lock();
      if (watcher == nullptr) continue;
      watcher->armed_ = false;
      woken.push_back(std::move(watcher));
    }
    touched_apps_.clear();
  }
  Wake(woken);
}

void WatchHub::Tick() {
  std::vector<std::shared_ptr<Watcher>> woken;
  {
    MutexLock lock(mutex_);
    const absl::Duration now = clock_.Monotonic();
    if (now - snapshots_since_ > kSnapshotKept) snapshots_.clear();
    for (const auto& [pointer, weak] : watchers_) {
      if (!pointer->armed_ ||
          now - pointer->last_sent_ < options_.bookmark_interval) {
        continue;
      }
      std::shared_ptr<Watcher> watcher = weak.lock();
      if (watcher == nullptr) continue;
      watcher->armed_ = false;
      woken.push_back(std::move(watcher));
    }
  }
  Wake(woken);
}

void WatchHub::Stop() {
  std::vector<std::shared_ptr<Watcher>> woken;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    for (const auto& [pointer, weak] : watchers_) {
      if (!pointer->armed_) continue;
      std::shared_ptr<Watcher> watcher = weak.lock();
      if (watcher == nullptr) continue;
      watcher->armed_ = false;
      woken.push_back(std::move(watcher));
    }
  }
  Wake(woken);
}

void WatchHub::Wake(const std::vector<std::shared_ptr<Watcher>>& woken) {
  for (const std::shared_ptr<Watcher>& watcher : woken) watcher->ready_();
}

Record WatchHub::Message(int64_t revision, v1::WatchKind kind,
                         const std::vector<Record>& records) const {
  std::string bytes = EncodeHead(epoch_, revision, kind);
  size_t size = bytes.size();
  for (const Record& record : records) size += record->size();
  bytes.reserve(size);
  for (const Record& record : records) bytes += *record;
  return std::make_shared<const std::string>(std::move(bytes));
}

Record WatchHub::Bookmark() {
  if (bookmark_ == nullptr) {
    bookmark_ = Message(head_, v1::WATCH_KIND_BOOKMARK, {});
  }
  return bookmark_;
}

bool WatchHub::Compose(int64_t from, const std::string& app,
                       Composed* composed) {
  if (from < floor_ || from > head_) return false;
  const ComposedKey key = {from, app};
  const auto cached = composed_.find(key);
  if (cached != composed_.end()) {
    *composed = cached->second;
    return true;
  }
  auto step = std::upper_bound(
      log_.begin(), log_.end(), from,
      [](int64_t revision, const Step& s) { return revision < s.revision; });
  // Oldest first until the message is full, and of each resource only the last.
  std::vector<const Delta*> deltas;
  absl::flat_hash_map<absl::string_view, size_t> index;
  size_t bytes = 0;
  composed->to = head_;
  for (; step != log_.end(); ++step) {
    if (bytes >= options_.max_message_bytes && step->revision > barrier_) {
      composed->to = std::prev(step)->revision;
      break;
    }
    for (const Delta& delta : step->deltas) {
      if (!app.empty() && delta.app != app) continue;
      const auto [it, is_new] = index.emplace(delta.name, deltas.size());
      if (!is_new) {
        // It moves to the end, where its last change belongs.
        bytes -= deltas[it->second]->record->size();
        deltas[it->second] = nullptr;
        it->second = deltas.size();
      }
      deltas.push_back(&delta);
      bytes += delta.record->size();
    }
  }
  if (from < barrier_ && bytes > options_.max_resume_bytes) return false;
  composed->message.reset();
  std::vector<Record> records;
  records.reserve(deltas.size());
  for (const Delta* delta : deltas) {
    if (delta != nullptr) records.push_back(delta->record);
  }
  if (!records.empty()) {
    composed->message = Message(composed->to, v1::WATCH_KIND_CHANGE, records);
  }
  if (composed_.size() >= kMaxComposed) composed_.clear();
  composed_.emplace(key, *composed);
  return true;
}

std::shared_ptr<const Watcher::Snapshot> WatchHub::SnapshotFor(
    const std::string& app, int64_t not_before) {
  const auto cached = snapshots_.find(app);
  if (cached != snapshots_.end() &&
      cached->second->revision >= std::max(floor_, not_before) &&
      cached->second->revision >= head_ - kSnapshotReuse) {
    return cached->second;
  }
  auto snapshot = std::make_shared<Watcher::Snapshot>();
  snapshot->revision = head_;
  std::vector<Record> records;
  size_t bytes = 0;
  const auto flush = [&] {
    if (records.empty()) return;
    snapshot->messages.push_back(Message(0, v1::WATCH_KIND_SNAPSHOT, records));
    records.clear();
    bytes = 0;
  };
  auto begin = items_.begin();
  if (schema_.snapshot_limit != 0) {
    size_t taken = 0;
    for (begin = items_.end();
         begin != items_.begin() && taken < schema_.snapshot_limit;) {
      --begin;
      if (app.empty() || begin->second.app == app) ++taken;
    }
  }
  for (auto it = begin; it != items_.end(); ++it) {
    const Item& item = it->second;
    if (item.put == nullptr || (!app.empty() && item.app != app)) continue;
    records.push_back(item.put);
    bytes += item.put->size();
    if (bytes >= options_.max_message_bytes) flush();
  }
  flush();
  snapshot->messages.push_back(
      Message(snapshot->revision, v1::WATCH_KIND_SNAPSHOT_END, {}));
  // One snapshot per filter at most, and few filters at a time.
  constexpr size_t kMaxCached = 64;
  if (snapshots_.size() > kMaxCached) snapshots_.clear();
  if (snapshots_.empty()) snapshots_since_ = clock_.Monotonic();
  snapshots_[app] = snapshot;
  return snapshot;
}

absl::StatusOr<Record> WatchHub::NextFor(Watcher* watcher) {
  {
    MutexLock lock(mutex_);
    if (!stopping_) {
      watcher->armed_ = false;
      Record record = NextLive(watcher);
      if (record != nullptr) {
        watcher->last_sent_ = clock_.Monotonic();
      } else {
        watcher->armed_ = !watcher->cancelled_;
      }
      return record;
    }
  }
  return StoppingError();
}

Record WatchHub::StartSnapshot(Watcher* watcher, bool resync) {
  watcher->phase_ = Watcher::Phase::kSnapshot;
  watcher->snapshot_ = SnapshotFor(watcher->app_, watcher->asked_at_);
  watcher->next_message_ = 0;
  if (resync) return Message(0, v1::WATCH_KIND_RESYNC, {});
  return NextLive(watcher);
}

Record WatchHub::NextLive(Watcher* watcher) {
  if (watcher->phase_ == Watcher::Phase::kStart) {
    const bool anew = watcher->position_ == 0;
    // A client may know a revision of which the feed has not told yet.
    if (anew || watcher->resume_epoch_ != epoch_ ||
        watcher->position_ < floor_ ||
        watcher->position_ > std::max(head_, store_.Revision())) {
      return StartSnapshot(watcher, /*resync=*/!anew);
    }
    watcher->phase_ = Watcher::Phase::kLive;
  }
  if (watcher->phase_ == Watcher::Phase::kSnapshot) {
    const std::vector<Record>& messages = watcher->snapshot_->messages;
    Record record = messages[watcher->next_message_++];
    if (watcher->next_message_ == messages.size()) {
      watcher->position_ = watcher->snapshot_->revision;
      watcher->snapshot_.reset();
      watcher->phase_ = Watcher::Phase::kLive;
    }
    return record;
  }
  while (watcher->position_ < head_) {
    Composed composed;
    if (!Compose(watcher->position_, watcher->app_, &composed)) {
      return StartSnapshot(watcher, /*resync=*/true);
    }
    watcher->position_ = composed.to;
    if (composed.message != nullptr) return composed.message;
  }
  if (watcher->position_ > head_ ||
      clock_.Monotonic() - watcher->last_sent_ < options_.bookmark_interval) {
    return nullptr;
  }
  return Bookmark();
}

}  // namespace mycelium::fabric
