#ifndef SERVICES_EDGE_EDGE_SERVICE_H_
#define SERVICES_EDGE_EDGE_SERVICE_H_

#include "grpcpp/grpcpp.h"
#include "mycelium/edge/v1/edge.grpc.pb.h"
#include "services/edge/edge_status.h"

namespace mycelium::edge {

// Serves mycelium.edge.v1.Edge. Thread-safe.
class EdgeService final : public v1::Edge::CallbackService {
 public:
  // `status` must outlive the service.
  explicit EdgeService(const EdgeStatus* status) : status_(*status) {}

  grpc::ServerUnaryReactor* ListRoutes(
      grpc::CallbackServerContext* context,
      const v1::ListRoutesRequest* request,
      v1::ListRoutesResponse* response) override;
  grpc::ServerUnaryReactor* GetStats(grpc::CallbackServerContext* context,
                                     const v1::GetStatsRequest* request,
                                     v1::GetStatsResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchStatsResponse>* WatchStats(
      grpc::CallbackServerContext* context,
      const v1::WatchStatsRequest* request) override;

 private:
  class StatsStream;

  const EdgeStatus& status_;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_EDGE_SERVICE_H_
