#include "services/agent/log_store.h"

#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/fake_clock.h"
#include "lib/base/file.h"

namespace mycelium::agent {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class LogStoreTest : public ::testing::Test {
 protected:
  LogStoreTest()
      : directory_(TempDirectory::Create("log-store").value()),
        clock_(absl::Now()) {}

  std::unique_ptr<LogStore> Open(const LogStoreOptions& options) {
    return LogStore::Open(directory_.path() + "/logs", options, &clock_)
        .value();
  }

  void Append(LogStore& store, const std::string& id, const std::string& text) {
    store.Append(id, {{.time = clock_.Now(), .run = 1, .text = text}});
  }

  std::string All(const LogStore& store, const std::string& id) {
    std::string all;
    for (const LogStore::File& file : store.FilesOf(id)) {
      all += ReadFile(file.path).value();
    }
    return all;
  }

  TempDirectory directory_;
  FakeClock clock_;
};

TEST_F(LogStoreTest, KeepsLinesOfInstancesApart) {
  const std::unique_ptr<LogStore> store = Open({});

  Append(*store, "shop-1", "one");
  Append(*store, "shop-2", "two");

  EXPECT_THAT(All(*store, "shop-1"), HasSubstr(" 1 out one\n"));
  EXPECT_THAT(All(*store, "shop-2"), HasSubstr(" 1 out two\n"));
  EXPECT_THAT(store->FilesOf("shop-3"), IsEmpty());
}

TEST_F(LogStoreTest, KeepsTheNewestFilesOfALimitedSize) {
  const std::unique_ptr<LogStore> store =
      Open({.max_file_bytes = 1000, .max_files = 3});

  for (int i = 0; i < 1000; ++i) Append(*store, "shop-1", absl::StrCat("l", i));

  const std::vector<LogStore::File> files = store->FilesOf("shop-1");
  ASSERT_THAT(files, SizeIs(3));
  for (const LogStore::File& file : files) {
    EXPECT_LE(ReadFile(file.path).value().size(), 1000u);
  }
  EXPECT_THAT(All(*store, "shop-1"), HasSubstr(" l999\n"));
}

TEST_F(LogStoreTest, GoesOnInANewFileAfterARestart) {
  Append(*Open({}), "shop-1", "before");

  const std::unique_ptr<LogStore> store = Open({});
  Append(*store, "shop-1", "after");

  EXPECT_THAT(store->FilesOf("shop-1"), SizeIs(2));
  EXPECT_THAT(All(*store, "shop-1"), HasSubstr("before"));
  EXPECT_THAT(All(*store, "shop-1"), HasSubstr("after"));
}

TEST_F(LogStoreTest, CountsWhatCannotBeWrittenAndSaysSoLater) {
  const std::unique_ptr<LogStore> store = Open({});
  const std::string blocker = directory_.path() + "/logs/shop-1";
  ASSERT_TRUE(WriteFileAtomically(blocker, "not a directory").ok());
  Append(*store, "shop-1", "lost");
  Append(*store, "shop-1", "lost as well");
  EXPECT_EQ(store->dropped(), 2);

  ASSERT_TRUE(RemoveTree(blocker).ok());
  Append(*store, "shop-1", "kept");

  EXPECT_THAT(All(*store, "shop-1"), HasSubstr(" agt 2 lines were lost"));
  EXPECT_THAT(All(*store, "shop-1"), HasSubstr(" out kept\n"));
}

TEST_F(LogStoreTest, ForgetsStoppedInstancesAfterADay) {
  const std::unique_ptr<LogStore> store = Open({});
  Append(*store, "stopped", "x");
  Append(*store, "running", "x");
  const auto running = [](const std::string& id) { return id == "running"; };
  store->Prune(running);
  EXPECT_THAT(store->FilesOf("stopped"), SizeIs(1));

  clock_.Advance(absl::Hours(25));
  store->Prune(running);

  EXPECT_THAT(store->FilesOf("stopped"), IsEmpty());
  EXPECT_THAT(store->FilesOf("running"), SizeIs(1));
}

TEST_F(LogStoreTest, ForgetsStoppedInstancesWhenAllTogetherAreTooMuch) {
  const std::unique_ptr<LogStore> store = Open({.max_total_bytes = 100});
  Append(*store, "stopped", std::string(200, 'x'));

  store->Prune([](const std::string&) { return false; });

  EXPECT_THAT(store->FilesOf("stopped"), IsEmpty());
}

TEST_F(LogStoreTest, WakesWhoWaitsForLines) {
  const std::unique_ptr<LogStore> store = Open({});
  const uint64_t seen = store->change_count();

  std::thread writer([&] { Append(*store, "shop-1", "x"); });
  while (store->change_count() == seen) {
    store->WaitForChange(seen, absl::Seconds(10));
  }
  writer.join();

  EXPECT_EQ(store->change_count(), seen + 1);
}

}  // namespace
}  // namespace mycelium::agent
