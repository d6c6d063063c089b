#include "tools/meshctl/table.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::meshctl {
namespace {

Table Sample() {
  Table table({{"APP"}, {"READY", true}, {"WIDE", false, true}, {"NOTE"}});
  table.AddRow({"billing", "2/2", "x", "all is well"});
  table.AddRow({"frontend", Cell("10/10", Tone::kGood), "y", "-"});
  return table;
}

TEST(TableTest, AlignsColumnsAndLeavesNoTrailingSpace) {
  EXPECT_EQ(Sample().Render({}),
            "APP       READY  NOTE\n"
            "billing     2/2  all is well\n"
            "frontend  10/10  -\n");
}

TEST(TableTest, ShowsWideColumnsOnRequest) {
  TableStyle style;
  style.wide = true;
  EXPECT_EQ(Sample().Render(style),
            "APP       READY  WIDE  NOTE\n"
            "billing     2/2  x     all is well\n"
            "frontend  10/10  y     -\n");
}

TEST(TableTest, CutsTheLastCellsToTheTerminal) {
  TableStyle style;
  style.width = 22;
  EXPECT_EQ(Sample().Render(style),
            "APP       READY  NOTE\n"
            "billing     2/2  all …\n"
            "frontend  10/10  -\n");
}

TEST(TableTest, ShowsOnlyTheColumnsThatWereNamed) {
  TableStyle style;
  style.columns = {"note", "app"};
  style.headers = false;
  EXPECT_EQ(Sample().Render(style),
            "all is well  billing\n-            frontend\n");
}

TEST(TableTest, ColoursDoNotChangeTheAlignment) {
  TableStyle style;
  style.color = true;
  EXPECT_THAT(Sample().Render(style),
              testing::HasSubstr("frontend  \x1b[32m10/10\x1b[0m  -\n"));
}

TEST(TableTest, CountsCodePoints) { EXPECT_EQ(DisplayWidth("●●✗é"), 4u); }

}  // namespace
}  // namespace mycelium::meshctl
