// What the engine does while its journal is at work, and when it fails.

#include "services/fabric/store/engine.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/fake_clock.h"
#include "lib/base/mutex.h"
#include "services/fabric/store/journal.h"
#include "services/fabric/store/store.h"
#include "services/fabric/store/test_event.h"

namespace mycelium::fabric {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// What a test and the journal that the engine owns share.
class JournalControl {
 public:
  // Lets commits wait from now on, until Release.
  void Hold() {
    MutexLock lock(mutex_);
    held_ = true;
  }
  void Release() {
    MutexLock lock(mutex_);
    held_ = false;
    changed_.NotifyAll();
  }
  // Waits until a commit waits.
  void AwaitCommit() {
    MutexLock lock(mutex_);
    while (waiting_ == 0) changed_.Wait(mutex_);
  }
  void SetResult(absl::Status result) {
    MutexLock lock(mutex_);
    result_ = std::move(result);
  }
  // The revisions of each group that was committed, and its leases.
  std::vector<std::string> groups() {
    MutexLock lock(mutex_);
    return groups_;
  }

  absl::Status Commit(const JournalGroup& group) {
    MutexLock lock(mutex_);
    ++waiting_;
    changed_.NotifyAll();
    while (held_) changed_.Wait(mutex_);
    --waiting_;
    if (!result_.ok()) return result_;
    std::string text;
    for (const auto& batch : group.batches) {
      absl::StrAppend(&text, batch->revision, " ");
    }
    for (const auto& [id, ttl] : group.leases) {
      absl::StrAppend(&text, ttl.has_value() ? "+" : "-", id, " ");
    }
    groups_.push_back(text);
    return absl::OkStatus();
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status result_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> groups_ ABSL_GUARDED_BY(mutex_);
};

class FakeJournal final : public Journal {
 public:
  explicit FakeJournal(JournalControl* control) : control_(*control) {}

  absl::Status Commit(const JournalGroup& group) override {
    return control_.Commit(group);
  }
  void Settle() override {}
  absl::StatusOr<bool> Maintain(int64_t /*compact_revision*/) override {
    return false;
  }

 private:
  JournalControl& control_;
};

class StoreEngineTest : public testing::Test {
 protected:
  StoreEngineTest() {
    options_.clock = &clock_;
    store_ = std::make_unique<StoreEngine>(
        options_, std::make_unique<FakeJournal>(&control_), JournalState());
  }

  void PutAsync(absl::string_view key, LeaseId lease = kNoLease) {
    ++left_;
    store_->TxnAsync({.then_ops = {Op::Put(key, "", lease)}},
                     [this](const absl::StatusOr<TxnResponse>& response) {
                       Answer(response.ok() ? absl::StrCat(response->revision)
                                            : ReasonOf(response.status()));
                     });
  }
  void RevokeAsync(LeaseId lease) {
    ++left_;
    store_->RevokeAsync(lease, [this](const absl::StatusOr<int64_t>& revision) {
      Answer(revision.ok() ? absl::StrCat("revoked ", *revision)
                           : ReasonOf(revision.status()));
    });
  }
  void Answer(std::string text) {
    MutexLock lock(mutex_);
    answers_.push_back(std::move(text));
    --left_;
    answered_.NotifyAll();
  }
  std::vector<std::string> Answers() {
    MutexLock lock(mutex_);
    while (left_ > 0) answered_.Wait(mutex_);
    return std::exchange(answers_, {});
  }

