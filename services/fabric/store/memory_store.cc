#include "services/fabric/store/memory_store.h"

#include <utility>

#include "lib/base/ids.h"
#include "services/fabric/store/engine.h"
#include "services/fabric/store/journal.h"

namespace mycelium::fabric {

std::unique_ptr<Store> NewMemoryStore(const StoreOptions& options) {
  JournalState state;
  state.epoch = RandomHex(16);
  return std::make_unique<StoreEngine>(options, nullptr, std::move(state));
}

}  // namespace mycelium::fabric
