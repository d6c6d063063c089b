#include "lib/nutrients/ledger.h"

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr Nutrients kCapacity = {.cpu_milli = 2000, .memory_mb = 1024};

TEST(LedgerTest, StartsWithEverythingFree) {
  const Ledger ledger(kCapacity);

  EXPECT_EQ(ledger.free(), kCapacity);
  EXPECT_EQ(ledger.reserved(), Nutrients());
}

TEST(LedgerTest, ReservesByAppAndInTotal) {
  Ledger ledger(kCapacity);

  ASSERT_TRUE(ledger.Reserve("shop", "shop-1", {250, 64}).ok());
  ASSERT_TRUE(ledger.Reserve("shop", "shop-2", {250, 64}).ok());
  ASSERT_TRUE(ledger.Reserve("mail", "mail-1", {100, 32}).ok());

  EXPECT_EQ(ledger.ReservedBy("shop"), (Nutrients{500, 128}));
  EXPECT_EQ(ledger.ReservedBy("other"), Nutrients());
  EXPECT_EQ(ledger.reserved(), (Nutrients{600, 160}));
  EXPECT_EQ(ledger.free(), (Nutrients{1400, 864}));
}

TEST(LedgerTest, RefusesWhatDoesNotFitAndSaysWhy) {
  Ledger ledger(kCapacity);
  ASSERT_TRUE(ledger.Reserve("shop", "shop-1", {100, 1000}).ok());

  const absl::Status status = ledger.Reserve("shop", "shop-2", {100, 64});

  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("memory_mb 64"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("24"));
  EXPECT_EQ(ledger.reserved(), (Nutrients{100, 1000}));
}

TEST(LedgerTest, TakesAnInstanceThatNeedsNothingOnAFullNode) {
  Ledger ledger(kCapacity);
  ASSERT_TRUE(ledger.Reserve("shop", "shop-1", kCapacity).ok());

  EXPECT_TRUE(ledger.Reserve("mail", "mail-1", {}).ok());
}

TEST(LedgerTest, RefusesToReserveTwiceForOneInstance) {
  Ledger ledger(kCapacity);
  ASSERT_TRUE(ledger.Reserve("shop", "shop-1", {1, 1}).ok());

  EXPECT_EQ(ledger.Reserve("shop", "shop-1", {1, 1}).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ledger.reserved(), (Nutrients{1, 1}));
}

TEST(LedgerTest, RefusesNegativeAmounts) {
  Ledger ledger(kCapacity);

  EXPECT_EQ(ledger.Reserve("shop", "shop-1", {-1, 0}).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(LedgerTest, ReleasesOnceAndForgetsTheApp) {
  Ledger ledger(kCapacity);
  ASSERT_TRUE(ledger.Reserve("shop", "shop-1", {250, 64}).ok());

  ledger.Release("shop-1");
  ledger.Release("shop-1");
  ledger.Release("never-seen");

  EXPECT_EQ(ledger.free(), kCapacity);
  EXPECT_THAT(ledger.apps(), SizeIs(0));
}

}  // namespace
}  // namespace mycelium
