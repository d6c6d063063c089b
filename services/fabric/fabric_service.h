#ifndef SERVICES_FABRIC_FABRIC_SERVICE_H_
#define SERVICES_FABRIC_FABRIC_SERVICE_H_

#include <memory>

#include "grpcpp/impl/codegen/service_type.h"
#include "services/fabric/fabric_core.h"

namespace mycelium::fabric {

// Serves a FabricCore over gRPC. `fabric` must outlive the service, and the
// server that it is registered with must be shut down before either goes. No
// handler blocks. Watches send bytes that the fabric has encoded once for all.
std::unique_ptr<grpc::Service> NewFabricService(FabricCore* fabric);

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_FABRIC_SERVICE_H_
