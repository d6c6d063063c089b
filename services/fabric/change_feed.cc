#include "services/fabric/change_feed.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "glog/logging.h"

namespace mycelium::fabric {
namespace {

// Read at once; whoever writes faster than this is followed in several steps.
constexpr size_t kReadBytes = size_t{4} << 20;

}  // namespace

ChangeFeed::ChangeFeed(Store* store, std::vector<ChangeConsumer*> consumers,
                       Threads threads)
    : store_(*store), consumers_(std::move(consumers)) {
  ResetAll();
  if (threads == Threads::kNone) return;
  listener_ = store_.OnRevision([this](int64_t revision) {
    MutexLock lock(mutex_);
    newest_ = std::max(newest_, revision);
    changed_.NotifyOne();
  });
  {
    MutexLock lock(mutex_);
    newest_ = std::max(newest_, store_.Revision());
  }
  thread_ = std::thread([this] { Run(); });
}

ChangeFeed::~ChangeFeed() {
  listener_.reset();
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyOne();
  }
  if (thread_.joinable()) thread_.join();
}

void ChangeFeed::Run() {
  while (true) {
    {
      MutexLock lock(mutex_);
      while (!stopping_ && newest_ <= applied_) changed_.Wait(mutex_);
      if (stopping_) return;
    }
    Pump();
  }
}

void ChangeFeed::Pump() {
  bool applied_any = false;
  while (true) {
    const absl::StatusOr<Changes> changes =
        store_.ReadChanges(applied_, kReadBytes);
    if (!changes.ok()) {
      LOG(WARNING) << "the store forgot changes before they were read, so all "
                      "watchers start anew: "
                   << changes.status();
      ResetAll();
      applied_any = true;
      break;
    }
    for (const std::shared_ptr<const Batch>& batch : changes->batches) {
      for (ChangeConsumer* consumer : consumers_) consumer->Apply(*batch);
      applied_ = batch->revision;
      applied_any = true;
    }
    if (applied_ >= changes->revision) break;
  }
  if (!applied_any) return;
  for (ChangeConsumer* consumer : consumers_) consumer->Flush();
}

void ChangeFeed::ResetAll() {
  const StoreSnapshot snapshot = store_.Snapshot();
  for (ChangeConsumer* consumer : consumers_) consumer->Reset(snapshot);
  applied_ = snapshot.revision;
}

}  // namespace mycelium::fabric
