#include "lib/telemetry/exposition.h"

#include <array>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::telemetry {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(ChooseFormatTest, FollowsWhatTheScraperPrefers) {
  const struct {
    const char* accept;
    ExpositionFormat want;
  } cases[] = {
      {"", ExpositionFormat::kText},
      {"*/*", ExpositionFormat::kText},
      {"text/plain", ExpositionFormat::kText},
      {"application/openmetrics-text", ExpositionFormat::kOpenMetrics},
      {"application/openmetrics-text;version=1.0.0,application/"
       "openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/"
       "*;q=0.1",
       ExpositionFormat::kOpenMetrics},
      {"text/plain, application/openmetrics-text; q=0.5",
       ExpositionFormat::kText},
      {"application/openmetrics-text;q=0", ExpositionFormat::kText},
      {"application/openmetrics-text;q=nonsense", ExpositionFormat::kText},
      {";;,,;q", ExpositionFormat::kText},
  };
  for (const auto& each : cases) {
    EXPECT_EQ(ChooseFormat(each.accept), each.want) << each.accept;
  }
}

TEST(ExpositionTest, WritesTheTextFormat) {
  Exposition out(ExpositionFormat::kText);
  out.Family("sent_bytes_total", MetricType::kCounter, "Bytes.\nAll of them.");
  out.Sample({{"app", "a\"b\\c\nd"}, {"class", "2xx"}}, int64_t{12});
  out.Family("staleness_seconds", MetricType::kGauge, "Age.");
  out.Sample({}, 123456789.5);

  EXPECT_EQ(out.Finish(),
            "# TYPE sent_bytes_total counter\n"
            "# HELP sent_bytes_total Bytes.\\nAll of them.\n"
            "sent_bytes_total{app=\"a\\\"b\\\\c\\nd\",class=\"2xx\"} 12\n"
            "# TYPE staleness_seconds gauge\n"
            "# HELP staleness_seconds Age.\n"
            "staleness_seconds 123456789.5\n");
}

TEST(ExpositionTest, WritesOpenMetrics) {
  Exposition out(ExpositionFormat::kOpenMetrics);
  out.Family("sent_bytes_total", MetricType::kCounter, "Bytes.");
  out.Sample({}, int64_t{12});

  EXPECT_EQ(out.Finish(),
            "# TYPE sent_bytes counter\n"
            "# UNIT sent_bytes bytes\n"
            "# HELP sent_bytes Bytes.\n"
            "sent_bytes_total 12\n"
            "# EOF\n");
}

TEST(ExpositionTest, MakesHistogramsCumulative) {
  const std::array<double, 3> bounds = {0.0001, 1, 2.5};
  const std::array<int64_t, 4> counts = {1, 2, 0, 4};
  Exposition out(ExpositionFormat::kText);
  out.Family("wait_seconds", MetricType::kHistogram, "Time.");
  out.Histogram({{"app", "x"}}, bounds, counts, 9.25);

  EXPECT_THAT(out.Finish(),
              HasSubstr("wait_seconds_bucket{app=\"x\",le=\"0.0001\"} 1\n"
                        "wait_seconds_bucket{app=\"x\",le=\"1.0\"} 3\n"
                        "wait_seconds_bucket{app=\"x\",le=\"2.5\"} 3\n"
                        "wait_seconds_bucket{app=\"x\",le=\"+Inf\"} 7\n"
                        "wait_seconds_sum{app=\"x\"} 9.25\n"
                        "wait_seconds_count{app=\"x\"} 7\n"));
}

TEST(ExpositionTest, WritesBoundsInTheirCanonicalForm) {
  const std::array<double, 7> bounds = {0.00001, 0.0001,  0.00025, 10,
                                        65536,   1048576, 67108864};
  const std::array<int64_t, 8> counts = {};
  Exposition out(ExpositionFormat::kOpenMetrics);
  out.Family("x", MetricType::kHistogram, "Things.");
  out.Histogram({}, bounds, counts, 0);
  const std::string page = out.Finish();

  for (const char* bound : {"1e-05", "0.0001", "0.00025", "10.0", "65536.0",
                            "1.048576e+06", "6.7108864e+07", "+Inf"}) {
    EXPECT_THAT(page, HasSubstr(absl::StrCat("{le=\"", bound, "\"}")));
  }
}

TEST(ExpositionTest, ShowsExemplarsInOpenMetricsOnly) {
  const std::array<double, 1> bounds = {1};
  const std::array<int64_t, 2> counts = {1, 1};
  const std::array<Exemplar, 2> exemplars = {
      Exemplar{"0af7651916cd43dd8448eb211c80319c", 0.25, 1700000000.5},
      Exemplar{}};
  for (const ExpositionFormat format :
       {ExpositionFormat::kText, ExpositionFormat::kOpenMetrics}) {
    Exposition out(format);
    out.Family("wait_seconds", MetricType::kHistogram, "Time.");
    out.Histogram({}, bounds, counts, 3, exemplars);
    const std::string page = out.Finish();

    if (format == ExpositionFormat::kText) {
      EXPECT_THAT(page, Not(HasSubstr("trace_id")));
    } else {
      EXPECT_THAT(
          page,
          HasSubstr("wait_seconds_bucket{le=\"1.0\"} 1 # "
                    "{trace_id=\"0af7651916cd43dd8448eb211c80319c\"} 0.25 "
                    "1700000000.5\nwait_seconds_bucket{le=\"+Inf\"} 2\n"));
    }
  }
}

}  // namespace
}  // namespace mycelium::telemetry
