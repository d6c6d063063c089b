// Files that were cut off, mixed up or changed: a store opens with what it was
// at some acknowledged revision, or says clearly that it is damaged.

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "services/fabric/store/sqlite_store.h"
#include "services/fabric/store/store.h"

namespace mycelium::fabric {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr size_t kPageBytes = 4096;
constexpr size_t kWalHeaderBytes = 32;
constexpr size_t kFrameBytes = kPageBytes + 24;

// The two files of a store as they were at one moment.
struct Files {
  std::string database;
  std::string wal;
};

// Everything that a state is compared by.
std::string Describe(const StoreSnapshot& snapshot) {
  std::string text = snapshot.epoch;
  for (const auto& entry : snapshot.entries) {
    absl::StrAppend(&text, "\n", entry->key, "=", entry->value, " ",
                    entry->create_revision, " ", entry->mod_revision, " ",
                    entry->version, " ", entry->lease);
  }
  return text;
}

class SqliteDamageTest : public testing::Test {
 protected:
  void SetUp() override {
    // Thousands of stores are opened here; what a sync costs is not the point.
    if (::access("/dev/shm", W_OK) == 0) ::setenv("TMPDIR", "/dev/shm", 1);
    absl::StatusOr<TempDirectory> directory = TempDirectory::Create("damage");
    ASSERT_TRUE(directory.ok()) << directory.status();
    directory_ = std::make_unique<TempDirectory>(*std::move(directory));
    path_ = JoinPath(directory_->path(), "fabric.db");
    // Nothing happens at a moment of its own.
    options_.threads = StoreOptions::Threads::kNone;
  }

