#include "services/repo/collector.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/fake_clock.h"
#include "lib/base/file.h"
#include "services/repo/sample_spore.h"

namespace mycelium::repo {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

class FakePlanSource final : public PlanSource {
 public:
  absl::StatusOr<absl::flat_hash_map<std::string, std::string>> PlannedDigests()
      override {
    if (!is_there) return absl::UnavailableError("connection refused");
    return planned;
  }

  bool is_there = true;
  absl::flat_hash_map<std::string, std::string> planned;
};

class NoListener final : public UploadListener {
 public:
  void OnRoom() override {}
  void OnEnd(absl::StatusOr<PutResult> result) override {
    MutexLock lock(mutex_);
    status_ = result.status();
    ended_ = true;
    changed_.NotifyAll();
  }
  absl::Status Wait() {
    MutexLock lock(mutex_);
    while (!ended_) changed_.Wait(mutex_);
    return status_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

class CollectorTest : public ::testing::Test {
 protected:
  CollectorTest()
      : directory_(*TempDirectory::Create("collector_test.")),
        store_(*SporeStore::Open(
            {.data_dir = directory_.path(), .clock = &clock_})) {}

  // Puts a spore and returns its digest.
  std::string Put(const std::string& name) {
    const SampleSpore spore = MakeSpore(name);
    NoListener listener;
    const auto begun =
        store_->BeginPut(spore.digest, spore.size_bytes(), &listener);
    EXPECT_TRUE(begun.ok()) << begun.status();
    begun->upload->Append(
        {.pieces = {spore.bytes},
         .owner = std::make_shared<std::string>(spore.bytes)});
    begun->upload->Finish();
    EXPECT_EQ(listener.Wait(), absl::OkStatus());
    return spore.digest;
  }

  std::vector<std::string> Digests() {
    std::vector<std::string> digests;
    for (const SporeStore::Age& age : store_->Ages()) {
      digests.push_back(age.digest);
    }
    return digests;
  }

  FakeClock clock_{absl::FromUnixSeconds(1'769'904'000)};
  TempDirectory directory_;
  std::unique_ptr<SporeStore> store_;
  FakePlanSource plans_;
  Collector with_fabric_{store_.get(), &plans_, &clock_};
  Collector without_fabric_{store_.get(), nullptr, &clock_};
};

TEST_F(CollectorTest, DeletesASporeThatNoPlanNames) {
  const std::string digest = Put("billing");

  const absl::StatusOr<int64_t> freed =
      with_fabric_.Delete(digest, Collector::InUse::kRefuse);

  ASSERT_TRUE(freed.ok()) << freed.status();
  EXPECT_GT(*freed, 1000);
  EXPECT_THAT(Digests(), IsEmpty());
}

TEST_F(CollectorTest, RefusesToDeleteAPlannedSporeUnlessForced) {
  const std::string digest = Put("billing");
  plans_.planned[digest] = "billing";

  const absl::Status refused =
      with_fabric_.Delete(digest, Collector::InUse::kRefuse).status();

  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(refused), "SPORE_IN_USE");
  EXPECT_EQ(MetadataOf(refused, "app_name"), "billing");
  EXPECT_THAT(Digests(), ElementsAre(digest));
  EXPECT_TRUE(with_fabric_.Delete(digest, Collector::InUse::kForce).ok());
  EXPECT_THAT(Digests(), IsEmpty());
}

TEST_F(CollectorTest, DeletesNothingWhileTheFabricIsAwayUnlessForced) {
  const std::string digest = Put("billing");
  plans_.is_there = false;

  const absl::Status refused =
      with_fabric_.Delete(digest, Collector::InUse::kRefuse).status();

  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(refused), "FABRIC_UNAVAILABLE");
  EXPECT_TRUE(with_fabric_.Delete(digest, Collector::InUse::kForce).ok());
}

TEST_F(CollectorTest, DeleteNamesWrongAndUnknownDigests) {
  EXPECT_EQ(
      ReasonOf(with_fabric_.Delete("x", Collector::InUse::kForce).status()),
      "DIGEST_INVALID");
  EXPECT_EQ(ReasonOf(with_fabric_
                         .Delete(std::string(64, 'a'), Collector::InUse::kForce)
                         .status()),
            "SPORE_NOT_FOUND");
}

TEST_F(CollectorTest, CollectsWhatNeitherPlansNorTheCallerKeep) {
  const std::string planned = Put("planned");
  const std::string kept = Put("kept");
  const std::string garbage = Put("garbage");
  plans_.planned[planned] = "planned";
  clock_.Advance(absl::Hours(2));

  const absl::StatusOr<Collector::GcResult> result =
      with_fabric_.Gc({.keep_digests = {kept}});

  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->deleted_digests, ElementsAre(garbage));
  EXPECT_GT(result->freed_bytes, 1000);
  EXPECT_EQ(result->kept_count, 2);
  EXPECT_THAT(Digests(), UnorderedElementsAre(planned, kept));
}

TEST_F(CollectorTest, CollectsWithoutAFabricWhatTheCallerDoesNotKeep) {
  const std::string kept = Put("kept");
  const std::string garbage = Put("garbage");
  clock_.Advance(absl::Hours(2));

  const absl::StatusOr<Collector::GcResult> result =
      without_fabric_.Gc({.keep_digests = {kept}});

  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->deleted_digests, ElementsAre(garbage));
}

TEST_F(CollectorTest, KeepsYoungSpores) {
  const std::string old = Put("old");
  clock_.Advance(absl::Minutes(59));
  const std::string young = Put("young");
  clock_.Advance(absl::Minutes(1));

  const absl::StatusOr<Collector::GcResult> result = with_fabric_.Gc({});

  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->deleted_digests, ElementsAre(old));
  EXPECT_THAT(Digests(), ElementsAre(young));
}

