#include "services/agent/log_reader.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/fake_clock.h"
#include "lib/base/file.h"

namespace mycelium::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kAll = int64_t{1} << 30;

class LogReaderTest : public ::testing::Test {
 protected:
  LogReaderTest()
      : directory_(TempDirectory::Create("log-reader").value()),
        clock_(absl::FromUnixSeconds(1'800'000'000)),
        store_(LogStore::Open(directory_.path(),
                              {.max_file_bytes = 500, .max_files = 10}, &clock_)
                   .value()) {}

  void Append(const std::string& id, const std::string& text, int64_t run = 1,
              LogStream stream = LogStream::kOut) {
    clock_.Advance(absl::Milliseconds(1));
    store_->Append(
        id,
        {{.time = clock_.Now(), .run = run, .stream = stream, .text = text}});
  }

  static std::vector<std::string> Texts(
      const std::vector<LogReader::Line>& lines) {
    std::vector<std::string> texts;
    for (const LogReader::Line& line : lines) texts.push_back(line.text);
    return texts;
  }

  TempDirectory directory_;
  FakeClock clock_;
  std::unique_ptr<LogStore> store_;
};

TEST_F(LogReaderTest, MergesInstancesInTheOrderOfTime) {
  Append("a", "1");
  Append("b", "2");
  Append("a", "3");
  Append("b", "4");
  LogReader reader(store_.get(), {});
  reader.AddSource({.instance_id = "a"});
  reader.AddSource({.instance_id = "b"});

  const std::vector<LogReader::Line> lines = reader.Read(kAll);

  EXPECT_THAT(Texts(lines), ElementsAre("1", "2", "3", "4"));
  EXPECT_EQ(lines[1].source->instance_id, "b");
}

TEST_F(LogReaderTest, ReadsOverTheEndsOfFiles) {
  LogReader reader(store_.get(), {});
  reader.AddSource({.instance_id = "a"});
  std::vector<std::string> expected;
  for (int i = 0; i < 60; ++i) {
    Append("a", absl::StrCat("line ", i));
    expected.push_back(absl::StrCat("line ", i));
  }
  ASSERT_GT(store_->FilesOf("a").size(), 3u);

  EXPECT_EQ(Texts(reader.Read(kAll)), expected);
}

TEST_F(LogReaderTest, KeepsTheTailOfAllTogether) {
  for (int i = 0; i < 50; ++i) {
    Append("a", absl::StrCat("a", i));
    if (i % 5 == 0) Append("b", absl::StrCat("b", i));
  }
  LogReader reader(store_.get(), {});
  reader.AddSource({.instance_id = "a"});
  reader.AddSource({.instance_id = "b"});

  reader.KeepTail(6);

  EXPECT_THAT(Texts(reader.Read(kAll)),
              ElementsAre("a45", "b45", "a46", "a47", "a48", "a49"));
}

TEST_F(LogReaderTest, ATailOfNothingWaitsForNewLines) {
  Append("a", "old");
  LogReader reader(store_.get(), {});
  reader.AddSource({.instance_id = "a"});
  reader.KeepTail(0);
  EXPECT_THAT(reader.Read(kAll), IsEmpty());

  Append("a", "new");

  EXPECT_THAT(Texts(reader.Read(kAll)), ElementsAre("new"));
}

TEST_F(LogReaderTest, FollowsOverRotations) {
  LogReader reader(store_.get(), {});
  reader.AddSource({.instance_id = "a"});
  std::vector<std::string> expected;
  std::vector<std::string> got;
  for (int i = 0; i < 100; ++i) {
    Append("a", absl::StrCat(i));
    expected.push_back(absl::StrCat(i));
    for (const LogReader::Line& line : reader.Read(kAll)) {
      got.push_back(line.text);
    }
  }

  EXPECT_EQ(got, expected);
}

TEST_F(LogReaderTest, FiltersByRunStreamAndTime) {
  Append("a", "old run", 1);
  Append("a", "out", 2, LogStream::kOut);
  const absl::Time since = clock_.Now() + absl::Microseconds(1);
  Append("a", "err", 2, LogStream::kErr);

  LogReader of_run(store_.get(), {});
  of_run.AddSource({.instance_id = "a", .run = 2});
  EXPECT_THAT(Texts(of_run.Read(kAll)), ElementsAre("out", "err"));

  LogReader of_stream(store_.get(), {.stream = LogStream::kErr});
  of_stream.AddSource({.instance_id = "a"});
  EXPECT_THAT(Texts(of_stream.Read(kAll)), ElementsAre("err"));

  LogReader of_time(store_.get(), {.since = since});
  of_time.AddSource({.instance_id = "a"});
  EXPECT_THAT(Texts(of_time.Read(kAll)), ElementsAre("err"));
}

TEST_F(LogReaderTest, ReturnsBoundedPieces) {
  for (int i = 0; i < 3; ++i) Append("a", std::string(100, 'x'));
  LogReader reader(store_.get(), {});
  reader.AddSource({.instance_id = "a"});

  EXPECT_EQ(reader.Read(1).size(), 1u);
  EXPECT_EQ(reader.Read(kAll).size(), 2u);
}

TEST_F(LogReaderTest, SkipsWhatIsNoLine) {
  Append("a", "good");
  const std::string path = store_->FilesOf("a")[0].path;
  store_->Close("a");
  const std::string text = ReadFile(path).value();
  ASSERT_TRUE(
      WriteFileAtomically(path, "torn li\n" + text + "2027-01-15T").ok());
  Append("a", "next file");
  LogReader reader(store_.get(), {});
  reader.AddSource({.instance_id = "a"});

  EXPECT_THAT(Texts(reader.Read(kAll)), ElementsAre("good", "next file"));
}

}  // namespace
}  // namespace mycelium::agent
