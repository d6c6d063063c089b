#ifndef SERVICES_FABRIC_STORE_MEMORY_STORE_H_
#define SERVICES_FABRIC_STORE_MEMORY_STORE_H_

#include <memory>

#include "services/fabric/store/store.h"

namespace mycelium::fabric {

// An empty store that ends with the process: for tests and simulations.
std::unique_ptr<Store> NewMemoryStore(const StoreOptions& options);

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_STORE_MEMORY_STORE_H_
