// One HTTP request, to see whether an app answers through the edge.

#ifndef TOOLS_MESHCTL_HTTP_PROBE_H_
#define TOOLS_MESHCTL_HTTP_PROBE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace mycelium::meshctl {

// The status of the answer to `GET path` from 127.0.0.1:`port`. Unavailable,
// DeadlineExceeded or Internal (no HTTP) if there is none.
absl::StatusOr<int> ProbeHttp(int port, absl::string_view path,
                              absl::Duration timeout);

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_HTTP_PROBE_H_
