#include "services/agent/health_prober.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "lib/base/ids.h"

namespace mycelium::agent {
namespace {

// The status line must be in this much.
constexpr size_t kMaxHeadBytes = 1024;
// What is read of an answer after that, before the connection is closed.
constexpr size_t kMaxAnswerBytes = size_t{64} << 10;

}  // namespace

struct SocketProber::Address {
  std::string host;
  sockaddr_storage storage = {};
  socklen_t length = 0;

  // The same address with `port`.
  sockaddr_storage WithPort(int32_t port) const {
    sockaddr_storage with_port = storage;
    if (storage.ss_family == AF_INET6) {
      reinterpret_cast<sockaddr_in6*>(&with_port)->sin6_port =
          htons(static_cast<uint16_t>(port));
    } else {
      reinterpret_cast<sockaddr_in*>(&with_port)->sin_port =
          htons(static_cast<uint16_t>(port));
    }
    return with_port;
  }
};

struct SocketProber::Exchange {
  ProbeTarget target;
  Callback callback;  // Empty once it was called.
  absl::Duration timeout;
  absl::Duration deadline;

  UniqueFd fd;
  bool connected = false;
  std::string to_send;
  std::string head;
  size_t received = 0;
};

absl::StatusOr<std::unique_ptr<SocketProber>> SocketProber::Start(
    const std::string& host, Clock* clock) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (error != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot find the address of host ", Quoted(host), ": ",
                     gai_strerror(error)));
  }
  auto address = std::make_unique<Address>();
  address->host = host;
  std::memcpy(&address->storage, found->ai_addr, found->ai_addrlen);
  address->length = found->ai_addrlen;
  freeaddrinfo(found);

  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.fd = wake.get();
  if (!epoll.valid() || !wake.valid() ||
      epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &event) != 0) {
    return ErrnoStatus(errno, "cannot prepare health probes");
  }
  return std::unique_ptr<SocketProber>(new SocketProber(
      std::move(address), clock, std::move(epoll), std::move(wake)));
}

SocketProber::SocketProber(std::unique_ptr<Address> address, Clock* clock,
                           UniqueFd epoll, UniqueFd wake)
    : address_(std::move(address)),
      clock_(*clock),
      epoll_(std::move(epoll)),
      wake_(std::move(wake)) {
  thread_ = std::thread([this] { Run(); });
}

SocketProber::~SocketProber() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written =
      write(wake_.get(), &one, sizeof(one));
  thread_.join();
}

void SocketProber::Probe(const ProbeTarget& target, absl::Duration timeout,
                         Callback callback) {
  auto exchange = std::make_unique<Exchange>();
  exchange->target = target;
  exchange->callback = std::move(callback);
  exchange->timeout = timeout;
  exchange->deadline = clock_.Monotonic() + timeout;
  {
    MutexLock lock(mutex_);
    new_.push_back(std::move(exchange));
  }
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written =
      write(wake_.get(), &one, sizeof(one));
}

void SocketProber::Run() {
  constexpr int kMaxEvents = 64;
  epoll_event events[kMaxEvents];
  while (true) {
    absl::Duration wait = absl::Seconds(3600);
    const absl::Duration now = clock_.Monotonic();
    for (const auto& [fd, exchange] : exchanges_) {
      wait = std::min(wait, exchange->deadline - now);
    }
    // Rounded up: it must not wake just before the deadline, again and again.
    const int wait_ms = static_cast<int>(
        std::max<int64_t>(0, absl::ToInt64Milliseconds(wait) + 1));
    const int count = epoll_wait(epoll_.get(), events, kMaxEvents, wait_ms);
    for (int i = 0; i < count; ++i) {
      const auto entry = exchanges_.find(events[i].data.fd);
      if (entry == exchanges_.end()) continue;
      const bool writable = (events[i].events & EPOLLOUT) != 0;
      if (!Advance(*entry->second, writable)) exchanges_.erase(entry);
    }
    ExpireOld();
    TakeNew();
    // After TakeNew(): it may have taken the very wake-up that says stop.
    MutexLock lock(mutex_);
    if (stopping_) return;
  }
}

void SocketProber::TakeNew() {
  uint64_t ignored = 0;
  [[maybe_unused]] const ssize_t count =
      read(wake_.get(), &ignored, sizeof(ignored));
  std::deque<std::unique_ptr<Exchange>> taken;
  {
    MutexLock lock(mutex_);
    taken.swap(new_);
  }
  for (std::unique_ptr<Exchange>& exchange : taken) Begin(std::move(exchange));
}

