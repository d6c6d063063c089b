#include "services/edge/balancer.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::edge {
namespace {

using ::testing::Each;
using ::testing::Ge;
using ::testing::UnorderedElementsAre;

constexpr int64_t kSecond = 1'000'000;
constexpr BalancePolicy kPolicies[] = {BalancePolicy::kRoundRobin,
                                       BalancePolicy::kLeastRequest,
                                       BalancePolicy::kPeakEwma};

class BalancerTest : public ::testing::Test {
 protected:
  void Use(int count) {
    balancer_.SetEndpoints({});
    endpoints_.clear();
    std::vector<Balanced*> list;
    for (int i = 0; i < count; ++i) {
      endpoints_.push_back(std::make_unique<Balanced>());
      list.push_back(endpoints_.back().get());
    }
    balancer_.SetEndpoints(list);
  }
  Balanced* at(int i) { return endpoints_[i].get(); }
  int IndexOf(const Balanced* endpoint) {
    for (size_t i = 0; i < endpoints_.size(); ++i) {
      if (at(static_cast<int>(i)) == endpoint) return static_cast<int>(i);
    }
    return -1;
  }
  int Pick(std::vector<Balanced*> tried = {}) {
    return IndexOf(balancer_.Pick(tried, now_));
  }
  std::map<int, int> Picks(int count) {
    std::map<int, int> picks;
    for (int i = 0; i < count; ++i) ++picks[Pick()];
    return picks;
  }
  void Fail(int i, int times = 1) {
    for (int n = 0; n < times; ++n) balancer_.OnFailure(at(i), now_);
  }
  void Succeed(int i) { balancer_.OnSuccess(at(i), 1000, now_); }

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
  for (int i = 0; i < 9; ++i) picks.push_back(Pick());
  for (int i = 0; i < 9; ++i) EXPECT_EQ(picks[i], (picks[0] + i) % 3);
}

TEST_F(BalancerTest, KeepsTheTurnsWhileRequestsAreTriedAgain) {
  Use(2);
  std::map<int, int> first;
  for (int i = 0; i < 10; ++i) {
    const int choice = Pick();
    ++first[choice];
    EXPECT_NE(Pick({at(choice)}), choice);
  }
  EXPECT_EQ(first[0], 5);
}

TEST_F(BalancerTest, DoesNotBeginWithTheSameEndpointOnEveryThread) {
  std::set<int> first;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    Use(3);
    Balancer balancer({}, seed);
    balancer.SetEndpoints({at(0), at(1), at(2)});
    first.insert(IndexOf(balancer.Pick({}, now_)));
  }
  EXPECT_THAT(first, UnorderedElementsAre(0, 1, 2));
}

TEST_F(BalancerTest, NeverRepeatsAnEndpointWhileThereIsAnother) {
  Use(3);
  for (const BalancePolicy policy : kPolicies) {
    balancer_.SetRules({policy});
    for (int round = 0; round < 20; ++round) EXPECT_EQ(Pick({at(0), at(2)}), 1);
    EXPECT_NE(Pick({at(0), at(1), at(2)}), -1);
  }
}

TEST_F(BalancerTest, OffersNoFullEndpoint) {
  Use(3);
  for (const BalancePolicy policy : kPolicies) {
    balancer_.SetRules({policy, 0, /*max_in_flight=*/2});
    at(0)->in_flight = 2;
    at(1)->in_flight = 2;
    at(2)->in_flight = 1;
    for (int i = 0; i < 50; ++i) EXPECT_EQ(Pick(), 2);
    EXPECT_EQ(Pick({at(2)}), 2) << "a second time rather than to a full one";

    at(2)->in_flight = 2;
    EXPECT_EQ(Pick(), -1);
  }
}

TEST_F(BalancerTest, CountsWhatOtherThreadsHaveInFlightAgainstTheLimit) {
  Use(2);
  std::atomic<int32_t> total{5};
  at(0)->total_in_flight = &total;
  balancer_.SetRules({BalancePolicy::kRoundRobin, 0, /*max_in_flight=*/5});
  for (int i = 0; i < 4; ++i) EXPECT_EQ(Pick(), 1);
  total = 4;
  EXPECT_EQ(Picks(4)[0], 2);
}

