#include "lib/spore/rfc3339.h"

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace mycelium::spore {
namespace {

TEST(Rfc3339Test, ReadsTimesWithTheirZone) {
  const absl::Time time = absl::FromUnixSeconds(1767323045);
  EXPECT_EQ(ParseRfc3339("2026-01-02T03:04:05Z"), time);
  EXPECT_EQ(ParseRfc3339("2026-01-02T04:34:05+01:30"), time);
  EXPECT_EQ(ParseRfc3339("2026-01-01T23:04:05-04:00"), time);
  EXPECT_EQ(ParseRfc3339("2026-01-02T03:04:05-00:00"), time);
  EXPECT_EQ(ParseRfc3339("2026-01-02T03:04:05.25Z"),
            time + absl::Milliseconds(250));
  EXPECT_EQ(ParseRfc3339("2026-01-02T03:04:05.000000001Z"),
            time + absl::Nanoseconds(1));
  EXPECT_EQ(ParseRfc3339("2026-01-02T03:04:05.25000000000000000009Z"),
            time + absl::Milliseconds(250));
  EXPECT_TRUE(ParseRfc3339("2024-02-29T00:00:00Z").has_value());
  EXPECT_TRUE(ParseRfc3339("0001-01-01T00:00:00Z").has_value());
  EXPECT_TRUE(ParseRfc3339("9999-12-31T23:59:59Z").has_value());
}

TEST(Rfc3339Test, RefusesEverythingElse) {
  for (const absl::string_view text : {"",
                                       "2026-01-02",
                                       "2026-01-02T03:04:05",
                                       "2026-01-02T03:04Z",
                                       "2026-01-02 03:04:05Z",
                                       "2026-01-02t03:04:05Z",
                                       "2026-01-02T03:04:05z",
                                       "2026-13-02T03:04:05Z",
                                       "2026-00-02T03:04:05Z",
                                       "2026-02-29T03:04:05Z",
                                       "2026-02-30T03:04:05Z",
                                       "2026-01-00T03:04:05Z",
                                       "2026-01-32T03:04:05Z",
                                       "2026-01-02T24:00:00Z",
                                       "2026-01-02T03:60:05Z",
                                       "2026-01-02T03:04:60Z",
                                       "2026-01-02T03:04:61Z",
                                       "2026-1-2T03:04:05Z",
                                       "26-01-02T03:04:05Z",
                                       "+2026-01-02T03:04:05Z",
                                       "2026-01-02T03:04:05.Z",
                                       "2026-01-02T03:04:05,5Z",
                                       "2026-01-02T03:04:05+0100",
                                       "2026-01-02T03:04:05+01",
                                       "2026-01-02T03:04:05+24:00",
                                       "2026-01-02T03:04:05+01:60",
                                       "2026-01-02T03:04:05Z ",
                                       " 2026-01-02T03:04:05Z",
                                       "2026-01-02T03:04:05ZZ",
                                       "2026-01-02T03:04:05UTC",
                                       "infinite-future",
                                       "1767323045",
                                       "now"}) {
    EXPECT_FALSE(ParseRfc3339(text).has_value()) << text;
  }
}

TEST(Rfc3339Test, WritesWhatItReads) {
  EXPECT_EQ(FormatRfc3339(*ParseRfc3339("2026-01-02T04:04:05.9+01:00")),
            "2026-01-02T03:04:05Z");
  EXPECT_EQ(FormatRfc3339(absl::UnixEpoch()), "1970-01-01T00:00:00Z");
}

}  // namespace
}  // namespace mycelium::spore
