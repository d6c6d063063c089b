#ifndef SERVICES_EDGE_TARGET_H_
#define SERVICES_EDGE_TARGET_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace mycelium::edge {

// Where a request goes, by its path alone.
enum class TargetKind : uint8_t {
  kApp,       // `/app/rest`: to an endpoint of the app, as `/rest`.
  kRedirect,  // `/app`: to `/app/`.
  kMesh,      // `/_mesh/...`: the edge's own pages.
  kUnknown,   // Nothing that could be the name of an app.
  kRefused,   // A path that two servers could read in two ways.
};

struct Target {
  TargetKind kind = TargetKind::kUnknown;
  absl::string_view app;
  // kApp: path and query for the app, beginning with '/'. kRedirect: the query
  // with its '?', or nothing. kMesh: the path behind `/_mesh`.
  absl::string_view rest;
};

// Routes an origin-form target. The path is taken as it is: nothing is decoded,
// merged or normalised, so `%2F`, `//` and the query pass unchanged. Refused
// are malformed escapes in the path, `.` and `..` as segments, also escaped and
// also between escaped slashes, backslashes, and NUL.
Target RouteTarget(absl::string_view target);

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_TARGET_H_