TEST_F(BalancerTest, EjectsAfterFailuresInARow) {
  Use(4);
  Fail(1, 4);
  Succeed(1);
  Fail(1, 4);
  EXPECT_FALSE(at(1)->ejected);
  EXPECT_TRUE(balancer_.OnFailure(at(1), now_));
  EXPECT_TRUE(at(1)->ejected);
  for (const BalancePolicy policy : kPolicies) {
    balancer_.SetRules({policy});
    EXPECT_EQ(Picks(100)[1], 0);
  }
}

TEST_F(BalancerTest, SendsOneProbeToAnEjectedEndpointWhenItsTimeIsOver) {
  for (const BalancePolicy policy : kPolicies) {
    balancer_.SetRules({policy});
    Use(4);
    Fail(0, 5);
    now_ += 10 * kSecond - 1;
    EXPECT_EQ(Picks(50)[0], 0);
    now_ += 1;
    EXPECT_EQ(Pick({at(1)}) == 0, false) << "no retry is a probe";
    EXPECT_EQ(Pick(), 0);
    EXPECT_EQ(Picks(50)[0], 0) << "one at a time";

    // Nothing is heard of it.
    now_ += 10 * kSecond;
    EXPECT_EQ(Picks(50)[0], 1);

    Succeed(0);
    EXPECT_FALSE(at(0)->ejected);
    EXPECT_EQ(balancer_.ejected(), 0);
    for (int i = 0; i < 4; ++i) {
      at(i)->in_flight = i == 0 ? 0 : 100;
      Succeed(i);
    }
    EXPECT_GT(Picks(100)[0], 5);
  }
}

TEST_F(BalancerTest, WaitsTwiceAsLongAfterEachProbeThatFails) {
  Use(4);
  Fail(0, 5);
  for (const int seconds : {20, 40, 80, 160, 300, 300}) {
    now_ = at(0)->ejected_until_us;
    ASSERT_EQ(Pick(), 0);
    EXPECT_TRUE(balancer_.OnFailure(at(0), now_));
    EXPECT_EQ(at(0)->ejected_until_us, now_ + seconds * kSecond);
  }
}

TEST_F(BalancerTest, ForgetsOneEjectionForEachTenSecondsOfService) {
  Use(4);
  Fail(0, 5);
  for (int i = 0; i < 2; ++i) {
    now_ = at(0)->ejected_until_us;
    ASSERT_EQ(Pick(), 0);
    Fail(0);
  }
  now_ = at(0)->ejected_until_us;
  ASSERT_EQ(Pick(), 0);
  Succeed(0);
  Succeed(0);
  EXPECT_EQ(at(0)->ejections, 3);
  now_ += 11 * kSecond;
  Succeed(0);
  Succeed(0);
  EXPECT_EQ(at(0)->ejections, 2);
  Fail(0, 5);
  EXPECT_EQ(at(0)->ejected_until_us, now_ + 40 * kSecond);
}

TEST_F(BalancerTest, TakesNoAnswerToAnOldRequestForOneToAProbe) {
  Use(4);
  Fail(0, 5);
  Succeed(0);
  EXPECT_TRUE(at(0)->ejected);
  const int64_t until = at(0)->ejected_until_us;
  Fail(0, 20);
  EXPECT_EQ(at(0)->ejected_until_us, until);
}

TEST_F(BalancerTest, NeverEjectsMoreThanHalfNorTheLast) {
  for (int count = 1; count <= 9; ++count) {
    Use(count);
    for (int i = 0; i + 1 < count; ++i) Fail(i, 50);
    EXPECT_EQ(balancer_.ejected(), std::min(count / 2, count - 1)) << count;
    Fail(count - 1, 50);
    EXPECT_EQ(balancer_.ejected(), std::min(count / 2, count - 1)) << count;
    EXPECT_NE(Pick(), -1);
  }
}

TEST_F(BalancerTest, UsesAllEndpointsWhileAllFail) {
  Use(4);
  for (int i = 0; i < 4; ++i) Fail(i, 6);
  EXPECT_TRUE(balancer_.panicking());
  for (const BalancePolicy policy : kPolicies) {
    balancer_.SetRules({policy});
    const std::map<int, int> picks = Picks(400);
    for (int i = 0; i < 4; ++i) EXPECT_GT(picks.at(i), 40);
  }

  // One of those that could not be ejected recovers.
  Succeed(3);
  EXPECT_FALSE(balancer_.panicking());
  EXPECT_EQ(balancer_.ejected(), 2);
  EXPECT_EQ(Picks(50).size(), 2);

  // And one that was ejected, which had got a request in the panic.
  Succeed(0);
  EXPECT_FALSE(at(0)->ejected);
}

