#include "services/repo/spore_store.h"

#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/fake_clock.h"
#include "lib/base/file.h"
#include "lib/crypto/sha256.h"
#include "lib/crypto/trust_store.h"
#include "services/repo/sample_spore.h"

namespace mycelium::repo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Waits for what an upload says.
class WaitingListener final : public UploadListener {
 public:
  void OnRoom() override {
    MutexLock lock(mutex_);
    has_room_ = true;
    changed_.NotifyAll();
  }

  void OnEnd(absl::StatusOr<PutResult> result) override {
    MutexLock lock(mutex_);
    EXPECT_FALSE(result_.has_value()) << "OnEnd() came twice";
    result_ = std::move(result);
    changed_.NotifyAll();
  }

  // Returns false if the upload ended instead.
  bool WaitForRoom() {
    MutexLock lock(mutex_);
    while (!has_room_ && !result_.has_value()) changed_.Wait(mutex_);
    return std::exchange(has_room_, false);
  }

  absl::StatusOr<PutResult> WaitForEnd() {
    MutexLock lock(mutex_);
    while (!result_.has_value()) changed_.Wait(mutex_);
    return *result_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool has_room_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::StatusOr<PutResult>> result_ ABSL_GUARDED_BY(mutex_);
};

// `bytes` as it may come from a network: in uneven pieces.
Chunk ChunkOf(absl::string_view bytes) {
  auto owner = std::make_shared<std::string>(bytes);
  const absl::string_view all = *owner;
  const size_t half = all.size() / 3;
  return {.pieces = {all.substr(0, half), all.substr(half)},
          .owner = std::move(owner)};
}

absl::StatusOr<PutResult> Put(SporeStore& store, const std::string& digest,
                              int64_t size_bytes, absl::string_view bytes,
                              size_t chunk_bytes = 10'000) {
  WaitingListener listener;
  absl::StatusOr<SporeStore::BegunPut> begun =
      store.BeginPut(digest, size_bytes, &listener);
  if (!begun.ok()) return begun.status();
  if (begun->existing.has_value()) return *begun->existing;
  while (!bytes.empty()) {
    const bool has_room =
        begun->upload->Append(ChunkOf(bytes.substr(0, chunk_bytes)));
    bytes.remove_prefix(std::min(chunk_bytes, bytes.size()));
    if (!has_room && !listener.WaitForRoom()) return listener.WaitForEnd();
  }
  begun->upload->Finish();
  return listener.WaitForEnd();
}

absl::StatusOr<PutResult> Put(SporeStore& store, const SampleSpore& spore) {
  return Put(store, spore.digest, spore.size_bytes(), spore.bytes);
}

class SporeStoreTest : public ::testing::Test {
 protected:
  SporeStoreTest() : directory_(*TempDirectory::Create("spore_store_test.")) {
    options_.data_dir = JoinPath(directory_.path(), "data");
    options_.clock = &clock_;
  }

