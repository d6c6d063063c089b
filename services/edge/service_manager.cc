#include "services/edge/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"

namespace mycelium::edge {
namespace {

constexpr int kFirstFd = 3;
constexpr int kMaxFds = 4096;

std::string TakeVariable(const char* name) {
  // NOLINTNEXTLINE(concurrency-mt-unsafe)
  const char* const value = std::getenv(name);
  std::string result = value == nullptr ? "" : value;
  unsetenv(name);  // NOLINT(concurrency-mt-unsafe)
  return result;
}

}  // namespace

absl::StatusOr<std::map<std::string, ListenSockets>> TakeActivatedSockets() {
  const std::string pid = TakeVariable("LISTEN_PID");
  const std::string fds = TakeVariable("LISTEN_FDS");
  const std::vector<std::string> names =
      absl::StrSplit(TakeVariable("LISTEN_FDNAMES"), ':');
  std::map<std::string, ListenSockets> result;
  if (fds.empty() || pid != absl::StrCat(getpid())) return result;
  int count = 0;
  if (!absl::SimpleAtoi(fds, &count) || count < 0 || count > kMaxFds) {
    return absl::InvalidArgumentError(
        absl::StrCat("LISTEN_FDS is ", Quoted(fds), "; want 0 to ", kMaxFds));
  }
  for (int i = 0; i < count; ++i) {
    const std::string name =
        static_cast<size_t>(i) < names.size() ? names[i] : "";
    ListenSockets& sockets = result[name == "tls" ? name : "http"];
    sockets.kept_elsewhere = true;
    sockets.fds.emplace_back(kFirstFd + i);
  }
  return result;
}

void NotifyServiceManager(absl::string_view lines) {
  // The environment is not changed once threads run.
  // NOLINTNEXTLINE(concurrency-mt-unsafe)
  const char* const path = std::getenv("NOTIFY_SOCKET");
  if (path == nullptr) return;
  sockaddr_un address{};
  const size_t size = std::strlen(path);
  if ((path[0] != '/' && path[0] != '@') || size >= sizeof(address.sun_path))
    return;
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path, size);
  if (path[0] == '@') address.sun_path[0] = '\0';  // An abstract name.
  const UniqueFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return;
  // A manager that does not listen is no reason not to serve.
  [[maybe_unused]] const ssize_t sent =
      sendto(fd.get(), lines.data(), lines.size(), MSG_NOSIGNAL | MSG_DONTWAIT,
             reinterpret_cast<const sockaddr*>(&address),
             static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + size));
}

void NotifyReloading() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  NotifyServiceManager(
      absl::StrCat("RELOADING=1\nMONOTONIC_USEC=",
                   int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1000));
}

PidFile::~PidFile() {
  if (path_.empty()) return;
  const absl::StatusOr<std::string> text = ReadFile(path_, 64);
  if (text.ok() && *text == absl::StrCat(getpid(), "\n")) unlink(path_.c_str());
}

absl::Status PidFile::Write() {
  if (path_.empty()) return absl::OkStatus();
  return WriteFileAtomically(path_, absl::StrCat(getpid(), "\n"));
}

}  // namespace mycelium::edge
