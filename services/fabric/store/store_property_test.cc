// Random histories: one thread against a model that is small enough to be
// believed, and many threads whose results must fit one order.
//
// --seeds=A,B,… runs other seeds than the usual ones.

#include <gflags/gflags.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/fake_clock.h"
#include "lib/base/file.h"
#include "lib/base/mutex.h"
#include "services/fabric/store/memory_store.h"
#include "services/fabric/store/sqlite_store.h"
#include "services/fabric/store/store.h"
#include "services/fabric/store/test_event.h"
#include "services/fabric/store/watch.h"

DEFINE_string(seeds, "1,2,3,4,5,6,7,8", "seeds of the random histories");
DEFINE_int32(steps, 2000, "operations per seed against the model");

namespace mycelium::fabric {
namespace {

std::vector<uint32_t> Seeds() {
  std::vector<uint32_t> seeds;
  for (const absl::string_view text : absl::StrSplit(FLAGS_seeds, ',')) {
    uint32_t seed = 0;
    if (absl::SimpleAtoi(text, &seed)) seeds.push_back(seed);
  }
  return seeds;
}

// What a store is: a map, a list of changes, and leases.
class Model {
 public:
  struct Lease {
    absl::Duration ttl;
    absl::Duration deadline;
  };
  // Key to entry; null: deleted.
  using Delta = std::map<std::string, std::optional<Entry>>;

  TxnResponse Txn(const TxnRequest& request) {
    TxnResponse response{.succeeded = true};
    for (size_t i = 0; i < request.compares.size() && response.succeeded; ++i) {
      if (Holds(request.compares[i])) continue;
      response.succeeded = false;
      response.failed_compare = i;
    }
    std::map<std::string, Entry> after = state;
    for (const Op& op :
         response.succeeded ? request.then_ops : request.else_ops) {
      Apply(op, after);
    }
    response.changed = Commit(std::move(after));
    response.revision = revision();
    return response;
  }

  // Whether a transaction puts under a lease that is not alive.
  bool Refused(const TxnRequest& request) const {
    const bool holds =
        std::all_of(request.compares.begin(), request.compares.end(),
                    [&](const Compare& compare) { return Holds(compare); });
    const std::vector<Op>& ops = holds ? request.then_ops : request.else_ops;
    return std::any_of(ops.begin(), ops.end(), [&](const Op& op) {
      return op.lease != kNoLease && !leases.contains(op.lease);
    });
  }

  void EndLease(LeaseId id) {
    std::map<std::string, Entry> after = state;
    std::erase_if(after,
                  [&](const auto& item) { return item.second.lease == id; });
    Commit(std::move(after));
    leases.erase(id);
  }

  // Ends overdue leases, the longest overdue first.
  void Tick(absl::Duration now) {
    while (true) {
      const auto next = std::min_element(
          leases.begin(), leases.end(), [](const auto& a, const auto& b) {
            return std::pair(a.second.deadline, a.first) <
                   std::pair(b.second.deadline, b.first);
          });
      if (next == leases.end() || next->second.deadline > now) return;
      EndLease(next->first);
    }
  }

  int64_t revision() const { return static_cast<int64_t>(log.size()); }

  std::map<std::string, Entry> state;
  // The change of revision r is at r - 1; the state after it is at r.
  std::vector<Delta> log;
  std::vector<std::map<std::string, Entry>> history = {{}};
  std::map<LeaseId, Lease> leases;

 private:
  bool Holds(const Compare& compare) const {
    if (compare.kind == Compare::Kind::kLeaseAlive) {
      return leases.contains(compare.lease);
    }
    const auto found = state.find(compare.key);
    if (found == state.end()) return compare.revision == 0;
    return compare.revision == (compare.kind == Compare::Kind::kModRevision
                                    ? found->second.mod_revision
                                    : found->second.create_revision);
  }

