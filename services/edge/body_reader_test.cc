#include "services/edge/body_reader.h"

#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gtest/gtest.h"

namespace mycelium::edge {
namespace {

struct Outcome {
  std::string out;
  bool error = false;
  bool done = false;
  size_t left = 0;  // Of the input.
};

std::string Collect(const IovecQueue& queue) {
  std::string text;
  for (int i = 0; i < queue.count(); ++i) {
    text.append(static_cast<const char*>(queue.data()[i].iov_base),
                queue.data()[i].iov_len);
  }
  return text;
}

// Feeds `input` in pieces that end at `cuts(i)` and joins what comes out.
template <typename NextSize>
Outcome Feed(BodyKind kind, uint64_t length, BodyKind out_kind,
             const std::string& input, NextSize next_size) {
  BodyReader reader;
  reader.Reset(kind, length, out_kind == BodyKind::kChunked);
  Outcome outcome;
  std::string buffer;
  size_t at = 0;
  while (!reader.done() && !outcome.error && at < input.size()) {
    const size_t take = std::min(input.size() - at, next_size());
    buffer += input.substr(at, take);
    at += take;
    while (!reader.done() && !buffer.empty()) {
      const BodyReader::Result result =
          reader.Read(buffer.data(), buffer.size());
      outcome.error = result.step == BodyReader::Step::kError;
      if (result.step == BodyReader::Step::kPiece) {
        ChunkLine line;
        IovecQueue queue;
        QueuePiece(out_kind, buffer.data(), result.out_size, result.last,
                   reader, &line, &queue);
        outcome.out += Collect(queue);
      }
      buffer.erase(0, result.consumed);
      if (result.step != BodyReader::Step::kPiece) break;
    }
  }
  outcome.done = reader.done();
  outcome.left = buffer.size() + input.size() - at;
  return outcome;
}

Outcome Whole(BodyKind out_kind, const std::string& input) {
  return Feed(BodyKind::kChunked, 0, out_kind, input,
              [&] { return input.size(); });
}

TEST(BodyReaderTest, WritesChunksAnewAndKeepsThem) {
  const Outcome outcome =
      Whole(BodyKind::kChunked,
            "005;n=v;q=\"a \\\" b\"\r\nhello\r\n6\r\n world\r\n00\r\n\r\nNEXT");

  EXPECT_EQ(outcome.out, "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
  EXPECT_TRUE(outcome.done);
  EXPECT_EQ(outcome.left, 4);
}

TEST(BodyReaderTest, TakesChunksOffForThoseWhoKnowNone) {
  EXPECT_EQ(
      Whole(BodyKind::kUntilClose, "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
          .out,
      "hello world");
}

TEST(BodyReaderTest, MakesChunksOfABodyThatEndsWithItsConnection) {
  const Outcome outcome =
      Feed(BodyKind::kUntilClose, 0, BodyKind::kChunked, std::string(17, 'x'),
           [] { return size_t{100}; });

  EXPECT_EQ(outcome.out, absl::StrCat("11\r\n", std::string(17, 'x'), "\r\n"));
  EXPECT_FALSE(outcome.done);
}

TEST(BodyReaderTest, StopsWhereTheLengthSays) {
  const Outcome outcome = Feed(BodyKind::kLength, 5, BodyKind::kLength,
                               "helloNEXT", [] { return size_t{3}; });

  EXPECT_EQ(outcome.out, "hello");
  EXPECT_TRUE(outcome.done);
}

TEST(BodyReaderTest, ForwardsTrailersButNotThoseThatMatterToTheHead) {
  const Outcome outcome =
      Whole(BodyKind::kChunked,
            "1\r\nx\r\n0\r\nX-T: 1\r\nHost: evil\r\nContent-Length: 3\r\n"
            "x_forwarded_for: 1\r\nWWW-Authenticate: x\r\nX-U: 2\r\n\r\n");

  EXPECT_EQ(outcome.out, "1\r\nx\r\n0\r\nX-T: 1\r\nX-U: 2\r\n\r\n");
}

TEST(BodyReaderTest, LeavesTrailersOutWhereTheyMayBeForThisHopOnly) {
  std::string input = "1\r\nx\r\n0\r\nX-T: 1\r\n\r\n";
  BodyReader reader;
  reader.Reset(BodyKind::kChunked, 0, true, false);
  const BodyReader::Result result = reader.Read(input.data(), input.size());
  ASSERT_TRUE(result.last);
  ChunkLine line;
  IovecQueue queue;
  QueuePiece(BodyKind::kChunked, input.data(), result.out_size, true, reader,
             &line, &queue);

  EXPECT_EQ(Collect(queue), "1\r\nx\r\n0\r\n\r\n");
}

TEST(BodyReaderTest, GivesTheSameBytesHoweverTheyArrive) {
  std::mt19937 random(3);
  const auto pick = [&random](int n) {
    return static_cast<size_t>(random() % n);
  };
  for (int round = 0; round < 500; ++round) {
    std::string input;
    std::string chunked;
    std::string raw;
    for (size_t i = pick(6); i > 0; --i) {
      const std::string data(1 + pick(40), static_cast<char>('a' + pick(26)));
      absl::StrAppend(&input, std::string(pick(3), '0'),
                      absl::StrFormat("%x", data.size()),
                      pick(2) == 0 ? "" : " ;ext=\"v\"", "\r\n", data, "\r\n");
      absl::StrAppend(&chunked, absl::StrFormat("%x", data.size()), "\r\n",
                      data, "\r\n");
      raw += data;
    }
    const std::string trailer = pick(2) == 0 ? "" : "X-T: 1\r\n";
    absl::StrAppend(&input, "0\r\n", trailer, "\r\n");
    absl::StrAppend(&chunked, "0\r\n", trailer, "\r\n");

    const auto step = [&] { return 1 + pick(9); };
    const Outcome kept =
        Feed(BodyKind::kChunked, 0, BodyKind::kChunked, input, step);
    const Outcome taken =
        Feed(BodyKind::kChunked, 0, BodyKind::kUntilClose, input, step);

    EXPECT_EQ(kept.out, chunked);
    EXPECT_TRUE(kept.done);
    EXPECT_EQ(taken.out, raw);
    EXPECT_TRUE(taken.done);
  }
}

TEST(BodyReaderTest, RefusesCodingThatBreaksTheRules) {
  for (const std::string& input : {
           std::string("g\r\nhello"),
           std::string("0x5\r\nhello"),
           std::string("+5\r\nhello"),
           std::string("-1\r\n"),
           std::string(" 5\r\nhello"),
           std::string("5 \r\nhello"),
           std::string("1_0\r\n"),
           std::string("\r\n\r\n"),
           std::string(";a\r\n"),
           std::string("5;\r\nhello"),
           std::string("5;a=\r\nhello"),
           std::string("5;a=\"b\r\nhello"),
           std::string("5;a=b \r\nhello"),
           std::string("5;=b\r\nhello"),
           std::string("5;a\0b\r\n", 8),
           std::string("5;a\rX\r\nhello"),
           std::string("5\nhello\r\n"),
           std::string("5\r\nhello\n0\r\n\r\n"),
           std::string("5\r\nhello\r\r\n"),
           std::string("5\r\nhelloX\r\n"),
           std::string("5\r\nhello0\r\n\r\n"),
           std::string("fffffffffffffffff\r\n"),
           std::string("8000000000000000\r\n"),
           std::string("00000000000000001\r\n"),
           std::string("5\r\nhello\r\n0\n\r\n"),
           std::string("0\r\nX : 1\r\n\r\n"),
           std::string("0\r\n folded\r\n\r\n"),
           std::string("0\r\nX: 1\n\r\n"),
           "0\r\nX: " + std::string(9000, 'x') + "\r\n\r\n",
           "1;" + std::string(5000, 'x') + "\r\n",
       }) {
    for (const size_t step : {size_t{1}, input.size()}) {
      const Outcome outcome = Feed(BodyKind::kChunked, 0, BodyKind::kChunked,
                                   input, [step] { return step; });
      EXPECT_TRUE(outcome.error) << input.substr(0, 60) << " by " << step;
      EXPECT_FALSE(outcome.done);
    }
  }
}

TEST(BodyReaderTest, TakesTheLargestSizeThereIs) {
  EXPECT_EQ(Whole(BodyKind::kChunked, "7fffffffffffffff\r\nx").out,
            "7fffffffffffffff\r\nx");
}

TEST(BodyReaderTest, BoundsExtensionsOfAllChunksTogether) {
  std::string input;
  for (int i = 0; i < 100; ++i)
    absl::StrAppend(&input, "1;", std::string(60, 'e'), "\r\nx\r\n");

  EXPECT_TRUE(Whole(BodyKind::kChunked, input).error);
}

}  // namespace
}  // namespace mycelium::edge
