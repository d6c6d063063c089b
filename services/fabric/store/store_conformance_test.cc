// What every store promises, checked against each of them, with threads of its
// own and without. `Durable` tests are for those that survive a restart.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/clock.h"
#include "lib/base/error.h"
#include "lib/base/fake_clock.h"
#include "lib/base/file.h"
#include "lib/base/mutex.h"
#include "services/fabric/store/memory_store.h"
#include "services/fabric/store/sqlite_store.h"
#include "services/fabric/store/store.h"
#include "services/fabric/store/test_event.h"
#include "services/fabric/store/watch.h"

namespace mycelium::fabric {
namespace {

using ::testing::ElementsAre;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Threads = StoreOptions::Threads;

struct Variant {
  std::string name;
  bool durable = false;
  Threads threads = Threads::kOwn;
};

void PrintTo(const Variant& variant, std::ostream* out) {
  *out << variant.name;
}

class StoreTest : public testing::TestWithParam<Variant> {
 protected:
  void SetUp() override {
    absl::StatusOr<TempDirectory> directory = TempDirectory::Create("store");
    ASSERT_TRUE(directory.ok()) << directory.status();
    directory_ = std::make_unique<TempDirectory>(*std::move(directory));
    options_.clock = &clock_;
    options_.threads = GetParam().threads;
    Open();
  }