  void Apply(const Op& op, std::map<std::string, Entry>& after) const {
    if (op.kind != Op::Kind::kPut) {
      std::erase_if(after, [&](const auto& item) {
        return op.kind == Op::Kind::kDelete
                   ? item.first == op.key
                   : absl::StartsWith(item.first, op.key);
      });
      return;
    }
    Entry entry{.key = op.key,
                .value = op.value,
                .create_revision = revision() + 1,
                .mod_revision = revision() + 1,
                .version = 1,
                .lease = op.lease};
    const auto found = after.find(op.key);
    if (found != after.end()) {
      // A second put of one transaction counts for nothing.
      const bool again = found->second.mod_revision == revision() + 1;
      entry.create_revision = found->second.create_revision;
      entry.version = found->second.version + (again ? 0 : 1);
    }
    after[op.key] = entry;
  }

  bool Commit(std::map<std::string, Entry> after) {
    Delta delta;
    for (const auto& [key, entry] : state) {
      if (!after.contains(key)) delta[key] = std::nullopt;
    }
    for (const auto& [key, entry] : after) {
      if (entry.mod_revision == revision() + 1) delta[key] = entry;
    }
    if (delta.empty()) return false;
    state = std::move(after);
    log.push_back(std::move(delta));
    history.push_back(state);
    return true;
  }
};

std::string Describe(const Entry& entry) {
  return absl::StrCat(entry.key, "=", entry.value, " ", entry.create_revision,
                      " ", entry.mod_revision, " ", entry.version, " ",
                      entry.lease);
}

std::vector<std::string> Describe(const std::map<std::string, Entry>& state) {
  std::vector<std::string> lines;
  for (const auto& [key, entry] : state) lines.push_back(Describe(entry));
  return lines;
}

std::vector<std::string> Describe(
    const std::vector<std::shared_ptr<const Entry>>& entries) {
  std::vector<std::string> lines;
  for (const auto& entry : entries) lines.push_back(Describe(*entry));
  return lines;
}

std::vector<std::string> Describe(const Model::Delta& delta) {
  std::vector<std::string> lines;
  for (const auto& [key, entry] : delta) {
    lines.push_back(entry ? Describe(*entry) : absl::StrCat("-", key));
  }
  return lines;
}

std::vector<std::string> Describe(const Batch& batch) {
  std::vector<std::string> lines;
  for (const Change& change : batch.changes) {
    lines.push_back(change.deleted() ? absl::StrCat("-", change.key())
                                     : Describe(*change.entry));
  }
  return lines;
}

struct Variant {
  std::string name;
  bool durable = false;
  StoreOptions::Threads threads = StoreOptions::Threads::kOwn;
};

void PrintTo(const Variant& variant, std::ostream* out) {
  *out << variant.name;
}

class StorePropertyTest : public testing::TestWithParam<Variant> {
 protected:
  void SetUp() override {
    // Histories have thousands of commits; what a sync costs is not the point.
    if (::access("/dev/shm", W_OK) == 0) ::setenv("TMPDIR", "/dev/shm", 1);
    options_.clock = &clock_;
    options_.threads = GetParam().threads;
  }

