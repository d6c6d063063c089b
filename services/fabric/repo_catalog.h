#ifndef SERVICES_FABRIC_REPO_CATALOG_H_
#define SERVICES_FABRIC_REPO_CATALOG_H_

#include <memory>

#include "services/fabric/plan_registry.h"

namespace grpc {
class Channel;
}  // namespace grpc

namespace mycelium::fabric {

// The repo behind `channel` as a catalog of spores, asked anew each time and
// given one second to answer.
std::unique_ptr<SporeCatalog> NewRepoCatalog(
    std::shared_ptr<grpc::Channel> channel);

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_REPO_CATALOG_H_
