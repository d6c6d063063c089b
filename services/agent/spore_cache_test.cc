#include "services/agent/spore_cache.h"

#include <unistd.h>

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/fake_clock.h"
#include "lib/base/file.h"
#include "lib/crypto/sha256.h"
#include "lib/crypto/trust_store.h"
#include "lib/spore/test_spore.h"

namespace mycelium::agent {
namespace {

using ::testing::HasSubstr;

// A spore that differs from the others in its version.
std::string SporeBytes(const std::string& version) {
  spore::JsonValue manifest = spore::TestManifest();
  manifest.Set("version", version);
  return spore::WriteZip(
      spore::SporeWith(spore::SignManifest(std::move(manifest))));
}

// A repo in memory, which can be away and can break off.
class FakeSource final : public SporeSource {
 public:
  std::string Put(const std::string& bytes) {
    const std::string digest = crypto::Sha256Hex(bytes);
    MutexLock lock(mutex_);
    spores_[digest] = bytes;
    return digest;
  }

  absl::Status Fetch(const std::string& digest, int64_t offset,
                     Sink sink) override {
    std::string bytes;
    int64_t stop_after = 0;
    {
      MutexLock lock(mutex_);
      ++fetches;
      last_offset = offset;
      if (away) return absl::UnavailableError("the repo is away");
      if (!spores_.contains(digest))
        return absl::NotFoundError("no such spore");
      bytes = spores_[digest];
      stop_after = break_after;
    }
    const int64_t size = static_cast<int64_t>(bytes.size());
    for (int64_t at = offset; at < size; at += 64) {
      if (stop_after != 0 && at - offset >= stop_after) {
        return absl::UnavailableError("the connection broke");
      }
      const absl::Status status = sink(size, bytes.substr(at, 64));
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  Mutex mutex_;
  std::map<std::string, std::string> spores_;
  int fetches = 0;
  int64_t last_offset = 0;
  bool away = false;
  int64_t break_after = 0;
};

class SporeCacheTest : public ::testing::Test {
 protected:
  SporeCacheTest()
      : directory_(TempDirectory::Create("spore-cache").value()),
        clock_(absl::Now()) {
    WriteTrust(spore::TestTrust());
    trust_ = TrustPolicy::Load(TrustPath()).value();
    Open();
  }

  std::string TrustPath() const { return directory_.path() + "/trust.json"; }

  void WriteTrust(const crypto::TrustStore& trust) {
    ASSERT_TRUE(WriteFileAtomically(TrustPath(), trust.Serialize()).ok());
  }

  void Open(int64_t max_bytes = int64_t{1} << 30) {
    cache_.reset();
    cache_ = SporeCache::Open({.directory = directory_.path() + "/cache",
                               .max_bytes = max_bytes},
                              &source_, trust_.get(), &clock_)
                 .value();
  }

  TempDirectory directory_;
  FakeClock clock_;
  FakeSource source_;
  std::unique_ptr<TrustPolicy> trust_;
  std::unique_ptr<SporeCache> cache_;
};

TEST_F(SporeCacheTest, FetchesVerifiesAndUnpacks) {
  const std::string digest = source_.Put(SporeBytes("1.0.0"));

  const absl::StatusOr<CachedSpore> spore = cache_->Get(digest);

  ASSERT_TRUE(spore.ok()) << spore.status();
  EXPECT_EQ(spore->manifest.version, "1.0.0");
  EXPECT_EQ(ReadFile(spore->program).value(), spore::kTestBinary);
  EXPECT_EQ(access(spore->program.c_str(), X_OK), 0);
}

TEST_F(SporeCacheTest, FetchesOnce) {
  const std::string digest = source_.Put(SporeBytes("1.0.0"));
  ASSERT_TRUE(cache_->Get(digest).ok());
  source_.away = true;

  EXPECT_TRUE(cache_->Get(digest).ok());
  EXPECT_EQ(source_.fetches, 1);
}

TEST_F(SporeCacheTest, FetchesOnceForManyAtATime) {
  const std::string digest = source_.Put(SporeBytes("1.0.0"));
  std::vector<std::thread> threads;

  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] { EXPECT_TRUE(cache_->Get(digest).ok()); });
  }
  for (std::thread& thread : threads) thread.join();

