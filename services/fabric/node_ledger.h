#ifndef SERVICES_FABRIC_NODE_LEDGER_H_
#define SERVICES_FABRIC_NODE_LEDGER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "lib/base/mutex.h"
#include "services/fabric/change_feed.h"
#include "services/fabric/reconciler.h"
#include "services/fabric/store/store.h"

namespace mycelium::fabric {

// What every node has and has given away, kept up to date from the changes of
// the store. Thread-safe.
class NodeLedger final : public ChangeConsumer {
 public:
  // All nodes by id, with what their claims leave free. The same value is
  // shared by all callers until something changes.
  std::shared_ptr<const std::vector<NodeInput>> Nodes();

  // What the claims of a node reserve.
  Resources ReservedOn(absl::string_view node);

  // The apps that hold a claim on a node, each once.
  std::vector<std::string> AppsOn(absl::string_view node);

  void Reset(const StoreSnapshot& snapshot) override;
  void Apply(const Batch& batch) override;

 private:
  struct NodeState {
    EntryPtr record;
    EntryPtr alive;
    // What these two say, with all of the capacity free.
    NodeInput input;
    Resources reserved;
    // How many claims of each app it has.
    absl::flat_hash_map<std::string, int> apps;
  };
  struct Claim {
    std::string node;
    Resources reserved;
  };

  // Makes `input` from the entries.
  static void Read(const std::string& id, NodeState* state);
  void Put(const std::string& key, const EntryPtr& entry)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Forgets a node of which nothing is stored any more.
  void EraseIfEmpty(const std::string& node)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Mutex mutex_;
  std::map<std::string, NodeState, std::less<>> nodes_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, Claim> claims_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const std::vector<NodeInput>> shared_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_NODE_LEDGER_H_
