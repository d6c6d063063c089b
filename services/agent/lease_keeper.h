#ifndef SERVICES_AGENT_LEASE_KEEPER_H_
#define SERVICES_AGENT_LEASE_KEEPER_H_

#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/mutex.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "services/agent/fabric_api.h"

namespace mycelium::agent {

// Joins a node, keeps its lease alive, and joins again when it has lapsed. The
// lease is kept in a file, so that an agent that returns within it goes on with
// it. Thread-safe.
class LeaseKeeper {
 public:
  struct Options {
    fabric::v1::Node node;
    absl::Duration lease_ttl = absl::Seconds(10);
    std::string lease_file;
  };

  // Called on the keeper's thread.
  struct Callbacks {
    // The node has a lease; what was registered under another one is gone.
    std::function<void(const fabric::v1::JoinNodeResponse&)> joined;
    // The lease has lapsed; the keeper joins again.
    std::function<void()> lost;
  };

  // `fabric` must outlive the keeper. Begins to join at once.
  LeaseKeeper(Options options, FabricApi* fabric, Callbacks callbacks);

  // Stops; the lease is left as it is. FabricApi::Cancel ends a call that is
  // under way.
  ~LeaseKeeper();

  // A call was told that `lease_id` has lapsed.
  void OnLeaseNotFound(absl::string_view lease_id);

  // The node is about to leave the mesh: that its lease then ends is no reason
  // to join again.
  void OnLeaving();

  // Stops the heartbeats, for the end of the process.
  void Stop();

 private:
  void Run();
  // Joins, trying until it works. False when stopping.
  bool Join();
  // Sends heartbeats until the lease is lost (true) or it is to stop (false).
  bool Keep();
  // False when stopping. With `until_lost`, ends early when the lease is
  // reported lost.
  bool Pause(absl::Duration time, bool until_lost);
  void StoreLease();

  const Options options_;
  FabricApi& fabric_;
  const Callbacks callbacks_;
  // Used by the thread alone.
  std::string lease_id_;
  absl::Duration interval_ = absl::Seconds(1);

  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::string lost_lease_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_LEASE_KEEPER_H_
