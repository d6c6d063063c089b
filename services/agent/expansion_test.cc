#include "services/agent/expansion.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::agent {
namespace {

using ::testing::HasSubstr;

Variables SomeVariables() {
  return {{"MYCELIUM_APP", "shop"}, {"ODD", "${PORT}$$"}, {"PORT", "8081"}};
}

TEST(ExpansionTest, ExpandsWhatItKnows) {
  struct Case {
    const char* text;
    const char* expanded;
  };
  for (const Case& c : {
           Case{"", ""},
           Case{"plain", "plain"},
           Case{"${PORT}", "8081"},
           Case{"--listen=:${PORT}", "--listen=:8081"},
           Case{"${MYCELIUM_APP}:${PORT}/x", "shop:8081/x"},
           Case{"$${PORT}", "${PORT}"},
           Case{"$$$$", "$$"},
           Case{"$PORT", "$PORT"},
           Case{"cost: 5$", "cost: 5$"},
           Case{"${ODD}", "${PORT}$$"},
           Case{"a}b{c", "a}b{c"},
       }) {
    const absl::StatusOr<std::string> expanded =
        Expand(c.text, SomeVariables());
    ASSERT_TRUE(expanded.ok()) << c.text << ": " << expanded.status();
    EXPECT_EQ(*expanded, c.expanded) << c.text;
  }
}

TEST(ExpansionTest, RefusesUnknownVariablesAndNamesThem) {
  const absl::Status status = Expand("--x=${HOEM}", SomeVariables()).status();

  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("'HOEM'"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("MYCELIUM_APP"));
}

TEST(ExpansionTest, RefusesAVariableThatIsNotClosed) {
  EXPECT_EQ(Expand("--x=${PORT", SomeVariables()).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Expand("${}", SomeVariables()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace mycelium::agent
