// The promise of watches, rule by rule, against every store. The service's test
// has what needs a wire.

#include "services/fabric/watch_hub.h"

#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/fake_clock.h"
#include "lib/base/file.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "services/fabric/change_feed.h"
#include "services/fabric/keys.h"
#include "services/fabric/store/memory_store.h"
#include "services/fabric/store/sqlite_store.h"
#include "services/fabric/store/store.h"
#include "services/fabric/watch_view.h"

namespace mycelium::fabric {
namespace {

using testing::SizeIs;

// A store, a hub of slots, and the feed between them, all on one thread.
class WatchHubTest : public testing::TestWithParam<std::string> {
 protected:
  WatchHubTest() : directory_(*TempDirectory::Create("hub-")) { Open(); }

  ~WatchHubTest() override { Close(); }

  void Open() {
    StoreOptions options;
    options.clock = &clock_;
    options.threads = StoreOptions::Threads::kNone;
    if (GetParam() == "sqlite") {
      auto store =
          OpenSqliteStore(JoinPath(directory_.path(), "fabric.db"), options);
      ASSERT_TRUE(store.ok()) << store.status();
      store_ = *std::move(store);
    } else if (store_ == nullptr) {
      store_ = NewMemoryStore(options);
    }
    hub_ = std::make_unique<WatchHub>(SlotSchema(), store_.get(), &clock_,
                                      options_);
    feed_ = std::make_unique<ChangeFeed>(
        store_.get(), std::vector<ChangeConsumer*>{hub_.get()},
        StoreOptions::Threads::kNone);
  }

  void Close() {
    feed_.reset();
    hub_.reset();
    // A store in memory stands for one that survives its fabric.
    if (GetParam() == "sqlite") store_.reset();
  }

  void Restart() {
    Close();
    Open();
  }

  int64_t Commit(std::vector<Op> ops) {
    TxnRequest txn;
    txn.then_ops = std::move(ops);
    const absl::StatusOr<TxnResponse> response = store_->Txn(std::move(txn));
    EXPECT_TRUE(response.ok()) << response.status();
    return response->revision;
  }

  static Op PutSlot(const std::string& app, int index,
                    const std::string& message = "") {
    v1::Slot slot;
    slot.set_app_name(app);
    slot.set_index(index);
    slot.set_generation(1);
    slot.set_message(message);
    return Op::Put(KeyOf(kSlots, SlotName({app, index, 1})),
                   slot.SerializeAsString());
  }
  static Op DeleteSlot(const std::string& app, int index) {
    return Op::Delete(KeyOf(kSlots, SlotName({app, index, 1})));
  }
  static Op PutClaim(const std::string& app, int index,
                     const std::string& node) {
    v1::Slot claim;
    claim.set_node_id(node);
    claim.set_state(v1::Slot::STATE_READY);
    return Op::Put(KeyOf(kClaims, SlotName({app, index, 1})),
                   claim.SerializeAsString());
  }

  std::shared_ptr<Watcher> Watch(const std::string& app = "",
                                 const std::string& epoch = "",
                                 int64_t after = 0) {
    auto watcher = hub_->Watch(app, epoch, after, [this] { ++woken_; });
    EXPECT_TRUE(watcher.ok()) << watcher.status();
    return *std::move(watcher);
  }

  // Everything that is there to read now, without bookmarks.
  std::vector<v1::WatchSlotsResponse> Read(Watcher& watcher) {
    std::vector<v1::WatchSlotsResponse> messages;
    while (true) {
      absl::StatusOr<Record> next = watcher.Next();
      EXPECT_TRUE(next.ok()) << next.status();
      if (!next.ok() || *next == nullptr) return messages;
      v1::WatchSlotsResponse message;
      EXPECT_TRUE(message.ParseFromString(**next));
      if (message.kind() != v1::WATCH_KIND_BOOKMARK) {
        messages.push_back(std::move(message));
      }
    }
  }

  FakeClock clock_{absl::FromUnixSeconds(1'000'000)};
  TempDirectory directory_;
  WatchOptions options_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<WatchHub> hub_;
  std::unique_ptr<ChangeFeed> feed_;
  int woken_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Stores, WatchHubTest,
                         testing::Values("memory", "sqlite"),
                         [](const auto& info) { return info.param; });

// What a client makes of the messages of a watch.
struct Client {
  std::map<std::string, v1::Slot> slots;
  std::map<std::string, v1::Slot> next_snapshot;
  std::string epoch;
  int64_t revision = 0;
  int resyncs = 0;
  bool in_snapshot = false;

