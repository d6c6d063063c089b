#include "services/edge/balancer.h"

#include <map>
#include <memory>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::edge {
namespace {

using ::testing::ElementsAre;

constexpr int64_t kSecond = 1'000'000;

class BalancerTest : public ::testing::Test {
 protected:
  void Use(int count) {
    endpoints_.clear();
    std::vector<Balanced*> list;
    for (int i = 0; i < count; ++i) {
      endpoints_.push_back(std::make_unique<Balanced>());
      list.push_back(endpoints_.back().get());
    }
    balancer_.SetEndpoints(list);
  }
  Balanced* at(int i) { return endpoints_[i].get(); }
  int Pick(BalancePolicy policy = BalancePolicy::kRoundRobin,
           std::vector<Balanced*> tried = {}) {
    const Balanced* const choice = balancer_.Pick(policy, tried, now_);
    for (size_t i = 0; i < endpoints_.size(); ++i) {
      if (at(i) == choice) return static_cast<int>(i);
    }
    return -1;
  }
  void Fail(int i, int times) {
    for (int n = 0; n < times; ++n) balancer_.OnFailure(at(i), now_);
  }

  int64_t now_ = 1000 * kSecond;
  std::vector<std::unique_ptr<Balanced>> endpoints_;
  Balancer balancer_{Balancer::Options(), 42};
};

TEST_F(BalancerTest, HasNothingToOfferWithoutEndpoints) {
  Use(0);
  EXPECT_EQ(Pick(), -1);
}

TEST_F(BalancerTest, TakesTurns) {
  Use(3);
  std::vector<int> picks;
  for (int i = 0; i < 6; ++i) picks.push_back(Pick());
  EXPECT_THAT(picks, ElementsAre(0, 1, 2, 0, 1, 2));
}

TEST_F(BalancerTest, NeverRepeatsAnEndpointWhileThereIsAnother) {
  Use(3);
  for (int round = 0; round < 20; ++round) {
    for (const BalancePolicy policy :
         {BalancePolicy::kRoundRobin, BalancePolicy::kLeastRequest,
          BalancePolicy::kPeakEwma}) {
      EXPECT_EQ(Pick(policy, {at(0), at(2)}), 1);
    }
  }
  EXPECT_NE(Pick(BalancePolicy::kRoundRobin, {at(0), at(1), at(2)}), -1);
}

TEST_F(BalancerTest, EjectsAfterFailuresInARow) {
  Use(4);
  Fail(1, 4);
  balancer_.OnSuccess(at(1), 1000, now_);
  Fail(1, 4);
  EXPECT_FALSE(at(1)->ejected);
  Fail(1, 1);
  EXPECT_TRUE(at(1)->ejected);
  for (int i = 0; i < 40; ++i) EXPECT_NE(Pick(), 1);
}

TEST_F(BalancerTest, LetsAnEjectedEndpointBackAndThenWaitsLonger) {
  Use(4);
  Fail(0, 5);
  now_ += 11 * kSecond;
  std::map<int, int> picks;
  for (int i = 0; i < 8; ++i) ++picks[Pick()];
  EXPECT_EQ(picks[0], 2);

  Fail(0, 5);
  EXPECT_EQ(at(0)->ejected_until_ms, now_ / 1000 + 20'000);
  for (int i = 0; i < 20; ++i) {
    now_ += 400 * kSecond;
    while (at(0)->ejected) Pick();
    Fail(0, 5);
  }
  EXPECT_EQ(at(0)->ejected_until_ms, now_ / 1000 + 300'000);
}

TEST_F(BalancerTest, NeverEjectsMoreThanHalfNorTheLast) {
  Use(4);
  for (int i = 0; i < 4; ++i) Fail(i, 50);
  EXPECT_EQ(balancer_.ejected(), 2);

  Use(1);
  Fail(0, 50);
  EXPECT_EQ(balancer_.ejected(), 0);
  EXPECT_EQ(Pick(), 0);
}

TEST_F(BalancerTest, OffersAnEjectedEndpointBeforeOneThatWasTried) {
  Use(2);
  Fail(0, 5);
  EXPECT_EQ(Pick(BalancePolicy::kRoundRobin, {at(1)}), 0);
}

TEST_F(BalancerTest, CountsEjectionsAgainWhenEndpointsChange) {
  Use(4);
  Fail(0, 5);
  balancer_.SetEndpoints({at(1), at(2), at(3)});
  EXPECT_EQ(balancer_.ejected(), 0);
  balancer_.SetEndpoints({at(0), at(1)});
  EXPECT_EQ(balancer_.ejected(), 1);
}

// Requests of 10 ms on average at nine endpoints and 200 ms more at the tenth:
// the share of those that go to the slow one.
double ShareOfTheSlowOne(BalancePolicy policy) {
  constexpr int kEndpoints = 10;
  std::vector<std::unique_ptr<Balanced>> endpoints;
  std::vector<Balanced*> list;
  for (int i = 0; i < kEndpoints; ++i) {
    endpoints.push_back(std::make_unique<Balanced>());
    list.push_back(endpoints.back().get());
  }
  Balancer balancer(Balancer::Options(), 99);
  balancer.SetEndpoints(list);
  std::multimap<int64_t, std::pair<Balanced*, int64_t>> ends;
  int64_t now = kSecond;
  int slow = 0;
  constexpr int kRequests = 20'000;
  for (int i = 0; i < kRequests; ++i, now += 500) {
    while (!ends.empty() && ends.begin()->first <= now) {
      const auto [endpoint, latency] = ends.begin()->second;
      --endpoint->in_flight;
      balancer.OnSuccess(endpoint, latency, ends.begin()->first);
      ends.erase(ends.begin());
    }
    Balanced* const choice = balancer.Pick(policy, {}, now);
    const int64_t latency = choice == list[0] ? 210'000 : 10'000;
    ++choice->in_flight;
    slow += choice == list[0] ? 1 : 0;
    ends.insert({now + latency, {choice, latency}});
  }
  return static_cast<double>(slow) / kRequests;
}

TEST(BalancerSimulationTest, OnlyRoundRobinKeepsFeedingASlowEndpoint) {
  EXPECT_NEAR(ShareOfTheSlowOne(BalancePolicy::kRoundRobin), 0.1, 0.001);
  EXPECT_LT(ShareOfTheSlowOne(BalancePolicy::kLeastRequest), 0.05);
  EXPECT_LT(ShareOfTheSlowOne(BalancePolicy::kPeakEwma), 0.02);
}

}  // namespace
}  // namespace mycelium::edge
