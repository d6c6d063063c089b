#include "lib/nutrients/nutrients.h"

#include <limits>

#include "gtest/gtest.h"

namespace mycelium {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

TEST(NutrientsTest, AddsAndSubtractsEachDimension) {
  const Nutrients a{500, 256};
  const Nutrients b{250, 300};

  EXPECT_EQ(a + b, (Nutrients{750, 556}));
  EXPECT_EQ(a - b, (Nutrients{250, -44}));
}

TEST(NutrientsTest, SaturatesInsteadOfOverflowing) {
  const Nutrients most{kMax, kMax};

  EXPECT_EQ(most + most, most);
  EXPECT_EQ((Nutrients{-2, -2} - most).cpu_milli,
            std::numeric_limits<int64_t>::min());
}

TEST(NutrientsTest, FitsOnlyIfEveryDimensionFits) {
  const Nutrients room{500, 256};

  EXPECT_TRUE((Nutrients{500, 256}.FitsInto(room)));
  EXPECT_FALSE((Nutrients{501, 1}.FitsInto(room)));
  EXPECT_FALSE((Nutrients{1, 257}.FitsInto(room)));
}

TEST(NutrientsTest, LoadIsThatOfTheScarcestDimension) {
  EXPECT_DOUBLE_EQ(LoadOf({500, 900}, {1000, 1000}), 0.9);
  EXPECT_DOUBLE_EQ(LoadOf({0, 0}, {0, 0}), 0);
  EXPECT_DOUBLE_EQ(LoadOf({1, 0}, {0, 100}), 1);
}

TEST(NutrientsTest, SurvivesTheProto) {
  const Nutrients amount{250, 64};

  EXPECT_EQ(Nutrients::FromProto(amount.ToProto()), amount);
}

}  // namespace
}  // namespace mycelium
