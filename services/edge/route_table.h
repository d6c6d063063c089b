#ifndef SERVICES_EDGE_ROUTE_TABLE_H_
#define SERVICES_EDGE_ROUTE_TABLE_H_

#include <sys/socket.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "lib/base/mutex.h"
#include "services/edge/app_limiter.h"
#include "services/edge/stats.h"
#include "services/edge/traffic_policy.h"

namespace mycelium::edge {

// Why an endpoint gets requests, or none.
enum class EndpointStatus : uint8_t { kReady, kDraining, kSuspect, kUnready };

// One instance that requests can be sent to. Immutable but for its statistics.
struct Endpoint {
  std::string instance_id;
  std::string node_id;
  std::string digest;
  EndpointStatus status = EndpointStatus::kReady;
  std::string url;
  std::string authority;  // host:port, as it stands in the URL.
  sockaddr_storage address{};
  socklen_t address_size = 0;
  // On CLOCK_MONOTONIC.
  int64_t ready_since_us = kReadyForEverUs;
  std::shared_ptr<EndpointStats> stats;
  // Requests in flight, counted while the app limits them; of the instance, as
  // the statistics are. nullptr: they are not limited.
  std::shared_ptr<SlotCounter> slots;
};

// One app. Immutable but for its statistics; a changed app is a new object.
struct AppRoute {
  std::string name;
  TrafficPolicy traffic;
  // Those that may get new requests.
  std::vector<std::shared_ptr<const Endpoint>> ready;
  // Those that only finish what they have, whatever the reason.
  std::vector<std::shared_ptr<const Endpoint>> draining;
  std::shared_ptr<AppStats> stats;
  // What is used of the limits, for as long as the app is known. nullptr: no
  // limits hold, and no request is held.
  std::shared_ptr<AppLimiter> limiter;
};

// All that a worker routes by. Immutable.
struct RouteSnapshot {
  uint64_t version = 0;  // Counts up with each one that is published.
  absl::flat_hash_map<std::string, std::shared_ptr<const AppRoute>> apps;
};

// Hands snapshots from whoever learns of changes to the workers. Thread-safe.
class RouteTable {
 public:
  // Replaces the current snapshot; sets and returns its version.
  uint64_t Publish(RouteSnapshot snapshot);

  // 0 before the first snapshot. Cheap enough for every turn of a loop.
  uint64_t version() const { return version_.load(std::memory_order_acquire); }

  // nullptr before the first.
  std::shared_ptr<const RouteSnapshot> Current() const;

 private:
  std::atomic<uint64_t> version_{0};

  mutable Mutex mutex_;
  std::shared_ptr<const RouteSnapshot> current_ ABSL_GUARDED_BY(mutex_);
};

// Reads `http://host:port` into authority and address. The host is an IP
// address, or a name, which is resolved (and may block).
//
// InvalidArgument: it is no such URL. NotFound: the name has no address.
absl::StatusOr<Endpoint> ParseEndpointUrl(absl::string_view url);

// A snapshot from `app=URL[,app=URL...]`, for a mesh without a fabric. An app
// that is repeated has several endpoints. Apps that `traffic` does not name are
// treated by default, with `balancing`.
//
// InvalidArgument: the text is no such list, or `traffic` names another app.
absl::StatusOr<RouteSnapshot> ParseStaticEndpoints(
    absl::string_view text, int workers, BalancePolicy balancing,
    const absl::flat_hash_map<std::string, TrafficPolicy>& traffic = {});

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_ROUTE_TABLE_H_
