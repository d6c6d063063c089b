// A bare relay of bytes for the edge's bench: accepts, connects, and copies
// both ways, with no idea of HTTP. What a proxy costs above this is the price
// of what it knows; below this, it has saved a connection or a copy.
//
//     relay ORIGIN_PORT    prints the port on 127.0.0.1 that it listens on

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bench/edge/loopback_listener.h"

namespace {

struct Pair;

struct Side {
  Pair* pair = nullptr;
  Side* peer = nullptr;
  int fd = -1;
  bool connected = true;
  bool peer_closed = false;  // An end is to be read.
  bool ended = false;        // It was read.
  std::string pending;       // What the other side did not take yet.
};

struct Pair {
  Side client;
  Side origin;
  bool dead = false;
};

class Relay {
 public:
  Relay(int epoll, int listener, const sockaddr_in& origin)
      : epoll_(epoll), listener_(listener), origin_(origin) {}

  void Run() {
    std::array<epoll_event, 256> events;
    for (;;) {
      const int count = epoll_wait(epoll_, events.data(),
                                   static_cast<int>(events.size()), -1);
      for (int i = 0; i < count; ++i) {
        if (events[i].data.ptr == nullptr) {
          Accept();
        } else {
          OnEvent(static_cast<Side*>(events[i].data.ptr), events[i].events);
        }
      }
      for (Pair* const pair : dead_) pairs_.erase(pair);
      dead_.clear();
    }
  }

 private:
  bool Watch(Side* side) const {
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    event.data.ptr = side;
    return epoll_ctl(epoll_, EPOLL_CTL_ADD, side->fd, &event) == 0;
  }

  void Accept() {
    int fd = -1;
    while ((fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK)) >= 0) {
      auto pair = std::make_unique<Pair>();
      pair->client.pair = pair->origin.pair = pair.get();
      pair->client.peer = &pair->origin;
      pair->origin.peer = &pair->client;
      pair->client.fd = fd;
      pair->origin.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
      const int on = 1;
      setsockopt(pair->origin.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
      const int result =
          connect(pair->origin.fd, reinterpret_cast<const sockaddr*>(&origin_),
                  sizeof(origin_));
      pair->origin.connected = result == 0;
      Pair* const key = pair.get();
      pairs_[key] = std::move(pair);
      if ((result != 0 && errno != EINPROGRESS) || !Watch(&key->client) ||
          !Watch(&key->origin)) {
        Close(key);
      }
    }
  }

  void Close(Pair* pair) {
    if (pair->dead) return;
    pair->dead = true;
    close(pair->client.fd);
    close(pair->origin.fd);
    dead_.push_back(pair);
  }

  void OnEvent(Side* side, uint32_t events) {
    Pair* const pair = side->pair;
    if (pair->dead) return;
    if ((events & (EPOLLERR | EPOLLHUP)) != 0) side->peer_closed = true;
    if ((events & EPOLLRDHUP) != 0) side->peer_closed = true;
    if ((events & EPOLLOUT) != 0 &&
        (!side->connected || !side->peer->pending.empty())) {
      side->connected = true;
      if (!Pump(side->peer)) return Close(pair);
    }
    if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0 &&
        !Pump(side)) {
      return Close(pair);
    }
    if (side->ended && side->peer->ended) Close(pair);
  }

  // Copies from `from` to its peer; false: the pair is done for.
  bool Pump(Side* from) {
    Side* const to = from->peer;
    if (!to->connected || from->ended) return true;
    if (!from->pending.empty()) {
      const ssize_t sent = send(to->fd, from->pending.data(),
                                from->pending.size(), MSG_NOSIGNAL);
      if (sent < 0) return errno == EAGAIN;
      from->pending.erase(0, static_cast<size_t>(sent));
      if (!from->pending.empty()) return true;
    }
    for (;;) {
      const ssize_t got = recv(from->fd, buffer_.data(), buffer_.size(), 0);
      if (got < 0) return errno == EAGAIN;
      if (got == 0) {
        from->ended = true;
        shutdown(to->fd, SHUT_WR);
        return true;
      }
      const auto size = static_cast<size_t>(got);
      ssize_t sent = send(to->fd, buffer_.data(), size, MSG_NOSIGNAL);
      if (sent < 0 && errno != EAGAIN) return false;
      if (sent < 0) sent = 0;
      if (sent < got) {
        from->pending.assign(buffer_.data() + sent,
                             size - static_cast<size_t>(sent));
        return true;
      }
      // A short read has emptied the socket; only the end may be there still.
      if (size < buffer_.size() && !from->peer_closed) return true;
    }
  }

  const int epoll_;
  const int listener_;
  const sockaddr_in origin_;
  std::unordered_map<Pair*, std::unique_ptr<Pair>> pairs_;
  std::vector<Pair*> dead_;
  std::array<char, 65536> buffer_{};
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: relay ORIGIN_PORT\n", stderr);
    return 2;
  }
  mycelium::bench::PrepareForManyConnections();
  sockaddr_in address{};
  const int listener = mycelium::bench::ListenOnLoopback(0, &address);
  if (listener < 0) return 1;

  const int epoll = epoll_create1(0);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = nullptr;
  epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
  sockaddr_in origin = address;
  origin.sin_port = htons(static_cast<uint16_t>(std::atoi(argv[1])));
  const auto relay = std::make_unique<Relay>(epoll, listener, origin);
  relay->Run();
}