  EXPECT_EQ(source_.fetches, 1);
}

TEST_F(SporeCacheTest, ServesWhatItHasAfterARestartWithoutTheRepo) {
  const std::string digest = source_.Put(SporeBytes("1.0.0"));
  ASSERT_TRUE(cache_->Get(digest).ok());
  source_.away = true;

  Open();

  EXPECT_TRUE(cache_->Get(digest).ok());
}

TEST_F(SporeCacheTest, ResumesWhereItBrokeOff) {
  const std::string digest = source_.Put(SporeBytes("1.0.0"));
  source_.break_after = 128;
  EXPECT_TRUE(absl::IsUnavailable(cache_->Get(digest).status()));
  source_.break_after = 0;

  EXPECT_TRUE(cache_->Get(digest).ok());
  EXPECT_EQ(source_.last_offset, 128);
}

TEST_F(SporeCacheTest, ThrowsAwayWhatIsNotTheSpore) {
  const std::string bytes = SporeBytes("1.0.0");
  const std::string digest = source_.Put(bytes);
  source_.spores_[digest] = bytes + "x";
  const absl::Status status = cache_->Get(digest).status();
  EXPECT_EQ(ReasonOf(status), "DIGEST_MISMATCH");
  EXPECT_FALSE(SporeCache::IsRefusal(status));

  source_.spores_[digest] = bytes;

  EXPECT_TRUE(cache_->Get(digest).ok());
  EXPECT_EQ(source_.last_offset, 0);
}

TEST_F(SporeCacheTest, RefusesAnUntrustedSporeAndNamesTheCheck) {
  const std::string digest = source_.Put(SporeBytes("1.0.0"));
  crypto::TrustStore nobody;
  while (nobody.version() <= trust_->Current()->version()) {
    nobody.SetExpires(std::nullopt);
  }
  WriteTrust(nobody);

  const absl::Status status = cache_->Get(digest).status();

  EXPECT_TRUE(SporeCache::IsRefusal(status)) << status;
  EXPECT_EQ(ReasonOf(status), "E_UNTRUSTED_KEY");
  EXPECT_TRUE(ListDirectory(directory_.path() + "/cache/" + digest + "/tree")
                  .status()
                  .code() == absl::StatusCode::kNotFound);
}

TEST_F(SporeCacheTest, AsksTheTrustStoreAgainWhenItChanges) {
  const std::string digest = source_.Put(SporeBytes("1.0.0"));
  ASSERT_TRUE(cache_->Get(digest).ok());
  crypto::TrustStore trust = spore::TestTrust();
  ASSERT_TRUE(trust.RevokeSpore(digest).ok());
  WriteTrust(trust);

  EXPECT_EQ(ReasonOf(cache_->Get(digest).status()), "E_REVOKED");
}

TEST_F(SporeCacheTest, KeepsTheLastTrustWhenTheFileBreaks) {
  const std::string digest = source_.Put(SporeBytes("1.0.0"));
  ASSERT_TRUE(WriteFileAtomically(TrustPath(), "{").ok());

  EXPECT_TRUE(cache_->Get(digest).ok());
}

TEST_F(SporeCacheTest, UnpacksAgainWhatWasChangedOnDisk) {
  const std::string digest = source_.Put(SporeBytes("1.0.0"));
  const std::string program = cache_->Get(digest)->program;
  ASSERT_TRUE(WriteFileAtomically(program, "#!/bin/evil").ok());

  Open();

  ASSERT_TRUE(cache_->Get(digest).ok());
  EXPECT_EQ(ReadFile(program).value(), spore::kTestBinary);
}

TEST_F(SporeCacheTest, FetchesAgainWhatWasCorruptedOnDisk) {
  const std::string digest = source_.Put(SporeBytes("1.0.0"));
  ASSERT_TRUE(cache_->Get(digest).ok());
  const std::string file = directory_.path() + "/cache/" + digest + "/spore";
  ASSERT_TRUE(WriteFileAtomically(file, "rubbish").ok());
  Open();

  EXPECT_EQ(ReasonOf(cache_->Get(digest).status()), "DIGEST_MISMATCH");
  EXPECT_TRUE(cache_->Get(digest).ok());
}

TEST_F(SporeCacheTest, EvictsTheLeastRecentlyUsedAndNothingThatIsNeeded) {
  std::vector<std::string> digests;
  for (int i = 0; i < 4; ++i) {
    digests.push_back(source_.Put(SporeBytes(absl::StrCat("1.0.", i))));
    ASSERT_TRUE(cache_->Get(digests.back()).ok());
    clock_.Advance(absl::Minutes(1));
  }
  const int64_t one = cache_->size_bytes() / 4;
  ASSERT_TRUE(cache_->Get(digests[1]).ok());
  Open(2 * one + 100);

  cache_->SetNeeded({digests[0]});
  cache_->Trim();
  EXPECT_LE(cache_->size_bytes(), 2 * one + 100);

  source_.away = true;
  EXPECT_TRUE(cache_->Get(digests[0]).ok());
}

TEST_F(SporeCacheTest, SaysWhenWhatIsNeededLeavesNoRoom) {
  const std::string first = source_.Put(SporeBytes("1.0.0"));
  ASSERT_TRUE(cache_->Get(first).ok());
  Open(cache_->size_bytes() + 10);
  cache_->SetNeeded({first});

  const absl::Status status =
      cache_->Get(source_.Put(SporeBytes("2.0.0"))).status();

  EXPECT_EQ(ReasonOf(status), "CACHE_FULL");
  EXPECT_THAT(std::string(status.message()), HasSubstr("--cache_max_mb"));
}

TEST_F(SporeCacheTest, SaysWhenTheRepoDoesNotHaveIt) {
  EXPECT_TRUE(absl::IsNotFound(cache_->Get(std::string(64, 'a')).status()));
}

TEST_F(SporeCacheTest, RefusesWhatIsNoDigest) {
  EXPECT_TRUE(absl::IsInvalidArgument(cache_->Get("../../etc").status()));
}

}  // namespace
}  // namespace mycelium::agent
