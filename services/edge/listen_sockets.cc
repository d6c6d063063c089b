#include "services/edge/listen_sockets.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"

namespace mycelium::edge {
namespace {

constexpr int kBacklog = 4096;

struct ListenAddress {
  std::string host;
  sockaddr_storage address{};
  socklen_t size = 0;
};

absl::StatusOr<ListenAddress> ParseListenAddress(absl::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos || colon + 1 == text.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("listen address ", Quoted(text), " is not HOST:PORT"));
  }
  int port = 0;
  if (!absl::SimpleAtoi(text.substr(colon + 1), &port) || port < 0 ||
      port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat(
        "listen address ", Quoted(text), ": the port must be 0 to 65535"));
  }
  ListenAddress result;
  result.host = std::string(text.substr(0, colon));
  std::string host = result.host;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error =
      getaddrinfo(host.empty() ? nullptr : host.c_str(),
                  std::string(text.substr(colon + 1)).c_str(), &hints, &found);
  if (error != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "listen address ", Quoted(text), ": ", gai_strerror(error)));
  }
  std::memcpy(&result.address, found->ai_addr, found->ai_addrlen);
  result.size = found->ai_addrlen;
  freeaddrinfo(found);
  return result;
}

uint16_t* PortOf(sockaddr_storage* address) {
  return address->ss_family == AF_INET6
             ? &reinterpret_cast<sockaddr_in6*>(address)->sin6_port
             : &reinterpret_cast<sockaddr_in*>(address)->sin_port;
}

// Binds and listens; a port of 0 in `at` is replaced by the one that was taken.
absl::StatusOr<UniqueFd> ListenOnce(ListenAddress* at, bool shared) {
  UniqueFd fd(socket(at->address.ss_family,
                     SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "socket");
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (shared) setsockopt(fd.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
  // Accepted sockets inherit it.
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  const std::string where = absl::StrCat("cannot listen on ", at->host, ":",
                                         ntohs(*PortOf(&at->address)));
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&at->address),
           at->size) != 0 ||
      listen(fd.get(), kBacklog) != 0) {
    if (errno == EADDRINUSE)
      return absl::AlreadyExistsError(where + ": address in use");
    return ErrnoStatus(errno, where);
  }
  socklen_t size = at->size;
  if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&at->address), &size) !=
      0) {
    return ErrnoStatus(errno, where);
  }
  return fd;
}

int IntOption(int fd, int option) {
  int value = 0;
  socklen_t size = sizeof(value);
  return getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : -1;
}

std::string TextOf(sockaddr_storage* address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (address->ss_family == AF_INET6) {
    inet_ntop(AF_INET6,
              &reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr,
              text.data(), text.size());
    return absl::StrCat("[", text.data(), "]");
  }
  inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(address)->sin_addr,
            text.data(), text.size());
  return text.data();
}

}  // namespace

absl::StatusOr<ListenSockets> Listen(absl::string_view address, int count) {
  MYC_ASSIGN_OR_RETURN(ListenAddress at, ParseListenAddress(address));
  // SO_REUSEPORT would also share the port with a stranger that sets it, so
  // first see whether it is free without.
  {
    ListenAddress probe = at;
    MYC_RETURN_IF_ERROR(ListenOnce(&probe, false).status());
  }
  ListenSockets sockets;
  for (int i = 0; i < count; ++i) {
    MYC_ASSIGN_OR_RETURN(UniqueFd fd, ListenOnce(&at, true));
    sockets.fds.push_back(std::move(fd));
  }
  sockets.address = absl::StrCat(at.host, ":", ntohs(*PortOf(&at.address)));
  return sockets;
}

absl::StatusOr<ListenSockets> Adopt(ListenSockets sockets, int count) {
  if (sockets.fds.empty())
    return absl::InvalidArgumentError("there is no listening socket to adopt");
  bool sharable = !sockets.kept_elsewhere;
  for (const UniqueFd& fd : sockets.fds) {
    const int family = IntOption(fd.get(), SO_DOMAIN);
    if ((family != AF_INET && family != AF_INET6) ||
        IntOption(fd.get(), SO_TYPE) != SOCK_STREAM ||
        IntOption(fd.get(), SO_ACCEPTCONN) != 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          "descriptor ", fd.get(), " is no TCP socket that listens"));
    }
    const int flags = fcntl(fd.get(), F_GETFL);
    if (flags < 0 || fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) != 0 ||
        fcntl(fd.get(), F_SETFD, FD_CLOEXEC) != 0) {
      return ErrnoStatus(errno, "fcntl of a listening socket");
    }
    const int on = 1;
    setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    sharable = sharable && IntOption(fd.get(), SO_REUSEPORT) == 1;
  }
  ListenAddress at;
  at.size = sizeof(at.address);
  if (getsockname(sockets.fds[0].get(),
                  reinterpret_cast<sockaddr*>(&at.address), &at.size) != 0) {
    return ErrnoStatus(errno, "getsockname of a listening socket");
  }
  at.host = TextOf(&at.address);
  if (sockets.address.empty()) {
    sockets.address = absl::StrCat(at.host, ":", ntohs(*PortOf(&at.address)));
  }
  while (sharable && sockets.fds.size() < static_cast<size_t>(count)) {
    // A port that we may not bind any more can still be accepted from.
    absl::StatusOr<UniqueFd> fd = ListenOnce(&at, true);
    if (!fd.ok()) break;
    sockets.fds.push_back(*std::move(fd));
  }
  return sockets;
}

absl::StatusOr<std::vector<std::vector<UniqueFd>>> Deal(
    std::vector<UniqueFd> fds, int count) {
  const size_t workers = static_cast<size_t>(count);
  std::vector<std::vector<UniqueFd>> dealt(workers);
  for (size_t i = fds.size(); i < workers; ++i) {
    UniqueFd copy(fcntl(fds[i % fds.size()].get(), F_DUPFD_CLOEXEC, 0));
    if (!copy.valid()) return ErrnoStatus(errno, "dup of a listening socket");
    dealt[i].push_back(std::move(copy));
  }
  for (size_t i = 0; i < fds.size(); ++i) {
    dealt[i % workers].push_back(std::move(fds[i]));
  }
  return dealt;
}

bool RefuseNewConnections(int fd) {
  // A filter of a TCP socket sees packets from the TCP header on; its byte 13
  // has the flags. What completes a handshake has ACK set and passes.
  constexpr uint32_t kSyn = 0x02;
  constexpr uint32_t kAck = 0x10;
  std::array<sock_filter, 5> code = {{
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),
      BPF_STMT(BPF_ALU | BPF_AND | BPF_K, kSyn | kAck),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kSyn, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, 0),
      BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
  }};
  const sock_fprog program = {static_cast<uint16_t>(code.size()), code.data()};
  return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program,
                    sizeof(program)) == 0;
}

}  // namespace mycelium::edge