  FakeClock clock_{absl::FromUnixSeconds(1'700'000'000)};
  JournalControl control_;
  Mutex mutex_;
  CondVar answered_;
  std::vector<std::string> answers_ ABSL_GUARDED_BY(mutex_);
  std::atomic<int> left_ = 0;
  StoreOptions options_;
  std::unique_ptr<StoreEngine> store_;
};

TEST_F(StoreEngineTest, ShowsNothingBeforeItIsCommitted) {
  control_.Hold();
  PutAsync("a");
  control_.AwaitCommit();

  EXPECT_EQ(store_->Revision(), 0);
  EXPECT_THAT(store_->Range(RangeRequest::Key("a"))->entries, IsEmpty());
  EXPECT_THAT(store_->ReadChanges(0, 1)->batches, IsEmpty());
  control_.Release();

  EXPECT_THAT(Answers(), ElementsAre("1"));
  EXPECT_THAT(store_->Range(RangeRequest::Key("a"))->entries, SizeIs(1));
}

TEST_F(StoreEngineTest, CommitsWhatGathersDuringACommitTogether) {
  control_.Hold();
  PutAsync("a");
  control_.AwaitCommit();
  for (int i = 0; i < 5; ++i) PutAsync("b");
  control_.Release();

  EXPECT_THAT(Answers(), ElementsAre("1", "2", "3", "4", "5", "6"));
  EXPECT_THAT(control_.groups(), ElementsAre("1 ", "2 3 4 5 6 "));
}

TEST_F(StoreEngineTest, SeesLeasesAndKeysOfTheSameGroup) {
  ASSERT_TRUE(store_->Grant(absl::Seconds(10), 1).ok());
  ASSERT_TRUE(store_->Grant(absl::Seconds(10), 2).ok());
  control_.Hold();
  PutAsync("first");
  control_.AwaitCommit();
  PutAsync("stays", 1);
  PutAsync("moves", 1);
  PutAsync("moves", 2);
  RevokeAsync(1);
  PutAsync("late", 1);
  control_.Release();

  EXPECT_THAT(Answers(), ElementsAre("1", "2", "3", "4", "revoked 5",
                                     std::string(kReasonNoLease)));
  EXPECT_THAT(store_->Range(RangeRequest::Key("stays"))->entries, IsEmpty());
  EXPECT_THAT(store_->Range(RangeRequest::Key("moves"))->entries, SizeIs(1));
  EXPECT_EQ(store_->TimeToLive(2)->key_count, 1u);
}

TEST_F(StoreEngineTest, DropsAGroupThatTheJournalRefuses) {
  ASSERT_TRUE(store_->Grant(absl::Seconds(10), 1).ok());
  PutAsync("before", 1);
  ASSERT_THAT(Answers(), ElementsAre("1"));
  const absl::Status full = MakeError(absl::StatusCode::kUnavailable,
                                      kStoreErrorDomain, kReasonDiskFull, "");
  control_.SetResult(full);
  control_.Hold();
  PutAsync("a");
  control_.AwaitCommit();
  PutAsync("b", 1);
  RevokeAsync(1);
  control_.Release();
  const std::string reason(kReasonDiskFull);

  EXPECT_THAT(Answers(), ElementsAre(reason, reason, reason));
  EXPECT_EQ(store_->Revision(), 1);
  EXPECT_EQ(store_->Stats().keys, 1u);
  EXPECT_EQ(store_->TimeToLive(1)->key_count, 1u);
  EXPECT_EQ(store_->Stats().failed_commits, 2);
  EXPECT_TRUE(store_->KeepAlive(1).ok());

  control_.SetResult(absl::OkStatus());
  PutAsync("c");
  EXPECT_THAT(Answers(), ElementsAre("2"));
}

TEST_F(StoreEngineTest, KeepAliveComesTooLateOnceTheEndIsBeingCommitted) {
  ASSERT_TRUE(store_->Grant(absl::Seconds(10), 1).ok());
  clock_.Advance(absl::Seconds(10));
  EXPECT_TRUE(store_->KeepAlive(1).ok()) << "overdue, but not ended yet";
  control_.Hold();
  RevokeAsync(1);
  control_.AwaitCommit();

  EXPECT_EQ(ReasonOf(store_->KeepAlive(1).status()), kReasonNoLease);
  control_.Release();
  EXPECT_THAT(Answers(), ElementsAre("revoked 0"));
}

TEST_F(StoreEngineTest, ALeaseWhoseEndIsRefusedCanStillBeKeptAlive) {
  ASSERT_TRUE(store_->Grant(absl::Seconds(10), 1).ok());
  PutAsync("a", 1);
  ASSERT_THAT(Answers(), ElementsAre("1"));
  control_.SetResult(absl::InternalError("the disk failed"));
  clock_.Advance(absl::Seconds(10));

  EXPECT_EQ(store_->Tick().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(store_->KeepAlive(1).ok());
  control_.SetResult(absl::OkStatus());
  EXPECT_TRUE(store_->Tick().ok());
  EXPECT_EQ(store_->Revision(), 1);
  clock_.Advance(absl::Seconds(10));
  EXPECT_TRUE(store_->Tick().ok());
  EXPECT_EQ(store_->Revision(), 2);
}

}  // namespace
}  // namespace mycelium::fabric
