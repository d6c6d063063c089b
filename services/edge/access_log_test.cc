#include "services/edge/access_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/file.h"

namespace mycelium::edge {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(AppendJsonTest, EscapesWhateverARequestHolds) {
  AccessRecord record;
  record.path.Set("/a\"b\\c\x01\n\xff");
  record.end = "origin.complete";
  std::string line;

  AppendJson(record, &line);

  EXPECT_THAT(line, HasSubstr(R"("path":"/a\"b\\c\u0001\u000a\u00ff")"));
  EXPECT_THAT(line, EndsWith("\"end\":\"origin.complete\"}\n"));
  EXPECT_THAT(line, Not(HasSubstr("first_byte_us")));
}

TEST(AppendJsonTest, CutsTextThatIsTooLong) {
  AccessRecord record;
  record.path.Set(std::string(1000, 'p'));
  std::string line;

  AppendJson(record, &line);

  EXPECT_THAT(line, HasSubstr("\"" + std::string(256, 'p') + "\""));
}

TEST(AccessLogTest, WritesWhatAllProducersPushed) {
  const auto directory = TempDirectory::Create("access_log");
  ASSERT_TRUE(directory.ok());
  const std::string path = JoinPath(directory->path(), "log");
  auto log = AccessLog::Create(path, 2);
  ASSERT_TRUE(log.ok()) << log.status();
  AccessRecord record;
  for (int i = 0; i < 500; ++i) {
    EXPECT_TRUE((*log)->queue(i % 2)->Push(record));
  }

  log->reset();

  const auto text = ReadFile(path);
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(std::count(text->begin(), text->end(), '\n'), 500);
}

TEST(AccessLogTest, DropsWhatABlockedReaderDoesNotTake) {
  const auto directory = TempDirectory::Create("access_log");
  ASSERT_TRUE(directory.ok());
  const std::string path = JoinPath(directory->path(), "pipe");
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  const UniqueFd reader(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  auto log = AccessLog::Create(path, 1);
  ASSERT_TRUE(log.ok()) << log.status();

  // More than pipe, batch and queue hold.
  AccessRecord record;
  int dropped = 0;
  for (int i = 0; i < 100'000 && dropped == 0; ++i) {
    if (!(*log)->queue(0)->Push(record)) ++dropped;
  }

  EXPECT_GT(dropped, 0);
  log->reset();  // Ends although nobody reads.
}

TEST(AccessLogTest, NamesAFileThatCannotBeOpened) {
  const auto log = AccessLog::Create("/nonexistent/log", 1);

  ASSERT_FALSE(log.ok());
  EXPECT_THAT(log.status().message(), HasSubstr("/nonexistent/log"));
}

}  // namespace
}  // namespace mycelium::edge