void SocketProber::Begin(std::unique_ptr<Exchange> exchange) {
  const sockaddr_storage address = address_->WithPort(exchange->target.port);
  exchange->fd = UniqueFd(
      socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!exchange->fd.valid()) {
    Report(*exchange, false,
           absl::StrCat("no socket: ", ErrnoStatus(errno, "").message()));
    return;
  }
  if (!exchange->target.path.empty()) {
    exchange->to_send =
        absl::StrCat("GET ", exchange->target.path, " HTTP/1.1\r\nHost: ",
                     absl::StrContains(address_->host, ":")
                         ? absl::StrCat("[", address_->host, "]")
                         : address_->host,
                     ":", exchange->target.port,
                     "\r\nUser-Agent: mycelium-agent\r\nAccept: */*\r\n"
                     "Connection: close\r\n\r\n");
  }
  const int fd = exchange->fd.get();
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address),
              address_->length) != 0 &&
      errno != EINPROGRESS) {
    Report(*exchange, false, ErrnoStatus(errno, "connect").message());
    return;
  }
  epoll_event event = {};
  event.events = EPOLLIN | EPOLLOUT | EPOLLET;
  event.data.fd = fd;
  epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
  exchanges_[fd] = std::move(exchange);
}

bool SocketProber::Advance(Exchange& exchange, bool writable) {
  const int fd = exchange.fd.get();
  if (!exchange.connected) {
    int error = 0;
    socklen_t length = sizeof(error);
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) {
      Report(exchange, false, ErrnoStatus(error, "connect").message());
      return false;
    }
    if (!writable) return true;
    exchange.connected = true;
    if (exchange.target.path.empty()) {
      Report(exchange, true, "accepts connections");
      return false;
    }
  }
  while (!exchange.to_send.empty()) {
    const ssize_t count = send(fd, exchange.to_send.data(),
                               exchange.to_send.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return true;
    if (count < 0) {
      Report(exchange, false, ErrnoStatus(errno, "send").message());
      return false;
    }
    exchange.to_send.erase(0, count);
  }
  char buffer[4096];
  while (exchange.received < kMaxAnswerBytes) {
    const ssize_t count = recv(fd, buffer, sizeof(buffer), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return true;
    if (count <= 0) {
      Report(exchange, false,
             count == 0 ? "closed the connection without an answer"
                        : ErrnoStatus(errno, "receive").message());
      return false;
    }
    exchange.received += count;
    if (exchange.callback == nullptr) continue;
    exchange.head.append(
        buffer, std::min<size_t>(count, kMaxHeadBytes - exchange.head.size()));
    const size_t end = exchange.head.find("\r\n");
    if (end == std::string::npos) {
      if (exchange.head.size() < kMaxHeadBytes) continue;
      Report(exchange, false, "does not answer with HTTP");
      return false;
    }
    // HTTP/1.1 200 OK
    const absl::string_view line =
        absl::string_view(exchange.head).substr(0, end);
    int status = 0;
    if (!absl::StartsWith(line, "HTTP/1.") || line.size() < 12 ||
        line[8] != ' ' || !absl::SimpleAtoi(line.substr(9, 3), &status)) {
      Report(exchange, false,
             absl::StrCat("does not answer with HTTP: ", Quoted(line)));
      return false;
    }
    Report(exchange, status >= 200 && status < 300,
           absl::StrCat("GET ", exchange.target.path, " answers ", status));
  }
  return false;
}

void SocketProber::Report(Exchange& exchange, bool success,
                          absl::string_view detail) {
  if (exchange.callback == nullptr) return;
  const Callback callback = std::exchange(exchange.callback, nullptr);
  callback(success, std::string(detail));
}

void SocketProber::ExpireOld() {
  const absl::Duration now = clock_.Monotonic();
  for (auto entry = exchanges_.begin(); entry != exchanges_.end();) {
    Exchange& exchange = *entry->second;
    if (exchange.deadline > now) {
      ++entry;
      continue;
    }
    Report(exchange, false,
           absl::StrCat(exchange.connected ? "no answer" : "no connection",
                        " within ", absl::FormatDuration(exchange.timeout)));
    entry = exchanges_.erase(entry);
  }
}

}  // namespace mycelium::agent
