// Sockets that an edge listens on: its own, or ones that it is given by its
// predecessor or a service manager.

#ifndef SERVICES_EDGE_LISTEN_SOCKETS_H_
#define SERVICES_EDGE_LISTEN_SOCKETS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "lib/base/file.h"

namespace mycelium::edge {

// The sockets of one listening address. Each has a queue of its own in the
// kernel, and closing the last descriptor of one resets what is in its queue.
struct ListenSockets {
  // `HOST:PORT`, with the real port.
  std::string address;
  std::vector<UniqueFd> fds;
  // A service manager keeps them open. They are then only ever closed: what is
  // in their queues waits for the next process.
  bool kept_elsewhere = false;
};

// Listens on `address` (`HOST:PORT`; port 0 takes a free one) with `count`
// sockets that share the port (SO_REUSEPORT).
//
// InvalidArgument: it is no address. AlreadyExists: it is taken.
absl::StatusOr<ListenSockets> Listen(absl::string_view address, int count);

// Makes sockets that another process made ready to be accepted from, and adds
// sockets until there are `count` if the port can be shared. `sockets.address`
// may be empty and is then found out.
//
// InvalidArgument: one is no listening TCP socket.
absl::StatusOr<ListenSockets> Adopt(ListenSockets sockets, int count);

// Deals `fds` out to `count` workers. With more sockets than workers, some get
// several; with fewer, some share one by a descriptor of their own.
absl::StatusOr<std::vector<std::vector<UniqueFd>>> Deal(
    std::vector<UniqueFd> fds, int count);

// Lets no further connection begin on a listening socket, but lets those that
// have begun be completed and accepted: new ones are not refused, their clients
// try again after a second. False: the kernel does not do it.
bool RefuseNewConnections(int fd);

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_LISTEN_SOCKETS_H_