TEST_F(BalancerTest, EndsAPanicWithAnEndpointThatHasNotFailed) {
  Use(2);
  Fail(0, 5);
  Fail(1, 5);
  EXPECT_TRUE(balancer_.panicking());
  Balanced fresh;
  balancer_.SetEndpoints({at(0), at(1), &fresh});
  EXPECT_FALSE(balancer_.panicking());
  balancer_.SetEndpoints({at(0), at(1)});
  EXPECT_TRUE(balancer_.panicking());
}

TEST_F(BalancerTest, OffersAnEjectedEndpointBeforeOneThatWasTried) {
  Use(2);
  Fail(0, 5);
  EXPECT_EQ(Pick({at(1)}), 0);
}

TEST_F(BalancerTest, EjectsNoMoreThanHalfOfWhatIsLeftWhenEndpointsChange) {
  Use(6);
  for (const int i : {0, 1, 2}) {
    Fail(i, 5);
    now_ += kSecond;
  }
  EXPECT_EQ(balancer_.ejected(), 3);
  balancer_.SetEndpoints({at(0), at(1), at(2)});
  EXPECT_EQ(balancer_.ejected(), 1);
  EXPECT_TRUE(at(2)->ejected) << "those come back that were out for longest";
  balancer_.SetEndpoints({at(2)});
  EXPECT_EQ(balancer_.ejected(), 0);
  EXPECT_EQ(Pick(), 2);
}

TEST_F(BalancerTest, ToleratesResultsOfEndpointsThatAreGone) {
  Use(4);
  Fail(0, 5);
  balancer_.SetEndpoints({at(1), at(2), at(3)});
  EXPECT_EQ(balancer_.ejected(), 0);
  Succeed(0);
  EXPECT_FALSE(balancer_.OnFailure(at(0), now_));
  EXPECT_EQ(balancer_.ejected(), 0);
  EXPECT_EQ(Picks(60).count(0), 0);
}

TEST_F(BalancerTest, KeepsWhatItKnowsWhenRulesChange) {
  Use(4);
  Fail(0, 5);
  balancer_.SetRules({BalancePolicy::kPeakEwma, 5 * kSecond});
  EXPECT_TRUE(at(0)->ejected);
  balancer_.SetRules({BalancePolicy::kRoundRobin});
  EXPECT_EQ(Picks(30).size(), 3);
}

