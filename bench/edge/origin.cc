// A cheap HTTP/1.1 origin for the edge's bench: one thread, one epoll, fixed
// answers: `/1k`, `/64k` and `/1m` with that many bytes, everything else
// with 20. Bodies of requests are read and thrown away. A connection is closed
// after its answer if the request says `Connection: close`.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "bench/edge/loopback_listener.h"

namespace {

struct Connection {
  std::string in;
  size_t body_left = 0;
  const std::string* out = nullptr;
  size_t written = 0;
  int owed = 0;
  bool close = false;  // After what is owed.
};

std::string Response(size_t size) {
  return absl::StrCat(
      "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
      "Content-Length: ",
      size, "\r\n\r\n", std::string(size, 'x'));
}

struct Answers {
  std::string small = Response(20);
  std::string k1 = Response(1024);
  std::string k64 = Response(size_t{64} << 10);
  std::string m1 = Response(size_t{1} << 20);

  const std::string* For(absl::string_view head) const {
    if (absl::StartsWith(head, "GET /1k")) return &k1;
    if (absl::StartsWith(head, "GET /64k")) return &k64;
    if (absl::StartsWith(head, "GET /1m")) return &m1;
    return &small;
  }
};

// False: the connection is done for.
bool Write(int fd, Connection* connection) {
  while (connection->out != nullptr) {
    const ssize_t sent =
        send(fd, connection->out->data() + connection->written,
             connection->out->size() - connection->written, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN;
    connection->written += static_cast<size_t>(sent);
    if (connection->written == connection->out->size())
      connection->out = nullptr;
  }
  return !connection->close || connection->owed > 0;
}

// Answers what is complete in `connection->in`.
bool Serve(int fd, Connection* connection, const Answers& answers) {
  size_t at = 0;
  while (connection->out == nullptr) {
    const absl::string_view rest = absl::string_view(connection->in).substr(at);
    const size_t end = rest.find("\r\n\r\n");
    if (end == absl::string_view::npos) break;
    const absl::string_view head = rest.substr(0, end + 2);
    connection->close =
        head.find("\r\nConnection: close\r\n") != absl::string_view::npos;
    size_t length = 0;
    const size_t field = head.find("\r\nContent-Length: ");
    if (field != absl::string_view::npos) {
      const absl::string_view value = head.substr(field + 18);
      if (!absl::SimpleAtoi(value.substr(0, value.find('\r')), &length))
        return false;
    }
    if (rest.size() < end + 4 + length) {
      // Large bodies are counted, not kept.
      connection->body_left = end + 4 + length - rest.size();
      connection->out = answers.For(head);
      connection->written = 0;
      connection->owed = 1;
      connection->in.clear();
      return true;
    }
    at += end + 4 + length;
    connection->out = answers.For(head);
    connection->written = 0;
    if (!Write(fd, connection)) return false;
  }
  connection->in.erase(0, at);
  return true;
}

bool OnEvent(int fd, Connection* connection, const Answers& answers) {
  std::array<char, 65536> buffer;
  if (connection->owed == 0 && !Write(fd, connection)) return false;
  for (;;) {
    const ssize_t got = recv(fd, buffer.data(), buffer.size(), 0);
    if (got == 0) return false;
    if (got < 0) return errno == EAGAIN;
    absl::string_view bytes(buffer.data(), static_cast<size_t>(got));
    if (connection->owed > 0) {
      const size_t take = std::min(connection->body_left, bytes.size());
      connection->body_left -= take;
      bytes.remove_prefix(take);
      if (connection->body_left > 0) continue;
      connection->owed = 0;
      if (!Write(fd, connection)) return false;
    }
    connection->in.append(bytes.data(), bytes.size());
    if (!Serve(fd, connection, answers)) return false;
    if (static_cast<size_t>(got) < buffer.size()) return true;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int port = argc > 1 ? std::atoi(argv[1]) : 0;
  mycelium::bench::PrepareForManyConnections();
  const int listener = mycelium::bench::ListenOnLoopback(
      static_cast<uint16_t>(port), /*address=*/nullptr);
  if (listener < 0) return 1;

  const int epoll = epoll_create1(0);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = listener;
  epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
  const Answers answers;
  std::unordered_map<int, Connection> connections;
  std::array<epoll_event, 256> events;
  for (;;) {
    const int count = epoll_wait(epoll, events.data(), events.size(), -1);
    for (int i = 0; i < count; ++i) {
      const int fd = events[i].data.fd;
      if (fd == listener) {
        for (int client; (client = accept4(listener, nullptr, nullptr,
                                           SOCK_NONBLOCK)) >= 0;) {
          connections[client] = Connection();
          event.events = EPOLLIN | EPOLLOUT | EPOLLET;
          event.data.fd = client;
          epoll_ctl(epoll, EPOLL_CTL_ADD, client, &event);
        }
        continue;
      }
      if (!OnEvent(fd, &connections[fd], answers)) {
        close(fd);
        connections.erase(fd);
      }
    }
  }
}
