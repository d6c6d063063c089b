#include "tools/meshctl/http_probe.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "lib/base/file.h"
#include "lib/base/status_macros.h"

namespace mycelium::meshctl {

absl::StatusOr<int> ProbeHttp(int port, absl::string_view path,
                              absl::Duration timeout) {
  const std::string where = absl::StrCat("127.0.0.1:", port);
  const UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open a socket");
  // Bounds each step, connecting included.
  const timeval limit = absl::ToTimeval(timeout);
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address),
              sizeof(address)) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot connect to ", where));
  }
  MYC_RETURN_IF_ERROR(WriteFully(
      fd.get(), absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: ", where,
                             "\r\nConnection: close\r\n\r\n")));
  // "HTTP/1.1 200 " is all that is looked at.
  std::string head;
  while (head.size() < 13) {
    char buffer[512];
    const ssize_t count = recv(fd.get(), buffer, sizeof(buffer), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0)
      return ErrnoStatus(errno, absl::StrCat("no answer from ", where));
    if (count == 0) break;
    head.append(buffer, static_cast<size_t>(count));
  }
  int status = 0;
  if (!absl::StartsWith(head, "HTTP/1.") || head.size() < 12 ||
      !absl::SimpleAtoi(head.substr(9, 3), &status)) {
    return absl::InternalError(absl::StrCat(where, " does not speak HTTP"));
  }
  return status;
}

}  // namespace mycelium::meshctl
