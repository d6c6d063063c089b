#ifndef SERVICES_EDGE_EDGE_STATUS_H_
#define SERVICES_EDGE_EDGE_STATUS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "mycelium/edge/v1/edge.pb.h"
#include "services/edge/edge.h"
#include "services/edge/route_table.h"

namespace mycelium::edge {

// Routes and statistics as the Edge service shows them. Thread-safe.
class EdgeStatus {
 public:
  // All must outlive the object.
  EdgeStatus(std::string edge_id, const Edge* edge, const RouteTable* routes,
             Clock* clock);

  // InvalidArgument (REQUEST_INVALID, PAGE_TOKEN_INVALID).
  absl::StatusOr<v1::ListRoutesResponse> ListRoutes(
      const v1::ListRoutesRequest& request) const;

  // InvalidArgument (REQUEST_INVALID). NotFound (APP_NOT_FOUND).
  absl::StatusOr<v1::EdgeStats> GetStats(
      const v1::GetStatsRequest& request) const;

  // InvalidArgument (REQUEST_INVALID): see the fields of the request.
  absl::Status CheckWatch(const v1::WatchStatsRequest& request) const;

  // What a message of WatchStats holds: an app that is unknown is left out.
  v1::EdgeStats Stats(const std::string& app_name, v1::StatsView view) const;

 private:
  const std::string edge_id_;
  const Edge& edge_;
  const RouteTable& routes_;
  Clock& clock_;
  const absl::Time start_;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_EDGE_STATUS_H_
