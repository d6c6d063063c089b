#include "services/edge/access_log.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/file.h"

namespace mycelium::edge {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string LineOf(const AccessRecord& record) {
  AccessFormatter formatter;
  std::string line;
  formatter.Append(record, &line);
  return line;
}

AccessRecord WithPath(absl::string_view path) {
  AccessRecord record;
  record.path.Set(path);
  record.end = "origin.complete";
  return record;
}

TEST(AccessFormatterTest, WritesOneObjectPerRequest) {
  AccessRecord record = WithPath("/x");
  record.start_us = 1'700'000'000'000'042;
  record.duration_us = 1500;
  record.first_byte_us = 1200;
  record.bytes_in = 80;
  record.bytes_out = 160;
  record.status = 200;
  record.attempts = 1;
  record.method = "GET";
  record.client.Set("127.0.0.1");
  record.app.Set("shop");
  record.instance.Set("shop-1");
  record.request_id.Set("abc");
  record.host.Set("e.test");

  EXPECT_EQ(LineOf(record),
            R"({"ts":"2023-11-14T22:13:20.000042Z","client":"127.0.0.1",)"
            R"("method":"GET","host":"e.test","path":"/x","app":"shop",)"
            R"("instance":"shop-1","status":200,"bytes_in":80,"bytes_out":160,)"
            R"("attempts":1,"duration_us":1500,"first_byte_us":1200,)"
            R"("request_id":"abc","end":"origin.complete"})"
            "\n");
}

TEST(AccessFormatterTest, EscapesWhateverARequestHolds) {
  const struct {
    absl::string_view path;
    absl::string_view want;
  } cases[] = {
      {"/a\"b\\c\x01\n\x7f", R"(/a\"b\\c\u0001\u000a\u007f)"},
      {"/\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80!",
       "/\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80!"},
      {"/\xff-\x80", R"(/\ufffd-\ufffd)"},
      {"/\xc0\xaf", R"(/\ufffd\ufffd)"},                      // Overlong.
      {"/\xe0\x80\xaf", R"(/\ufffd\ufffd\ufffd)"},            // Overlong.
      {"/\xed\xa0\x80", R"(/\ufffd\ufffd\ufffd)"},            // A surrogate.
      {"/\xf4\x90\x80\x80", R"(/\ufffd\ufffd\ufffd\ufffd)"},  // Too large.
      {"/\xe2\x82", R"(/\ufffd\ufffd)"},                      // Cut.
      {"/\xc3", R"(/\ufffd)"},
  };
  for (const auto& each : cases) {
    EXPECT_THAT(LineOf(WithPath(each.path)),
                HasSubstr(absl::StrCat("\"path\":\"", each.want, "\"")));
  }
}

TEST(AccessFormatterTest, CutsTextThatIsTooLong) {
  EXPECT_THAT(LineOf(WithPath(std::string(1000, 'p'))),
              HasSubstr("\"" + std::string(256, 'p') + "\""));
}

TEST(AccessFormatterTest, LeavesOutWhatThereIsNot) {
  const std::string line = LineOf(WithPath("/"));

  for (const char* field :
       {"first_byte_us", "trace_id", "skipped_lines", "dropped_lines"}) {
    EXPECT_THAT(line, Not(HasSubstr(field)));
  }
}

TEST(AccessFormatterTest, SaysTraceAndWhatWasLeftOut) {
  AccessRecord record = WithPath("/");
  record.traced = true;
  absl::string_view("0af7651916cd43dd8448eb211c80319c")
      .copy(record.trace_id.data(), record.trace_id.size());
  record.skipped = 7;
  record.dropped = 2;

  EXPECT_THAT(LineOf(record),
              HasSubstr(R"(,"trace_id":"0af7651916cd43dd8448eb211c80319c",)"
                        R"("skipped_lines":7,"dropped_lines":2,"end")"));
}

TEST(LogSamplerTest, TakesAllByDefault) {
  LogSampler sampler;
  for (int i = 0; i < 10'000; ++i) EXPECT_TRUE(sampler.Take(false, 5));
}

TEST(LogSamplerTest, KeepsFailuresInABudgetOfTheirOwn) {
  LogSampler::Options options;
  options.max_per_second = 10;
  LogSampler sampler(options);
  for (const int64_t now_ms : {5000, 6000}) {
    int taken = 0;
    int failed = 0;
    for (int i = 0; i < 100; ++i) {
      if (sampler.Take(false, now_ms + i)) ++taken;
    }
    for (int i = 0; i < 100; ++i) {
      if (sampler.Take(true, now_ms + i)) ++failed;
    }
    EXPECT_EQ(taken, 10);
    EXPECT_EQ(failed, 10);
  }
}

TEST(LogSamplerTest, TakesAShareOfWhatWentWellAndAllThatDidNot) {
  LogSampler::Options options;
  options.sample = 0.25;
  LogSampler sampler(options);
  int taken = 0;
  for (int i = 0; i < 40'000; ++i) {
    if (sampler.Take(false, 0)) ++taken;
    EXPECT_TRUE(sampler.Take(true, 0));
  }
  EXPECT_NEAR(taken, 10'000, 500);

  options.sample = 0;
  LogSampler none(options);
  EXPECT_FALSE(none.Take(false, 0));
  EXPECT_TRUE(none.Take(true, 0));
}

template <typename Condition>
bool Eventually(Condition condition) {
  const absl::Time end = absl::Now() + absl::Seconds(10);
  while (absl::Now() < end) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return false;
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

TEST(AccessLogTest, GoesOnInANewFileWhenAskedTo) {
  const auto directory = TempDirectory::Create("access_log");
  ASSERT_TRUE(directory.ok());
  const std::string path = JoinPath(directory->path(), "log");
  auto log = AccessLog::Create(path, 1);
  ASSERT_TRUE(log.ok()) << log.status();
  const auto lines = [](const std::string& file) {
    const auto text = ReadFile(file);
    return text.ok() ? std::count(text->begin(), text->end(), '\n') : -1;
  };
  (*log)->queue(0)->Push(WithPath("/1"));
  ASSERT_TRUE(Eventually([&] { return lines(path) == 1; }));

  ASSERT_EQ(rename(path.c_str(), (path + ".1").c_str()), 0);
  (*log)->Reopen();
  ASSERT_TRUE(Eventually([&] { return lines(path) == 0; }));
  (*log)->queue(0)->Push(WithPath("/2"));
  log->reset();

  EXPECT_EQ(lines(path + ".1"), 1);
  EXPECT_EQ(lines(path), 1);
}

TEST(AccessLogTest, GoesOnInTheOldFileIfTheNewOneCannotBeOpened) {
  const auto directory = TempDirectory::Create("access_log");
  ASSERT_TRUE(directory.ok());
  const std::string path = JoinPath(directory->path(), "log");
  auto log = AccessLog::Create(path, 1);
  ASSERT_TRUE(log.ok()) << log.status();
  ASSERT_EQ(rename(path.c_str(), (path + ".1").c_str()), 0);
  // A pipe that nobody reads.
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);

  (*log)->Reopen();
  (*log)->queue(0)->Push(WithPath("/1"));
  log->reset();

  const auto text = ReadFile(path + ".1");
  ASSERT_TRUE(text.ok());
  EXPECT_THAT(*text, HasSubstr("\"/1\""));
}

TEST(AccessLogTest, CountsTheLinesThatAFullDiskTakes) {
  auto log = AccessLog::Create("/dev/full", 1);
  ASSERT_TRUE(log.ok()) << log.status();

  for (int i = 0; i < 10; ++i) (*log)->queue(0)->Push(WithPath("/"));

  EXPECT_TRUE(Eventually([&] { return (*log)->write_errors() == 10; }));
}

TEST(AccessLogTest, EndsALineThatAFullDiskHasTornBeforeTheNext) {
  const auto directory = TempDirectory::Create("access_log");
  ASSERT_TRUE(directory.ok());
  const std::string path = JoinPath(directory->path(), "log");
  auto log = AccessLog::Create(path, 1);
  ASSERT_TRUE(log.ok()) << log.status();
  ASSERT_NE(std::signal(SIGXFSZ, SIG_IGN), SIG_ERR);
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlimit old = limit;
  limit.rlim_cur = 1000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  for (int i = 0; i < 20; ++i) (*log)->queue(0)->Push(WithPath("/full"));
  ASSERT_TRUE(Eventually([&] { return (*log)->write_errors() > 0; }));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  // What was pushed while the disk was full may still be under way.
  int64_t errors = -1;
  ASSERT_TRUE(Eventually([&] {
    (*log)->queue(0)->Push(WithPath("/again"));
    return std::exchange(errors, (*log)->write_errors()) == errors;
  }));
  log->reset();

  const auto text = ReadFile(path);
  ASSERT_TRUE(text.ok());
  int torn = 0;
  int again = 0;
  for (const absl::string_view line :
       absl::StrSplit(*text, '\n', absl::SkipEmpty())) {
    if (!absl::EndsWith(line, "}")) ++torn;
    if (absl::StrContains(line, "/again")) {
      ++again;
      EXPECT_TRUE(absl::StartsWith(line, "{\"ts\"")) << line;
    }
  }
  EXPECT_LE(torn, 1);
  EXPECT_GT(again, 0);
}

TEST(AccessLogTest, NamesAFileThatCannotBeOpened) {
  const auto log = AccessLog::Create("/nonexistent/log", 1);

  ASSERT_FALSE(log.ok());
  EXPECT_THAT(log.status().message(), HasSubstr("/nonexistent/log"));
}

}  // namespace
}  // namespace mycelium::edge