TEST_F(CollectorTest, MinAgeZeroKeepsNothingForBeingYoung) {
  const std::string digest = Put("young");

  const absl::StatusOr<Collector::GcResult> result =
      with_fabric_.Gc({.min_age = absl::ZeroDuration()});

  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->deleted_digests, ElementsAre(digest));
}

TEST_F(CollectorTest, ADryRunDeletesNothing) {
  const std::string garbage = Put("garbage");
  clock_.Advance(absl::Hours(2));

  const absl::StatusOr<Collector::GcResult> result =
      with_fabric_.Gc({.dry_run = true});

  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->deleted_digests, ElementsAre(garbage));
  EXPECT_GT(result->freed_bytes, 1000);
  EXPECT_THAT(Digests(), ElementsAre(garbage));
}

TEST_F(CollectorTest, CollectsNothingWhileTheFabricIsAway) {
  const std::string digest = Put("billing");
  clock_.Advance(absl::Hours(2));
  plans_.is_there = false;

  const absl::Status status =
      with_fabric_.Gc({.keep_digests = {std::string(64, 'a')}}).status();

  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "FABRIC_UNAVAILABLE");
  EXPECT_THAT(Digests(), ElementsAre(digest));
}

TEST_F(CollectorTest, DoesNotDeleteEverythingForLackOfReferences) {
  const std::string digest = Put("billing");
  clock_.Advance(absl::Hours(2));

  const absl::Status status = without_fabric_.Gc({}).status();

  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), "NO_REFERENCES");
  EXPECT_THAT(Digests(), ElementsAre(digest));
}

TEST_F(CollectorTest, EndsWhenTheCallerHasGone) {
  const std::string digest = Put("billing");
  clock_.Advance(absl::Hours(2));

  const absl::Status status =
      with_fabric_.Gc({.cancelled = [] { return true; }}).status();

  EXPECT_TRUE(absl::IsCancelled(status));
  EXPECT_THAT(Digests(), ElementsAre(digest));
}

TEST_F(CollectorTest, ChecksTheRequest) {
  EXPECT_EQ(ReasonOf(with_fabric_.Gc({.keep_digests = {"x"}}).status()),
            "REQUEST_INVALID");
  EXPECT_EQ(ReasonOf(with_fabric_.Gc({.min_age = -absl::Seconds(1)}).status()),
            "REQUEST_INVALID");
  EXPECT_EQ(ReasonOf(with_fabric_
                         .Gc({.keep_digests = std::vector<std::string>(
                                  10'001, std::string(64, 'a'))})
                         .status()),
            "REQUEST_INVALID");
}

}  // namespace
}  // namespace mycelium::repo