TEST_F(BalancerTest, GivesAnEndpointThatHasNeverAnsweredOneRequestAtFirst) {
  Use(2);
  balancer_.SetRules({BalancePolicy::kPeakEwma});
  balancer_.OnSuccess(at(0), 50'000, now_);
  EXPECT_EQ(Pick(), 1);
  at(1)->in_flight = 1;
  EXPECT_EQ(Pick(), 0);
}

TEST_F(BalancerTest, LetsAPeakCountAtOnceAndFadeSlowly) {
  Use(2);
  balancer_.SetRules({BalancePolicy::kPeakEwma});
  for (int i = 0; i < 100; ++i) {
    balancer_.OnSuccess(at(0), 10'000, now_ += 1000);
    balancer_.OnSuccess(at(1), 12'000, now_);
  }
  EXPECT_EQ(Pick(), 0);
  balancer_.OnSuccess(at(0), 100'000, now_);
  EXPECT_EQ(Pick(), 1);
  now_ += kSecond;
  balancer_.OnSuccess(at(0), 10'000, now_);
  EXPECT_EQ(Pick(), 1) << "one good answer does not undo it";
  now_ += 40 * kSecond;
  balancer_.OnSuccess(at(0), 10'000, now_);
  balancer_.OnSuccess(at(1), 12'000, now_);
  EXPECT_EQ(Pick(), 0);
}

// Requests that take as long as `latency_us` says, at a constant rate, and fail
// if `fails` says so.
class Simulation {
 public:
  Simulation(int endpoints, const Balancer::Rules& rules, uint64_t seed = 99)
      : balancer_({}, seed) {
    balancer_.SetRules(rules);
    for (int i = 0; i < endpoints; ++i) Add(kReadyForEverUs);
  }

  int Add(int64_t ready_since_us) {
    states_.push_back(std::make_unique<Balanced>());
    states_.back()->ready_since_us = ready_since_us;
    list_.push_back(states_.back().get());
    counts_.push_back(0);
    balancer_.SetEndpoints(list_);
    return static_cast<int>(list_.size()) - 1;
  }

  // The share of each endpoint of the requests of `duration_us`.
  std::vector<double> Run(int64_t duration_us, int64_t every_us = 500) {
    std::fill(counts_.begin(), counts_.end(), 0);
    int total = 0;
    for (const int64_t end = now_ + duration_us; now_ < end;
         now_ += every_us, ++total) {
      Finish(now_);
      Balanced* const choice = balancer_.Pick({}, now_);
      const int i = static_cast<int>(
          std::find(list_.begin(), list_.end(), choice) - list_.begin());
      ++counts_[i];
      ++choice->in_flight;
      ends_.insert({now_ + latency_us(i), {i, latency_us(i)}});
    }
    std::vector<double> shares;
    for (const int count : counts_)
      shares.push_back(static_cast<double>(count) / total);
    return shares;
  }

  Balancer& balancer() { return balancer_; }
  int64_t now() const { return now_; }
  int in_flight(int i) const { return list_[i]->in_flight; }

  std::function<int64_t(int)> latency_us = [](int) { return 10'000; };
  std::function<bool(int)> fails = [](int) { return false; };

 private:
  void Finish(int64_t until_us) {
    while (!ends_.empty() && ends_.begin()->first <= until_us) {
      const auto [at, request] = *ends_.begin();
      ends_.erase(ends_.begin());
      Balanced* const endpoint = list_[request.first];
      --endpoint->in_flight;
      if (fails(request.first)) {
        balancer_.OnFailure(endpoint, at);
      } else {
        balancer_.OnSuccess(endpoint, request.second, at);
      }
    }
  }

  Balancer balancer_;
  int64_t now_ = 1000 * kSecond;
  std::vector<std::unique_ptr<Balanced>> states_;
  std::vector<Balanced*> list_;
  std::vector<int> counts_;
  std::multimap<int64_t, std::pair<int, int64_t>> ends_;
};

TEST(BalancerSimulationTest, SharesEquallyAmongEquals) {
  for (const BalancePolicy policy : kPolicies) {
    Simulation simulation(10, {policy});
    for (const double share : simulation.Run(20 * kSecond))
      EXPECT_NEAR(share, 0.1, 0.03) << static_cast<int>(policy);
  }
}

// Nine endpoints answer in 10 ms, the tenth needs 200 ms more.
TEST(BalancerSimulationTest, OnlyRoundRobinKeepsFeedingASlowEndpoint) {
  const std::map<BalancePolicy, std::pair<double, double>> bounds = {
      {BalancePolicy::kRoundRobin, {0.099, 0.101}},
      {BalancePolicy::kLeastRequest, {0.005, 0.05}},
      {BalancePolicy::kPeakEwma, {0, 0.02}}};
  for (const auto& [policy, bound] : bounds) {
    Simulation simulation(10, {policy});
    simulation.latency_us = [](int i) { return i == 0 ? 210'000 : 10'000; };
    const double share = simulation.Run(10 * kSecond)[0];
    EXPECT_GE(share, bound.first) << static_cast<int>(policy);
    EXPECT_LE(share, bound.second) << static_cast<int>(policy);
  }
}

TEST(BalancerSimulationTest, ReturnsToAnEndpointThatIsSlowNoMore) {
  for (const BalancePolicy policy : kPolicies) {
    Simulation simulation(10, {policy});
    simulation.latency_us = [](int i) { return i == 0 ? 210'000 : 10'000; };
    simulation.Run(10 * kSecond);
    simulation.latency_us = [](int) { return 10'000; };
    simulation.Run(60 * kSecond);
    EXPECT_NEAR(simulation.Run(20 * kSecond)[0], 0.1, 0.03)
        << static_cast<int>(policy);
  }
}

// One of ten answers 500 in 1 ms, the others 200 in 50 ms.
TEST(BalancerSimulationTest, EjectsABlackHoleInsteadOfFeedingIt) {
  for (const BalancePolicy policy : kPolicies) {
    Simulation simulation(10, {policy});
    simulation.latency_us = [](int i) { return i == 0 ? 1'000 : 50'000; };
    simulation.fails = [](int i) { return i == 0; };
    // Five failures, and probes after 10, 20, 40, 80, 160, 300 and 300 s.
    const double share = simulation.Run(1000 * kSecond, 5'000)[0];
    EXPECT_LE(share * 200'000, 5 + 8) << static_cast<int>(policy);

    simulation.fails = [](int) { return false; };
    simulation.latency_us = [](int) { return 50'000; };
    simulation.Run(400 * kSecond, 5'000);
    EXPECT_NEAR(simulation.Run(100 * kSecond, 5'000)[0], 0.1, 0.03)
        << "back again: " << static_cast<int>(policy);
  }
}

TEST(BalancerSimulationTest, SpreadsOverAllWhileAllFailAndRecoversWithThem) {
  for (const BalancePolicy policy : kPolicies) {
    Simulation simulation(10, {policy});
    simulation.fails = [](int) { return true; };
    simulation.Run(kSecond);
    EXPECT_TRUE(simulation.balancer().panicking());
    for (const double share : simulation.Run(20 * kSecond))
      EXPECT_NEAR(share, 0.1, 0.04) << static_cast<int>(policy);

    simulation.fails = [](int) { return false; };
    simulation.Run(kSecond);
    EXPECT_FALSE(simulation.balancer().panicking());
    simulation.Run(20 * kSecond);
    EXPECT_EQ(simulation.balancer().ejected(), 0);
    for (const double share : simulation.Run(20 * kSecond))
      EXPECT_NEAR(share, 0.1, 0.04) << static_cast<int>(policy);
  }
}

TEST(BalancerSimulationTest, LetsANewEndpointStartSlowly) {
  constexpr int64_t kWindow = 60 * kSecond;
  for (const BalancePolicy policy : kPolicies) {
    Simulation simulation(3, {policy, kWindow});
    simulation.Run(10 * kSecond);
    const int fresh = simulation.Add(simulation.now());
    // In the first tenth of the window its weight is 0.145 of the others' on
    // average, in the last 0.955. It is the least loaded one, so with two
    // choices it gets up to twice as much as its weight.
    const double slack = policy == BalancePolicy::kRoundRobin ? 1.05 : 2;
    double last = 0;
    for (int tenth = 0; tenth < 10; ++tenth) {
      const double weight = 0.1 + 0.9 * (tenth + 0.5) / 10;
      const double expected = weight / (3 + weight);
      const double share = simulation.Run(kWindow / 10)[fresh];
      EXPECT_GE(share, expected * 0.8) << tenth << static_cast<int>(policy);
      EXPECT_LE(share, expected * slack) << tenth << static_cast<int>(policy);
      EXPECT_GE(share, last - 0.02) << tenth << static_cast<int>(policy);
      last = share;
    }
    EXPECT_NEAR(simulation.Run(20 * kSecond)[fresh], 0.25, 0.03);
  }
}

TEST(BalancerSimulationTest, StarvesNobodyWhenAllEndpointsAreNew) {
  for (const BalancePolicy policy : kPolicies) {
    Simulation simulation(0, {policy, 60 * kSecond});
    for (int i = 0; i < 5; ++i) simulation.Add(simulation.now());
    for (const double share : simulation.Run(5 * kSecond))
      EXPECT_NEAR(share, 0.2, 0.05) << static_cast<int>(policy);
  }
}

TEST(BalancerSimulationTest, BoundsTheShareOfTheOldestWhenNearlyAllAreNew) {
  for (const BalancePolicy policy : kPolicies) {
    Simulation simulation(1, {policy, 600 * kSecond});
    for (int i = 0; i < 9; ++i) simulation.Add(simulation.now());
    const std::vector<double> shares = simulation.Run(5 * kSecond);
    EXPECT_LT(shares[0], 0.6) << static_cast<int>(policy);
    EXPECT_GT(shares[0], 0.2) << static_cast<int>(policy);
    EXPECT_THAT(std::vector<double>(shares.begin() + 1, shares.end()),
                Each(Ge(0.03)));
  }
}

TEST(BalancerSimulationTest, LetsAnEndpointThatWasEjectedStartSlowly) {
  Simulation simulation(2, {BalancePolicy::kRoundRobin, 100 * kSecond});
  bool broken = true;
  simulation.fails = [&](int i) { return i == 0 && broken; };
  simulation.Run(5 * kSecond);
  broken = false;
  simulation.Run(6 * kSecond);
  ASSERT_EQ(simulation.balancer().ejected(), 0);
  EXPECT_LT(simulation.Run(5 * kSecond)[0], 0.2);
  simulation.Run(100 * kSecond);
  EXPECT_NEAR(simulation.Run(5 * kSecond)[0], 0.5, 0.01);
}

// Endpoints come, go, fail and fill up at random; each choice is checked
// against the rules.
TEST(BalancerPropertyTest, NeverChoosesABadEndpointWhileThereIsAGoodOne) {
  for (int seed = 1; seed <= 60; ++seed) {
    std::mt19937 random(static_cast<unsigned>(seed));
    const auto below = [&random](int bound) {
      return static_cast<int>(random() % static_cast<unsigned>(bound));
    };
    Balancer balancer({}, static_cast<uint64_t>(seed));
    std::vector<std::unique_ptr<Balanced>> all;
    std::vector<Balanced*> list;
    int64_t now = 1000 * kSecond;
    int limit = 0;
    std::map<const Balanced*, int64_t> probed;
    for (int step = 0; step < 3000; ++step) {
      now += below(10) == 0 ? below(3'000'000) : below(1'000);
      switch (below(12)) {
        case 0:
          all.push_back(std::make_unique<Balanced>());
          all.back()->ready_since_us = now;
          list.push_back(all.back().get());
          std::shuffle(list.begin(), list.end(), random);
          balancer.SetEndpoints(list);
          break;
        case 1:
          if (list.empty()) break;
          list.erase(list.begin() + below(static_cast<int>(list.size())));
          balancer.SetEndpoints(list);
          break;
        case 2:
          limit = below(2) * (1 + below(3));
          balancer.SetRules(
              {kPolicies[below(3)], below(2) * 5 * kSecond, limit});
          break;
        case 3:
          if (list.empty()) break;
          for (int i = 0; i < 6; ++i)
            balancer.OnFailure(list[step % list.size()], now);
          break;
        case 4:
        case 5:
          if (all.empty()) break;
          balancer.OnSuccess(all[step % all.size()].get(), below(100'000), now);
          break;
        case 6:
          for (Balanced* const endpoint : list) endpoint->in_flight = below(4);
          break;
        default: {
          std::vector<Balanced*> tried;
          for (int i = below(3); i > 0 && !list.empty(); --i)
            tried.push_back(list[below(static_cast<int>(list.size()))]);
          const auto full = [&](const Balanced* e) {
            return limit > 0 && e->in_flight >= limit;
          };
          const auto was_tried = [&](const Balanced* e) {
            return std::find(tried.begin(), tried.end(), e) != tried.end();
          };
          const auto any = [&](auto condition) {
            return std::any_of(list.begin(), list.end(), condition);
          };
          const std::string where =
              std::to_string(seed) + "/" + std::to_string(step);
          const bool panic = balancer.panicking();
          const Balanced* const choice = balancer.Pick(tried, now);
          if (choice == nullptr) {
            ASSERT_FALSE(any([&](auto* e) { return !full(e); })) << where;
            break;
          }
          ASSERT_TRUE(any([&](auto* e) { return e == choice; })) << where;
          ASSERT_FALSE(full(choice)) << where;
          const bool good_one = any([&](auto* e) {
            return !e->ejected && !full(e) && !was_tried(e);
          });
          if (was_tried(choice)) {
            ASSERT_FALSE(any([&](auto* e) {
              return !full(e) && !was_tried(e);
            })) << where;
          }
          if (choice->ejected && good_one && !panic) {
            ASSERT_EQ(choice->trial, Balanced::Trial::kProbe) << where;
            ASSERT_TRUE(tried.empty()) << where;
            ASSERT_TRUE(probed.count(choice) == 0 ||
                        now - probed[choice] >= 10 * kSecond)
                << where;
            probed[choice] = now;
          }
          break;
        }
      }
      const int ejected = static_cast<int>(std::count_if(
          list.begin(), list.end(), [](auto* e) { return e->ejected; }));
      ASSERT_EQ(balancer.ejected(), ejected);
      ASSERT_LE(ejected * 2, static_cast<int>(list.size()));
    }
  }
}

}  // namespace
}  // namespace mycelium::edge
