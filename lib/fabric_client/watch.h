// What a fabric knows, followed from another process: watches that never end.
//
// A Watch connects, takes the snapshot, follows the changes and, when the
// stream breaks, tries again with back-off and resumes by (epoch, revision), so
// that its owner sees one gapless sequence of updates over any number of
// fabric restarts. While the fabric is away the owner simply hears nothing and
// goes on with what it knows.

#ifndef LIB_FABRIC_CLIENT_WATCH_H_
#define LIB_FABRIC_CLIENT_WATCH_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "mycelium/fabric/v1/fabric.pb.h"

namespace grpc {
class ChannelInterface;
}  // namespace grpc

namespace mycelium::fabric_client {

// One step of a watch.
template <typename T>
struct WatchUpdate {
  // The revision, and the epoch that it counts in, up to which the owner knows
  // everything once it has taken this update.
  std::string epoch;
  int64_t revision = 0;

  // Whether `puts` is all that there is, so that what it lacks is gone.
  bool reset = false;

  // Created or replaced resources. With `reset` false both lists may be empty:
  // then only the revision moved.
  std::vector<T> puts;

  // Keys of deleted resources, as in v1::Deletion.
  std::vector<std::string> deletes;
};

// A running watch. Thread-safe.
class Watch {
 public:
  // Cancels the stream and waits until no callback runs any more. Must not be
  // called from the callback.
  virtual ~Watch() = default;

  // For how long the fabric has been away: zero while the stream is open.
  virtual absl::Duration Staleness() const = 0;

  // Whether a first snapshot has been delivered.
  virtual bool synced() const = 0;
};

// Takes the updates of a watch, on the watch's own thread, one at a time and in
// order. It should return soon: while it runs the fabric merges changes.
template <typename T>
using WatchCallback = std::function<void(WatchUpdate<T>)>;

// Watches of `app_name`, or of all apps if it is empty. `channel` should have
// connections of its own (rpc::Connect gives it some).
std::unique_ptr<Watch> WatchPlans(
    const std::shared_ptr<grpc::ChannelInterface>& channel,
    std::string app_name, WatchCallback<fabric::v1::Plan> callback);
std::unique_ptr<Watch> WatchEndpoints(
    const std::shared_ptr<grpc::ChannelInterface>& channel,
    std::string app_name, WatchCallback<fabric::v1::Endpoint> callback);
std::unique_ptr<Watch> WatchSlots(
    const std::shared_ptr<grpc::ChannelInterface>& channel,
    std::string app_name, WatchCallback<fabric::v1::Slot> callback);
std::unique_ptr<Watch> WatchNodes(
    const std::shared_ptr<grpc::ChannelInterface>& channel,
    WatchCallback<fabric::v1::Node> callback);
std::unique_ptr<Watch> WatchEvents(
    const std::shared_ptr<grpc::ChannelInterface>& channel,
    std::string app_name, WatchCallback<fabric::v1::Event> callback);

}  // namespace mycelium::fabric_client

#endif  // LIB_FABRIC_CLIENT_WATCH_H_