  void Take(const v1::WatchSlotsResponse& message) {
    switch (message.kind()) {
      case v1::WATCH_KIND_RESYNC:
        ++resyncs;
        next_snapshot.clear();
        in_snapshot = true;
        return;
      case v1::WATCH_KIND_SNAPSHOT:
        for (const v1::SlotChange& change : message.changes()) {
          next_snapshot[Key(change.put())] = change.put();
        }
        in_snapshot = true;
        return;
      case v1::WATCH_KIND_SNAPSHOT_END:
        slots = std::move(next_snapshot);
        next_snapshot.clear();
        in_snapshot = false;
        break;
      default:
        EXPECT_FALSE(in_snapshot);
        EXPECT_GT(message.revision(), revision);
        for (const v1::SlotChange& change : message.changes()) {
          if (change.has_put()) {
            slots[Key(change.put())] = change.put();
          } else {
            slots.erase(change.delete_().key());
          }
        }
    }
    EXPECT_GE(message.revision(), revision);
    revision = message.revision();
    epoch = message.epoch();
  }

  static std::string Key(const v1::Slot& slot) {
    return absl::StrCat(slot.app_name(), "/", slot.index(), "/",
                        slot.generation());
  }
};

// Who begins a watch after a write has seen that write, and must not be told
// that it has not happened yet.
TEST_P(WatchHubTest, GivesNoSnapshotThatIsOlderThanTheWatch) {
  Commit({PutSlot("a", 0)});
  feed_->Pump();
  const std::shared_ptr<Watcher> early = Watch();
  Read(*early);
  const int64_t written = Commit({PutSlot("a", 1)});
  feed_->Pump();

  const std::shared_ptr<Watcher> late = Watch();
  const auto snapshot = Read(*late);

  ASSERT_THAT(snapshot, SizeIs(2));
  EXPECT_THAT(snapshot[0].changes(), SizeIs(2));
  EXPECT_EQ(snapshot[1].kind(), v1::WATCH_KIND_SNAPSHOT_END);
  EXPECT_EQ(snapshot[1].revision(), written);
}

TEST_P(WatchHubTest, SendsASnapshotThenItsEndThenEveryChangeInOrder) {
  Commit({PutSlot("a", 0)});
  const int64_t before = Commit({PutSlot("a", 1)});
  feed_->Pump();
  const std::shared_ptr<Watcher> watcher = Watch();

  const auto snapshot = Read(*watcher);
  ASSERT_THAT(snapshot, SizeIs(2));
  EXPECT_EQ(snapshot[0].kind(), v1::WATCH_KIND_SNAPSHOT);
  EXPECT_EQ(snapshot[0].revision(), 0);
  EXPECT_THAT(snapshot[0].changes(), SizeIs(2));
  EXPECT_EQ(snapshot[1].kind(), v1::WATCH_KIND_SNAPSHOT_END);
  EXPECT_EQ(snapshot[1].revision(), before);
  EXPECT_EQ(snapshot[1].epoch(), store_->Epoch());

  const int64_t first = Commit({PutSlot("a", 2)});
  feed_->Pump();
  const auto put = Read(*watcher);
  const int64_t second = Commit({DeleteSlot("a", 0)});
  feed_->Pump();
  const auto deletion = Read(*watcher);

  ASSERT_THAT(put, SizeIs(1));
  EXPECT_EQ(put[0].kind(), v1::WATCH_KIND_CHANGE);
  EXPECT_EQ(put[0].revision(), first);
  EXPECT_EQ(put[0].changes(0).put().revision(), first);
  ASSERT_THAT(deletion, SizeIs(1));
  EXPECT_EQ(deletion[0].changes(0).delete_().key(), "a/0/1");
  EXPECT_EQ(deletion[0].changes(0).delete_().revision(), second);
}

TEST_P(WatchHubTest, SendsOneTransactionInOneMessage) {
  const std::shared_ptr<Watcher> watcher = Watch();
  Read(*watcher);
  std::vector<Op> ops;
  // More than a message usually holds.
  for (int i = 0; i < 600; ++i) {
    ops.push_back(PutSlot("a", i, std::string(1000, 'x')));
  }
  Commit(std::move(ops));
  Commit({PutSlot("b", 0)});
  feed_->Pump();

  const auto messages = Read(*watcher);

  ASSERT_THAT(messages, SizeIs(2));
  EXPECT_THAT(messages[0].changes(), SizeIs(600));
}

TEST_P(WatchHubTest, JoinsSlotAndClaimIntoOneChange) {
  const std::shared_ptr<Watcher> watcher = Watch();
  Read(*watcher);

  Commit({PutSlot("a", 0), PutClaim("a", 0, "n1")});
  feed_->Pump();
  const auto both = Read(*watcher);
  Commit({Op::Delete(KeyOf(kClaims, SlotName({"a", 0, 1})))});
  feed_->Pump();
  const auto released = Read(*watcher);

  ASSERT_THAT(both, SizeIs(1));
  ASSERT_THAT(both[0].changes(), SizeIs(1));
  EXPECT_EQ(both[0].changes(0).put().node_id(), "n1");
  EXPECT_EQ(both[0].changes(0).put().state(), v1::Slot::STATE_READY);
  ASSERT_THAT(released, SizeIs(1));
  EXPECT_EQ(released[0].changes(0).put().state(), v1::Slot::STATE_PENDING);
  EXPECT_EQ(released[0].changes(0).put().node_id(), "");
}

TEST_P(WatchHubTest, ResumesWithExactlyWhatWasMissed) {
  const int64_t known = Commit({PutSlot("a", 0)});
  Commit({PutSlot("a", 1)});
  Commit({DeleteSlot("a", 0)});
  feed_->Pump();

  const auto messages = Read(*Watch("", store_->Epoch(), known));

  ASSERT_THAT(messages, SizeIs(1));
  EXPECT_EQ(messages[0].kind(), v1::WATCH_KIND_CHANGE);
  ASSERT_THAT(messages[0].changes(), SizeIs(2));
  EXPECT_EQ(messages[0].changes(0).put().index(), 1);
  EXPECT_EQ(messages[0].changes(1).delete_().key(), "a/0/1");
}

TEST_P(WatchHubTest, ResumesOverARestart) {
  const int64_t known = Commit({PutSlot("a", 0), PutSlot("a", 3)});
  Commit({PutSlot("a", 1, "old")});
  Commit({DeleteSlot("a", 0)});
  const int64_t last = Commit({PutSlot("a", 1, "new")});
  const std::string epoch = store_->Epoch();

  Restart();
  const auto messages = Read(*Watch("", epoch, known));

  ASSERT_THAT(messages, SizeIs(1));
  EXPECT_EQ(messages[0].kind(), v1::WATCH_KIND_CHANGE);
  EXPECT_EQ(messages[0].revision(), last);
  ASSERT_THAT(messages[0].changes(), SizeIs(2));
  EXPECT_EQ(messages[0].changes(0).delete_().key(), "a/0/1");
  EXPECT_EQ(messages[0].changes(1).put().message(), "new");
}

TEST_P(WatchHubTest, SendsABookmarkWhenNothingHappensForASecond) {
  Commit({PutSlot("a", 0)});
  feed_->Pump();
  const std::shared_ptr<Watcher> watcher = Watch();
  Read(*watcher);
  // A change of something else moves the revision on.
  const int64_t revision = Commit({Op::Put("/plans/x", "")});
  feed_->Pump();
  EXPECT_EQ(woken_, 0);

  clock_.Advance(absl::Seconds(1));
  hub_->Tick();

  EXPECT_EQ(woken_, 1);
  const absl::StatusOr<Record> next = watcher->Next();
  ASSERT_TRUE(next.ok());
  ASSERT_NE(*next, nullptr);
  v1::WatchSlotsResponse message;
  ASSERT_TRUE(message.ParseFromString(**next));
  EXPECT_EQ(message.kind(), v1::WATCH_KIND_BOOKMARK);
  EXPECT_EQ(message.revision(), revision);
}

TEST_P(WatchHubTest, BeginsAnewForAnotherEpoch) {
  const int64_t revision = Commit({PutSlot("a", 0)});
  feed_->Pump();

  const auto messages = Read(*Watch("", "another", revision));

  ASSERT_THAT(messages, SizeIs(3));
  EXPECT_EQ(messages[0].kind(), v1::WATCH_KIND_RESYNC);
  EXPECT_EQ(messages[0].revision(), 0);
  EXPECT_EQ(messages[1].kind(), v1::WATCH_KIND_SNAPSHOT);
  EXPECT_EQ(messages[2].kind(), v1::WATCH_KIND_SNAPSHOT_END);
}

TEST_P(WatchHubTest, BeginsAnewForARevisionThatHasNotHappened) {
  const int64_t revision = Commit({PutSlot("a", 0)});
  feed_->Pump();

  const auto messages = Read(*Watch("", store_->Epoch(), revision + 5));

  EXPECT_EQ(messages[0].kind(), v1::WATCH_KIND_RESYNC);
}

TEST_P(WatchHubTest, ResumesFromARevisionThatTheFeedHasNotReachedYet) {
  Commit({PutSlot("a", 0)});
  feed_->Pump();
  const int64_t known = Commit({PutSlot("a", 1)});
  const std::shared_ptr<Watcher> watcher = Watch("", store_->Epoch(), known);
  // Not even a bookmark, whose revision would go back.
  const absl::StatusOr<Record> nothing = watcher->Next();
  ASSERT_TRUE(nothing.ok());
  EXPECT_EQ(*nothing, nullptr);

  Commit({PutSlot("a", 2)});
  feed_->Pump();
  const auto messages = Read(*watcher);

  ASSERT_THAT(messages, SizeIs(1));
  EXPECT_EQ(messages[0].kind(), v1::WATCH_KIND_CHANGE);
  ASSERT_THAT(messages[0].changes(), SizeIs(1));
  EXPECT_EQ(messages[0].changes(0).put().index(), 2);
}

TEST_P(WatchHubTest, MergesByKeyWhatASlowReaderMissed) {
  const std::shared_ptr<Watcher> watcher = Watch();
  Read(*watcher);
  for (int i = 0; i < 100; ++i) {
    Commit({PutSlot("a", i % 2, absl::StrCat(i))});
    feed_->Pump();
  }

  const auto messages = Read(*watcher);

  ASSERT_THAT(messages, SizeIs(1));
  ASSERT_THAT(messages[0].changes(), SizeIs(2));
  EXPECT_EQ(messages[0].changes(0).put().message(), "98");
  EXPECT_EQ(messages[0].changes(1).put().message(), "99");
  EXPECT_EQ(messages[0].revision(), store_->Revision());
}

TEST_P(WatchHubTest, ResyncsAReaderThatIsFurtherBehindThanTheLog) {
  options_.max_log_steps = 10;
  Restart();
  const std::shared_ptr<Watcher> watcher = Watch();
  Read(*watcher);
  for (int i = 0; i < 30; ++i) Commit({PutSlot("a", i)});
  feed_->Pump();

  const auto messages = Read(*watcher);

  ASSERT_GE(messages.size(), 3u);
  EXPECT_EQ(messages[0].kind(), v1::WATCH_KIND_RESYNC);
  EXPECT_EQ(messages.back().kind(), v1::WATCH_KIND_SNAPSHOT_END);
}

TEST_P(WatchHubTest, SharesOneMessageBetweenAllReaders) {
  const std::shared_ptr<Watcher> one = Watch();
  const std::shared_ptr<Watcher> two = Watch();
  Read(*one);
  Read(*two);
  Commit({PutSlot("a", 0)});
  Commit({PutSlot("a", 1)});
  feed_->Pump();

  const absl::StatusOr<Record> first = one->Next();
  const absl::StatusOr<Record> second = two->Next();

  ASSERT_TRUE(first.ok() && second.ok());
  ASSERT_NE(*first, nullptr);
  EXPECT_EQ(first->get(), second->get());
}

TEST_P(WatchHubTest, FiltersByAppAndDoesNotWakeForOthers) {
  const std::shared_ptr<Watcher> watcher = Watch("a");
  Read(*watcher);
  Commit({PutSlot("b", 0)});
  feed_->Pump();
  EXPECT_EQ(woken_, 0);
  Commit({PutSlot("a", 0), PutSlot("b", 1)});
  feed_->Pump();
  EXPECT_EQ(woken_, 1);

  const auto messages = Read(*watcher);

  ASSERT_THAT(messages, SizeIs(1));
  ASSERT_THAT(messages[0].changes(), SizeIs(1));
  EXPECT_EQ(messages[0].changes(0).put().app_name(), "a");
}

TEST_P(WatchHubTest, ForgetsAWatcherThatHasGone) {
  {
    const std::shared_ptr<Watcher> watcher = Watch();
    EXPECT_EQ(hub_->watcher_count(), 1u);
  }
  EXPECT_EQ(hub_->watcher_count(), 0u);
}

TEST_P(WatchHubTest, RefusesMoreWatchersThanItMayHave) {
  options_.max_watchers = 1;
  Restart();
  const std::shared_ptr<Watcher> watcher = Watch();

  const absl::Status status = hub_->Watch("", "", 0, [] {}).status();

  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "OVERLOADED");
}

TEST_P(WatchHubTest, SaysGoodbyeWithARetryHintWhenItStops) {
  const std::shared_ptr<Watcher> watcher = Watch();
  Read(*watcher);

  hub_->Stop();

  EXPECT_EQ(woken_, 1);
  const absl::Status status = watcher->Next().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(status.GetPayload("type.googleapis.com/google.rpc.RetryInfo")
                  .has_value());
}

// Any number of readers that read, rest, go away and come back at random, while
// the store changes and the fabric restarts at random: each of them ends up
// knowing exactly what the store holds.
TEST_P(WatchHubTest, EveryReaderKnowsTheTruthInTheEnd) {
  // A disk is slower than memory, and no different.
  const uint32_t seeds = GetParam() == "sqlite" ? 3 : 100;
  for (uint32_t seed = 0; seed < seeds; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    std::mt19937 random(seed);
    const auto pick = [&random](int below) {
      return std::uniform_int_distribution<int>(0, below - 1)(random);
    };
    options_.max_log_steps = 5 + static_cast<size_t>(pick(50));
    options_.max_message_bytes = 50 + static_cast<size_t>(pick(500));
    Restart();
    std::vector<Client> clients(4);
    std::vector<std::shared_ptr<Watcher>> watchers(4);
    const auto connect = [&](size_t i) {
      watchers[i].reset();
      watchers[i] = Watch("", clients[i].epoch, clients[i].revision);
      clients[i].in_snapshot = false;
      clients[i].next_snapshot.clear();
    };
    for (size_t i = 0; i < clients.size(); ++i) connect(i);

    for (int step = 0; step < 300; ++step) {
      const int index = pick(6);
      switch (pick(8)) {
        case 0:
          Commit({DeleteSlot("a", index)});
          break;
        case 1:
          Commit({PutClaim("a", index, absl::StrCat("n", pick(3)))});
          break;
        case 2:
          Commit({Op::Delete(KeyOf(kClaims, SlotName({"a", index, 1})))});
          break;
        case 3:
          Commit({PutSlot("a", index, absl::StrCat(step)),
                  PutSlot("a", index + 1, absl::StrCat(step))});
          break;
        default:
          Commit({PutSlot("a", index, absl::StrCat(step))});
      }
      if (pick(3) == 0) feed_->Pump();
      const size_t reader = static_cast<size_t>(pick(4));
      if (pick(10) == 0) connect(reader);
      if (pick(60) == 0) {
        for (auto& watcher : watchers) watcher.reset();
        Restart();
        for (size_t i = 0; i < clients.size(); ++i) connect(i);
      }
      const absl::StatusOr<Record> next = watchers[reader]->Next();
      ASSERT_TRUE(next.ok());
      if (*next == nullptr) continue;
      v1::WatchSlotsResponse message;
      ASSERT_TRUE(message.ParseFromString(**next));
      if (message.kind() != v1::WATCH_KIND_BOOKMARK) {
        clients[reader].Take(message);
      }
    }

    feed_->Pump();
    const std::shared_ptr<Watcher> fresh = Watch();
    Client truth;
    for (const auto& message : Read(*fresh)) truth.Take(message);
    for (size_t i = 0; i < clients.size(); ++i) {
      for (const auto& message : Read(*watchers[i])) clients[i].Take(message);
      ASSERT_THAT(clients[i].slots, SizeIs(truth.slots.size()));
      for (const auto& [key, slot] : truth.slots) {
        EXPECT_EQ(clients[i].slots[key].SerializeAsString(),
                  slot.SerializeAsString())
            << key;
      }
    }
    for (auto& watcher : watchers) watcher.reset();
    if (testing::Test::HasFailure()) return;
  }
}

TEST(WatchViewTest, EncodesWhatTheGeneratedCodeDecodes) {
  v1::Plan plan;
  plan.set_app_name("billing");
  const std::string bytes = EncodeHead("epoch", 7, v1::WATCH_KIND_CHANGE) +
                            *EncodePut(plan.SerializeAsString()) +
                            *EncodeDelete("shop", 6);

  v1::WatchPlansResponse message;
  ASSERT_TRUE(message.ParseFromString(bytes));

  EXPECT_EQ(message.epoch(), "epoch");
  EXPECT_EQ(message.revision(), 7);
  EXPECT_EQ(message.kind(), v1::WATCH_KIND_CHANGE);
  ASSERT_EQ(message.changes_size(), 2);
  EXPECT_EQ(message.changes(0).put().app_name(), "billing");
  EXPECT_EQ(message.changes(1).delete_().key(), "shop");
  EXPECT_EQ(message.changes(1).delete_().revision(), 6);
}

}  // namespace
}  // namespace mycelium::fabric
