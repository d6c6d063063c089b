// What holds for the SQLite store alone: its files, and what it makes of
// foreign, locked and damaged ones.

#include "services/fabric/store/sqlite_store.h"

#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/fake_clock.h"
#include "lib/base/file.h"
#include "services/fabric/store/store.h"
#include "services/fabric/store/test_event.h"

namespace mycelium::fabric {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

class SqliteStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<TempDirectory> directory = TempDirectory::Create("sqlite");
    ASSERT_TRUE(directory.ok()) << directory.status();
    directory_ = std::make_unique<TempDirectory>(*std::move(directory));
    path_ = JoinPath(directory_->path(), "fabric.db");
    options_.clock = &clock_;
    // Without threads there is no housekeeping at moments of its own, and the
    // files are the same in every run.
    options_.threads = StoreOptions::Threads::kNone;
  }

  absl::StatusOr<std::unique_ptr<Store>> Open() {
    return OpenSqliteStore(path_, options_);
  }
  std::unique_ptr<Store> MustOpen() {
    auto store = Open();
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }

  // Runs SQL on the file of a closed store.
  void Execute(const std::string& sql) {
    sqlite3* database = nullptr;
    ASSERT_EQ(sqlite3_open(path_.c_str(), &database), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(database, sql.c_str(), nullptr, nullptr, nullptr),
              SQLITE_OK)
        << sqlite3_errmsg(database);
    sqlite3_close(database);
  }

  // The rows of a table of a closed store.
  int64_t Count(const std::string& table) {
    sqlite3* database = nullptr;
    EXPECT_EQ(sqlite3_open(path_.c_str(), &database), SQLITE_OK);
    int64_t count = -1;
    EXPECT_EQ(sqlite3_exec(
                  database, ("SELECT count(*) FROM " + table).c_str(),
                  [](void* out, int, char** columns, char**) {
                    *static_cast<int64_t*>(out) = std::atoll(columns[0]);
                    return 0;
                  },
                  &count, nullptr),
              SQLITE_OK);
    sqlite3_close(database);
    return count;
  }

  std::string ReadWhole(const std::string& path) {
    absl::StatusOr<std::string> bytes = ReadFile(path);
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    return bytes.ok() ? *bytes : "";
  }
  void WriteWhole(const std::string& path, absl::string_view bytes) {
    const absl::Status status = WriteFileAtomically(path, bytes);
    ASSERT_TRUE(status.ok()) << status;
  }

  FakeClock clock_{absl::FromUnixSeconds(1'700'000'000)};
  StoreOptions options_;
  std::unique_ptr<TempDirectory> directory_;
  std::string path_;
};

absl::StatusOr<TxnResponse> Put(Store& store, absl::string_view key,
                                absl::string_view value,
                                LeaseId lease = kNoLease) {
  return store.Txn({.then_ops = {Op::Put(key, value, lease)}});
}

TEST_F(SqliteStoreTest, LeavesNothingButItsFile) {
  std::unique_ptr<Store> store = MustOpen();
  ASSERT_TRUE(Put(*store, "a", "1").ok());
  EXPECT_THAT(*ListDirectory(directory_->path()),
              UnorderedElementsAre("fabric.db", "fabric.db-wal"));
  store.reset();

  EXPECT_THAT(*ListDirectory(directory_->path()), ElementsAre("fabric.db"));
}

TEST_F(SqliteStoreTest, RefusesASecondOpening) {
  std::unique_ptr<Store> store = MustOpen();

  const absl::Status second = Open().status();

  EXPECT_EQ(second.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(second), kReasonLocked);
  EXPECT_THAT(second.message(),
              AllOf(HasSubstr(path_), HasSubstr("in use by another process")));
  EXPECT_TRUE(Put(*store, "a", "1").ok()) << "the first goes on";
}

TEST_F(SqliteStoreTest, RefusesANewerSchemaAndNamesBoth) {
  MustOpen();
  Execute("PRAGMA user_version = 7");

  const absl::Status status = Open().status();

  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), kReasonSchema);
  EXPECT_THAT(status.message(), AllOf(HasSubstr(path_), HasSubstr("version 7"),
                                      HasSubstr("knows 1")));
}