  // A new store, or the same durable one opened again.
  void Open() {
    store_.reset();
    if (!GetParam().durable) {
      store_ = NewMemoryStore(options_);
      return;
    }
    auto store =
        OpenSqliteStore(JoinPath(directory_->path(), "fabric.db"), options_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  void OpenNew() {
    store_.reset();
    absl::StatusOr<TempDirectory> directory = TempDirectory::Create("property");
    ASSERT_TRUE(directory.ok()) << directory.status();
    directory_ = std::make_unique<TempDirectory>(*std::move(directory));
    Open();
  }

  FakeClock clock_{absl::FromUnixSeconds(1'700'000'000)};
  StoreOptions options_;
  std::unique_ptr<TempDirectory> directory_;
  std::unique_ptr<Store> store_;
};

// A store and its model, driven side by side.
class ModelTest : public StorePropertyTest {
 protected:
  uint32_t Below(uint32_t bound) { return random_() % bound; }

  std::string RandomKey() {
    static constexpr absl::string_view kParts[] = {"a", "b", "a/", "\xff"};
    std::string key(kParts[Below(4)]);
    while (Below(2) == 0) absl::StrAppend(&key, kParts[Below(4)]);
    return key;
  }

  LeaseId RandomLease() {
    return Below(3) == 0 ? static_cast<LeaseId>(1 + Below(6)) : kNoLease;
  }

  Compare RandomCompare() {
    const std::string key = RandomKey();
    const auto found = model_.state.find(key);
    const int64_t mod =
        found == model_.state.end() ? 0 : found->second.mod_revision;
    switch (Below(5)) {
      case 0:
        return Compare::Absent(key);
      case 1:
        return Compare::LeaseAlive(static_cast<LeaseId>(1 + Below(6)));
      case 2:
        return Compare::CreateRevision(key, mod);
      case 3:
        return Compare::ModRevision(key, Below(20));
      default:
        return Compare::ModRevision(key, mod);
    }
  }

  std::vector<Op> RandomOps() {
    std::vector<Op> ops;
    for (uint32_t i = Below(4); i > 0; --i) {
      switch (Below(8)) {
        case 0:
          ops.push_back(Op::DeletePrefix(RandomKey()));
          break;
        case 1:
        case 2:
          ops.push_back(Op::Delete(RandomKey()));
          break;
        default:
          ops.push_back(
              Op::Put(RandomKey(), std::string(Below(30), 'v'), RandomLease()));
      }
    }
    return ops;
  }

  TxnRequest RandomTxn() {
    TxnRequest request;
    for (uint32_t i = Below(3); i > 0; --i) {
      request.compares.push_back(RandomCompare());
    }
    request.then_ops = RandomOps();
    request.else_ops = RandomOps();
    return request;
  }

  // What the model says to a transaction, in words.
  std::string Expected(const TxnRequest& request) {
    if (model_.Refused(request)) return std::string(kReasonNoLease);
    return Outcome(model_.Txn(request));
  }
  static std::string Outcome(const TxnResponse& response) {
    return absl::StrCat("succeeded ", response.succeeded, " changed ",
                        response.changed, " revision ", response.revision,
                        " compare ",
                        static_cast<int>(response.failed_compare.value_or(99)));
  }

  void TxnStep() {
    const TxnRequest request = RandomTxn();
    const absl::StatusOr<TxnResponse> got = store_->Txn(request);
    EXPECT_EQ(got.ok() ? Outcome(*got) : ReasonOf(got.status()),
              Expected(request));
  }

  // Many requests before the first answer, so that the store takes them in
  // groups and evaluates some on top of others that are not committed.
  void BurstStep() {
    const uint32_t count = 1 + Below(40);
    std::vector<std::string> want(count);
    std::vector<std::string> got(count);
    TestEvent answered;
    std::atomic<uint32_t> left = count;
    const auto answer = [&](uint32_t i, std::string text) {
      got[i] = std::move(text);
      if (--left == 0) answered.Notify();
    };
    for (uint32_t i = 0; i < count; ++i) {
      const LeaseId id = 1 + Below(6);
      const bool alive = model_.leases.contains(id);
      const uint32_t dice = Below(8);
      if (dice == 0) {
        const absl::Duration ttl = absl::Seconds(1 + Below(20));
        want[i] = alive ? std::string(kReasonLeaseExists) : absl::StrCat(id);
        if (!alive) model_.leases[id] = {ttl, clock_.Monotonic() + ttl};
        store_->GrantAsync(ttl, id,
                           [&answer, i](const absl::StatusOr<LeaseId>& lease) {
                             answer(i, lease.ok() ? absl::StrCat(*lease)
                                                  : ReasonOf(lease.status()));
                           });
      } else if (dice == 1) {
        if (alive) model_.EndLease(id);
        want[i] = alive ? absl::StrCat(model_.revision())
                        : std::string(kReasonNoLease);
        store_->RevokeAsync(
            id, [&answer, i](const absl::StatusOr<int64_t>& revision) {
              answer(i, revision.ok() ? absl::StrCat(*revision)
                                      : ReasonOf(revision.status()));
            });
      } else {
        TxnRequest request = RandomTxn();
        want[i] = Expected(request);
        store_->TxnAsync(
            std::move(request),
            [&answer, i](const absl::StatusOr<TxnResponse>& response) {
              answer(i, response.ok() ? Outcome(*response)
                                      : ReasonOf(response.status()));
            });
      }
    }
    answered.Wait();
    EXPECT_EQ(got, want);
  }

  void LeaseStep() {
    const LeaseId id = 1 + Below(6);
    const bool alive = model_.leases.contains(id);
    const absl::Duration now = clock_.Monotonic();
    switch (Below(4)) {
      case 0: {
        const absl::Duration ttl = absl::Seconds(1 + Below(20));
        EXPECT_EQ(store_->Grant(ttl, id).ok(), !alive);
        if (!alive) model_.leases[id] = {ttl, now + ttl};
        break;
      }
      case 1: {
        EXPECT_EQ(store_->Revoke(id).ok(), alive);
        if (alive) model_.EndLease(id);
        break;
      }
      case 2: {
        EXPECT_EQ(store_->KeepAlive(id).ok(), alive);
        if (alive) model_.leases[id].deadline = now + model_.leases[id].ttl;
        break;
      }
      default: {
        clock_.Advance(absl::Milliseconds(Below(8000)));
        EXPECT_TRUE(store_->Tick().ok());
        model_.Tick(clock_.Monotonic());
      }
    }
  }

  void ReadStep() {
    RangeRequest request = Below(2) == 0 ? RangeRequest::Prefix("")
                                         : RangeRequest::Prefix(RandomKey());
    if (Below(3) == 0) request.scope = RangeRequest::Scope::kKey;
    if (Below(2) == 0) request.limit = 1 + Below(5);
    if (Below(2) == 0) request.after_key = RandomKey();
    if (Below(2) == 0) {
      request.at_revision = static_cast<int64_t>(
          Below(static_cast<uint32_t>(model_.revision()) + 1));
    }
    const absl::StatusOr<RangeResponse> got = store_->Range(request);
    const int64_t oldest = std::max(opened_at_, store_->CompactRevision());
    if (request.at_revision != 0 && request.at_revision < oldest) {
      EXPECT_EQ(ReasonOf(got.status()), kReasonCompacted);
      return;
    }
    ASSERT_TRUE(got.ok()) << got.status();
    const int64_t at =
        request.at_revision == 0 ? model_.revision() : request.at_revision;
    EXPECT_EQ(got->revision, at);
    std::vector<std::string> want;
    bool more = false;
    for (const auto& [key, entry] : model_.history[static_cast<size_t>(at)]) {
      const bool in_range = request.scope == RangeRequest::Scope::kKey
                                ? key == request.key
                                : absl::StartsWith(key, request.key);
      if (!in_range || (!request.after_key.empty() && key <= request.after_key))
        continue;
      if (request.limit != 0 && want.size() == request.limit) {
        more = true;
        break;
      }
      want.push_back(Describe(entry));
    }
    EXPECT_EQ(Describe(got->entries), want);
    EXPECT_EQ(got->more, more);
  }

  void ResumeStep() {
    const int64_t after = static_cast<int64_t>(
        Below(static_cast<uint32_t>(model_.revision()) + 1));
    const absl::StatusOr<Changes> got =
        store_->ReadChanges(after, Below(2) == 0 ? 2000 : size_t{1} << 30);
    if (after < store_->CompactRevision()) {
      EXPECT_EQ(ReasonOf(got.status()), kReasonCompacted);
      return;
    }
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->revision, model_.revision());
    EXPECT_EQ(got->batches.empty(), after == model_.revision());
    int64_t revision = after;
    for (const auto& batch : got->batches) {
      EXPECT_EQ(batch->revision, ++revision);
      EXPECT_EQ(Describe(*batch),
                Describe(model_.log[static_cast<size_t>(revision - 1)]));
    }
  }

  void RestartStep() {
    if (!GetParam().durable) return;
    Open();
    opened_at_ = model_.revision();
    for (auto& [id, lease] : model_.leases) {
      lease.deadline = clock_.Monotonic() + lease.ttl;
    }
  }

  void CheckAll() {
    const StoreSnapshot snapshot = store_->Snapshot();
    ASSERT_EQ(snapshot.revision, model_.revision());
    ASSERT_EQ(Describe(snapshot.entries), Describe(model_.state));
    ASSERT_EQ(snapshot.leases.size(), model_.leases.size());
    for (const LeaseInfo& lease : snapshot.leases) {
      ASSERT_EQ(lease.key_count, static_cast<size_t>(std::count_if(
                                     model_.state.begin(), model_.state.end(),
                                     [&](const auto& item) {
                                       return item.second.lease == lease.id;
                                     })));
    }
  }

  void Step() {
    const uint32_t dice = Below(100);
    if (dice < 10) {
      BurstStep();
    } else if (dice < 55) {
      TxnStep();
    } else if (dice < 75) {
      LeaseStep();
    } else if (dice < 85) {
      ReadStep();
    } else if (dice < 95) {
      ResumeStep();
    } else if (dice < 98) {
      EXPECT_TRUE(
          store_->Compact(std::max<int64_t>(0, model_.revision() - Below(50)))
              .ok());
    } else {
      RestartStep();
    }
  }

  std::mt19937 random_;
  Model model_;
  int64_t opened_at_ = 0;
};

TEST_P(ModelTest, BehavesLikeTheModel) {
  options_.max_log_batches = 200;
  for (const uint32_t seed : Seeds()) {
    random_.seed(seed);
    model_ = Model();
    opened_at_ = 0;
    OpenNew();
    for (int step = 0; step < FLAGS_steps; ++step) {
      SCOPED_TRACE(absl::StrCat("seed ", seed, ", step ", step));
      Step();
      CheckAll();
      if (HasFailure()) return;
    }
  }
}

class HistoryTest : public StorePropertyTest {};

// Revisions say in which order the transactions claim to have happened. That
// order must agree with what each of them saw, and with real time: what was
// answered before another call began comes before it.
TEST_P(HistoryTest, ConcurrentTransactionsAreLinearizable) {
  constexpr int kThreads = 8;
  constexpr int kKeys = 5;
  constexpr int kOperations = 400;
  struct Write {
    int64_t revision;
    std::string key;
    std::string value;
    // The revision that the writer saw the key at: its compare.
    int64_t replaced;
  };
  for (const uint32_t seed : Seeds()) {
    OpenNew();
    std::vector<std::vector<Write>> writes(kThreads);
    // The highest revision that anyone has been told of.
    std::atomic<int64_t> acknowledged = 0;
    std::atomic<int> violations = 0;
    const auto raise = [&](int64_t revision) {
      int64_t seen = acknowledged.load();
      while (seen < revision &&
             !acknowledged.compare_exchange_weak(seen, revision)) {
      }
    };
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937 random(seed * 100 + static_cast<uint32_t>(t));
        for (int i = 0; i < kOperations; ++i) {
          const std::string key = absl::StrCat("key/", random() % kKeys);
          const int64_t before_read = acknowledged.load();
          const absl::StatusOr<RangeResponse> read =
              store_->Range(RangeRequest::Key(key));
          if (!read.ok() || read->revision < before_read) ++violations;
          raise(read->revision);
          const int64_t replaced =
              read->entries.empty() ? 0 : read->entries[0]->mod_revision;
          const std::string value = absl::StrCat(t, "/", i);
          const int64_t before_write = acknowledged.load();
          const absl::StatusOr<TxnResponse> response =
              store_->Txn({.compares = {Compare::ModRevision(key, replaced)},
                           .then_ops = {Op::Put(key, value)}});
          if (!response.ok() || response->revision < before_write ||
              (response->succeeded && response->revision <= before_write)) {
            ++violations;
          }
          if (!response.ok()) continue;
          if (response->succeeded) {
            writes[static_cast<size_t>(t)].push_back(
                {response->revision, key, value, replaced});
          } else if ((response->current ? response->current->mod_revision
                                        : 0) == replaced) {
            ++violations;
          }
          raise(response->revision);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();

    EXPECT_EQ(violations, 0) << "seed " << seed;
    std::map<int64_t, Write> by_revision;
    for (const auto& mine : writes) {
      int64_t last = 0;
      for (const Write& write : mine) {
        EXPECT_GT(write.revision, last) << "a thread saw time go back";
        last = write.revision;
        EXPECT_TRUE(by_revision.emplace(write.revision, write).second);
      }
    }
    // No two compare-and-sets replaced the same version, and the log tells the
    // same story.
    const absl::StatusOr<Changes> changes =
        store_->ReadChanges(0, size_t{1} << 30);
    ASSERT_TRUE(changes.ok());
    ASSERT_EQ(changes->batches.size(), by_revision.size());
    std::map<std::string, int64_t> last_write;
    for (const auto& batch : changes->batches) {
      const auto found = by_revision.find(batch->revision);
      ASSERT_NE(found, by_revision.end());
      const Write& write = found->second;
      ASSERT_EQ(batch->changes.size(), 1u);
      EXPECT_EQ(batch->changes[0].entry->key, write.key);
      EXPECT_EQ(batch->changes[0].entry->value, write.value);
      EXPECT_EQ(write.replaced, last_write[write.key]);
      last_write[write.key] = write.revision;
    }
    EXPECT_GT(by_revision.size(), size_t{kOperations});
    if (HasFailure()) return;
  }
}

TEST_P(HistoryTest, ReadersSeeWholeTransactionsOnly) {
  // Every transaction writes one value under all keys, or deletes them all, so
  // whoever sees two values has seen half of one.
  constexpr int kRounds = 300;
  const std::vector<std::string> keys = {"a", "b", "c", "d"};
  OpenNew();
  std::atomic<bool> done = false;
  std::atomic<int> torn = 0;
  std::atomic<int64_t> reads = 0;
  std::thread reader([&] {
    int64_t last = 0;
    while (!done.load()) {
      const absl::StatusOr<RangeResponse> read =
          store_->Range(RangeRequest::Prefix(""));
      std::set<std::string> values;
      for (const auto& entry : read->entries) {
        values.insert(entry->value);
        if (entry->mod_revision > read->revision) ++torn;
      }
      if (values.size() > 1 ||
          (read->entries.size() != keys.size() && !read->entries.empty())) {
        ++torn;
      }
      if (read->revision < last) ++torn;
      last = read->revision;
      ++reads;
    }
  });
  Mutex mutex;
  CondVar delivered;
  int64_t watched = 0;
  auto watch = StoreWatch::Start(
      store_.get(), {},
      [&](absl::StatusOr<std::shared_ptr<const Batch>> batch) {
        MutexLock lock(mutex);
        if (!batch.ok() || (*batch)->changes.size() != keys.size() ||
            (*batch)->revision != watched + 1) {
          ++torn;
        }
        ++watched;
        delivered.NotifyAll();
      });
  ASSERT_TRUE(watch.ok());
  for (int round = 0; round < kRounds; ++round) {
    TxnRequest request;
    for (const std::string& key : keys) {
      request.then_ops.push_back(
          round % 7 == 6 ? Op::Delete(key) : Op::Put(key, absl::StrCat(round)));
    }
    store_->TxnAsync(std::move(request), [](const auto&) {});
    if (round % 10 == 0) {
      ASSERT_TRUE(store_->Txn({}).ok());
    }
  }
  {
    MutexLock lock(mutex);
    while (watched < kRounds) delivered.Wait(mutex);
  }
  done = true;
  reader.join();

  EXPECT_EQ(torn, 0);
  EXPECT_GT(reads, 0);
  EXPECT_EQ(store_->Revision(), kRounds);
}

std::string NameOf(const testing::TestParamInfo<Variant>& info) {
  return info.param.name;
}

const Variant kMemory = {"Memory", false, StoreOptions::Threads::kOwn};
const Variant kMemoryAlone = {"MemoryWithoutThreads", false,
                              StoreOptions::Threads::kNone};
const Variant kSqlite = {"Sqlite", true, StoreOptions::Threads::kOwn};

INSTANTIATE_TEST_SUITE_P(Stores, ModelTest,
                         testing::Values(kMemory, kMemoryAlone, kSqlite),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Stores, HistoryTest, testing::Values(kMemory, kSqlite),
                         NameOf);

}  // namespace
}  // namespace mycelium::fabric

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  gflags::ParseCommandLineFlags(&argc, &argv, /*remove_flags=*/true);
  return RUN_ALL_TESTS();
}
