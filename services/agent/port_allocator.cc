#include "services/agent/port_allocator.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "lib/base/file.h"

namespace mycelium::agent {
namespace {

constexpr absl::Duration kRest = absl::Minutes(1);
constexpr int kTries = 64;
constexpr size_t kMaxRecent = 4096;

// A socket bound to `port` (0: any) of all IPv4 addresses; invalid if that
// cannot be had.
UniqueFd Bind(int32_t port) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return fd;
  // As servers do; connections in TIME_WAIT do not keep a port from them.
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  address.sin_port = htons(static_cast<uint16_t>(port));
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address),
           sizeof(address)) != 0) {
    fd.reset();
  }
  return fd;
}

}  // namespace

absl::StatusOr<int32_t> PortAllocator::Allocate() {
  const absl::Duration now = clock_.Monotonic();
  while (!recent_.empty() && (now - recent_.front().first >= kRest ||
                              recent_.size() > kMaxRecent)) {
    recent_.pop_front();
  }
  // Refused ones stay bound until the end, so that each try gives another.
  std::vector<UniqueFd> refused;
  for (int i = 0; i < kTries; ++i) {
    UniqueFd fd = Bind(0);
    sockaddr_in address = {};
    socklen_t length = sizeof(address);
    if (!fd.valid() ||
        getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) !=
            0) {
      break;
    }
    const int32_t port = ntohs(address.sin_port);
    const bool used_recently =
        std::any_of(recent_.begin(), recent_.end(),
                    [port](const auto& entry) { return entry.second == port; });
    if (!used_recently && in_use_.insert(port).second) return port;
    refused.push_back(std::move(fd));
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("no free port was found in ", kTries, " tries"));
}

void PortAllocator::Release(int32_t port) {
  if (in_use_.erase(port) == 0) return;
  recent_.emplace_back(clock_.Monotonic(), port);
}

bool PortAllocator::IsFree(int32_t port) {
  UniqueFd fd = Bind(port);
  // With SO_REUSEADDR the bind alone also succeeds beside one that is bound and
  // does not listen yet.
  return fd.valid() && listen(fd.get(), 1) == 0;
}

}  // namespace mycelium::agent
