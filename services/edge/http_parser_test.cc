#include "services/edge/http_parser.h"

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/edge/byte_scan.h"

namespace mycelium::edge {
namespace {

using ::testing::ElementsAre;

std::string Get(absl::string_view fields, absl::string_view target = "/app/x") {
  return absl::StrCat("GET ", target, " HTTP/1.1\r\nHost: e.test\r\n", fields,
                      "\r\n");
}

struct Parsed {
  ParseStatus status = ParseStatus::kIncomplete;
  RequestHead head;
};

std::unique_ptr<Parsed> Parse(absl::string_view bytes) {
  auto parsed = std::make_unique<Parsed>();
  parsed->head.Reset();
  parsed->status = parsed->head.Parse(bytes);
  return parsed;
}

HttpError ErrorOf(absl::string_view bytes) {
  const auto parsed = Parse(bytes);
  return parsed->status == ParseStatus::kError ? parsed->head.error
                                               : HttpError::kNone;
}

TEST(RequestHeadTest, ReadsWhatARequestSays) {
  const std::string bytes = Get("X-A:  v 1 \r\nContent-Length: 5\r\n");

  const auto parsed = Parse(bytes + "hello");

  ASSERT_EQ(parsed->status, ParseStatus::kDone);
  const RequestHead& head = parsed->head;
  EXPECT_EQ(head.method, Method::kGet);
  EXPECT_EQ(bytes.substr(head.target, head.target_size), "/app/x");
  EXPECT_EQ(head.size, bytes.size());
  EXPECT_EQ(head.body, BodyKind::kLength);
  EXPECT_EQ(head.content_length, 5);
  EXPECT_FALSE(head.close);
  ASSERT_EQ(head.section.count, 3);
  EXPECT_EQ(head.section.fields[1].Name(bytes.data()), "X-A");
  EXPECT_EQ(head.section.fields[1].Value(bytes.data()), "v 1");
}

TEST(RequestHeadTest, GivesTheSameAnswerAtEverySplitPoint) {
  const std::string bytes =
      Get("X-A: 1\r\nTransfer-Encoding: chunked\r\nX-B:\r\n");

  for (size_t split = 0; split < bytes.size(); ++split) {
    RequestHead head;
    head.Reset();
    ASSERT_EQ(head.Parse(bytes.substr(0, split)), ParseStatus::kIncomplete)
        << split;
    const std::string moved = bytes;
    ASSERT_EQ(head.Parse(moved), ParseStatus::kDone) << split;
    EXPECT_EQ(head.size, bytes.size());
    EXPECT_EQ(head.body, BodyKind::kChunked);
    EXPECT_EQ(head.section.count, 4);
  }
}

TEST(RequestHeadTest, GivesTheSameAnswerByteByByte) {
  const std::string bytes = "\r\n" + Get("Connection: close, X\r\n");
  RequestHead head;
  head.Reset();

  for (size_t size = 1; size < bytes.size(); ++size) {
    ASSERT_EQ(head.Parse(bytes.substr(0, size)), ParseStatus::kIncomplete);
  }

  ASSERT_EQ(head.Parse(bytes), ParseStatus::kDone);
  EXPECT_EQ(head.start, 2);
  EXPECT_TRUE(head.close);
  EXPECT_TRUE(head.has_connection_options);
}

struct Refusal {
  const char* name;
  std::string bytes;
  HttpError error;
};

TEST(RequestHeadTest, RefusesWhatTheRulesForbid) {
  const std::string host = "Host: e.test\r\n";
  const Refusal refusals[] = {
      {"space first", " " + Get(""), HttpError::kBadMethod},
      {"tab between", "GET\t/ HTTP/1.1\r\n", HttpError::kBadMethod},
      {"two spaces", "GET  / HTTP/1.1\r\n", HttpError::kBadVersion},
      {"no version", "GET /\r\n", HttpError::kBadRequestLine},
      {"trailing space", "GET / HTTP/1.1 \r\n", HttpError::kBadVersion},
      {"lower case version", "GET / http/1.1\r\n", HttpError::kBadVersion},
      {"long version", "GET / HTTP/1.10\r\n", HttpError::kBadVersion},
      {"version 2", "GET / HTTP/2.0\r\n", HttpError::kVersionNotSupported},
      {"version 0.9", "GET / HTTP/0.9\r\n", HttpError::kVersionNotSupported},
      {"bad method", "G(T / HTTP/1.1\r\n", HttpError::kBadMethod},
      {"fragment", Get("", "/a#b"), HttpError::kBadTarget},
      {"not ASCII", Get("", "/\xe9"), HttpError::kBadTarget},
      {"no slash", Get("", "app/x"), HttpError::kBadTarget},
      {"asterisk with GET", Get("", "*"), HttpError::kBadTarget},
      {"user info", Get("", "http://u@h/app/"), HttpError::kBadTarget},
      {"other scheme", Get("", "ftp://h/app/"), HttpError::kBadTarget},
      {"bare LF", "GET / HTTP/1.1\nHost: a\n\n", HttpError::kBareLf},
      {"bare CR", Get("X: a\rb\r\n"), HttpError::kBareCr},
      {"NUL", Get(absl::string_view("X: a\0b\r\n", 8)),
       HttpError::kControlByte},
      {"DEL", Get("X: a\x7f\r\n"), HttpError::kControlByte},
      {"obs-fold", Get("X: a\r\n b\r\n"), HttpError::kObsFold},
      {"fold first", "GET / HTTP/1.1\r\n X: a\r\n" + host + "\r\n",
       HttpError::kObsFold},
      {"space before colon", Get("X : a\r\n"), HttpError::kBadFieldName},
      {"no colon", Get("Xa\r\n"), HttpError::kBadFieldName},
      {"empty name", Get(": a\r\n"), HttpError::kBadFieldName},
      {"name not ASCII", Get("X-\xe9: a\r\n"), HttpError::kBadFieldName},
      {"no Host", "GET / HTTP/1.1\r\n\r\n", HttpError::kMissingHost},
      {"two Hosts", Get(host), HttpError::kDuplicateHost},
      {"Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
       HttpError::kBadHost},
      {"empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", HttpError::kBadHost},
      {"CL twice", Get("Content-Length: 1\r\nContent-Length: 1\r\n"),
       HttpError::kBadContentLength},
      {"CL list", Get("Content-Length: 1, 1\r\n"),
       HttpError::kBadContentLength},
      {"CL plus", Get("Content-Length: +1\r\n"), HttpError::kBadContentLength},
      {"CL empty", Get("Content-Length:\r\n"), HttpError::kBadContentLength},
      {"CL 2^63", Get("Content-Length: 9223372036854775808\r\n"),
       HttpError::kBadContentLength},
      {"CL and TE", Get("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
       HttpError::kLengthAndCoding},
      {"TE list", Get("Transfer-Encoding: gzip, chunked\r\n"),
       HttpError::kBadTransferEncoding},
      {"TE twice",
       Get("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
       HttpError::kBadTransferEncoding},
      {"TE parameter", Get("Transfer-Encoding: chunked;a=b\r\n"),
       HttpError::kBadTransferEncoding},
      {"TE empty", Get("Transfer-Encoding:\r\n"),
       HttpError::kBadTransferEncoding},
      {"TE in 1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
       HttpError::kCodingInHttp10},
      {"expectation", Get("Expect: 200-ok\r\n"), HttpError::kBadExpect},
      {"options without end",
       Get("Connection: " + std::string(100, ',') +
           "a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,"
           "a,a,a,a,a,a,a,a,a\r\n"),
       HttpError::kTooManyFields},
  };
  for (const Refusal& refusal : refusals) {
    EXPECT_EQ(NameOf(ErrorOf(refusal.bytes)), NameOf(refusal.error))
        << refusal.name;
    // And so at every split point.
    RequestHead head;
    head.Reset();
    ParseStatus status = ParseStatus::kIncomplete;
    for (size_t size = 1;
         size <= refusal.bytes.size() && status == ParseStatus::kIncomplete;
         ++size) {
      status = head.Parse(refusal.bytes.substr(0, size));
    }
    EXPECT_EQ(status, ParseStatus::kError) << refusal.name;
    EXPECT_EQ(NameOf(head.error), NameOf(refusal.error)) << refusal.name;
  }
}

TEST(RequestHeadTest, TakesWhatTheRulesAllow) {
  for (const std::string& bytes : {
           Get(""),
           Get("X-Empty:\r\n"),
           Get("X-Obs: \xe9\xff\r\n"),
           Get("X-Tab: a\tb\r\n"),
           Get("", "/a?b=c|d{e}&f=%zz"),
           Get("", "http://other.test:81/app/x"),
           Get("", "HTTPS://[::1]/app/x"),
           std::string("GET / HTTP/1.0\r\n\r\n"),
           std::string("GET / HTTP/1.9\r\nHost: a\r\n\r\n"),
           std::string("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
           std::string("M-SEARCH / HTTP/1.1\r\nHost: a:80\r\n\r\n"),
           std::string(
               "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n"),
       }) {
    EXPECT_EQ(Parse(bytes)->status, ParseStatus::kDone) << bytes;
  }
}

TEST(RequestHeadTest, LetsTheTargetOfAbsoluteFormWin) {
  const std::string bytes = Get("", "http://good.test:81/app/x?y");

  const auto parsed = Parse(bytes);

  ASSERT_EQ(parsed->status, ParseStatus::kDone);
  const RequestHead& head = parsed->head;
  EXPECT_EQ(head.form, TargetForm::kAbsolute);
  EXPECT_EQ(bytes.substr(head.authority, head.authority_size), "good.test:81");
  EXPECT_EQ(bytes.substr(head.path, head.path_size), "/app/x?y");
}

TEST(RequestHeadTest, BoundsTheHead) {
  EXPECT_EQ(ErrorOf(Get("", "/" + std::string(40000, 'a'))),
            HttpError::kTargetTooLong);
  EXPECT_EQ(ErrorOf("GET /" + std::string(40000, 'a')),
            HttpError::kTargetTooLong);
  EXPECT_EQ(ErrorOf(Get("X: " + std::string(40000, 'a') + "\r\n")),
            HttpError::kHeadTooLarge);
  std::string fields;
  for (int i = 0; i < kMaxFields - 1; ++i) fields += "X: 1\r\n";
  EXPECT_EQ(Parse(Get(fields))->status, ParseStatus::kDone);
  EXPECT_EQ(ErrorOf(Get(fields + "X: 1\r\n")), HttpError::kTooManyFields);
}

TEST(RequestHeadTest, FindsTheSameMessagesInAPipelineCutAnywhere) {
  std::mt19937 random(7);
  const auto pick = [&random](int n) { return static_cast<int>(random() % n); };
  for (int round = 0; round < 300; ++round) {
    std::string pipeline;
    std::vector<size_t> sizes;
    for (int i = 1 + pick(8); i > 0; --i) {
      std::string fields;
      for (int j = pick(12); j > 0; --j) {
        absl::StrAppend(&fields, "X-", std::string(1 + pick(20), 'a'), ":",
                        std::string(pick(3), ' '), std::string(pick(80), 'v'),
                        "\r\n");
      }
      const std::string message =
          Get(fields, "/" + std::string(pick(100), 'p'));
      sizes.push_back(message.size());
      pipeline += message;
    }

    std::vector<size_t> found;
    size_t at = 0;
    size_t available = 0;
    RequestHead head;
    head.Reset();
    while (available < pipeline.size()) {
      available = std::min(pipeline.size(), available + 1 + pick(60));
      while (head.Parse(pipeline.substr(at, available - at)) ==
             ParseStatus::kDone) {
        found.push_back(head.size);
        at += head.size;
        head.Reset();
      }
    }

    EXPECT_EQ(found, sizes) << "round " << round;
  }
}

struct ParsedResponse {
  ParseStatus status;
  ResponseHead head;
};

std::unique_ptr<ParsedResponse> ParseResponse(absl::string_view bytes,
                                              Method method = Method::kGet) {
  auto parsed = std::make_unique<ParsedResponse>();
  parsed->head.Reset();
  parsed->status = parsed->head.Parse(bytes, method);
  return parsed;
}

TEST(ResponseHeadTest, KnowsWhereABodyEnds) {
  const auto body = [](const std::string& line, const std::string& fields,
                       Method method = Method::kGet) {
    const auto parsed =
        ParseResponse(absl::StrCat(line, "\r\n", fields, "\r\n"), method);
    EXPECT_EQ(parsed->status, ParseStatus::kDone) << line << fields;
    return parsed->head.body;
  };
  const std::string length = "Content-Length: 5\r\n";
  EXPECT_EQ(body("HTTP/1.1 200 OK", length), BodyKind::kLength);
  EXPECT_EQ(body("HTTP/1.1 200 OK", "Transfer-Encoding: Chunked\r\n"),
            BodyKind::kChunked);
  EXPECT_EQ(body("HTTP/1.1 200 OK", ""), BodyKind::kUntilClose);
  EXPECT_EQ(body("HTTP/1.0 200 OK", ""), BodyKind::kUntilClose);
  EXPECT_EQ(body("HTTP/1.1 200 OK", length, Method::kHead), BodyKind::kNone);
  EXPECT_EQ(body("HTTP/1.1 204 No Content", length), BodyKind::kNone);
  EXPECT_EQ(body("HTTP/1.1 304 Not Modified", length), BodyKind::kNone);
  EXPECT_EQ(body("HTTP/1.1 103 Early Hints", ""), BodyKind::kNone);
}

TEST(ResponseHeadTest, KnowsWhetherTheConnectionStays) {
  const auto closes = [](absl::string_view bytes) {
    return ParseResponse(bytes)->head.close;
  };
  EXPECT_FALSE(closes("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
  EXPECT_TRUE(closes(
      "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"));
  EXPECT_TRUE(closes("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"));
  EXPECT_TRUE(closes("HTTP/1.1 200 OK\r\n\r\n"));
  EXPECT_TRUE(closes("HTTP/1.1 204 OK\r\nContent-Length: 9\r\n\r\n"));
}

TEST(ResponseHeadTest, RefusesWhatTheRulesForbid) {
  for (const absl::string_view bytes : {
           "hello\r\n\r\n",
           "HTTP/2.0 200 OK\r\n\r\n",
           "HTTP/1.1 20 OK\r\n\r\n",
           "HTTP/1.1 2000 OK\r\n\r\n",
           "HTTP/1.1 099 OK\r\n\r\n",
           "HTTP/1.1 600 OK\r\n\r\n",
           "HTTP/1.1  200 OK\r\n\r\n",
           "\r\nHTTP/1.1 200 OK\r\n\r\n",
           "HTTP/1.1 200 OK\nX: y\n\n",
           "HTTP/1.1 200 O\rK\r\n\r\n",
           "HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\n",
           "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
           "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: "
           "chunked\r\n\r\n",
           "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
           "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
           "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
           "HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
       }) {
    EXPECT_EQ(ParseResponse(bytes)->status, ParseStatus::kError) << bytes;
  }
}

TEST(ResponseHeadTest, GivesTheSameAnswerAtEverySplitPoint) {
  const std::string bytes =
      "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a\r\n\r\n";
  for (size_t split = 0; split < bytes.size(); ++split) {
    ResponseHead head;
    head.Reset();
    ASSERT_EQ(head.Parse(bytes.substr(0, split), Method::kGet),
              ParseStatus::kIncomplete);
    ASSERT_EQ(head.Parse(bytes, Method::kGet), ParseStatus::kDone);
    EXPECT_EQ(head.content_length, 2);
  }
}

TEST(LookupFieldTest, KnowsNamesInAnyCaseAndTheirAliases) {
  EXPECT_EQ(LookupField("hOsT"), FieldId::kHost);
  EXPECT_EQ(LookupField("Content-Length"), FieldId::kContentLength);
  EXPECT_EQ(LookupField("Content_Length"), FieldId::kAlias);
  EXPECT_EQ(LookupField("Transfer.Encoding"), FieldId::kAlias);
  EXPECT_EQ(LookupField("X_Forwarded_Anything-Else-That-Is-Long"),
            FieldId::kAlias);
  EXPECT_EQ(LookupField("X-Forwarded-Anything-Else-That-Is-Long"),
            FieldId::kForwarded);
  EXPECT_EQ(LookupField("X-Mycelium-Reason"), FieldId::kForwarded);
  EXPECT_EQ(LookupField("my_header"), FieldId::kOther);
  EXPECT_EQ(LookupField("X-Forwarded"), FieldId::kOther);
}

TEST(HostTest, IsCheckedByItsGrammar) {
  for (const absl::string_view host :
       {"a", "a.test", "A-1.test:80", "127.0.0.1:65535", "[::1]",
        "[::ffff:1.2.3.4]:80", "a_b", "a%20b", "a:"}) {
    EXPECT_TRUE(IsValidHost(host)) << host;
  }
  for (const absl::string_view host :
       {"", ":80", "a b", "a/b", "a?b", "u@a", "a:99999", "a:8x", "[::1", "[]",
        "[g::1]", "a,b", "a%2", "a\"b", "[::1]x"}) {
    EXPECT_FALSE(IsValidHost(host)) << host;
  }
}

TEST(ForEachElementTest, SkipsWhatIsEmpty) {
  std::vector<std::string> elements;
  ForEachElement(" a ,, b\t,",
                 [&](absl::string_view e) { elements.emplace_back(e); });
  EXPECT_THAT(elements, ElementsAre("a", "b"));
}

TEST(FindControlTest, AgreesWithItsFallbackEverywhere) {
  std::string text(200, 'a');
  for (size_t at = 0; at < text.size(); ++at) {
    for (int byte = 0; byte < 256; ++byte) {
      const char old = text[at];
      text[at] = static_cast<char>(byte);
      const size_t from = at > 70 ? at - 70 : 0;
      const char* const end = text.data() + text.size();
      ASSERT_EQ(FindControl(text.data() + from, end),
                FindControlPortable(text.data() + from, end))
          << at << " " << byte;
      text[at] = old;
    }
  }
}

}  // namespace
}  // namespace mycelium::edge
