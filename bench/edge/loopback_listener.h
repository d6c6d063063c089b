#ifndef BENCH_EDGE_LOOPBACK_LISTENER_H_
#define BENCH_EDGE_LOOPBACK_LISTENER_H_

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <csignal>
#include <cstdint>
#include <cstdio>

namespace mycelium::bench {

// For servers with thousands of connections: as many descriptors as the limits
// allow, and no signal for a peer that is gone.
inline void PrepareForManyConnections() {
  signal(SIGPIPE, SIG_IGN);
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// A socket that listens on a loopback port, 0 for any free one, and does not
// block; the connections that it accepts send small pieces at once. Prints the
// port in a line of its own and, where not null, sets `address`. Owned by the
// caller; -1, and the reason on stderr, if it cannot.
inline int ListenOnLoopback(uint16_t port, sockaddr_in* address) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  const int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  sockaddr_in bound{};
  bound.sin_family = AF_INET;
  bound.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  bound.sin_port = htons(port);
  if (bind(listener, reinterpret_cast<sockaddr*>(&bound), sizeof(bound)) != 0 ||
      listen(listener, 4096) != 0) {
    std::perror("cannot listen");
    return -1;
  }
  socklen_t size = sizeof(bound);
  getsockname(listener, reinterpret_cast<sockaddr*>(&bound), &size);
  std::printf("%d\n", ntohs(bound.sin_port));
  std::fflush(stdout);
  if (address != nullptr) *address = bound;
  return listener;
}

}  // namespace mycelium::bench

#endif  // BENCH_EDGE_LOOPBACK_LISTENER_H_
