#ifndef SERVICES_FABRIC_ENDPOINT_REGISTRY_H_
#define SERVICES_FABRIC_ENDPOINT_REGISTRY_H_

#include "absl/status/statusor.h"
#include "lib/base/clock.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "services/fabric/store/store.h"
#include "services/fabric/store_txn.h"

namespace mycelium::fabric {

// Endpoints, each bound to the lease of its agent and fenced by the claim of
// its instance. Answers requests as the API says. Thread-safe.
class EndpointRegistry {
 public:
  // Both must outlive the registry.
  EndpointRegistry(Store* store, Clock* clock)
      : store_(*store), clock_(*clock) {}

  void Register(const v1::RegisterEndpointRequest& request,
                Done<v1::RegisterEndpointResponse> done);
  void Update(const v1::UpdateEndpointRequest& request,
              Done<v1::UpdateEndpointResponse> done);
  void Deregister(const v1::DeregisterEndpointRequest& request,
                  Done<v1::DeregisterEndpointResponse> done);
  absl::StatusOr<v1::ListEndpointsResponse> List(
      const v1::ListEndpointsRequest& request);

 private:
  absl::StatusOr<Draft<v1::RegisterEndpointResponse>> DraftRegister(
      const v1::RegisterEndpointRequest& request);
  absl::StatusOr<Draft<v1::UpdateEndpointResponse>> DraftUpdate(
      const v1::UpdateEndpointRequest& request);
  absl::StatusOr<Draft<v1::DeregisterEndpointResponse>> DraftDeregister(
      const v1::DeregisterEndpointRequest& request);

  Store& store_;
  Clock& clock_;
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_ENDPOINT_REGISTRY_H_
