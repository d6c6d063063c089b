// Random valid messages, cut and pipelined at random: the edge finds the same
// boundaries, the same fields and the same bodies, and sends the same bytes on.

#include "services/edge/message_stream.h"

#include <cstdlib>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"

namespace mycelium::edge {
namespace {

using Random = std::mt19937;
using Fields = std::vector<std::pair<std::string, std::string>>;

constexpr int kStreams = 1500;

// What the tests run with; MESSAGE_STREAM_SEED repeats a run that failed.
uint32_t Seed() {
  // Nothing else runs yet that could change the environment.
  // NOLINTNEXTLINE(concurrency-mt-unsafe)
  const char* const text = std::getenv("MESSAGE_STREAM_SEED");
  if (text != nullptr)
    return static_cast<uint32_t>(std::strtoul(text, nullptr, 10));
  return std::random_device()();
}

uint32_t Below(Random& random, uint32_t limit) { return random() % limit; }

bool Chance(Random& random, uint32_t percent) {
  return Below(random, 100) < percent;
}

template <typename T, size_t N>
const T& Pick(Random& random, const T (&from)[N]) {
  return from[Below(random, N)];
}

std::string Text(Random& random, absl::string_view alphabet, uint32_t from,
                 uint32_t to) {
  std::string text;
  for (uint32_t i = from + Below(random, to - from + 1); i > 0; --i)
    text.push_back(alphabet[Below(random, alphabet.size())]);
  return text;
}

constexpr absl::string_view kTokenBytes =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    "!#$%&'*+-.^_`|~";
constexpr absl::string_view kPathBytes =
    "abcdefghijklmnopqrstuvwxyzABCDEFXYZ0123456789-_~!$&'()*+,;=:@";

std::string Value(Random& random) {
  std::string value;
  for (uint32_t i = Below(random, Chance(random, 5) ? 600 : 30); i > 0; --i) {
    const uint32_t c = Below(random, 8) == 0 ? 0x80 + Below(random, 128)
                                             : 0x20 + Below(random, 95);
    value.push_back(Chance(random, 1) ? '\t' : static_cast<char>(c));
  }
  return std::string(absl::StripAsciiWhitespace(value));
}

std::string Body(Random& random, uint32_t most) {
  std::string body(Below(random, most), '\0');
  // Bodies that look like messages are those that would be taken for some.
  static constexpr absl::string_view kPieces[] = {
      "GET /app/evil HTTP/1.1\r\nHost: evil\r\n\r\n", "\r\n", "0\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "5\r\n"};
  for (size_t i = 0; i < body.size();) {
    if (Chance(random, 10)) {
      const absl::string_view piece = Pick(random, kPieces);
      for (const char c : piece) {
        if (i < body.size()) body[i++] = c;
      }
    } else {
      body[i++] = static_cast<char>(Below(random, 256));
    }
  }
  return body;
}

// A message that keeps to the rules, and what has to be found in it.
struct Sample {
  std::string bytes;
  StreamMessage want;
  std::string forwarded_body;
};

// Field lines that mean nothing to a gateway.
void AddFields(Random& random, uint32_t most, Sample* sample, Fields* fields) {
  for (uint32_t i = Below(random, most); i > 0; --i) {
    const std::string name = "q" + Text(random, kTokenBytes, 1, 20);
    const std::string value = Value(random);
    absl::StrAppend(&sample->bytes, name, ":", Text(random, " \t", 0, 3), value,
                    Text(random, " \t", 0, 2), "\r\n");
    fields->emplace_back(name, value);
  }
}

void AddField(absl::string_view name, absl::string_view value, Sample* sample) {
  absl::StrAppend(&sample->bytes, name, ": ", value, "\r\n");
  sample->want.fields.emplace_back(std::string(name.data(), name.size()),
                                   std::string(value.data(), value.size()));
}

std::string RandomCase(Random& random, std::string text) {
  for (char& c : text)
    c = Chance(random, 50) ? absl::ascii_toupper(c) : absl::ascii_tolower(c);
  return text;
}

void AddChunkedBody(Random& random, Sample* sample) {
  const std::string body = Body(random, Chance(random, 5) ? 20000 : 300);
  sample->want.body = body;
  for (size_t at = 0; at < body.size();) {
    const size_t size = std::min<size_t>(
        body.size() - at, 1 + Below(random, Chance(random, 20) ? 5000 : 40));
    absl::StrAppend(&sample->bytes, Text(random, "0", 0, 3),
                    RandomCase(random, absl::StrFormat("%x", size)));
    for (uint32_t i = Below(random, 3); i > 0; --i) {
      absl::StrAppend(&sample->bytes, ";", Text(random, kTokenBytes, 1, 9));
      if (Chance(random, 30))
        absl::StrAppend(&sample->bytes, "=", Text(random, kTokenBytes, 1, 9));
      else if (Chance(random, 30))
        absl::StrAppend(&sample->bytes, "=\"", Text(random, "a ;,=\t", 0, 9),
                        "\\\"\"");
    }
    const std::string data = body.substr(at, size);
    absl::StrAppend(&sample->bytes, "\r\n", data, "\r\n");
    absl::StrAppend(&sample->forwarded_body, absl::StrFormat("%x", size),
                    "\r\n", data, "\r\n");
    at += size;
  }
  absl::StrAppend(&sample->bytes, Text(random, "0", 1, 4), "\r\n");
  absl::StrAppend(&sample->forwarded_body, "0\r\n");
  Fields trailers;
  AddFields(random, 4, sample, &trailers);
  sample->bytes += "\r\n";
  sample->want.trailers = std::move(trailers);
}

void AddBody(Random& random, Sample* sample) {
  switch (sample->want.kind) {
    case BodyKind::kChunked:
      AddField(RandomCase(random, "transfer-encoding"),
               RandomCase(random, "chunked"), sample);
      break;
    case BodyKind::kLength: {
      sample->want.body = Body(random, Chance(random, 5) ? 20000 : 300);
      AddField(RandomCase(random, "content-length"),
               absl::StrCat(sample->want.body.size()), sample);
      break;
    }
    default:
      break;
  }
  AddFields(random, 5, sample, &sample->want.fields);
  sample->bytes += "\r\n";
  if (sample->want.kind == BodyKind::kChunked) {
    AddChunkedBody(random, sample);
  } else {
    sample->bytes += sample->want.body;
    sample->forwarded_body = sample->want.body;
  }
}

Sample RandomRequest(Random& random) {
  Sample sample;
  static constexpr absl::string_view kMethods[] = {"GET",   "HEAD",   "POST",
                                                   "PUT",   "DELETE", "OPTIONS",
                                                   "PATCH", "PURGE",  "M-X"};
  sample.want.method = std::string(Pick(random, kMethods));
  std::string host = absl::StrCat("h", Below(random, 9), ".test");
  if (Chance(random, 30)) absl::StrAppend(&host, ":", Below(random, 65536));
  std::string target = absl::StrCat("/app/", Text(random, kPathBytes, 0, 40));
  if (Chance(random, 30)) absl::StrAppend(&target, "%2F//%41");
  if (Chance(random, 30))
    absl::StrAppend(&target, "?", Text(random, kPathBytes, 0, 20), "/../?");
  if (Chance(random, 10)) target = absl::StrCat("http://", host, target);
  sample.want.target = target;
  if (Chance(random, 10)) sample.bytes += "\r\n";
  absl::StrAppend(&sample.bytes, sample.want.method, " ", target,
                  " HTTP/1.1\r\n");
  AddFields(random, 4, &sample, &sample.want.fields);
  AddField(RandomCase(random, "host"), host, &sample);
  static constexpr BodyKind kKinds[] = {BodyKind::kNone, BodyKind::kLength,
                                        BodyKind::kChunked};
  sample.want.kind = Pick(random, kKinds);
  AddBody(random, &sample);
  return sample;
}

Sample RandomResponse(Random& random, bool head) {
  Sample sample;
  static constexpr int kStatuses[] = {100, 103, 200, 201, 204,
                                      206, 301, 304, 404, 500};
  const int status = Pick(random, kStatuses);
  sample.want.status = status;
  absl::StrAppend(&sample.bytes, "HTTP/1.1 ", status);
  if (Chance(random, 80)) absl::StrAppend(&sample.bytes, " ", Value(random));
  sample.bytes += "\r\n";
  AddFields(random, 5, &sample, &sample.want.fields);
  if (status < 200 || status == 204) {
    sample.want.kind = BodyKind::kNone;
    AddBody(random, &sample);
  } else if (head || status == 304) {
    // The length of what GET would have got.
    if (Chance(random, 50))
      AddField("Content-Length", absl::StrCat(Below(random, 5000)), &sample);
    AddBody(random, &sample);
  } else {
    sample.want.kind =
        Chance(random, 50) ? BodyKind::kLength : BodyKind::kChunked;
    AddBody(random, &sample);
  }
  return sample;
}

// Whether `fields` has one field `name`, with `value`.
bool HasOnce(const Fields& fields, absl::string_view name,
             absl::string_view value) {
  int seen = 0;
  bool right = false;
  for (const auto& [field, field_value] : fields) {
    if (!EqualsIgnoreCase(field, name)) continue;
    ++seen;
    right = field_value == value;
  }
  return seen == 1 && right;
}

// Checks what was forwarded against what was meant, not against what was read.
void CheckForwarded(StreamKind kind, const Sample& sample,
                    const StreamMessage& got) {
  const StreamResult again =
      ReadStream(kind, got.forwarded, [] { return 1U << 20; });
  ASSERT_EQ(again.messages.size(), 1U) << got.forwarded;
  const StreamMessage& sent = again.messages[0];
  EXPECT_EQ(sent.end, got.forwarded.size());
  EXPECT_EQ(sent.body, sample.want.body);
  EXPECT_EQ(sent.kind, sample.want.kind);
  EXPECT_EQ(sent.trailers, sample.want.trailers);
  EXPECT_EQ(sent.status, sample.want.status);
  EXPECT_EQ(sent.method, sample.want.method);
  // The fields that are none of the edge's business: all, as they were.
  Fields mine;
  for (const auto& field : sent.fields) {
    if (field.first[0] == 'q') mine.push_back(field);
  }
  Fields want;
  for (const auto& field : sample.want.fields) {
    if (field.first[0] == 'q') want.push_back(field);
  }
  EXPECT_EQ(mine, want);
  if (kind == StreamKind::kRequests) {
    const std::string& target = sample.want.target;
    EXPECT_EQ(sent.target, target.substr(target.find("/app/") + 4));
    EXPECT_TRUE(HasOnce(sent.fields, "x-request-id", "id"));
    for (const auto& [name, value] : sample.want.fields) {
      if (EqualsIgnoreCase(name, "host")) {
        EXPECT_TRUE(HasOnce(sent.fields, "host", value));
      }
    }
  }
  if (sample.want.kind == BodyKind::kLength) {
    EXPECT_TRUE(HasOnce(sent.fields, "content-length",
                        absl::StrCat(sample.want.body.size())));
  }
  // Chunks stay what they were; behind the last one come the trailers.
  const size_t body_at = got.forwarded.find("\r\n\r\n") + 4;
  EXPECT_EQ(got.forwarded.substr(body_at, sample.forwarded_body.size()),
            sample.forwarded_body);
}

void CheckStreams(StreamKind kind, Random& random) {
  for (int i = 0; i < kStreams && !testing::Test::HasFailure(); ++i) {
    std::vector<Sample> samples(1 + Below(random, 8));
    std::string bytes;
    for (Sample& sample : samples) {
      sample = kind == StreamKind::kRequests
                   ? RandomRequest(random)
                   : RandomResponse(random, kind == StreamKind::kHeadResponses);
      sample.want.begin = bytes.size();
      bytes += sample.bytes;
      sample.want.end = bytes.size();
    }
    static constexpr uint32_t kWidths[] = {1, 3, 20, 300, 5000, 1U << 20};
    const uint32_t width = Pick(random, kWidths);
    const StreamResult result = ReadStream(
        kind, bytes, [&] { return size_t{1} + Below(random, width); });
    SCOPED_TRACE(absl::StrCat("stream ", i, ", pieces up to ", width, ":\n",
                              bytes.substr(0, 4000)));
    EXPECT_EQ(result.end, StreamEnd::kClean) << NameOf(result.error);
    ASSERT_EQ(result.messages.size(), samples.size());
    for (size_t j = 0; j < samples.size(); ++j) {
      const StreamMessage& got = result.messages[j];
      const StreamMessage& want = samples[j].want;
      EXPECT_EQ(got.begin, want.begin);
      EXPECT_EQ(got.end, want.end);
      EXPECT_EQ(got.method, want.method);
      EXPECT_EQ(got.target, want.target);
      EXPECT_EQ(got.status, want.status);
      EXPECT_EQ(got.kind, want.kind);
      EXPECT_EQ(got.fields, want.fields);
      EXPECT_EQ(got.trailers, want.trailers);
      EXPECT_EQ(got.body, want.body);
      CheckForwarded(kind, samples[j], got);
    }
    // However it is cut, the same is found and sent on.
    const StreamResult whole =
        ReadStream(kind, bytes, [] { return size_t{1} << 30; });
    ASSERT_EQ(whole.messages.size(), samples.size());
    for (size_t j = 0; j < samples.size(); ++j)
      EXPECT_EQ(whole.messages[j].forwarded, result.messages[j].forwarded);
  }
}

class MessageStreamTest : public testing::Test {
 protected:
  void SetUp() override { RecordProperty("seed", std::to_string(seed_)); }
  void TearDown() override {
    if (HasFailure()) ADD_FAILURE() << "MESSAGE_STREAM_SEED=" << seed_;
  }

  const uint32_t seed_ = Seed();
  Random random_{seed_};
};

TEST_F(MessageStreamTest, FindsTheRequestsThatWerePutIn) {
  CheckStreams(StreamKind::kRequests, random_);
}

TEST_F(MessageStreamTest, FindsTheResponsesThatWerePutIn) {
  CheckStreams(StreamKind::kResponses, random_);
}

TEST_F(MessageStreamTest, FindsTheResponsesToHeadThatWerePutIn) {
  CheckStreams(StreamKind::kHeadResponses, random_);
}

TEST_F(MessageStreamTest, FindsTheSameOfAnUnfinishedStreamHoweverItIsCut) {
  for (int i = 0; i < kStreams && !HasFailure(); ++i) {
    std::string bytes;
    for (uint32_t j = 1 + Below(random_, 3); j > 0; --j)
      bytes += RandomRequest(random_).bytes;
    bytes.resize(Below(random_, bytes.size()));
    const StreamResult whole =
        ReadStream(StreamKind::kRequests, bytes, [] { return 1U << 30; });
    const StreamResult split = ReadStream(
        StreamKind::kRequests, bytes, [&] { return 1 + Below(random_, 9); });
    SCOPED_TRACE(bytes);
    EXPECT_NE(whole.end, StreamEnd::kError);
    EXPECT_EQ(whole.end, split.end);
    EXPECT_EQ(whole.messages.size(), split.messages.size());
    EXPECT_EQ(whole.unfinished, split.unfinished);
  }
}

}  // namespace
}  // namespace mycelium::edge
