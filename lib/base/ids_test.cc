#include "lib/base/ids.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium {
namespace {

TEST(IsAppNameTest, TakesDnsLabelsOnly) {
  for (const char* good : {"a", "billing", "a-b", "a1"}) {
    EXPECT_TRUE(IsAppName(good)) << good;
  }
  for (const char* bad :
       {"", "A", "1a", "-a", "a-", "a.b", "a_b", "a/b", "ä"}) {
    EXPECT_FALSE(IsAppName(bad)) << bad;
  }
  EXPECT_TRUE(IsAppName(std::string(63, 'a')));
  EXPECT_FALSE(IsAppName(std::string(64, 'a')));
}

TEST(IsIdTest, TakesLettersDigitsAndInnerPunctuation) {
  EXPECT_TRUE(IsId("node-1"));
  EXPECT_TRUE(IsId("Oak.1_x"));
  EXPECT_FALSE(IsId(""));
  EXPECT_FALSE(IsId(".."));
  EXPECT_FALSE(IsId("a/b"));
  EXPECT_FALSE(IsId(std::string(64, 'a')));
}

TEST(IsDigestTest, TakesLowerCaseHexOfTheRightLength) {
  EXPECT_TRUE(IsDigest(std::string(64, 'f')));
  EXPECT_FALSE(IsDigest(std::string(64, 'F')));
  EXPECT_FALSE(IsDigest(std::string(63, 'f')));
}

TEST(RandomHexTest, DiffersEachTime) {
  EXPECT_EQ(RandomHex(16).size(), 32U);
  EXPECT_NE(RandomHex(16), RandomHex(16));
}

TEST(QuotedTest, EscapesAndCuts) {
  EXPECT_EQ(Quoted("a\nb'"), "'a\\nb\\''");
  EXPECT_EQ(Quoted(std::string(100, 'x')).size(), 85U);
}

}  // namespace
}  // namespace mycelium