TEST_F(SqliteStoreTest, RefusesWhatIsNoStore) {
  Execute("CREATE TABLE t (x)");
  const absl::Status database = Open().status();
  EXPECT_EQ(ReasonOf(database), kReasonSchema);
  EXPECT_THAT(std::string(database.message()), HasSubstr(path_));

  WriteWhole(path_, std::string(10'000, 'x'));
  const absl::Status text = Open().status();
  EXPECT_EQ(text.code(), absl::StatusCode::kDataLoss) << text;
  EXPECT_THAT(std::string(text.message()), HasSubstr(path_));
}

TEST_F(SqliteStoreTest, RefusesPathsThatCannotBeOpened) {
  path_ = JoinPath(directory_->path(), "missing/fabric.db");
  const absl::Status missing = Open().status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound) << missing;
  EXPECT_THAT(std::string(missing.message()), HasSubstr(path_));

  path_ = directory_->path();
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(SqliteStoreTest, NeverTakesAnEmptyOrMissingFileForANewStore) {
  WriteWhole(path_, "");
  const absl::Status empty = Open().status();
  EXPECT_EQ(empty.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(empty.message()), HasSubstr("empty"));

  ASSERT_EQ(::unlink(path_.c_str()), 0);
  WriteWhole(path_ + "-wal", "something");
  const absl::Status orphan = Open().status();
  EXPECT_EQ(orphan.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(orphan.message()), HasSubstr(path_ + "-wal"));
}

TEST_F(SqliteStoreTest, BeginsAnewAfterAnInterruptedCreation) {
  WriteWhole(path_ + ".new", "half a store");
  WriteWhole(path_ + ".new-journal", "half a journal");

  std::unique_ptr<Store> store = MustOpen();

  ASSERT_NE(store, nullptr);
  EXPECT_EQ(store->Revision(), 0);
  EXPECT_THAT(*ListDirectory(directory_->path()),
              testing::Contains("fabric.db"));
  EXPECT_THAT(*ListDirectory(directory_->path()),
              testing::Not(testing::Contains("fabric.db.new")));
}

TEST_F(SqliteStoreTest, ForgetsOldChangesInTheFileAsWell) {
  options_.max_log_batches = 10;
  {
    std::unique_ptr<Store> store = MustOpen();
    for (int i = 0; i < 2000; ++i) {
      ASSERT_TRUE(Put(*store, absl::StrCat(i), "1").ok());
    }
    ASSERT_TRUE(store->Tick().ok());
  }
  EXPECT_EQ(Count("entries"), 2000);
  EXPECT_EQ(Count("changes"), 10);
}

TEST_F(SqliteStoreTest, FindsEntriesThatWereTamperedWith) {
  {
    std::unique_ptr<Store> store = MustOpen();
    const LeaseId lease = *store->Grant(absl::Seconds(10));
    ASSERT_TRUE(Put(*store, "a", "1").ok());
    ASSERT_TRUE(Put(*store, "b", "1", lease).ok());
    // Until here the table of entries stands alone, then the log adds to it.
    ASSERT_TRUE(store->Compact(2).ok());
    ASSERT_TRUE(store->Tick().ok());
    ASSERT_TRUE(Put(*store, "b", "2", lease).ok());
    ASSERT_TRUE(Put(*store, "c", "1").ok());
  }
  const std::string whole = ReadWhole(path_);
  for (const std::string sql :
       {"UPDATE entries SET value = '2' WHERE key = CAST('a' AS BLOB)",
        "DELETE FROM entries WHERE key = CAST('a' AS BLOB)",
        "UPDATE entries SET mod_revision = 9", "DELETE FROM leases",
        "UPDATE leases SET ttl_ns = 0",
        "DELETE FROM changes WHERE last_revision = 3", "DELETE FROM changes",
        "UPDATE changes SET batches = zeroblob(10)",
        "UPDATE changes SET checksum = checksum + 1",
        "UPDATE meta SET value = 9 WHERE name = 'compact_revision'",
        "DELETE FROM meta"}) {
    Execute(sql);
    const absl::Status status = Open().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << sql << status;
    EXPECT_EQ(ReasonOf(status), kReasonCorrupt) << sql;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
    WriteWhole(path_, whole);
  }
  EXPECT_TRUE(Open().ok());
}

// Files that may not grow, which is how a full disk looks from here.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit = {bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { ::setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_ = {};
};

TEST_F(SqliteStoreTest, SurvivesAFullDisk) {
  std::unique_ptr<Store> store = MustOpen();
  const LeaseId lease = *store->Grant(absl::Seconds(10));
  ASSERT_TRUE(Put(*store, "leased", "1", lease).ok());
  const std::string value(4000, 'v');
  int64_t accepted = 1;
  {
    const FileSizeLimit limit(200'000);
    absl::Status status;
    while (status.ok() && accepted < 1000) {
      status = Put(*store, absl::StrCat("k", accepted), value).status();
      if (status.ok()) ++accepted;
    }

    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_EQ(ReasonOf(status), kReasonDiskFull);
    EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
    EXPECT_EQ(store->Revision(), accepted) << "nothing of it is to be seen";
    EXPECT_EQ(store->Stats().keys, static_cast<size_t>(accepted));
    EXPECT_GT(store->Stats().failed_commits, 0);

    const FileSizeLimit nothing_at_all(100);
    EXPECT_FALSE(store->Grant(absl::Seconds(10), 5).ok());
    EXPECT_FALSE(store->TimeToLive(5).ok());

    clock_.Advance(absl::Seconds(10));
    EXPECT_FALSE(store->Tick().ok());
    EXPECT_EQ(store->Stats().leases, 1u) << "its end is put off";
  }

  const absl::StatusOr<TxnResponse> after = Put(*store, "after", value);
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_EQ(after->revision, accepted + 1);
  ASSERT_TRUE(store->Tick().ok());
  EXPECT_EQ(store->Revision(), accepted + 2) << "the lease ends now";
  store.reset();

  store = MustOpen();
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(store->Revision(), accepted + 2);
  EXPECT_EQ(store->Stats().keys, static_cast<size_t>(accepted));
}

TEST_F(SqliteStoreTest, SurvivesAFullDiskUnderConcurrentWriters) {
  options_.threads = StoreOptions::Threads::kOwn;
  std::unique_ptr<Store> store = MustOpen();
  const std::string value(4000, 'v');
  std::vector<int> acknowledged;
  {
    const FileSizeLimit limit(400'000);
    std::vector<absl::Status> statuses(300);
    for (size_t i = 0; i < statuses.size(); ++i) {
      store->TxnAsync(
          {.then_ops = {Op::Put(absl::StrCat(i), value)}},
          [&statuses, i](const absl::StatusOr<TxnResponse>& response) {
            statuses[i] = response.status();
          });
    }
    // Whatever came before it has been answered when this is.
    TestEvent answered;
    store->TxnAsync({}, [&](const auto&) { answered.Notify(); });
    answered.Wait();
    for (size_t i = 0; i < statuses.size(); ++i) {
      if (statuses[i].ok()) {
        acknowledged.push_back(static_cast<int>(i));
      } else {
        EXPECT_EQ(ReasonOf(statuses[i]), kReasonDiskFull) << statuses[i];
      }
    }
  }
  EXPECT_LT(acknowledged.size(), 300u);
  ASSERT_TRUE(Put(*store, "after", "").ok());
  store.reset();

  store = MustOpen();
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(store->Stats().keys, acknowledged.size() + 1);
  for (const int i : acknowledged) {
    EXPECT_EQ(store->Range(RangeRequest::Key(absl::StrCat(i)))->entries.size(),
              1u);
  }
}

}  // namespace
}  // namespace mycelium::fabric
