#include "services/agent/utf8_text.h"

#include "gtest/gtest.h"

namespace mycelium::agent {
namespace {

TEST(ToValidUtf8Test, ReplacesWhatIsNotUtf8) {
  EXPECT_EQ(ToValidUtf8("plain \xc3\xa4 \xf0\x9f\x8d\x84"),
            "plain \xc3\xa4 \xf0\x9f\x8d\x84");
  EXPECT_EQ(ToValidUtf8("\xff"
                        "a\xc3"),
            "?a?");
  EXPECT_EQ(ToValidUtf8("\xed\xa0\x80\xc0\x80"), "?????");
}

}  // namespace
}  // namespace mycelium::agent
