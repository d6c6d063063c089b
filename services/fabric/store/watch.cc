#include "services/fabric/store/watch.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>

#include "absl/strings/match.h"
#include "lib/base/status_macros.h"

namespace mycelium::fabric {
namespace {

// How much is taken from the log at a time.
constexpr size_t kReadBytes = size_t{256} << 10;

}  // namespace

StoreWatch::StoreWatch(Store* store, Options options, Sink sink)
    : store_(*store),
      options_(std::move(options)),
      sink_(std::move(sink)),
      cursor_(options_.after_revision),
      wanted_(options_.after_revision) {}

absl::StatusOr<std::unique_ptr<StoreWatch>> StoreWatch::Start(Store* store,
                                                              Options options,
                                                              Sink sink) {
  MYC_ASSIGN_OR_RETURN(const Changes changes,
                       store->ReadChanges(options.after_revision, 0));
  std::unique_ptr<StoreWatch> watch(
      new StoreWatch(store, std::move(options), std::move(sink)));
  // The listener first: what is committed after that is announced, and what
  // was before is delivered here.
  watch->listener_ = store->OnRevision(
      [raw = watch.get()](int64_t revision) { raw->Deliver(revision); });
  watch->Deliver(std::max(changes.revision, store->Revision()));
  return watch;
}

void StoreWatch::Deliver(int64_t revision) {
  int64_t cursor = 0;
  {
    MutexLock lock(mutex_);
    wanted_ = std::max(wanted_, revision);
    if (delivering_ || ended_ || cursor_ >= wanted_) return;
    delivering_ = true;
    cursor = cursor_;
  }
  while (true) {
    cursor = DeliverSome(cursor);
    MutexLock lock(mutex_);
    cursor_ = cursor;
    ended_ = cursor < 0;
    if (ended_ || cursor_ >= wanted_) {
      delivering_ = false;
      return;
    }
  }
}

int64_t StoreWatch::DeliverSome(int64_t cursor) {
  const absl::StatusOr<Changes> changes =
      store_.ReadChanges(cursor, kReadBytes);
  if (!changes.ok()) {
    sink_(changes.status());
    return -1;
  }
  for (const std::shared_ptr<const Batch>& batch : changes->batches) {
    std::shared_ptr<const Batch> filtered = Filter(batch);
    if (filtered != nullptr) sink_(std::move(filtered));
    cursor = batch->revision;
  }
  return cursor;
}

std::shared_ptr<const Batch> StoreWatch::Filter(
    const std::shared_ptr<const Batch>& batch) const {
  if (options_.prefixes.empty()) return batch;
  const auto matches = [&](const Change& change) {
    return std::any_of(options_.prefixes.begin(), options_.prefixes.end(),
                       [&](const std::string& prefix) {
                         return absl::StartsWith(change.key(), prefix);
                       });
  };
  const auto count =
      std::count_if(batch->changes.begin(), batch->changes.end(), matches);
  if (count == 0) return nullptr;
  if (static_cast<size_t>(count) == batch->changes.size()) return batch;
  auto part = std::make_shared<Batch>();
  part->revision = batch->revision;
  part->size_bytes = batch->size_bytes;
  std::copy_if(batch->changes.begin(), batch->changes.end(),
               std::back_inserter(part->changes), matches);
  return part;
}

}  // namespace mycelium::fabric
