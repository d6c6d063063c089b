// What an app's plan limits: rates, requests in flight, and those that wait for
// an endpoint.

#include <algorithm>
#include <cstdint>
#include <utility>

#include "services/edge/worker.h"

namespace mycelium::edge {
namespace {

// What came free may have gone to a request of another worker before this one
// looked, and a worker that was told may have nothing to do with it. Nobody
// waits for longer than this for such a loss.
constexpr int64_t kServeAgainMs = 20;
// Between the choice of an endpoint and taking a slot of it, others may.
constexpr int kChoices = 3;
// Of one app that go on in one turn, before others get theirs.
constexpr int kServedPerTurn = 256;

}  // namespace

bool Worker::Admit(Exchange* exchange) {
  const AppRoute& route = *exchange->app->route;
  const TrafficPolicy& traffic = route.traffic;
  if (route.limiter == nullptr) return true;
  const int64_t now_ns = now_us_ * 1000;
  if (traffic.client_rate_limit.has_value() &&
      context_.client_rates != nullptr) {
    const int64_t wait_ns = context_.client_rates->Take(
        route.limiter->number(), exchange->client->key,
        *traffic.client_rate_limit, now_ns);
    if (wait_ns > 0) {
      RefuseRate(exchange, "client_rate_limited", "edge.client_rate_limited",
                 wait_ns);
      return false;
    }
  }
  if (traffic.rate_limit.has_value()) {
    const int64_t wait_ns =
        route.limiter->rate.Take(*traffic.rate_limit, now_ns);
    if (wait_ns > 0) {
      RefuseRate(exchange, "rate_limited", "edge.rate_limited", wait_ns);
      return false;
    }
  }
  return true;
}

void Worker::RefuseRate(Exchange* exchange, absl::string_view reason,
                        absl::string_view end, int64_t wait_ns) {
  exchange->retry_after_s = (wait_ns - 1) / 1'000'000'000 + 1;
  Answer(exchange, 429, reason, end, false);
}

EndpointState* Worker::TakeEndpoint(Exchange* exchange) {
  AppState* const app = exchange->app;
  const AppRoute& route = *app->route;
  const bool limited = route.traffic.max_in_flight > 0 &&
                       route.limiter != nullptr &&
                       exchange->app_slot == nullptr;
  if (limited) {
    if (!route.limiter->in_flight.TryTake(route.traffic.max_in_flight))
      return nullptr;
    exchange->app_slot = route.limiter;
  }
  for (int i = 0; i < kChoices; ++i) {
    Balanced* const choice = app->balancer.Pick(
        {exchange->tried.data(), static_cast<size_t>(exchange->tried_count)},
        now_us_);
    if (choice == nullptr) break;
    auto* const endpoint = static_cast<EndpointState*>(choice);
    if (TakeEndpointSlot(exchange, *endpoint)) return endpoint;
  }
  if (limited) {
    exchange->app_slot->in_flight.Give();
    exchange->app_slot.reset();
  }
  return nullptr;
}

bool Worker::TakeEndpointSlot(Exchange* exchange,
                              const EndpointState& endpoint) {
  const int32_t limit =
      exchange->app->route->traffic.max_in_flight_per_endpoint;
  SlotCounter* const slots = endpoint.endpoint->slots.get();
  if (limit == 0 || slots == nullptr) return true;
  if (!slots->TryTake(limit)) return false;
  exchange->endpoint_slot = slots;
  return true;
}

void Worker::GiveEndpointSlot(Exchange* exchange) {
  if (exchange->endpoint_slot == nullptr) return;
  exchange->endpoint_slot->Give();
  exchange->endpoint_slot = nullptr;
  OnSlotFreed(exchange->app->route->limiter.get());
}

void Worker::GiveAppSlot(Exchange* exchange) {
  if (exchange->app_slot == nullptr) return;
  const std::shared_ptr<AppLimiter> limiter = std::move(exchange->app_slot);
  exchange->app_slot.reset();
  limiter->in_flight.Give();
  OnSlotFreed(limiter.get());
}

void Worker::OnSlotFreed(AppLimiter* limiter) {
  if (limiter == nullptr) return;
  const int worker = limiter->NextWaiting();
  if (worker == context_.index) {
    serve_waiting_ = true;
  } else if (worker >= 0 && context_.wake) {
    context_.wake(worker);
  }
}

void Worker::Wait(Exchange* exchange) {
  AppState* const app = exchange->app;
  const std::shared_ptr<AppLimiter>& limiter = app->route->limiter;
  const auto& hold = app->route->traffic.hold;
  // One that waits takes no part of what others wait for.
  GiveAppSlot(exchange);
  if (!hold.has_value() || limiter == nullptr) {
    if (app->balancer.size() == 0)
      return Answer(exchange, 503, "no_endpoint", "edge.no_endpoint", false);
    return Answer(exchange, 503, "overloaded", "edge.overloaded", false);
  }
  if (!limiter->held.TryTake(hold->max_requests))
    return Answer(exchange, 503, "hold_full", "edge.hold_full", false);
  exchange->wait_slot = limiter;
  if (app->waiting.empty()) waiting_apps_.push_back(app);
  app->waiting.PushBack(exchange);
  app->counters->holds.Add(1);
  ShowWaiting(app);
  // A second wait of one request, after an attempt that failed, is no longer
  // than what is left of the first.
  if (exchange->wait_until_ms == 0)
    exchange->wait_until_ms = now_ms_ + hold->max_wait_ms;
  // Others that look at the slots from now on see that this one waits; what
  // came free before that is looked for once more.
  serve_waiting_ = true;
  if (!exchange->piece_queued) exchange->client->in.Settle(&blocks_);
  if (ending())
    exchange->wait_until_ms = std::min(exchange->wait_until_ms, LastWaitMs());
  ArmWait(exchange);
}

void Worker::ArmWait(Exchange* exchange) {
  int64_t after_ms = std::max<int64_t>(0, exchange->wait_until_ms - now_ms_);
  if (exchange->half_closed)
    after_ms = std::min(after_ms, options_.half_close_timeout_ms);
  Arm(exchange->client, ClientTimer::kWait, after_ms);
}

void Worker::OnWaitOver(Exchange* exchange) {
  if (exchange->wait_slot == nullptr) return;
  if (now_ms_ < exchange->wait_until_ms)
    return OnClientGone(exchange, "client.disconnected");
  Answer(exchange, 503, "hold_timeout", "edge.hold_timeout", false);
}

void Worker::StopWaiting(Exchange* exchange) {
  if (exchange->wait_slot == nullptr) return;
  AppState* const app = exchange->app;
  exchange->wait_slot->held.Give();
  exchange->wait_slot.reset();
  app->waiting.Remove(exchange);
  if (app->waiting.empty()) std::erase(waiting_apps_, app);
  ShowWaiting(app);
  ClientConnection* const client = exchange->client;
  if (client->timer_for != ClientTimer::kWait) return;
  if (exchange->half_closed) {
    Arm(client, ClientTimer::kHalfClosed, options_.half_close_timeout_ms);
  } else {
    TimerWheel::Disarm(&client->timer);
    client->timer_for = ClientTimer::kStalled;
  }
}

void Worker::ShowWaiting(AppState* app) {
  app->counters->waiting.Set(app->waiting.size());
  if (app->route->limiter != nullptr)
    app->route->limiter->SetWaiting(context_.index, app->waiting.size());
}

void Worker::ServeWaiting() {
  serve_waiting_ = false;
  serve_again_ms_ = now_ms_ + kServeAgainMs;
  // The list changes while it is gone through.
  serving_apps_ = waiting_apps_;
  for (AppState* const app : serving_apps_) {
    int left = kServedPerTurn;
    while (Exchange* const exchange = app->waiting.front()) {
      if (--left < 0) {
        serve_waiting_ = true;
        break;
      }
      if (app->removed) {
        Answer(exchange, 404, "unknown_app", "edge.unknown_app", false);
        continue;
      }
      EndpointState* const endpoint = TakeEndpoint(exchange);
      if (endpoint == nullptr) break;
      StopWaiting(exchange);
      Attempt(exchange, endpoint, false);
    }
  }
}

int64_t Worker::LastWaitMs() const {
  // In time for the answer to get out.
  return drain_deadline_ms_ - int64_t{4} * TimerWheel::kTickMs;
}

void Worker::ShortenWaits() {
  for (AppState* const app : waiting_apps_) {
    for (Exchange* exchange = app->waiting.front(); exchange != nullptr;
         exchange = exchange->list_next) {
      exchange->wait_until_ms = std::min(exchange->wait_until_ms, LastWaitMs());
      ArmWait(exchange);
    }
  }
}

}  // namespace mycelium::edge
