// The kinds of resources that can be watched, and how entries of the store
// become their changes on the wire.
#ifndef SERVICES_FABRIC_WATCH_VIEW_H_
#define SERVICES_FABRIC_WATCH_VIEW_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "services/fabric/store/store.h"

namespace mycelium::fabric {

// A kind of resource: which entries make one up, and what it looks like.
struct WatchSchema {
  // For log lines.
  std::string name;

  // The entry at base_prefix + NAME makes a resource; the one at
  // side_prefix + NAME, if there is such a prefix, adds to it.
  std::string base_prefix;
  std::string side_prefix;

  // The resource's message, serialized.
  std::function<std::string(const Entry& base, const Entry* side)> encode;

  // How a deletion names it.
  std::function<std::string(absl::string_view name)> public_key;

  // The app that it belongs to, for filters.
  std::function<std::string(absl::string_view name, const Entry& base)> app_of;

  // Whether deletions are told.
  bool tells_deletions = true;

  // At most so many resources, the last ones by name, are in a snapshot; 0:
  // all.
  size_t snapshot_limit = 0;
};

WatchSchema PlanSchema();
WatchSchema EndpointSchema();
WatchSchema NodeSchema();
WatchSchema SlotSchema();
WatchSchema EventSchema();

// The bytes of WatchXResponse messages. All of them, and the changes that they
// carry, have the same field numbers, so one encoder serves all.
using Record = std::shared_ptr<const std::string>;

// A `changes` element that puts the resource with these bytes.
Record EncodePut(absl::string_view resource);
// A `changes` element that deletes `public_key`.
Record EncodeDelete(absl::string_view public_key, int64_t revision);
// The fields before `changes`.
std::string EncodeHead(absl::string_view epoch, int64_t revision,
                       v1::WatchKind kind);

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_WATCH_VIEW_H_