  void Open() {
    auto store = OpenSqliteStore(path_, options_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    if (states_.empty()) states_[0] = Describe(store_->Snapshot());
  }

  void Run(TxnRequest request) {
    const absl::StatusOr<TxnResponse> response =
        store_->Txn(std::move(request));
    ASSERT_TRUE(response.ok()) << response.status();
    states_[response->revision] = Describe(store_->Snapshot());
  }

  // Puts, overwrites, deletions and leases, one after the other.
  void Write(int count, size_t value_bytes) {
    for (int i = 0; i < count; ++i) {
      const int n = next_++;
      if (n % 10 == 0) {
        const absl::StatusOr<LeaseId> lease = store_->Grant(absl::Hours(1));
        ASSERT_TRUE(lease.ok()) << lease.status();
        lease_ = *lease;
      }
      Run({.then_ops = {
               Op::Put(
                   absl::StrCat("key/", n * 7 % 31),
                   std::string(value_bytes, static_cast<char>('a' + n % 26)),
                   n % 3 == 0 ? lease_ : kNoLease),
               n % 5 == 0 ? Op::Delete(absl::StrCat("key/", n * 3 % 31))
                          : Op::Put("last", absl::StrCat(n))}});
    }
  }

  Files Copy() {
    Files files;
    absl::StatusOr<std::string> database = ReadFile(path_);
    EXPECT_TRUE(database.ok()) << database.status();
    files.database = *database;
    absl::StatusOr<std::string> wal = ReadFile(path_ + "-wal");
    if (wal.ok()) files.wal = *wal;
    return files;
  }

  // Opens a store from `files`, and checks what comes of it. Returns the
  // revision that it opened at, or -1 for a clear error.
  int64_t Check(const Files& files, const std::string& what) {
    const std::string path = JoinPath(directory_->path(), "copy.db");
    EXPECT_TRUE(Overwrite(path, files.database).ok());
    EXPECT_TRUE(Overwrite(path + "-wal", files.wal).ok());
    auto opened = OpenSqliteStore(path, options_);
    if (!opened.ok()) {
      EXPECT_THAT(ReasonOf(opened.status()), AnyOf(std::string(kReasonCorrupt),
                                                   std::string(kReasonSchema)))
          << what << ": " << opened.status();
      EXPECT_THAT(std::string(opened.status().message()), HasSubstr(path));
      return -1;
    }
    Store& store = **opened;
    const int64_t revision = store.Revision();
    const auto expected = states_.find(revision);
    if (expected == states_.end()) {
      ADD_FAILURE() << what << ": opened at revision " << revision
                    << ", which never was";
      return revision;
    }
    EXPECT_EQ(Describe(store.Snapshot()), expected->second) << what;
    const absl::StatusOr<Changes> changes =
        store.ReadChanges(store.CompactRevision(), size_t{1} << 30);
    EXPECT_TRUE(changes.ok()) << changes.status();
    int64_t next = store.CompactRevision();
    for (const auto& batch : changes->batches) {
      EXPECT_EQ(batch->revision, ++next) << what;
    }
    EXPECT_EQ(next, revision) << what;
    const absl::StatusOr<TxnResponse> write =
        store.Txn({.then_ops = {Op::Put("after", what)}});
    EXPECT_TRUE(write.ok()) << what << ": " << write.status();
    EXPECT_EQ(write->revision, revision + 1) << what;
    return revision;
  }

  // Cuts `file` of `files` off at many places. Returns the number of
  // revisions and errors seen.
  void CutOff(Files files, std::string Files::*file, size_t step) {
    const std::string whole = files.*file;
    std::set<size_t> sizes;
    for (size_t size = 0; size < whole.size(); size += step) sizes.insert(size);
    for (size_t page = 0; page < whole.size(); page += kPageBytes) {
      sizes.insert({page == 0 ? 0 : page - 1, page, page + 1});
    }
    for (size_t frame = kWalHeaderBytes; frame < whole.size();
         frame += kFrameBytes) {
      sizes.insert({frame - 1, frame, frame + 1, frame + 24});
    }
    int errors = 0;
    for (const size_t size : sizes) {
      if (size > whole.size()) continue;
      files.*file = whole.substr(0, size);
      const int64_t revision = Check(files, absl::StrCat("cut at ", size));
      if (revision < 0) ++errors;
      revisions_.insert(revision);
      if (HasFailure()) return;
    }
    RecordProperty("places", static_cast<int>(sizes.size()));
    RecordProperty("errors", errors);
  }

  int64_t Newest() const { return states_.rbegin()->first; }

  StoreOptions options_;
  std::unique_ptr<TempDirectory> directory_;
  std::string path_;
  std::unique_ptr<Store> store_;
  // What the store held at each acknowledged revision.
  std::map<int64_t, std::string> states_;
  std::set<int64_t> revisions_;
  LeaseId lease_ = kNoLease;
  int next_ = 0;

 private:
  // Unlike WriteFileAtomically it spares the sync.
  static absl::Status Overwrite(const std::string& path,
                                absl::string_view bytes) {
    const UniqueFd file(
        ::open(path.c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644));
    if (!file.valid()) return ErrnoStatus(errno, path);
    return WriteFully(file.get(), bytes);
  }
};

TEST_F(SqliteDamageTest, AWalCutOffAnywhereLosesOnlyWhatCameAfter) {
  Open();
  Write(10, 100);
  // In the middle, the entries follow the log of changes.
  ASSERT_TRUE(store_->Tick().ok());
  Write(10, 100);
  const Files files = Copy();
  ASSERT_EQ(Check(files, "whole"), Newest());

  CutOff(files, &Files::wal, 64);

  EXPECT_THAT(revisions_, testing::Contains(Newest() - 1));
  EXPECT_THAT(revisions_, testing::Contains(1));
  EXPECT_THAT(revisions_, testing::Not(testing::Contains(-1)))
      << "the database is that of an empty store";
}

TEST_F(SqliteDamageTest, AWalCutOffAfterACopyIntoTheDatabaseIsNoticed) {
  Open();
  Write(10, 100);
  store_.reset();
  Open();
  // Until it has been copied, which leaves its pages where they are.
  Files before = Copy();
  while (Copy().database == before.database) {
    Write(10, 3000);
    ASSERT_TRUE(store_->Tick().ok());
  }
  const Files files = Copy();
  ASSERT_GT(files.wal.size(), 200 * kFrameBytes);
  ASSERT_EQ(Check(files, "whole"), Newest());

  CutOff(files, &Files::wal, 8192);

  EXPECT_THAT(revisions_, testing::Contains(-1));
}

TEST_F(SqliteDamageTest, ADatabaseCutOffAnywhereIsNoticed) {
  Open();
  Write(40, 1000);
  ASSERT_TRUE(store_->Tick().ok());
  Write(10, 1000);
  store_.reset();
  const Files files = Copy();
  ASSERT_EQ(Check(files, "whole"), Newest());

  CutOff(files, &Files::database, 64);

  revisions_.erase(-1);
  revisions_.erase(Newest());
  EXPECT_THAT(revisions_, testing::IsEmpty())
      << "without a WAL there is but one revision to come back to";
}

TEST_F(SqliteDamageTest, ADatabaseCutOffUnderItsWalIsNoticed) {
  Open();
  Write(30, 1000);
  ASSERT_TRUE(store_->Tick().ok());
  store_.reset();
  Open();
  Write(10, 1000);
  const Files files = Copy();
  ASSERT_GT(files.wal.size(), 0u);
  ASSERT_EQ(Check(files, "whole"), Newest());

  CutOff(files, &Files::database, 64);
}

TEST_F(SqliteDamageTest, PagesOfDifferentCommitsAreNeverMixed) {
  Open();
  Write(40, 500);
  const Files before = Copy();
  Files after = before;
  while (after.database == before.database) {
    Write(10, 3000);
    ASSERT_TRUE(store_->Tick().ok());
    after = Copy();
  }
  std::mt19937 random(1);
  int errors = 0;
  constexpr int kRounds = 200;
  for (int round = 0; round < kRounds; ++round) {
    // A copy of the WAL that was interrupted, and then a WAL that was cut off.
    Files mixed = after;
    for (size_t page = 0; page < before.database.size(); page += kPageBytes) {
      if (random() % 2 == 0) continue;
      mixed.database.replace(page, kPageBytes,
                             before.database.substr(page, kPageBytes));
    }
    ASSERT_EQ(Check(mixed, "whole WAL"), Newest()) << "round " << round;
    mixed.wal.resize(random() % mixed.wal.size());
    if (Check(mixed, absl::StrCat("round ", round)) < 0) ++errors;
    ASSERT_FALSE(HasFailure());
  }
  EXPECT_GT(errors, 0);
}

TEST_F(SqliteDamageTest, FlippedBitsAreNoticedOrHarmless) {
  Open();
  Write(30, 500);
  ASSERT_TRUE(store_->Tick().ok());
  Write(10, 500);
  store_.reset();
  const Files whole = Copy();
  std::mt19937 random(2);
  int errors = 0;
  constexpr int kRounds = 1500;
  for (int round = 0; round < kRounds; ++round) {
    Files flipped = whole;
    const size_t at = random() % flipped.database.size();
    flipped.database[at] =
        static_cast<char>(flipped.database[at] ^ (1 << (random() % 8)));
    const int64_t revision =
        Check(flipped, absl::StrCat("bit flipped at ", at));
    if (revision < 0) {
      ++errors;
    } else {
      EXPECT_EQ(revision, Newest());
    }
    ASSERT_FALSE(HasFailure());
  }
  EXPECT_GT(errors, kRounds / 4);
}

}  // namespace
}  // namespace mycelium::fabric
