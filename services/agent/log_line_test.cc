#include "services/agent/log_line.h"

#include <string>

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace mycelium::agent {
namespace {

const absl::Time kTime = absl::FromUnixNanos(1'800'000'000'012'345'678);

std::string Format(const LogLine& line) {
  LogLineFormatter formatter;
  std::string text;
  formatter.Append(line, &text);
  return text;
}

TEST(LogLineTest, IsOneLineThatPeopleCanRead) {
  EXPECT_EQ(Format({.time = kTime,
                    .run = 3,
                    .stream = LogStream::kErr,
                    .text = "no such file"}),
            "2027-01-15T08:00:00.012345678Z 3 err no such file\n");
}

TEST(LogLineTest, SurvivesTheFile) {
  const std::string odd("\0\xff\x1b[31m  ", 9);
  for (const absl::string_view text :
       {absl::string_view(""), absl::string_view(" "),
        absl::string_view("a b c"), absl::string_view(odd)}) {
    const std::string formatted = Format(
        {.time = kTime, .run = 12, .stream = LogStream::kAgent, .text = text});
    LogLineParser parser;
    LogLine line;
    ASSERT_TRUE(parser.Parse(
        absl::string_view(formatted).substr(0, formatted.size() - 1), &line));
    EXPECT_EQ(line.time, kTime);
    EXPECT_EQ(line.run, 12);
    EXPECT_EQ(line.stream, LogStream::kAgent);
    EXPECT_EQ(line.text, text);
  }
}

TEST(LogLineTest, NeverBecomesTwoLines) {
  EXPECT_EQ(Format({.time = kTime, .run = 1, .text = "a\nb"}),
            "2027-01-15T08:00:00.012345678Z 1 out a b\n");
}

TEST(LogLineTest, RejectsEveryTruncationOfItsHead) {
  const std::string formatted =
      Format({.time = kTime, .run = 12, .text = "text"});
  const size_t head = formatted.find("text");
  LogLineParser parser;
  LogLine line;

  for (size_t length = 0; length < head; ++length) {
    EXPECT_FALSE(
        parser.Parse(absl::string_view(formatted).substr(0, length), &line))
        << length;
  }
}

TEST(LogLineTest, RejectsOtherText) {
  LogLineParser parser;
  LogLine line;

  for (const char* text :
       {"2027-01-15T08:00:00.012345678Z 3 xyz something",
        "2027-01-15T08:00:00.01234567xZ 3 out something",
        "2027-13-15T08:00:00.012345678Z 3 out something",
        "2027-01-15T08:00:00.012345678Z x out something",
        "a line that was written by somebody else altogether"}) {
    EXPECT_FALSE(parser.Parse(text, &line)) << text;
  }
}

}  // namespace
}  // namespace mycelium::agent
