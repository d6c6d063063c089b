#include "services/edge/rate_limiter.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::edge {
namespace {

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kStart = 1'000'000 * kMs;

// `burst` at once, one each `interval_ms` in the long run.
RateLimit LimitOf(int64_t interval_ms, int64_t burst) {
  return {interval_ms * kMs, (burst - 1) * interval_ms * kMs};
}

uint64_t KeyOf(const char* text) {
  sockaddr_storage address{};
  auto& ipv4 = reinterpret_cast<sockaddr_in&>(address);
  auto& ipv6 = reinterpret_cast<sockaddr_in6&>(address);
  if (inet_pton(AF_INET, text, &ipv4.sin_addr) == 1) {
    ipv4.sin_family = AF_INET;
  } else {
    EXPECT_EQ(inet_pton(AF_INET6, text, &ipv6.sin6_addr), 1) << text;
    ipv6.sin6_family = AF_INET6;
  }
  return ClientKey(address);
}

TEST(RateCellTest, AllowsABurstAndThenTheRate) {
  RateCell cell;
  const RateLimit limit = LimitOf(100, 3);

  for (int i = 0; i < 3; ++i) EXPECT_EQ(cell.Take(limit, kStart), 0) << i;
  EXPECT_EQ(cell.Take(limit, kStart), 100 * kMs);
  EXPECT_EQ(cell.Take(limit, kStart + 99 * kMs), kMs);
  EXPECT_EQ(cell.Take(limit, kStart + 100 * kMs), 0);
  EXPECT_EQ(cell.Take(limit, kStart + 100 * kMs), 100 * kMs);
}

TEST(RateCellTest, ARefusalCostsNothing) {
  RateCell cell;
  const RateLimit limit = LimitOf(100, 1);
  ASSERT_EQ(cell.Take(limit, kStart), 0);
  for (int i = 0; i < 50; ++i) ASSERT_GT(cell.Take(limit, kStart + i), 0);

  EXPECT_EQ(cell.Take(limit, kStart + 100 * kMs), 0);
}

TEST(RateCellTest, SavesUpNoMoreThanABurst) {
  RateCell cell;
  const RateLimit limit = LimitOf(10, 2);
  ASSERT_EQ(cell.Take(limit, kStart), 0);

  const int64_t later = kStart + 3'600'000 * kMs;
  EXPECT_EQ(cell.Take(limit, later), 0);
  EXPECT_EQ(cell.Take(limit, later), 0);
  EXPECT_GT(cell.Take(limit, later), 0);
}

TEST(RateCellTest, AFasterLimitTakesEffectAtOnce) {
  RateCell cell;
  ASSERT_EQ(cell.Take(LimitOf(3'600'000, 1), kStart), 0);

  // At most what the new limit lets a bucket be behind.
  EXPECT_LE(cell.Take(LimitOf(10, 1), kStart), 10 * kMs);
  EXPECT_EQ(cell.Take(LimitOf(10, 1), kStart + 10 * kMs), 0);
}

TEST(RateCellTest, TheLongestLimitDoesNotOverflow) {
  constexpr int64_t kEternity = int64_t{1} << 61;
  constexpr int64_t kYears = int64_t{1} << 58;
  RateCell cell;
  const RateLimit limit{kEternity, kEternity};

  EXPECT_EQ(cell.Take(limit, kYears), 0);
  EXPECT_EQ(cell.Take(limit, kYears), 0);
  EXPECT_GT(cell.Take(limit, kYears), 0);
}

TEST(RateCellTest, ThreadsTogetherGetWhatOneWould) {
  RateCell cell;
  const RateLimit limit = LimitOf(1, 1000);
  std::atomic<int> allowed{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 1000; ++j) {
        if (cell.Take(limit, kStart) == 0) allowed.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();

  EXPECT_EQ(allowed.load(), 1000);
}

TEST(ClientKeyTest, IsTheIpv4AddressOrTheIpv6Network) {
  EXPECT_NE(KeyOf("192.0.2.1"), KeyOf("192.0.2.2"));
  EXPECT_EQ(KeyOf("192.0.2.1"), KeyOf("::ffff:192.0.2.1"));
  EXPECT_NE(KeyOf("::ffff:192.0.2.1"), KeyOf("::ffff:192.0.2.2"));
  EXPECT_EQ(KeyOf("2001:db8:1:2::1"), KeyOf("2001:db8:1:2:ffff::9"));
  EXPECT_NE(KeyOf("2001:db8:1:2::1"), KeyOf("2001:db8:1:3::1"));
}

TEST(ClientRateTableTest, LimitsEachClientOfEachAppByItself) {
  ClientRateTable table;
  const RateLimit limit = LimitOf(1000, 2);
  for (const uint64_t app : {1, 2}) {
    for (const uint64_t client : {7, 8}) {
      EXPECT_EQ(table.Take(app, client, limit, kStart), 0);
      EXPECT_EQ(table.Take(app, client, limit, kStart), 0);
      EXPECT_EQ(table.Take(app, client, limit, kStart), 1000 * kMs);
    }
  }
}

TEST(ClientRateTableTest, ForgetsClientsOnceTheirBucketsAreFull) {
  ClientRateTable table;
  const RateLimit limit = LimitOf(1000, 1);
  constexpr uint64_t kClients = ClientRateTable::kSets / 4;
  for (uint64_t round = 0; round < 20; ++round) {
    const int64_t now = kStart + static_cast<int64_t>(round) * 1000 * kMs;
    for (uint64_t i = 0; i < kClients; ++i)
      ASSERT_EQ(table.Take(1, round * kClients + i, limit, now), 0);
  }
  EXPECT_EQ(table.overflows(), 0)
      << "there was room for 32 times as many at any time";
}

TEST(ClientRateTableTest, WhenFullLetsClientsThroughRatherThanRefuseThem) {
  ClientRateTable table;
  const RateLimit limit = LimitOf(1000, 1);
  constexpr uint64_t kClients =
      ClientRateTable::kSets * ClientRateTable::kWays * 2;
  for (uint64_t i = 0; i < kClients; ++i)
    ASSERT_EQ(table.Take(1, i, limit, kStart), 0) << i;

  EXPECT_GE(table.overflows(), static_cast<int64_t>(kClients / 2));
}

TEST(ClientRateTableTest, ThreadsOfManyClientsStayWithinTheirLimits) {
  ClientRateTable table;
  const RateLimit limit = LimitOf(1000, 10);
  constexpr int kClients = 500;
  std::vector<std::atomic<int>> allowed(kClients);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 20; ++j) {
        for (uint64_t client = 0; client < kClients; ++client) {
          if (table.Take(1, client, limit, kStart) == 0)
            allowed[client].fetch_add(1);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();

  for (const std::atomic<int>& count : allowed) {
    // Threads that meet a new client at once may each begin a record of it, or
    // take a token from one that another client has just begun.
    EXPECT_GE(count.load(), 6);
    EXPECT_LE(count.load(), 40);
  }
}

}  // namespace
}  // namespace mycelium::edge