  // Opens the store, again if it is open.
  void Open() {
    store_.reset();
    absl::StatusOr<std::unique_ptr<SporeStore>> store =
        SporeStore::Open(options_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  std::string PathOf(const SampleSpore& spore, absl::string_view suffix) {
    return absl::StrCat(options_.data_dir, "/spores/",
                        spore.digest.substr(0, 2), "/", spore.digest, suffix);
  }

  // Every file of the store but its lock.
  std::vector<std::string> Files() {
    std::vector<std::string> files;
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(options_.data_dir)) {
      if (entry.is_regular_file() && entry.path().filename() != "lock") {
        files.push_back(entry.path().string());
      }
    }
    return files;
  }

  std::string ReadAll(const SporeReader& reader) {
    std::string bytes(static_cast<size_t>(reader.size_bytes()), '\0');
    EXPECT_EQ(reader.ReadAt(0, bytes.data(), bytes.size()), absl::OkStatus());
    return bytes;
  }

  TempDirectory directory_;
  FakeClock clock_{absl::FromUnixSeconds(1'769'904'000)};
  SporeStore::Options options_;
  std::unique_ptr<SporeStore> store_;
};

TEST_F(SporeStoreTest, StoresASporeAndGivesItBack) {
  Open();
  const SampleSpore spore = MakeSpore("payments/billing", 100'000);

  const absl::StatusOr<PutResult> put = Put(*store_, spore);

  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_FALSE(put->existed);
  const absl::StatusOr<SporeReader> reader = store_->Read(spore.digest);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(ReadAll(*reader), spore.bytes);
  EXPECT_THAT(Files(), SizeIs(2));
}

TEST_F(SporeStoreTest, SaysWhatIsKnownOfASpore) {
  Open();
  const SampleSpore spore = MakeSpore("payments/billing");
  ASSERT_TRUE(Put(*store_, spore).ok());

  const absl::StatusOr<spore::v1::SporeInfo> info = store_->Stat(spore.digest);

  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->digest(), spore.digest);
  EXPECT_EQ(info->size_bytes(), spore.size_bytes());
  EXPECT_EQ(info->name(), "payments/billing");
  EXPECT_EQ(info->app_name(), "billing");
  EXPECT_EQ(info->version(), "1.2.3");
  EXPECT_EQ(info->key_id(), crypto::KeyId(SampleKey().public_key()));
  EXPECT_THAT(info->statement_digest(), SizeIs(64));
  EXPECT_EQ(info->put_time().seconds(), absl::ToUnixSeconds(clock_.Now()));
  EXPECT_THAT(info->manifest_json(),
              HasSubstr("\"name\":\"payments/billing\""));
  EXPECT_FALSE(info->trusted());
}

TEST_F(SporeStoreTest, PuttingAgainIsSuccessBeforeAnyByteIsSent) {
  Open();
  const SampleSpore spore = MakeSpore("billing");
  ASSERT_TRUE(Put(*store_, spore).ok());
  WaitingListener listener;

  const absl::StatusOr<SporeStore::BegunPut> begun =
      store_->BeginPut(spore.digest, spore.size_bytes(), &listener);

  ASSERT_TRUE(begun.ok()) << begun.status();
  ASSERT_TRUE(begun->existing.has_value());
  EXPECT_TRUE(begun->existing->existed);
  EXPECT_EQ(begun->existing->spore.name(), "billing");
  EXPECT_EQ(begun->upload, nullptr);
}

TEST_F(SporeStoreTest, KnowsItsSporesAfterARestart) {
  Open();
  const SampleSpore spore = MakeSpore("billing");
  ASSERT_TRUE(Put(*store_, spore).ok());
  const std::string before = store_->Stat(spore.digest)->SerializeAsString();
  clock_.Advance(absl::Hours(1));

  Open();

  EXPECT_EQ(store_->Stat(spore.digest)->SerializeAsString(), before);
  EXPECT_THAT(store_->List(0, "", "")->spores, SizeIs(1));
}

TEST_F(SporeStoreTest, ASmallQueueOnlyMakesTheSenderWait) {
  options_.max_queued_bytes = 1;
  Open();
  const SampleSpore spore = MakeSpore("billing", 300'000);

  const absl::StatusOr<PutResult> put = Put(*store_, spore);

  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_EQ(ReadAll(*store_->Read(spore.digest)), spore.bytes);
}

TEST_F(SporeStoreTest, TheQueueIsBounded) {
  options_.max_queued_bytes = 10'000;
  Open();
  WaitingListener listener;
  const std::string zeros(6'000, '\0');
  const auto begun = store_->BeginPut(std::string(64, 'a'), 100'000, &listener);
  ASSERT_TRUE(begun.ok()) << begun.status();

  // However fast the threads are, OnRoom() comes as often as Append() says no.
  for (int i = 0; i < 16; ++i) {
    if (!begun->upload->Append(ChunkOf(zeros))) {
      ASSERT_TRUE(listener.WaitForRoom());
    }
  }

  begun->upload->Finish();
  EXPECT_EQ(ReasonOf(listener.WaitForEnd().status()), "SIZE_MISMATCH");
}

TEST_F(SporeStoreTest, RefusesTamperedSporesAndKeepsNothing) {
  Open();
  SampleSpore spore = MakeSpore("billing", 5'000);
  // Within the binary, which ends right before the zip's directory.
  spore.bytes[spore.bytes.size() / 2] ^= 1;
  spore.digest = crypto::Sha256Hex(spore.bytes);

  const absl::Status status = Put(*store_, spore).status();

  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), "SPORE_REFUSED");
  EXPECT_THAT(MetadataOf(status, "code"), ::testing::StartsWith("E_"));
  EXPECT_NE(MetadataOf(status, "detail"), "");
  EXPECT_THAT(Files(), IsEmpty());
  EXPECT_EQ(ReasonOf(store_->Stat(spore.digest).status()), "SPORE_NOT_FOUND");
}

TEST_F(SporeStoreTest, RefusesFilesThatAreNoSpores) {
  Open();
  const std::string text(100'000, 'x');

  const absl::Status status =
      Put(*store_, crypto::Sha256Hex(text), 100'000, text).status();

  EXPECT_EQ(ReasonOf(status), "SPORE_REFUSED");
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_F(SporeStoreTest, RefusesTheBytesOfAnotherDigest) {
  Open();
  const SampleSpore spore = MakeSpore("billing");
  const std::string other(64, 'a');

  const absl::Status status =
      Put(*store_, other, spore.size_bytes(), spore.bytes).status();

  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ReasonOf(status), "DIGEST_MISMATCH");
  EXPECT_EQ(MetadataOf(status, "want"), other);
  EXPECT_EQ(MetadataOf(status, "got"), spore.digest);
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_F(SporeStoreTest, RefusesFewerBytesThanTheHeaderSays) {
  Open();
  const SampleSpore spore = MakeSpore("billing");

  const absl::Status status =
      Put(*store_, spore.digest, spore.size_bytes() + 1, spore.bytes).status();

  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ReasonOf(status), "SIZE_MISMATCH");
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_F(SporeStoreTest, EndsUploadsThatBringMoreThanTheHeaderSays) {
  Open();
  const SampleSpore spore = MakeSpore("billing", 100'000);

  const absl::Status status =
      Put(*store_, spore.digest, 50'000, spore.bytes).status();

  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ReasonOf(status), "SIZE_MISMATCH");
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_F(SporeStoreTest, ACancelledUploadLeavesNothing) {
  Open();
  const SampleSpore spore = MakeSpore("billing", 100'000);
  WaitingListener listener;
  const auto begun =
      store_->BeginPut(spore.digest, spore.size_bytes(), &listener);
  ASSERT_TRUE(begun.ok()) << begun.status();
  begun->upload->Append(ChunkOf(spore.bytes.substr(0, 50'000)));

  begun->upload->Cancel(absl::CancelledError("gone"));

  EXPECT_TRUE(absl::IsCancelled(listener.WaitForEnd().status()));
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_F(SporeStoreTest, AnIdleUploadIsGivenUp) {
  options_.upload_idle_timeout = absl::Milliseconds(20);
  Open();
  const SampleSpore spore = MakeSpore("billing", 100'000);
  WaitingListener listener;
  const auto begun =
      store_->BeginPut(spore.digest, spore.size_bytes(), &listener);
  ASSERT_TRUE(begun.ok()) << begun.status();
  begun->upload->Append(ChunkOf(spore.bytes.substr(0, 50'000)));

  const absl::Status status = listener.WaitForEnd().status();

  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(status), "UPLOAD_IDLE");
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_F(SporeStoreTest, RemovesWhatACrashLeftBehind) {
  Open();
  const SampleSpore kept = MakeSpore("billing");
  const SampleSpore lost = MakeSpore("frontend");
  ASSERT_TRUE(Put(*store_, kept).ok());
  ASSERT_TRUE(Put(*store_, lost).ok());
  store_.reset();
  // A crash while receiving, and one between the two renames of a Put.
  ASSERT_TRUE(WriteFileAtomically(
                  JoinPath(options_.data_dir, "incoming/1234.part"), "half")
                  .ok());
  ASSERT_EQ(unlink(PathOf(lost, ".spore").c_str()), 0);

  Open();

  EXPECT_THAT(Files(), ::testing::UnorderedElementsAre(PathOf(kept, ".spore"),
                                                       PathOf(kept, ".info")));
  EXPECT_TRUE(store_->Stat(kept.digest).ok());
  EXPECT_EQ(ReasonOf(store_->Stat(lost.digest).status()), "SPORE_NOT_FOUND");
}

TEST_F(SporeStoreTest, MakesLostInformationAgainFromTheSpore) {
  Open();
  const SampleSpore spore = MakeSpore("billing");
  ASSERT_TRUE(Put(*store_, spore).ok());
  const std::string before = store_->Stat(spore.digest)->SerializeAsString();
  for (const char* damage : {"", "not a message"}) {
    ASSERT_TRUE(WriteFileAtomically(PathOf(spore, ".info"), damage).ok());

    Open();

    const absl::StatusOr<spore::v1::SporeInfo> info =
        store_->Stat(spore.digest);
    ASSERT_TRUE(info.ok()) << info.status();
    EXPECT_EQ(info->SerializeAsString(), before);
  }
}

TEST_F(SporeStoreTest, DoesNotServeADamagedFileAndTakesItAgain) {
  Open();
  const SampleSpore spore = MakeSpore("billing");
  ASSERT_TRUE(Put(*store_, spore).ok());
  ASSERT_EQ(chmod(PathOf(spore, ".spore").c_str(), 0644), 0);
  ASSERT_EQ(truncate(PathOf(spore, ".spore").c_str(), 100), 0);

  Open();

  EXPECT_EQ(ReasonOf(store_->Read(spore.digest).status()), "SPORE_NOT_FOUND");
  const absl::StatusOr<PutResult> put = Put(*store_, spore);
  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_FALSE(put->existed);
  EXPECT_EQ(ReadAll(*store_->Read(spore.digest)), spore.bytes);
}

TEST_F(SporeStoreTest, LeavesForeignFilesAlone) {
  Open();
  const std::string foreign = JoinPath(options_.data_dir, "spores/readme/note");
  ASSERT_TRUE(
      MakeDirectories(JoinPath(options_.data_dir, "spores/readme")).ok());
  ASSERT_TRUE(WriteFileAtomically(foreign, "hello").ok());

  Open();

  EXPECT_THAT(store_->Ages(), IsEmpty());
  EXPECT_THAT(Files(), ElementsAre(foreign));
}

TEST_F(SporeStoreTest, IsUsedByOneProcessAtATime) {
  Open();

  const absl::Status status = SporeStore::Open(options_).status();

  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr(options_.data_dir));
}

TEST_F(SporeStoreTest, ConcurrentPutsOfOneDigestAreOneObject) {
  Open();
  const SampleSpore spore = MakeSpore("billing", 200'000);
  constexpr int kThreads = 8;
  std::vector<absl::StatusOr<PutResult>> results(kThreads);
  std::vector<std::thread> threads;
  threads.reserve(kThreads);

  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back(
        [&, i] { results[static_cast<size_t>(i)] = Put(*store_, spore); });
  }
  for (std::thread& thread : threads) thread.join();

  int created = 0;
  for (const absl::StatusOr<PutResult>& result : results) {
    ASSERT_TRUE(result.ok()) << result.status();
    if (!result->existed) ++created;
  }
  EXPECT_EQ(created, 1);
  EXPECT_THAT(Files(), SizeIs(2));
  EXPECT_EQ(ReadAll(*store_->Read(spore.digest)), spore.bytes);
}

TEST_F(SporeStoreTest, BoundsTheNumberOfUploads) {
  options_.max_uploads = 2;
  Open();
  const SampleSpore spore = MakeSpore("billing");
  WaitingListener first;
  WaitingListener second;
  WaitingListener third;
  const auto a = store_->BeginPut(std::string(64, 'a'), 10, &first);
  const auto b = store_->BeginPut(std::string(64, 'b'), 10, &second);
  ASSERT_TRUE(a.ok() && b.ok());

  const absl::Status status =
      store_->BeginPut(spore.digest, spore.size_bytes(), &third).status();

  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "TOO_MANY_UPLOADS");
  // An upload that has ended makes room at once.
  a->upload->Cancel(absl::CancelledError("gone"));
  EXPECT_FALSE(first.WaitForEnd().ok());
  EXPECT_TRUE(Put(*store_, spore).ok());
  b->upload->Cancel(absl::CancelledError("gone"));
  EXPECT_FALSE(second.WaitForEnd().ok());
}

TEST_F(SporeStoreTest, ChecksTheHeader) {
  options_.max_spore_bytes = 1'000'000;
  Open();
  WaitingListener listener;
  const std::string digest(64, 'a');
  const struct {
    std::string digest;
    int64_t size_bytes;
    std::string reason;
  } cases[] = {
      {"", 1, "HEADER_INVALID"},
      {std::string(64, 'A'), 1, "HEADER_INVALID"},
      {std::string(63, 'a'), 1, "HEADER_INVALID"},
      {"../../../../etc/passwd", 1, "HEADER_INVALID"},
      {digest, 0, "HEADER_INVALID"},
      {digest, -1, "HEADER_INVALID"},
      {digest, 1'000'001, "SPORE_TOO_LARGE"},
      {digest, INT64_MAX, "SPORE_TOO_LARGE"},
  };
  for (const auto& c : cases) {
    const absl::Status status =
        store_->BeginPut(c.digest, c.size_bytes, &listener).status();

    EXPECT_EQ(ReasonOf(status), c.reason) << c.digest << " " << c.size_bytes;
  }
  const absl::Status too_large =
      store_->BeginPut(digest, 1'000'001, &listener).status();
  EXPECT_EQ(too_large.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(MetadataOf(too_large, "max_bytes"), "1000000");
}

TEST_F(SporeStoreTest, AFullDiskIsACleanError) {
  Open();
  const SampleSpore spore = MakeSpore("billing", 500'000);
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit limit = before;
  limit.rlim_cur = 100'000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);

  const absl::Status status = Put(*store_, spore).status();

  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "DISK_FULL");
  EXPECT_THAT(Files(), IsEmpty());
  EXPECT_TRUE(Put(*store_, spore).ok());
}

// Needs the right to mount.
TEST_F(SporeStoreTest, AFullFileSystemIsACleanError) {
  ASSERT_TRUE(MakeDirectories(options_.data_dir).ok());
  if (mount("tmpfs", options_.data_dir.c_str(), "tmpfs", 0, "size=1m") != 0) {
    GTEST_SKIP() << "cannot mount a small file system here";
  }
  Open();
  const SampleSpore first = MakeSpore("first", 700'000);
  const SampleSpore second = MakeSpore("second", 700'000);
  WaitingListener first_listener;
  WaitingListener second_listener;

  // Each fits when it begins, but not both.
  const auto a =
      store_->BeginPut(first.digest, first.size_bytes(), &first_listener);
  const auto b =
      store_->BeginPut(second.digest, second.size_bytes(), &second_listener);
  ASSERT_TRUE(a.ok() && b.ok());
  a->upload->Append(ChunkOf(first.bytes));
  a->upload->Finish();
  const absl::StatusOr<PutResult> put = first_listener.WaitForEnd();
  b->upload->Append(ChunkOf(second.bytes));
  b->upload->Finish();
  const absl::Status full = second_listener.WaitForEnd().status();
  // And now it is plain from the beginning.
  const absl::Status early = Put(*store_, second).status();

  EXPECT_TRUE(put.ok()) << put.status();
  EXPECT_EQ(ReasonOf(full), "DISK_FULL") << full;
  EXPECT_EQ(ReasonOf(early), "DISK_FULL") << early;
  EXPECT_THAT(Files(), SizeIs(2));
  store_.reset();
  EXPECT_EQ(umount2(options_.data_dir.c_str(), MNT_DETACH), 0);
}

TEST_F(SporeStoreTest, ReadersOfADeletedSporeFinish) {
  Open();
  const SampleSpore spore = MakeSpore("billing", 100'000);
  ASSERT_TRUE(Put(*store_, spore).ok());
  const absl::StatusOr<SporeReader> reader = store_->Read(spore.digest);
  ASSERT_TRUE(reader.ok()) << reader.status();

  const absl::StatusOr<int64_t> freed = store_->Delete(spore.digest);

  ASSERT_TRUE(freed.ok()) << freed.status();
  EXPECT_EQ(*freed, spore.size_bytes());
  EXPECT_EQ(ReadAll(*reader), spore.bytes);
  EXPECT_EQ(ReasonOf(store_->Read(spore.digest).status()), "SPORE_NOT_FOUND");
  EXPECT_EQ(ReasonOf(store_->Delete(spore.digest).status()), "SPORE_NOT_FOUND");
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_F(SporeStoreTest, ADeletedSporeCanBePutAgain) {
  Open();
  const SampleSpore spore = MakeSpore("billing");
  ASSERT_TRUE(Put(*store_, spore).ok());
  ASSERT_TRUE(store_->Delete(spore.digest).ok());

  const absl::StatusOr<PutResult> put = Put(*store_, spore);

  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_FALSE(put->existed);
}

TEST_F(SporeStoreTest, PuttingAgainMakesASporeYoung) {
  Open();
  const SampleSpore spore = MakeSpore("billing");
  ASSERT_TRUE(Put(*store_, spore).ok());
  clock_.Advance(absl::Hours(2));
  ASSERT_TRUE(Put(*store_, spore).ok());
  const absl::Time an_hour_ago = clock_.Now() - absl::Hours(1);

  // Also after a restart.
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(
        store_->DeleteIfPutBefore(spore.digest, an_hour_ago).status().code(),
        absl::StatusCode::kFailedPrecondition);
    Open();
  }
  EXPECT_EQ(absl::ToUnixSeconds(clock_.Now() - absl::Hours(2)),
            store_->Stat(spore.digest)->put_time().seconds());
}

TEST_F(SporeStoreTest, ChecksDigests) {
  Open();
  for (const char* digest : {"", "abc", "../../../etc/passwd"}) {
    EXPECT_EQ(ReasonOf(store_->Stat(digest).status()), "DIGEST_INVALID");
    EXPECT_EQ(ReasonOf(store_->Read(digest).status()), "DIGEST_INVALID");
    EXPECT_EQ(ReasonOf(store_->Delete(digest).status()), "DIGEST_INVALID");
  }
}

TEST_F(SporeStoreTest, ListsInPages) {
  Open();
  std::vector<std::string> digests;
  for (const char* name : {"a", "b", "c", "d", "e"}) {
    const SampleSpore spore = MakeSpore(name);
    ASSERT_TRUE(Put(*store_, spore).ok());
    digests.push_back(spore.digest);
  }
  std::sort(digests.begin(), digests.end());

  std::vector<std::string> listed;
  std::string token;
  int pages = 0;
  do {
    const absl::StatusOr<SporeStore::Page> page = store_->List(2, token, "");
    ASSERT_TRUE(page.ok()) << page.status();
    EXPECT_LE(page->spores.size(), 2U);
    for (const spore::v1::SporeInfo& info : page->spores) {
      listed.push_back(info.digest());
      EXPECT_EQ(info.manifest_json(), "");
    }
    token = page->next_token;
    ++pages;
  } while (!token.empty());

  EXPECT_EQ(listed, digests);
  EXPECT_EQ(pages, 3);
}

TEST_F(SporeStoreTest, AFullLastPageHasNoToken) {
  Open();
  ASSERT_TRUE(Put(*store_, MakeSpore("a")).ok());
  ASSERT_TRUE(Put(*store_, MakeSpore("b")).ok());

  EXPECT_EQ(store_->List(2, "", "")->next_token, "");
}

TEST_F(SporeStoreTest, ListsByNameOrApp) {
  Open();
  for (const char* name : {"payments/billing", "billing", "frontend"}) {
    ASSERT_TRUE(Put(*store_, MakeSpore(name)).ok());
  }

  EXPECT_THAT(store_->List(0, "", "billing")->spores, SizeIs(2));
  EXPECT_THAT(store_->List(0, "", "payments/billing")->spores, SizeIs(1));
  EXPECT_THAT(store_->List(0, "", "nobody")->spores, IsEmpty());
}

TEST_F(SporeStoreTest, ChecksListRequests) {
  Open();
  EXPECT_EQ(ReasonOf(store_->List(-1, "", "").status()), "REQUEST_INVALID");
  EXPECT_EQ(ReasonOf(store_->List(0, "", "Not A Name").status()),
            "REQUEST_INVALID");
  for (const std::string& token :
       {std::string("x"), std::string(64, 'a'), std::string("after:")}) {
    EXPECT_EQ(ReasonOf(store_->List(0, token, "").status()),
              "PAGE_TOKEN_INVALID")
        << token;
  }
}

class TrustingSporeStoreTest : public SporeStoreTest {
 protected:
  // Writes a trust store that trusts `key` for `name`.
  void Trust(const crypto::PrivateKey& key, const std::string& name) {
    ASSERT_TRUE(trusted_.AddKey(key.public_key(), "test", {name}).ok());
    ASSERT_TRUE(WriteFileAtomically(Path(), trusted_.Serialize()).ok());
  }

  void OpenTrusting() {
    absl::StatusOr<std::unique_ptr<TrustStoreFile>> file =
        TrustStoreFile::Open(Path());
    ASSERT_TRUE(file.ok()) << file.status();
    file_ = *std::move(file);
    options_.trust = file_.get();
    Open();
  }

  std::string Path() { return JoinPath(directory_.path(), "trust.json"); }

  crypto::TrustStore trusted_;
  std::unique_ptr<TrustStoreFile> file_;
};

TEST_F(TrustingSporeStoreTest, RefusesSignersThatAreNotTrusted) {
  Trust(SampleKey(), "billing");
  OpenTrusting();
  const absl::StatusOr<crypto::PrivateKey> stranger =
      crypto::PrivateKey::Generate();
  const SampleSpore foreign = MakeSpore("billing", 100, *stranger);

  const absl::Status status = Put(*store_, foreign).status();

  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ReasonOf(status), "SPORE_UNTRUSTED");
  EXPECT_EQ(MetadataOf(status, "code"), "E_UNTRUSTED_KEY");
  EXPECT_EQ(MetadataOf(status, "key_id"),
            crypto::KeyId(stranger->public_key()));
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_F(TrustingSporeStoreTest, TrustsAKeyForItsNamesOnly) {
  Trust(SampleKey(), "billing");
  OpenTrusting();

  EXPECT_TRUE(Put(*store_, MakeSpore("billing")).ok());
  const absl::Status status = Put(*store_, MakeSpore("frontend")).status();

  EXPECT_EQ(ReasonOf(status), "SPORE_UNTRUSTED");
  EXPECT_EQ(MetadataOf(status, "code"), "E_NOT_AUTHORIZED");
}

TEST_F(TrustingSporeStoreTest, FollowsTheTrustStore) {
  Trust(SampleKey(), "billing");
  OpenTrusting();
  const SampleSpore spore = MakeSpore("billing");
  ASSERT_TRUE(Put(*store_, spore).ok());
  EXPECT_TRUE(store_->Stat(spore.digest)->trusted());
  EXPECT_TRUE(store_->List(0, "", "")->spores[0].trusted());

  ASSERT_TRUE(trusted_.RevokeKey(crypto::KeyId(SampleKey().public_key())).ok());
  ASSERT_TRUE(WriteFileAtomically(Path(), trusted_.Serialize()).ok());

  EXPECT_FALSE(store_->Stat(spore.digest)->trusted());
  EXPECT_EQ(MetadataOf(Put(*store_, MakeSpore("billing", 7)).status(), "code"),
            "E_KEY_REVOKED");
}

TEST_F(TrustingSporeStoreTest, ABrokenTrustStoreDoesNotReplaceTheGoodOne) {
  Trust(SampleKey(), "billing");
  OpenTrusting();
  ASSERT_TRUE(WriteFileAtomically(Path(), "{").ok());
  EXPECT_TRUE(Put(*store_, MakeSpore("billing", 1)).ok());

  // Nor does one of before, which would trust again what was revoked since.
  crypto::TrustStore older;
  ASSERT_TRUE(WriteFileAtomically(Path(), older.Serialize()).ok());
  EXPECT_TRUE(Put(*store_, MakeSpore("billing", 2)).ok());
}

TEST(TrustStoreFileTest, MustBeGoodAtTheStart) {
  const TempDirectory directory = *TempDirectory::Create("trust_store_file.");
  const std::string path = JoinPath(directory.path(), "trust.json");

  EXPECT_TRUE(absl::IsNotFound(TrustStoreFile::Open(path).status()));
  ASSERT_TRUE(WriteFileAtomically(path, "{").ok());
  EXPECT_THAT(TrustStoreFile::Open(path).status().message(), HasSubstr(path));
}

}  // namespace
}  // namespace mycelium::repo
