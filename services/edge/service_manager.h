// What systemd and its like say to a service and want to hear from it, without
// a library: sockets that they listen on for it, and notifications.

#ifndef SERVICES_EDGE_SERVICE_MANAGER_H_
#define SERVICES_EDGE_SERVICE_MANAGER_H_

#include <map>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/edge/listen_sockets.h"

namespace mycelium::edge {

// The sockets that LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES give to this
// process, by name; one with a name of systemd's own, such as that of a unit,
// is "http". Empty if they name none, or another process. Forgets what the
// environment says of them. Call it once, before other threads run.
//
// InvalidArgument: LISTEN_FDS is no number that can be.
absl::StatusOr<std::map<std::string, ListenSockets>> TakeActivatedSockets();

// Sends lines such as "READY=1" to NOTIFY_SOCKET; does nothing without it.
void NotifyServiceManager(absl::string_view lines);

// "RELOADING=1", with the time that systemd wants beside it.
void NotifyReloading();

// A file that names the process which serves. Thread-compatible.
class PidFile {
 public:
  // Nothing is written if `path` is empty.
  explicit PidFile(std::string path) : path_(std::move(path)) {}
  // Removes the file if it still names this process.
  ~PidFile();

  PidFile(const PidFile&) = delete;
  PidFile& operator=(const PidFile&) = delete;

  absl::Status Write();

 private:
  const std::string path_;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_SERVICE_MANAGER_H_
