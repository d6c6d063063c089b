#include "services/edge/head_rewriter.h"

#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/edge/target.h"

namespace mycelium::edge {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::string Collect(const IovecQueue& queue) {
  std::string text;
  for (int i = 0; i < queue.count(); ++i) {
    text.append(static_cast<const char*>(queue.data()[i].iov_base),
                queue.data()[i].iov_len);
  }
  EXPECT_EQ(text.size(), queue.bytes());
  return text;
}

RequestRewrite Defaults() {
  RequestRewrite with;
  with.client_ip = "10.0.0.1";
  with.listen_port = 8080;
  with.app = "app";
  with.request_id = "id";
  with.via = "me";
  with.authority = "127.0.0.1:9000";
  return with;
}

std::string Forward(std::string bytes, RequestRewrite with = Defaults()) {
  auto head = std::make_unique<RequestHead>();
  head->Reset();
  EXPECT_EQ(head->Parse(bytes), ParseStatus::kDone) << bytes;
  const Target target =
      RouteTarget({bytes.data() + head->path, head->path_size});
  EXPECT_EQ(target.kind, TargetKind::kApp);
  with.forward_upgrade = MayForwardUpgrade(*head, bytes.data());
  const TraceContext trace = FindTraceContext(*head, bytes.data());
  with.keep_traceparent = trace.valid;
  with.keep_tracestate = trace.keep_state;
  const uint16_t line = PatchRequestLine(*head, bytes.data(), target.rest);
  TextBuffer text;
  IovecQueue out;
  RewriteRequest(*head, bytes.data(), line, with, &text, &out);
  return Collect(out);
}

std::string Get(absl::string_view fields, absl::string_view target = "/app/x") {
  return absl::StrCat("GET ", target, " HTTP/1.1\r\nHost: e.test\r\n", fields,
                      "\r\n");
}

TEST(RewriteRequestTest, ForwardsWhatItDoesNotOwnByteForByte) {
  EXPECT_EQ(Forward(Get("Authorization: Basic  YTpi \r\nx-a:1\r\n",
                        "/app/a%2Fb?c=%zz")),
            "GET /a%2Fb?c=%zz HTTP/1.1\r\nHost: e.test\r\nAuthorization: Basic "
            " YTpi \r\nx-a:1\r\n"
            "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: "
            "http\r\nX-Forwarded-Port: 8080\r\n"
            "X-Request-Id: id\r\nVia: 1.1 me\r\nX-Forwarded-Prefix: /app\r\n"
            "X-Forwarded-Host: e.test\r\n\r\n");
}

TEST(RewriteRequestTest, StripsThePrefixWhateverTheLengthOfTheMethod) {
  for (const std::string method : {"GET", "OPTIONS", "PROPPATCH-AND-MORE"}) {
    EXPECT_THAT(
        Forward(absl::StrCat(method, " /app/ HTTP/1.1\r\nHost: a\r\n\r\n")),
        StartsWith(absl::StrCat(method, " / HTTP/1.1\r\n")));
  }
}

TEST(RewriteRequestTest, CutsWhatIsHopByHop) {
  const std::string out =
      Forward(Get("Connection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: "
                  "5\r\nProxy-Connection: x\r\n"
                  "TE: trailers\r\nUpgrade: h2c\r\nX-Kept: 1\r\n"));

  for (const absl::string_view field :
       {"X-Hop", "Keep-Alive", "Proxy-Connection",
        "TE:", "Upgrade:", "Connection:"}) {
    EXPECT_FALSE(absl::StrContains(out, field)) << field;
  }
  EXPECT_THAT(out, HasSubstr("X-Kept: 1\r\n"));
}

TEST(RewriteRequestTest, KeepsFramingAndRoutingThatConnectionNames) {
  const std::string out = Forward(
      "POST /app/x HTTP/1.1\r\nHost: e.test\r\nConnection: Host, "
      "Content-Length\r\n"
      "Content-Length: 005\r\n\r\n");

  EXPECT_THAT(out, HasSubstr("\r\nHost: e.test\r\n"));
  EXPECT_THAT(out, HasSubstr("\r\nContent-Length: 5\r\n"));
}

TEST(RewriteRequestTest, PutsTheAuthorityOfTheTargetInPlaceOfHost) {
  const std::string out = Forward(
      "GET http://good.test:81/app/x HTTP/1.1\r\nHost: evil.test\r\n\r\n");

  EXPECT_THAT(out, StartsWith("GET /x HTTP/1.1\r\nHost: good.test:81\r\n"));
  EXPECT_THAT(out, HasSubstr("X-Forwarded-Host: good.test:81\r\n"));
  EXPECT_THAT(out, Not(HasSubstr("evil")));
}

TEST(RewriteRequestTest,
     LeavesTheAuthorityWholeWhereTheMethodIsLongerThanTheApp) {
  const std::string out = Forward(
      "PROPPATCH http://good.test:81/a/x HTTP/1.1\r\nHost: evil.test\r\n\r\n");

  EXPECT_THAT(out,
              StartsWith("PROPPATCH /x HTTP/1.1\r\nHost: good.test:81\r\n"));
}

TEST(RewriteRequestTest, SpeaksItsOwnVersionAndNamesAHost) {
  const std::string out =
      Forward("GET /app/x HTTP/1.0\r\nExpect: 100-continue\r\n\r\n");

  EXPECT_THAT(out, StartsWith("GET /x HTTP/1.1\r\nHost: 127.0.0.1:9000\r\n"));
  EXPECT_THAT(out, HasSubstr("\r\nVia: 1.0 me\r\n"));
  EXPECT_THAT(out, Not(HasSubstr("Expect")));
}

TEST(RewriteRequestTest, ForwardsAnUpgradeThatIsAskedForProperly) {
  EXPECT_THAT(Forward(Get("Connection: upgrade\r\nUpgrade: websocket\r\n")),
              HasSubstr("\r\nUpgrade: websocket\r\n"));
  EXPECT_THAT(Forward(Get("Upgrade: websocket\r\n")),
              Not(HasSubstr("Upgrade")));
  EXPECT_THAT(
      Forward(Get("Connection: upgrade\r\nUpgrade: websocket, h2c\r\n")),
      Not(HasSubstr("Upgrade")));
}

TEST(RewriteRequestTest, HoldsTheMostFieldsCutEveryOtherOne) {
  std::string fields;
  for (int i = 0; i < 49; ++i)
    absl::StrAppend(&fields, "X-", i, ": 1\r\nTE: x\r\n");

  const std::string out = Forward(Get(fields + "Max-Forwards: 3\r\n"));

  EXPECT_THAT(out, HasSubstr("X-48: 1\r\n"));
  EXPECT_THAT(out, Not(HasSubstr("TE: x")));
}

std::string Return(std::string bytes, ResponseRewrite with,
                   Method method = Method::kGet) {
  auto head = std::make_unique<ResponseHead>();
  head->Reset();
  EXPECT_EQ(head->Parse(bytes, method), ParseStatus::kDone) << bytes;
  with.via = "me";
  with.request_id = "id";
  with.date = "Sun, 06 Nov 1994 08:49:37 GMT";
  TextBuffer text;
  IovecQueue out;
  RewriteResponse(*head, bytes.data(), with, &text, &out);
  return Collect(out);
}

TEST(RewriteResponseTest, AddsWhatIsMissingAndKeepsTheRest) {
  EXPECT_EQ(Return("HTTP/1.0 200 Fine\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n"
                   "Content-Length: 2\r\n\r\n",
                   {}),
            "HTTP/1.1 200 Fine\r\nSet-Cookie: a\r\nSet-Cookie: "
            "b\r\nContent-Length: 2\r\n"
            "Via: 1.0 me\r\nX-Request-Id: id\r\nDate: Sun, 06 Nov 1994 "
            "08:49:37 GMT\r\n\r\n");
}

TEST(RewriteResponseTest, KeepsTheDateOfTheOrigin) {
  const std::string out =
      Return("HTTP/1.1 200 OK\r\nDate: then\r\nContent-Length: 0\r\n\r\n", {});

  EXPECT_THAT(out, HasSubstr("Date: then"));
  EXPECT_THAT(out, Not(HasSubstr("1994")));
}

TEST(RewriteResponseTest, KeepsADateThatConnectionNames) {
  EXPECT_THAT(Return("HTTP/1.1 200 OK\r\nConnection: date\r\nDate: then\r\n"
                     "Content-Length: 0\r\n\r\n",
                     {}),
              HasSubstr("Date: then\r\n"));
}

TEST(RewriteResponseTest, WritesALengthInOneWayOnly) {
  for (const absl::string_view length :
       {"Content-Length: 2\t", "content-length:\t2", "Content-Length: 002",
        "Content-Length:2  "}) {
    EXPECT_THAT(
        Return(absl::StrCat("HTTP/1.1 200 OK\r\n", length, "\r\nA: b\r\n\r\n"),
               {}),
        StartsWith("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: b\r\n"))
        << length;
  }
  EXPECT_THAT(Return("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", {}),
              StartsWith("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n"));
}

TEST(RewriteResponseTest, DropsWhatOnlyTheEdgeMaySayOfItself) {
  const std::string out = Return(
      "HTTP/1.1 200 OK\r\nx-mycelium-reason: spoofed\r\n"
      "X_Mycelium_Reason: spoofed\r\nX-Forwarded-Host: kept\r\n"
      "Content-Length: 0\r\n\r\n",
      {});

  EXPECT_THAT(out, Not(HasSubstr("spoofed")));
  EXPECT_THAT(out, HasSubstr("X-Forwarded-Host: kept\r\n"));
}

TEST(RewriteResponseTest, SaysHowTheBodyAndTheConnectionEnd) {
  ResponseRewrite with;
  with.body = BodyKind::kChunked;
  with.close = true;

  const std::string out = Return(
      "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: "
      "1\r\n\r\n",
      with);

  EXPECT_THAT(
      out,
      EndsWith("\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"));
  EXPECT_THAT(out, Not(HasSubstr("Hop")));
  EXPECT_THAT(out, Not(HasSubstr("Keep-Alive")));
}

TEST(RewriteResponseTest, CompletesAStatusLineWithoutAReason) {
  EXPECT_THAT(Return("HTTP/1.1 204\r\n\r\n", {}),
              StartsWith("HTTP/1.1 204 \r\nVia"));
}

TEST(RewriteResponseTest, AddsNothingToInterimResponses) {
  EXPECT_EQ(Return("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", {}),
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
}

TEST(TraceparentTest, IsCheckedByItsGrammar) {
  const std::string valid =
      "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  EXPECT_TRUE(IsValidTraceparent(valid));
  EXPECT_TRUE(IsValidTraceparent("cc" + valid.substr(2) + "-what-will-come"));
  EXPECT_FALSE(IsValidTraceparent(valid + "-more"));
  EXPECT_FALSE(IsValidTraceparent("ff" + valid.substr(2)));
  EXPECT_FALSE(IsValidTraceparent(valid.substr(0, 54)));
  EXPECT_FALSE(IsValidTraceparent(
      "00-00000000000000000000000000000000-b7ad6b7169203331-01"));
  EXPECT_FALSE(IsValidTraceparent(
      "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"));
  EXPECT_FALSE(IsValidTraceparent(
      "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
}

// What FindTraceContext says of a request with `fields`, and what is forwarded.
struct Traced {
  bool valid;
  bool sampled;
  std::string trace_id;
  std::string forwarded;
};
Traced Trace(absl::string_view fields) {
  const std::string bytes = Get(fields);
  auto head = std::make_unique<RequestHead>();
  head->Reset();
  EXPECT_EQ(head->Parse(bytes), ParseStatus::kDone) << bytes;
  const TraceContext trace = FindTraceContext(*head, bytes.data());
  return {trace.valid, trace.sampled, std::string(trace.trace_id),
          Forward(bytes)};
}

TEST(TraceContextTest, PassesUnchangedIfItIsValid) {
  const std::string fields =
      "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
      "tracestate: a=1\r\ntracestate: b=2\r\n";

  const Traced trace = Trace(fields);

  EXPECT_TRUE(trace.valid);
  EXPECT_TRUE(trace.sampled);
  EXPECT_EQ(trace.trace_id, "0af7651916cd43dd8448eb211c80319c");
  EXPECT_THAT(trace.forwarded, HasSubstr(fields));
  EXPECT_FALSE(
      Trace("traceparent: "
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0a\r\n")
          .sampled);
}

TEST(TraceContextTest, IsDroppedWholeIfTheParentIsInvalidOrTwice) {
  const std::string parent =
      "traceparent: "
      "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
  for (const std::string& fields :
       {std::string("traceparent: garbage\r\n"), parent + parent,
        parent + "traceparent: x\r\n", std::string()}) {
    const Traced trace = Trace(fields + "tracestate: a=1\r\n");

    EXPECT_FALSE(trace.valid) << fields;
    EXPECT_THAT(trace.forwarded, Not(HasSubstr("trace"))) << fields;
  }
}

TEST(TraceContextTest, LosesStateThatIsTooLongInAllItsFields) {
  const std::string parent =
      "traceparent: "
      "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
  const std::string half =
      absl::StrCat("tracestate: a=", std::string(254, '1'), "\r\n");

  EXPECT_THAT(Trace(parent + half).forwarded, HasSubstr("tracestate"));
  // 513 bytes with the comma that joins them.
  const std::string both = Trace(parent + half + half).forwarded;
  EXPECT_THAT(both, HasSubstr("traceparent"));
  EXPECT_THAT(both, Not(HasSubstr("tracestate")));
}

TEST(TraceContextTest, IsStartedAnew) {
  TraceparentText text;
  FormatTraceparent("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331",
                    true, &text);
  const absl::string_view parent(text.data(), text.size());
  EXPECT_EQ(parent, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03");
  EXPECT_TRUE(IsValidTraceparent(parent));

  RequestRewrite with = Defaults();
  with.new_traceparent = parent;
  EXPECT_THAT(
      Forward(Get("traceparent: bad\r\ntracestate: a=1\r\n"), with),
      AllOf(HasSubstr(absl::StrCat("\r\ntraceparent: ", parent, "\r\n")),
            Not(HasSubstr("bad")), Not(HasSubstr("tracestate"))));
}

TEST(TargetTest, TakesTheFirstSegmentAsTheApp) {
  const auto route = [](absl::string_view target) {
    return RouteTarget(target);
  };
  EXPECT_EQ(route("/app/x?y").rest, "/x?y");
  EXPECT_EQ(route("/app/").rest, "/");
  EXPECT_EQ(route("/app//x").rest, "//x");
  EXPECT_EQ(route("/app").kind, TargetKind::kRedirect);
  EXPECT_EQ(route("/app?q").rest, "?q");
  EXPECT_EQ(route("/application/x").app, "application");
  EXPECT_EQ(route("/_mesh/health").kind, TargetKind::kMesh);
  EXPECT_EQ(route("/_mesh/health").rest, "/health");
  for (const absl::string_view unknown :
       {"/", "//app/x", "/App/x", "/%61pp/x", "/-a/", "/1a/", "/_mesh2/", ""}) {
    EXPECT_EQ(route(unknown).kind, TargetKind::kUnknown) << unknown;
  }
}

TEST(TargetTest, RefusesPathsThatCanBeReadInTwoWays) {
  for (const absl::string_view path :
       {"/app/..", "/app/.", "/app/../x", "/app/%2e%2E/x", "/app/.%2e",
        "/app/x%2f..%2Fy", "/app/x\\y", "/app/x%5c..", "/app/%00", "/app/%",
        "/app/%2", "/app/%zz", "/../app/x"}) {
    EXPECT_EQ(RouteTarget(path).kind, TargetKind::kRefused) << path;
  }
  for (const absl::string_view path :
       {"/app/...", "/app/..a", "/app/a..", "/app/x?../%zz\\"}) {
    EXPECT_EQ(RouteTarget(path).kind, TargetKind::kApp) << path;
  }
}

}  // namespace
}  // namespace mycelium::edge