  void Open() {
    if (!GetParam().durable) {
      store_ = NewMemoryStore(options_);
      return;
    }
    auto store =
        OpenSqliteStore(JoinPath(directory_->path(), "fabric.db"), options_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  // Opens the store anew: a durable one with what it held, others empty.
  void Reopen() {
    store_.reset();
    Open();
  }

  // Runs a transaction that must be accepted.
  TxnResponse Run(TxnRequest request) {
    absl::StatusOr<TxnResponse> response = store_->Txn(std::move(request));
    EXPECT_TRUE(response.ok()) << response.status();
    return response.ok() ? *response : TxnResponse();
  }
  TxnResponse Put(absl::string_view key, absl::string_view value,
                  LeaseId lease = kNoLease) {
    return Run({.then_ops = {Op::Put(key, value, lease)}});
  }
  TxnResponse Delete(absl::string_view key) {
    return Run({.then_ops = {Op::Delete(key)}});
  }

  RangeResponse Read(const RangeRequest& request) {
    absl::StatusOr<RangeResponse> response = store_->Range(request);
    EXPECT_TRUE(response.ok()) << response.status();
    return response.ok() ? *response : RangeResponse();
  }
  std::vector<std::string> KeysIn(const RangeRequest& request) {
    std::vector<std::string> keys;
    for (const auto& entry : Read(request).entries) keys.push_back(entry->key);
    return keys;
  }
  std::vector<std::string> Keys() { return KeysIn(RangeRequest::Prefix("")); }
  std::shared_ptr<const Entry> Get(absl::string_view key) {
    const RangeResponse response = Read(RangeRequest::Key(key));
    return response.entries.empty() ? nullptr : response.entries.front();
  }

  std::vector<std::shared_ptr<const Batch>> ChangesAfter(int64_t revision) {
    absl::StatusOr<Changes> changes =
        store_->ReadChanges(revision, size_t{1} << 30);
    EXPECT_TRUE(changes.ok()) << changes.status();
    return changes.ok() ? changes->batches
                        : std::vector<std::shared_ptr<const Batch>>();
  }

  LeaseId Grant(absl::Duration ttl, LeaseId id = kNoLease) {
    const absl::StatusOr<LeaseId> lease = store_->Grant(ttl, id);
    EXPECT_TRUE(lease.ok()) << lease.status();
    return lease.ok() ? *lease : kNoLease;
  }
  void Advance(absl::Duration by) {
    clock_.Advance(by);
    EXPECT_TRUE(store_->Tick().ok());
  }

  FakeClock clock_{absl::FromUnixSeconds(1'700'000'000)};
  StoreOptions options_;
  std::unique_ptr<TempDirectory> directory_;
  std::unique_ptr<Store> store_;
};

class DurableStoreTest : public StoreTest {};
class ThreadedStoreTest : public StoreTest {};

TEST_P(StoreTest, BeginsEmptyAtRevisionZeroWithAnEpoch) {
  EXPECT_EQ(store_->Revision(), 0);
  EXPECT_EQ(store_->CompactRevision(), 0);
  EXPECT_THAT(Keys(), IsEmpty());
  EXPECT_THAT(store_->Epoch(), SizeIs(32));
  EXPECT_NE(store_->Epoch(), NewMemoryStore(options_)->Epoch());
}

TEST_P(StoreTest, GivesEachChangingTransactionTheNextRevision) {
  EXPECT_EQ(Put("a", "1").revision, 1);
  EXPECT_EQ(Put("b", "2").revision, 2);
  const TxnResponse both =
      Run({.then_ops = {Op::Put("a", "3"), Op::Delete("b")}});

  EXPECT_TRUE(both.changed);
  EXPECT_EQ(both.revision, 3);
  EXPECT_EQ(store_->Revision(), 3);
  EXPECT_THAT(Keys(), ElementsAre("a"));
}

TEST_P(StoreTest, GivesNoRevisionToTransactionsThatChangeNothing) {
  Put("a", "1");

  const TxnResponse missing = Delete("b");
  const TxnResponse empty = Run({});
  const TxnResponse prefix = Run({.then_ops = {Op::DeletePrefix("x")}});

  for (const TxnResponse& response : {missing, empty, prefix}) {
    EXPECT_TRUE(response.succeeded);
    EXPECT_FALSE(response.changed);
    EXPECT_EQ(response.revision, 1);
  }
  EXPECT_EQ(store_->Revision(), 1);
}

TEST_P(StoreTest, CountsVersionsAndKeepsTheCreateRevision) {
  Put("other", "");
  Put("a", "1");
  Put("a", "1");
  Put("a", "3");

  const auto entry = Get("a");
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(entry->value, "3");
  EXPECT_EQ(entry->create_revision, 2);
  EXPECT_EQ(entry->mod_revision, 4);
  EXPECT_EQ(entry->version, 3);
  EXPECT_EQ(entry->lease, kNoLease);
}

TEST_P(StoreTest, BeginsADeletedKeyAnew) {
  Put("a", "1");
  Put("a", "2");
  Delete("a");
  EXPECT_EQ(Get("a"), nullptr);
  Put("a", "3");

  const auto entry = Get("a");
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(entry->create_revision, 4);
  EXPECT_EQ(entry->version, 1);
}

TEST_P(StoreTest, RunsTheElseBranchAndNamesTheCompareThatFailed) {
  Put("a", "1");
  Put("a", "2");

  const TxnResponse response =
      Run({.compares = {Compare::CreateRevision("a", 1),
                        Compare::ModRevision("a", 1), Compare::Absent("a")},
           .then_ops = {Op::Put("then", "")},
           .else_ops = {Op::Put("else", "")}});

  EXPECT_FALSE(response.succeeded);
  EXPECT_TRUE(response.changed);
  EXPECT_EQ(response.revision, 3);
  EXPECT_EQ(response.failed_compare, 1u);
  ASSERT_NE(response.current, nullptr);
  EXPECT_EQ(response.current->value, "2");
  EXPECT_EQ(response.current->mod_revision, 2);
  EXPECT_THAT(Keys(), ElementsAre("a", "else"));
}

TEST_P(StoreTest, ComparesRevisionsAbsenceAndLeases) {
  Put("a", "1");
  Put("a", "2");
  const LeaseId lease = Grant(absl::Seconds(10));
  const auto holds = [&](const Compare& compare) {
    return Run({.compares = {compare}}).succeeded;
  };

  EXPECT_TRUE(holds(Compare::ModRevision("a", 2)));
  EXPECT_FALSE(holds(Compare::ModRevision("a", 1)));
  EXPECT_FALSE(holds(Compare::ModRevision("a", 0)));
  EXPECT_TRUE(holds(Compare::CreateRevision("a", 1)));
  EXPECT_FALSE(holds(Compare::CreateRevision("a", 2)));
  EXPECT_TRUE(holds(Compare::ModRevision("b", 0)));
  EXPECT_TRUE(holds(Compare::CreateRevision("b", 0)));
  EXPECT_TRUE(holds(Compare::Absent("b")));
  EXPECT_FALSE(holds(Compare::Absent("a")));
  EXPECT_FALSE(holds(Compare::ModRevision("b", 2)));
  EXPECT_TRUE(holds(Compare::LeaseAlive(lease)));
  EXPECT_FALSE(holds(Compare::LeaseAlive(lease + 1)));
  EXPECT_FALSE(holds(Compare::LeaseAlive(kNoLease)));
}

TEST_P(StoreTest, AppliesOperationsInOrderWithOneChangePerKey) {
  Put("p/1", "old");
  Put("p/2", "old");

  Run({.then_ops = {Op::Put("p/3", "lost"), Op::DeletePrefix("p/"),
                    Op::Put("p/2", "new"), Op::Put("q", "1"), Op::Put("q", "2"),
                    Op::Put("r", "1"), Op::Delete("r")}});

  EXPECT_THAT(Keys(), ElementsAre("p/2", "q"));
  EXPECT_EQ(Get("q")->value, "2");
  EXPECT_EQ(Get("q")->version, 1);
  EXPECT_EQ(Get("p/2")->create_revision, 3) << "it was deleted in between";
  EXPECT_EQ(Get("p/2")->version, 1);
  const auto batches = ChangesAfter(2);
  ASSERT_THAT(batches, SizeIs(1));
  std::vector<std::string> changes;
  for (const Change& change : batches[0]->changes) {
    changes.push_back(absl::StrCat(change.deleted() ? "-" : "+", change.key()));
  }
  EXPECT_THAT(changes, ElementsAre("-p/1", "+p/2", "+q"));
}

TEST_P(StoreTest, BeginsAKeyAnewThatATransactionDeletesAndPutsTwice) {
  Put("a", "1");
  Put("a", "2");

  Run({.then_ops = {Op::Delete("a"), Op::Put("a", "3"), Op::Put("a", "4")}});

  EXPECT_EQ(Get("a")->value, "4");
  EXPECT_EQ(Get("a")->create_revision, 3);
  EXPECT_EQ(Get("a")->version, 1);
}

TEST_P(StoreTest, RefusesInvalidRequestsWithoutEffect) {
  const absl::StatusCode invalid = absl::StatusCode::kInvalidArgument;
  const Op good = Op::Put("a", "1");

  EXPECT_EQ(store_->Txn({.then_ops = {good, Op::Put("", "1")}}).status().code(),
            invalid);
  EXPECT_EQ(
      store_->Txn({.then_ops = {good, Op::DeletePrefix("")}}).status().code(),
      invalid);
  EXPECT_EQ(store_->Txn({.compares = {Compare::Absent("")}, .then_ops = {good}})
                .status()
                .code(),
            invalid);
  EXPECT_EQ(store_->Revision(), 0);
}

TEST_P(StoreTest, RefusesWhatIsTooLargeWithoutEffect) {
  options_.max_key_bytes = 8;
  options_.max_value_bytes = 100;
  options_.max_txn_bytes = 150;
  options_.max_txn_ops = 3;
  Reopen();
  const auto reason = [&](TxnRequest request) {
    const absl::Status status = store_->Txn(std::move(request)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    return ReasonOf(status);
  };
  const std::string most(100, 'v');

  EXPECT_EQ(Put("12345678", most).revision, 1);
  EXPECT_EQ(reason({.then_ops = {Op::Put("123456789", "")}}), kReasonTooLarge);
  EXPECT_EQ(reason({.then_ops = {Op::Put("a", most + "v")}}), kReasonTooLarge);
  EXPECT_EQ(reason({.else_ops = {Op::Put("a", most + "v")}}), kReasonTooLarge);
  EXPECT_EQ(reason({.then_ops = {Op::Put("a", most), Op::Put("b", most)}}),
            kReasonTooLarge);
  EXPECT_EQ(reason({.then_ops = std::vector<Op>(4, Op::Delete("a"))}),
            kReasonTooLarge);
  EXPECT_EQ(store_->Revision(), 1);
}

TEST_P(StoreTest, RefusesToOutgrowItsBoundButLetsDeletionsThrough) {
  options_.max_state_bytes = 10'000;
  Reopen();
  const std::string value(1000, 'v');
  int accepted = 0;
  absl::Status status;
  while (status.ok() && accepted < 100) {
    status = store_->Txn({.then_ops = {Op::Put(absl::StrCat(accepted), value)}})
                 .status();
    if (status.ok()) ++accepted;
  }

  EXPECT_EQ(accepted, 8);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), kReasonFull);
  EXPECT_EQ(store_->Revision(), accepted);
  EXPECT_EQ(Put("0", "small").revision, accepted + 1) << "it gets smaller";
  Delete("1");
  Put("new", value);
}

TEST_P(StoreTest, TakesAnyBytesAndOrdersThemUnsigned) {
  const std::string zero("a\0b", 3);
  const std::string high = "a\xff";
  Put(high, std::string("\0\xff", 2));
  Put(zero, "");
  Put("a", "");
  Put("ab", "");
  Put("b", "");
  Put("\xff\xff", "");

  EXPECT_THAT(Keys(), ElementsAre("a", zero, "ab", high, "b", "\xff\xff"));
  EXPECT_THAT(KeysIn(RangeRequest::Prefix("a")),
              ElementsAre("a", zero, "ab", high));
  EXPECT_THAT(KeysIn(RangeRequest::Prefix("\xff")), ElementsAre("\xff\xff"));
  EXPECT_EQ(Get(high)->value, std::string("\0\xff", 2));
}

TEST_P(StoreTest, PagesThroughAPrefix) {
  for (const char* key : {"a", "p/1", "p/2", "p/3", "q"}) Put(key, "");
  RangeRequest request = RangeRequest::Prefix("p/");
  request.limit = 2;

  const RangeResponse first = Read(request);
  request.after_key = first.entries.back()->key;
  const RangeResponse second = Read(request);

  EXPECT_THAT(first.entries, SizeIs(2));
  EXPECT_TRUE(first.more);
  EXPECT_EQ(first.revision, 5);
  ASSERT_THAT(second.entries, SizeIs(1));
  EXPECT_EQ(second.entries[0]->key, "p/3");
  EXPECT_FALSE(second.more);
  EXPECT_THAT(KeysIn({.scope = RangeRequest::Scope::kPrefix,
                      .key = "p/",
                      .after_key = "p/9"}),
              IsEmpty());
  EXPECT_THAT(KeysIn({.scope = RangeRequest::Scope::kPrefix,
                      .key = "p/",
                      .after_key = "a"}),
              ElementsAre("p/1", "p/2", "p/3"));
}

TEST_P(StoreTest, ReadsPastRevisionsAsTheyWere) {
  Put("a", "1");
  Put("b", "1");
  Run({.then_ops = {Op::Put("a", "2"), Op::Delete("b"), Op::Put("c", "1")}});
  Delete("a");
  Put("d", "1");
  const auto at = [&](int64_t revision) {
    RangeRequest request = RangeRequest::Prefix("");
    request.at_revision = revision;
    const RangeResponse response = Read(request);
    EXPECT_EQ(response.revision, revision);
    std::vector<std::string> read;
    for (const auto& entry : response.entries) {
      read.push_back(absl::StrCat(entry->key, "=", entry->value));
    }
    return read;
  };

  EXPECT_THAT(at(1), ElementsAre("a=1"));
  EXPECT_THAT(at(2), ElementsAre("a=1", "b=1"));
  EXPECT_THAT(at(3), ElementsAre("a=2", "c=1"));
  EXPECT_THAT(at(4), ElementsAre("c=1"));
  EXPECT_THAT(at(5), ElementsAre("c=1", "d=1"));
  EXPECT_EQ(Read({.key = "b", .at_revision = 2}).entries.at(0)->value, "1");
  EXPECT_THAT(Read({.key = "b", .at_revision = 3}).entries, IsEmpty());
  EXPECT_THAT(KeysIn({.scope = RangeRequest::Scope::kPrefix,
                      .at_revision = 2,
                      .limit = 1,
                      .after_key = "a"}),
              ElementsAre("b"));
}

TEST_P(StoreTest, RefusesToReadCompactedAndFutureRevisions) {
  for (int i = 0; i < 4; ++i) Put("a", absl::StrCat(i));
  ASSERT_TRUE(store_->Compact(2).ok());

  const absl::Status compacted =
      store_->Range({.key = "a", .at_revision = 1}).status();
  const absl::Status future =
      store_->Range({.key = "a", .at_revision = 5}).status();

  EXPECT_EQ(compacted.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ReasonOf(compacted), kReasonCompacted);
  EXPECT_EQ(MetadataOf(compacted, "compact_revision"), "2");
  EXPECT_EQ(future.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ReasonOf(future), kReasonFutureRevision);
  EXPECT_EQ(MetadataOf(future, "revision"), "4");
  EXPECT_EQ(Read({.key = "a", .at_revision = 2}).entries.at(0)->value, "1");
}

TEST_P(StoreTest, AnswersAsynchronousCallsOnceEach) {
  constexpr int kCalls = 200;
  std::vector<std::atomic<int>> answers(kCalls);
  std::atomic<int64_t> highest = 0;
  std::atomic<int> left = kCalls;
  TestEvent done;
  for (int i = 0; i < kCalls; ++i) {
    store_->TxnAsync({.then_ops = {Op::Put(absl::StrCat(i), "")}},
                     [&, i](absl::StatusOr<TxnResponse> response) {
                       ASSERT_TRUE(response.ok()) << response.status();
                       ++answers[static_cast<size_t>(i)];
                       highest = std::max(highest.load(), response->revision);
                       if (--left == 0) done.Notify();
                     });
  }
  done.Wait();

  for (const std::atomic<int>& count : answers) EXPECT_EQ(count, 1);
  EXPECT_EQ(highest, kCalls);
  EXPECT_EQ(store_->Revision(), kCalls);
}

TEST_P(StoreTest, LetsCallbacksCallTheStore) {
  TestEvent done;
  absl::StatusOr<TxnResponse> inner;
  size_t seen = 0;
  store_->TxnAsync({.then_ops = {Op::Put("a", "")}},
                   [&](const absl::StatusOr<TxnResponse>& response) {
                     ASSERT_TRUE(response.ok());
                     inner = store_->Txn({.then_ops = {Op::Put("b", "")}});
                     seen = Keys().size();
                     done.Notify();
                   });
  done.Wait();

  ASSERT_TRUE(inner.ok()) << inner.status();
  EXPECT_EQ(inner->revision, 2);
  EXPECT_EQ(seen, 2u);
}

TEST_P(StoreTest, AnswersRefusedAsynchronousCallsAtOnce) {
  absl::Status txn;
  absl::Status grant;
  store_->TxnAsync(
      {.then_ops = {Op::Put("", "")}},
      [&](const absl::StatusOr<TxnResponse>& r) { txn = r.status(); });
  store_->GrantAsync(
      absl::ZeroDuration(), kNoLease,
      [&](const absl::StatusOr<LeaseId>& r) { grant = r.status(); });

  EXPECT_EQ(txn.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(grant.code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(StoreTest, GrantsAndRevokesAsynchronously) {
  TestEvent granted;
  LeaseId lease = kNoLease;
  store_->GrantAsync(absl::Seconds(1), kNoLease,
                     [&](const absl::StatusOr<LeaseId>& id) {
                       ASSERT_TRUE(id.ok());
                       lease = *id;
                       granted.Notify();
                     });
  granted.Wait();
  Put("a", "", lease);
  TestEvent revoked;
  int64_t revision = 0;
  store_->RevokeAsync(lease, [&](const absl::StatusOr<int64_t>& at) {
    ASSERT_TRUE(at.ok());
    revision = *at;
    revoked.Notify();
  });
  revoked.Wait();

  EXPECT_EQ(revision, 2);
  EXPECT_THAT(Keys(), IsEmpty());
}

TEST_P(ThreadedStoreTest, RefusesRequestsBeyondItsBoundOnWaitingOnes) {
  options_.max_in_flight = 4;
  Reopen();
  TestEvent blocked;
  TestEvent go_on;
  TestEvent all_answered;
  std::atomic<int> left = 4;
  const auto count = [&](const absl::StatusOr<TxnResponse>& response) {
    EXPECT_TRUE(response.ok()) << response.status();
    if (--left == 0) all_answered.Notify();
  };
  store_->TxnAsync({.then_ops = {Op::Put("a", "")}}, [&](const auto& response) {
    blocked.Notify();
    go_on.Wait();
    count(response);
  });
  blocked.Wait();
  for (int i = 0; i < 3; ++i) {
    store_->TxnAsync({.then_ops = {Op::Put("b", "")}}, count);
  }

  const absl::Status refused =
      store_->Txn({.then_ops = {Op::Put("c", "")}}).status();
  go_on.Notify();
  all_answered.Wait();

  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused), kReasonOverloaded);
  EXPECT_EQ(store_->Revision(), 4);
}

TEST_P(ThreadedStoreTest, AnswersEveryCallBeforeItIsDestroyed) {
  std::atomic<int> answered = 0;
  for (int i = 0; i < 500; ++i) {
    store_->TxnAsync({.then_ops = {Op::Put("a", "")}},
                     [&](const absl::StatusOr<TxnResponse>& response) {
                       if (!response.ok()) {
                         EXPECT_EQ(ReasonOf(response.status()), kReasonClosing);
                       }
                       ++answered;
                     });
  }
  store_.reset();

  EXPECT_EQ(answered, 500);
}

TEST_P(ThreadedStoreTest, RefusesWhatCallbacksAskForWhileItIsDestroyed) {
  std::unique_ptr<Store> store = std::move(store_);
  // reset() clears the pointer before it destroys what it pointed to.
  Store* const raw = store.get();
  absl::Status last;
  std::function<void()> again = [&] {
    raw->TxnAsync({.then_ops = {Op::Put("a", "")}},
                  [&](const absl::StatusOr<TxnResponse>& response) {
                    last = response.status();
                    if (last.ok()) again();
                  });
  };
  again();
  store.reset();

  EXPECT_EQ(ReasonOf(last), kReasonClosing);
}

TEST_P(StoreTest, KeepsEachRevisionAsOneBatch) {
  Put("b", "1");
  Run({.then_ops = {Op::Put("c", "1"), Op::Delete("b"), Op::Put("a", "1")}});

  const auto batches = ChangesAfter(0);
  ASSERT_THAT(batches, SizeIs(2));
  EXPECT_EQ(batches[0]->revision, 1);
  ASSERT_THAT(batches[0]->changes, SizeIs(1));
  EXPECT_FALSE(batches[0]->changes[0].deleted());
  EXPECT_EQ(batches[0]->changes[0].entry->value, "1");
  EXPECT_EQ(batches[0]->changes[0].previous, nullptr);
  EXPECT_EQ(batches[1]->revision, 2);
  ASSERT_THAT(batches[1]->changes, SizeIs(3));
  EXPECT_EQ(batches[1]->changes[0].key(), "a");
  EXPECT_TRUE(batches[1]->changes[1].deleted());
  EXPECT_EQ(batches[1]->changes[1].key(), "b");
  EXPECT_EQ(batches[1]->changes[1].previous->value, "1");
  EXPECT_EQ(batches[1]->changes[1].previous->mod_revision, 1);
  EXPECT_EQ(batches[1]->changes[2].key(), "c");
}

TEST_P(StoreTest, TellsWhatAPutReplaced) {
  Put("a", "1");
  Put("a", "2");

  const Change change = ChangesAfter(1).at(0)->changes.at(0);

  EXPECT_EQ(change.entry->value, "2");
  ASSERT_NE(change.previous, nullptr);
  EXPECT_EQ(change.previous->value, "1");
}

TEST_P(StoreTest, ResumesExactlyAfterAnyRevision) {
  constexpr int64_t kRevisions = 20;
  for (int i = 0; i < kRevisions; ++i) Put("a", absl::StrCat(i));

  for (int64_t after = 0; after <= kRevisions; ++after) {
    const auto batches = ChangesAfter(after);
    ASSERT_THAT(batches, SizeIs(static_cast<size_t>(kRevisions - after)));
    for (size_t i = 0; i < batches.size(); ++i) {
      EXPECT_EQ(batches[i]->revision, after + static_cast<int64_t>(i) + 1);
    }
  }
}

TEST_P(StoreTest, SharesBatchesAmongReaders) {
  Put("a", "1");

  EXPECT_EQ(ChangesAfter(0).at(0), ChangesAfter(0).at(0));
}

TEST_P(StoreTest, BoundsWhatOneReadReturnsButReturnsSomething) {
  for (int i = 0; i < 10; ++i) Put("a", std::string(1000, 'v'));

  const auto one = store_->ReadChanges(0, 0);
  const auto some = store_->ReadChanges(0, 8000);

  ASSERT_TRUE(one.ok());
  EXPECT_THAT(one->batches, SizeIs(1));
  EXPECT_EQ(one->revision, 10);
  ASSERT_TRUE(some.ok());
  EXPECT_GT(some->batches.size(), 1u);
  EXPECT_LT(some->batches.size(), 8u);
  EXPECT_TRUE(store_->ReadChanges(10, 0)->batches.empty());
}

TEST_P(StoreTest, RefusesToResumeFromCompactedAndFutureRevisions) {
  for (int i = 0; i < 5; ++i) Put("a", absl::StrCat(i));
  ASSERT_TRUE(store_->Compact(3).ok());
  ASSERT_TRUE(store_->Compact(1).ok()) << "it is compacted already";

  const absl::Status compacted = store_->ReadChanges(2, 1).status();
  const absl::Status future = store_->ReadChanges(6, 1).status();

  EXPECT_EQ(compacted.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ReasonOf(compacted), kReasonCompacted);
  EXPECT_EQ(MetadataOf(compacted, "compact_revision"), "3");
  EXPECT_EQ(ReasonOf(future), kReasonFutureRevision);
  EXPECT_THAT(ChangesAfter(3), SizeIs(2));
  EXPECT_EQ(store_->CompactRevision(), 3);
  EXPECT_EQ(store_->Compact(6).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(Get("a")->value, "4") << "compaction leaves the state alone";
}

TEST_P(StoreTest, CompactsEverything) {
  Put("a", "1");
  ASSERT_TRUE(store_->Compact(1).ok());

  EXPECT_THAT(ChangesAfter(1), IsEmpty());
  EXPECT_FALSE(store_->ReadChanges(0, 1).ok());
  EXPECT_EQ(Put("b", "1").revision, 2);
  EXPECT_THAT(ChangesAfter(1), SizeIs(1));
}

TEST_P(StoreTest, BoundsItsLogByCount) {
  options_.max_log_batches = 8;
  Reopen();
  for (int i = 0; i < 20; ++i) Put("a", absl::StrCat(i));

  EXPECT_EQ(store_->CompactRevision(), 12);
  EXPECT_THAT(ChangesAfter(12), SizeIs(8));
  EXPECT_EQ(ReasonOf(store_->ReadChanges(11, 1).status()), kReasonCompacted);
  EXPECT_EQ(store_->Stats().log_batches, 8u);
}

TEST_P(StoreTest, BoundsItsLogByBytesButKeepsTheNewestBatch) {
  options_.max_log_bytes = 10'000;
  Reopen();
  for (int i = 0; i < 20; ++i) Put(absl::StrCat(i), std::string(1000, 'v'));

  EXPECT_LE(store_->Stats().log_bytes, 10'000u);
  EXPECT_THAT(store_->Stats().log_batches, Gt(4u));
  Put("large", std::string(20'000, 'v'));
  EXPECT_EQ(store_->Stats().log_batches, 1u);
  EXPECT_THAT(ChangesAfter(20), SizeIs(1));
}

TEST_P(StoreTest, CallsListenersWithReadableRevisions) {
  Mutex mutex;
  CondVar called;
  std::vector<int64_t> revisions;
  auto listener = store_->OnRevision([&](int64_t revision) {
    EXPECT_GE(store_->Revision(), revision);
    MutexLock lock(mutex);
    revisions.push_back(revision);
    called.NotifyAll();
  });
  for (int i = 0; i < 20; ++i) Put("a", "");
  {
    MutexLock lock(mutex);
    while (revisions.empty() || revisions.back() != 20) called.Wait(mutex);
    EXPECT_TRUE(std::is_sorted(revisions.begin(), revisions.end()));
    EXPECT_EQ(std::adjacent_find(revisions.begin(), revisions.end()),
              revisions.end())
        << "none is announced twice";
    revisions.clear();
  }
  listener.reset();
  Put("a", "");
  TestEvent notified;
  store_->TxnAsync({.then_ops = {Op::Put("a", "")}},
                   [&](const auto&) { notified.Notify(); });
  notified.Wait();

  MutexLock lock(mutex);
  EXPECT_THAT(revisions, IsEmpty());
}

// Collects what a watch delivers.
class Collector {
 public:
  StoreWatch::Sink Sink() {
    return [this](absl::StatusOr<std::shared_ptr<const Batch>> batch) {
      MutexLock lock(mutex_);
      if (batch.ok()) {
        batches_.push_back(*std::move(batch));
      } else {
        status_ = batch.status();
      }
      changed_.NotifyAll();
    };
  }

  std::vector<std::shared_ptr<const Batch>> Await(size_t count) {
    MutexLock lock(mutex_);
    while (batches_.size() < count) changed_.Wait(mutex_);
    return batches_;
  }

  absl::Status AwaitError() {
    MutexLock lock(mutex_);
    while (status_.ok()) changed_.Wait(mutex_);
    return status_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<std::shared_ptr<const Batch>> batches_;
  absl::Status status_;
};

TEST_P(StoreTest, WatchDeliversThePastAndThenTheFutureInOrder) {
  for (int i = 0; i < 5; ++i) Put("a", absl::StrCat(i));
  Collector collector;
  auto watch =
      StoreWatch::Start(store_.get(), {.after_revision = 2}, collector.Sink());
  ASSERT_TRUE(watch.ok()) << watch.status();
  for (int i = 5; i < 10; ++i) Put("a", absl::StrCat(i));

  const auto batches = collector.Await(8);

  ASSERT_THAT(batches, SizeIs(8));
  for (size_t i = 0; i < batches.size(); ++i) {
    EXPECT_EQ(batches[i]->revision, static_cast<int64_t>(i) + 3);
  }
  EXPECT_EQ(batches[0], ChangesAfter(2).at(0)) << "whole batches are shared";
}

TEST_P(StoreTest, WatchDeliversALongPastByItself) {
  constexpr size_t kBatches = 20;
  for (size_t i = 0; i < kBatches; ++i) Put("a", std::string(100'000, 'v'));
  Collector collector;
  auto watch = StoreWatch::Start(store_.get(), {}, collector.Sink());
  ASSERT_TRUE(watch.ok()) << watch.status();

  EXPECT_THAT(collector.Await(kBatches), SizeIs(kBatches));
}

TEST_P(StoreTest, WatchFiltersByPrefixWithoutSplittingTransactions) {
  Collector collector;
  auto watch = StoreWatch::Start(store_.get(), {.prefixes = {"a/", "c/"}},
                                 collector.Sink());
  ASSERT_TRUE(watch.ok()) << watch.status();
  Put("b/1", "");
  Run({.then_ops = {Op::Put("a/1", ""), Op::Put("b/2", ""),
                    Op::Put("c/1", "")}});
  Put("b/1", "");
  Delete("a/1");

  const auto batches = collector.Await(2);

  EXPECT_EQ(batches[0]->revision, 2);
  ASSERT_THAT(batches[0]->changes, SizeIs(2));
  EXPECT_EQ(batches[0]->changes[0].key(), "a/1");
  EXPECT_EQ(batches[0]->changes[1].key(), "c/1");
  EXPECT_EQ(batches[1]->revision, 4);
  EXPECT_TRUE(batches[1]->changes.at(0).deleted());
}

TEST_P(StoreTest, WatchRefusesToStartWhereChangesAreMissing) {
  for (int i = 0; i < 3; ++i) Put("a", "");
  ASSERT_TRUE(store_->Compact(2).ok());
  Collector collector;

  EXPECT_EQ(ReasonOf(StoreWatch::Start(store_.get(), {.after_revision = 1},
                                       collector.Sink())
                         .status()),
            kReasonCompacted);
  EXPECT_EQ(ReasonOf(StoreWatch::Start(store_.get(), {.after_revision = 4},
                                       collector.Sink())
                         .status()),
            kReasonFutureRevision);
}

TEST_P(StoreTest, WatchEndsWithAnErrorWhenTheLogHasMovedOn) {
  options_.max_log_batches = 4;
  Reopen();
  Put("a", "");
  Collector collector;
  StoreWatch::Sink collect = collector.Sink();
  bool first = true;
  // The first batch takes so long that the store overtakes it.
  auto watch = StoreWatch::Start(
      store_.get(), {.after_revision = 0},
      [&](absl::StatusOr<std::shared_ptr<const Batch>> batch) {
        if (std::exchange(first, false)) {
          for (int i = 0; i < 10; ++i) {
            store_->TxnAsync({.then_ops = {Op::Put("a", "")}},
                             [](const auto&) {});
          }
          Put("a", "");
        }
        collect(std::move(batch));
      });
  ASSERT_TRUE(watch.ok()) << watch.status();
  Put("a", "");

  const absl::Status status = collector.AwaitError();
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ReasonOf(status), kReasonCompacted);
}

TEST_P(StoreTest, DeletesTheKeysOfAnExpiredLeaseInOneRevision) {
  const LeaseId lease = Grant(absl::Seconds(10));
  Put("a", "1", lease);
  Put("b", "1", lease);
  Put("c", "1");

  Advance(absl::Seconds(9));
  EXPECT_THAT(Keys(), SizeIs(3));
  Advance(absl::Seconds(1));

  EXPECT_THAT(Keys(), ElementsAre("c"));
  const auto batches = ChangesAfter(3);
  ASSERT_THAT(batches, SizeIs(1));
  EXPECT_THAT(batches[0]->changes, SizeIs(2));
  EXPECT_TRUE(batches[0]->changes[0].deleted());
  EXPECT_EQ(batches[0]->changes[0].previous->lease, lease);
  EXPECT_EQ(store_->TimeToLive(lease).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_P(StoreTest, GivesEachExpiredLeaseARevisionOfItsOwn) {
  for (LeaseId id : {1, 2, 3}) {
    Grant(absl::Seconds(10), id);
    Put(absl::StrCat("a", id), "", id);
    Put(absl::StrCat("b", id), "", id);
  }
  Advance(absl::Seconds(10));

  const auto batches = ChangesAfter(6);
  ASSERT_THAT(batches, SizeIs(3));
  for (const auto& batch : batches) EXPECT_THAT(batch->changes, SizeIs(2));
}

TEST_P(StoreTest, KeepAliveGivesALeaseItsFullTimeAgain) {
  const LeaseId lease = Grant(absl::Seconds(10));
  Put("a", "1", lease);

  for (int i = 0; i < 5; ++i) {
    Advance(absl::Seconds(9));
    EXPECT_EQ(store_->KeepAlive(lease).value(), absl::Seconds(10));
  }
  EXPECT_EQ(store_->TimeToLive(lease)->remaining, absl::Seconds(10));
  EXPECT_THAT(Keys(), ElementsAre("a"));
  EXPECT_EQ(store_->Revision(), 1) << "keeping alive is no change";

  Advance(absl::Seconds(10));
  const absl::Status late = store_->KeepAlive(lease).status();
  EXPECT_EQ(late.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReasonOf(late), kReasonNoLease);
}

TEST_P(StoreTest, RevokeDeletesTheKeysAndReturnsTheRevision) {
  const LeaseId lease = Grant(absl::Seconds(10));
  Put("a", "1", lease);
  Put("b", "1", lease);
  const LeaseId empty = Grant(absl::Seconds(10));

  EXPECT_EQ(store_->Revoke(lease).value(), 3);
  EXPECT_EQ(store_->Revoke(empty).value(), 3) << "it had no keys";
  EXPECT_EQ(store_->Revoke(lease).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Keys(), IsEmpty());
  EXPECT_FALSE(store_->KeepAlive(lease).ok());
  EXPECT_THAT(store_->ListLeases(), IsEmpty());
}

TEST_P(StoreTest, BindsAKeyToTheLeaseOfItsLastPut) {
  const LeaseId first = Grant(absl::Seconds(10));
  const LeaseId second = Grant(absl::Seconds(20));
  Put("moved", "", first);
  Put("moved", "", second);
  Put("freed", "", first);
  Put("freed", "");
  Put("deleted", "", first);
  Delete("deleted");
  Put("deleted", "");
  EXPECT_EQ(store_->TimeToLive(first)->key_count, 0u);
  EXPECT_EQ(store_->TimeToLive(second)->key_count, 1u);

  Advance(absl::Seconds(10));
  EXPECT_THAT(Keys(), ElementsAre("deleted", "freed", "moved"));
  EXPECT_EQ(store_->Revision(), 7) << "the lease ended without keys";
  Advance(absl::Seconds(10));
  EXPECT_THAT(Keys(), ElementsAre("deleted", "freed"));
}

TEST_P(StoreTest, RefusesPutsUnderALeaseThatIsNotAlive) {
  const LeaseId lease = Grant(absl::Seconds(10));
  Advance(absl::Seconds(10));

  const absl::Status status =
      store_->Txn({.then_ops = {Op::Put("a", ""), Op::Put("b", "", lease)}})
          .status();

  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), kReasonNoLease);
  EXPECT_EQ(store_->Revision(), 0);
  EXPECT_FALSE(Run({.compares = {Compare::LeaseAlive(lease)}}).succeeded);
}

TEST_P(StoreTest, TakesChosenLeaseIdsOnceAtATime) {
  EXPECT_EQ(Grant(absl::Seconds(10), 77), 77);
  const absl::Status taken = store_->Grant(absl::Seconds(10), 77).status();
  EXPECT_EQ(taken.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReasonOf(taken), kReasonLeaseExists);

  ASSERT_TRUE(store_->Revoke(77).ok());
  EXPECT_EQ(Grant(absl::Seconds(10), 77), 77);
  Advance(absl::Seconds(10));
  EXPECT_EQ(Grant(absl::Seconds(10), 77), 77);
}

TEST_P(StoreTest, ChecksTheTimeToLiveAndTheId) {
  for (const absl::Duration ttl : {absl::ZeroDuration(), absl::Seconds(-1),
                                   absl::Hours(25), absl::InfiniteDuration()}) {
    EXPECT_EQ(store_->Grant(ttl).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(store_->Grant(absl::Seconds(1), -1).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_P(StoreTest, BoundsTheNumberOfLeases) {
  options_.max_leases = 2;
  Reopen();
  const LeaseId first = Grant(absl::Seconds(10));
  Grant(absl::Seconds(10));

  const absl::Status status = store_->Grant(absl::Seconds(10)).status();

  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), kReasonFull);
  ASSERT_TRUE(store_->Revoke(first).ok());
  Grant(absl::Seconds(10));
}

TEST_P(StoreTest, ListsLeasesInOrderOfIds) {
  Grant(absl::Seconds(30), 3);
  Grant(absl::Seconds(10), 1);
  Put("a", "", 3);
  clock_.Advance(absl::Seconds(5));

  const std::vector<LeaseInfo> leases = store_->ListLeases();

  ASSERT_THAT(leases, SizeIs(2));
  EXPECT_EQ(leases[0].id, 1);
  EXPECT_EQ(leases[0].ttl, absl::Seconds(10));
  EXPECT_EQ(leases[0].remaining, absl::Seconds(5));
  EXPECT_EQ(leases[1].id, 3);
  EXPECT_EQ(leases[1].key_count, 1u);
}

TEST_P(StoreTest, TellsWhenTheNextLeaseEnds) {
  EXPECT_EQ(store_->NextLeaseDeadline(), absl::InfiniteDuration());
  const absl::Duration start = clock_.Monotonic();
  const LeaseId lease = Grant(absl::Seconds(10));
  Grant(absl::Seconds(15));
  EXPECT_EQ(store_->NextLeaseDeadline(), start + absl::Seconds(10));

  clock_.Advance(absl::Seconds(7));
  ASSERT_TRUE(store_->KeepAlive(lease).ok());

  EXPECT_EQ(store_->NextLeaseDeadline(), start + absl::Seconds(15));
}

TEST_P(StoreTest, EndsAThousandLeasesWithAHundredKeysEachInTime) {
  constexpr int kLeases = 1000;
  constexpr int kKeys = 100;
  for (LeaseId id = 1; id <= kLeases; ++id) {
    store_->GrantAsync(absl::Seconds(10), id, [](const auto& granted) {
      EXPECT_TRUE(granted.ok()) << granted.status();
    });
    TxnRequest puts;
    for (int k = 0; k < kKeys; ++k) {
      puts.then_ops.push_back(Op::Put(absl::StrCat(id, "/", k), "", id));
    }
    Run(std::move(puts));
  }
  ASSERT_EQ(store_->Stats().keys, size_t{kLeases} * kKeys);
  for (LeaseId id = 1; id <= kLeases; id += 2) {
    ASSERT_TRUE(store_->KeepAlive(id).ok());
  }
  clock_.Advance(absl::Seconds(5));
  for (LeaseId id = 1; id <= kLeases; id += 2) {
    ASSERT_TRUE(store_->KeepAlive(id).ok());
  }
  clock_.Advance(absl::Seconds(5));

  const absl::Duration start = Clock::Real()->Monotonic();
  ASSERT_TRUE(store_->Tick().ok());
  const absl::Duration took = Clock::Real()->Monotonic() - start;

  EXPECT_EQ(store_->Stats().keys, size_t{kLeases} / 2 * kKeys);
  EXPECT_EQ(store_->Revision(), kLeases + kLeases / 2);
  EXPECT_LT(took, absl::Seconds(10)) << "it took " << took;
}

TEST_P(ThreadedStoreTest, EndsLeasesByItself) {
  options_.clock = Clock::Real();
  Reopen();
  TestEvent gone;
  const LeaseId lease = Grant(absl::Milliseconds(50));
  Put("a", "", lease);
  auto listener = store_->OnRevision([&](int64_t revision) {
    if (revision == 2) gone.Notify();
  });
  gone.Wait();

  EXPECT_THAT(Keys(), IsEmpty());
}

TEST_P(StoreTest, SnapshotsEverythingAtOneRevision) {
  const LeaseId lease = Grant(absl::Seconds(10));
  Put("b", "2", lease);
  Put("a", "1");

  const StoreSnapshot snapshot = store_->Snapshot();
  Put("c", "3");

  EXPECT_EQ(snapshot.epoch, store_->Epoch());
  EXPECT_EQ(snapshot.revision, 2);
  ASSERT_THAT(snapshot.entries, SizeIs(2));
  EXPECT_EQ(snapshot.entries[0]->key, "a");
  EXPECT_EQ(snapshot.entries[1]->lease, lease);
  ASSERT_THAT(snapshot.leases, SizeIs(1));
  EXPECT_EQ(snapshot.leases[0].key_count, 1u);
}

TEST_P(StoreTest, CountsWhatItHoldsAndDoes) {
  Grant(absl::Seconds(10));
  Put("a", "1");
  Put("a", "2");
  Put("b", "1");
  Delete("b");

  const StoreStats stats = store_->Stats();

  EXPECT_EQ(stats.keys, 1u);
  EXPECT_EQ(stats.leases, 1u);
  EXPECT_EQ(stats.log_batches, 4u);
  EXPECT_EQ(stats.in_flight, 0u);
  EXPECT_EQ(stats.commits, 5);
  EXPECT_EQ(stats.committed_requests, 5);
  EXPECT_EQ(stats.failed_commits, 0);
  const size_t with_one = stats.state_bytes;
  Delete("a");
  EXPECT_EQ(store_->Stats().state_bytes, 0u);
  EXPECT_GT(with_one, 2u);
}

TEST_P(DurableStoreTest, ComesBackWithWhatItHeld) {
  const std::string epoch = store_->Epoch();
  const LeaseId lease = Grant(absl::Seconds(10));
  Put("a", "1");
  Put("a", "2", lease);
  Put("b", std::string(5000, 'x'));
  Delete("b");
  Reopen();

  EXPECT_EQ(store_->Epoch(), epoch);
  EXPECT_EQ(store_->Revision(), 4);
  EXPECT_THAT(Keys(), ElementsAre("a"));
  const auto entry = Get("a");
  EXPECT_EQ(entry->value, "2");
  EXPECT_EQ(entry->create_revision, 1);
  EXPECT_EQ(entry->mod_revision, 2);
  EXPECT_EQ(entry->version, 2);
  EXPECT_EQ(entry->lease, lease);
  EXPECT_EQ(store_->TimeToLive(lease)->key_count, 1u);
  EXPECT_EQ(Put("c", "").revision, 5);
}

TEST_P(DurableStoreTest, ResumesOverARestart) {
  Put("a", "1");
  Put("b", "1");
  Delete("b");
  Reopen();
  Put("a", "2");

  const auto batches = ChangesAfter(0);
  ASSERT_THAT(batches, SizeIs(4));
  EXPECT_EQ(batches[0]->changes.at(0).entry->value, "1");
  EXPECT_TRUE(batches[2]->changes.at(0).deleted());
  EXPECT_EQ(batches[2]->changes.at(0).previous->value, "1");
  EXPECT_EQ(batches[2]->changes.at(0).previous->mod_revision, 2);
  EXPECT_EQ(batches[3]->changes.at(0).previous->value, "1");
  const absl::Status before =
      store_->Range({.key = "a", .at_revision = 2}).status();
  EXPECT_EQ(ReasonOf(before), kReasonCompacted)
      << "the state before the opening cannot be rebuilt";
  EXPECT_EQ(Read({.key = "a", .at_revision = 3}).entries.at(0)->value, "1");
}

TEST_P(DurableStoreTest, GivesLeasesTheirFullTimeAfterARestart) {
  const LeaseId lease = Grant(absl::Seconds(10));
  const LeaseId revoked = Grant(absl::Seconds(10));
  Put("a", "", lease);
  ASSERT_TRUE(store_->Revoke(revoked).ok());
  clock_.Advance(absl::Seconds(9));
  store_.reset();
  clock_.Advance(absl::Hours(1));
  Open();

  EXPECT_FALSE(store_->KeepAlive(revoked).ok());
  Advance(absl::Seconds(9));
  EXPECT_THAT(Keys(), ElementsAre("a"));
  Advance(absl::Seconds(1));
  EXPECT_THAT(Keys(), IsEmpty());
  Reopen();
  EXPECT_THAT(Keys(), IsEmpty());
  EXPECT_THAT(store_->ListLeases(), IsEmpty());
}

TEST_P(DurableStoreTest, BoundsItsLogOverRestarts) {
  options_.max_log_batches = 100;
  Reopen();
  for (int i = 0; i < 500; ++i) Put("a", absl::StrCat(i));
  EXPECT_EQ(store_->CompactRevision(), 400);
  Reopen();
  EXPECT_EQ(store_->CompactRevision(), 400);
  EXPECT_THAT(ChangesAfter(400), SizeIs(100));
  options_.max_log_batches = 10;
  Reopen();
  EXPECT_EQ(store_->CompactRevision(), 490);
  EXPECT_EQ(Get("a")->value, "499");
}

TEST_P(DurableStoreTest, KeepsEveryEntryWhenTheLogIsShort) {
  options_.max_log_batches = 3;
  Reopen();
  // Enough that entries on disk follow the log in several steps, along with
  // commits as well as by themselves.
  for (int i = 0; i < 50; ++i) {
    TxnRequest puts;
    for (int k = 0; k < 500; ++k) {
      puts.then_ops.push_back(
          Op::Put(absl::StrCat((i * 7919 + k * 104'729) % 30'000), "v"));
    }
    Run(std::move(puts));
  }
  const auto before = store_->Snapshot().entries;
  ASSERT_THAT(before, SizeIs(Gt(10'000u)));

  for (int round = 0; round < 2; ++round) {
    Reopen();
    const auto after = store_->Snapshot().entries;
    ASSERT_EQ(after.size(), before.size());
    for (size_t i = 0; i < before.size(); ++i) {
      ASSERT_EQ(after[i]->key, before[i]->key);
      ASSERT_EQ(after[i]->mod_revision, before[i]->mod_revision);
    }
    Advance(absl::ZeroDuration());
  }
}

TEST_P(DurableStoreTest, KeepsItsRevisionWhenEverythingIsCompacted) {
  for (int i = 0; i < 10; ++i) Put("a", absl::StrCat(i));
  Delete("a");
  ASSERT_TRUE(store_->Compact(11).ok());
  Advance(absl::ZeroDuration());
  Reopen();

  EXPECT_EQ(store_->Revision(), 11);
  EXPECT_EQ(Put("b", "").revision, 12);
}

std::string NameOf(const testing::TestParamInfo<Variant>& info) {
  return info.param.name;
}

const Variant kMemory = {"Memory", false, Threads::kOwn};
const Variant kMemoryAlone = {"MemoryWithoutThreads", false, Threads::kNone};
const Variant kSqlite = {"Sqlite", true, Threads::kOwn};
const Variant kSqliteAlone = {"SqliteWithoutThreads", true, Threads::kNone};

INSTANTIATE_TEST_SUITE_P(Stores, StoreTest,
                         testing::Values(kMemory, kMemoryAlone, kSqlite,
                                         kSqliteAlone),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Stores, ThreadedStoreTest,
                         testing::Values(kMemory, kSqlite), NameOf);
INSTANTIATE_TEST_SUITE_P(Stores, DurableStoreTest,
                         testing::Values(kSqlite, kSqliteAlone), NameOf);

}  // namespace
}  // namespace mycelium::fabric
