#include "examples/http/http.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

namespace mycelium::examples {
namespace {

using SteadyTime = std::chrono::steady_clock::time_point;

constexpr size_t kMaxHeadBytes = size_t{32} << 10;
constexpr size_t kMaxBodyBytes = size_t{1} << 20;
constexpr int kMaxConnections = 512;
constexpr std::chrono::seconds kIdleTimeout(75);

char Lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

bool EqualsIgnoringCase(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return Lower(x) == Lower(y); });
}

std::string_view Trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) {
    text.remove_prefix(1);
  }
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) {
    text.remove_suffix(1);
  }
  return text;
}

std::optional<std::string_view> FindHeader(const std::vector<Header>& headers,
                                           std::string_view name) {
  for (const Header& header : headers) {
    if (EqualsIgnoringCase(header.name, name)) return header.value;
  }
  return std::nullopt;
}

std::optional<size_t> ParseSize(std::string_view digits, int base) {
  size_t value = 0;
  const char* end = digits.data() + digits.size();
  const auto [stopped, error] =
      std::from_chars(digits.data(), end, value, base);
  if (digits.empty() || error != std::errc() || stopped != end) {
    return std::nullopt;
  }
  return value;
}

// A connected socket with a buffer of what was received but not used yet.
class Stream {
 public:
  explicit Stream(int fd) : fd_(fd) {}
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() {
    if (fd_ >= 0) close(fd_);
  }

  // Receives more into the buffer. False at the end, on an error and when
  // `deadline` passes.
  bool Fill(SteadyTime deadline) {
    if (!WaitFor(POLLIN, deadline)) return false;
    std::array<char, 16384> chunk;
    ssize_t count = 0;
    do {
      count = recv(fd_, chunk.data(), chunk.size(), 0);
    } while (count < 0 && errno == EINTR);
    if (count <= 0) return false;
    buffer_.append(chunk.data(), static_cast<size_t>(count));
    return true;
  }

  bool Send(std::string_view data, SteadyTime deadline) {
    while (!data.empty()) {
      const ssize_t count =
          send(fd_, data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (count > 0) {
        data.remove_prefix(static_cast<size_t>(count));
      } else if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        if (!WaitFor(POLLOUT, deadline)) return false;
      } else if (count == 0 || errno != EINTR) {
        return false;
      }
    }
    return true;
  }

  // Everything up to `delimiter`, which is used up; nothing if it does not come
  // within `max_bytes` and before `deadline`.
  std::optional<std::string> ReadUntil(std::string_view delimiter,
                                       size_t max_bytes, SteadyTime deadline) {
    size_t searched = 0;
    while (true) {
      const size_t at = buffer_.find(delimiter, searched);
      if (at != std::string::npos && at <= max_bytes) {
        std::string text = buffer_.substr(0, at);
        buffer_.erase(0, at + delimiter.size());
        return text;
      }
      if (buffer_.size() > max_bytes) return std::nullopt;
      searched = buffer_.size() - std::min(buffer_.size(), delimiter.size());
      if (!Fill(deadline)) return std::nullopt;
    }
  }

  std::optional<std::string> ReadExactly(size_t count, SteadyTime deadline) {
    while (buffer_.size() < count) {
      if (!Fill(deadline)) return std::nullopt;
    }
    std::string text = buffer_.substr(0, count);
    buffer_.erase(0, count);
    return text;
  }

  // The rest of the stream, up to `max_bytes`.
  std::optional<std::string> ReadToEnd(size_t max_bytes, SteadyTime deadline) {
    while (buffer_.size() <= max_bytes && Fill(deadline)) {
    }
    if (buffer_.size() > max_bytes) return std::nullopt;
    return std::exchange(buffer_, {});
  }

 private:
  bool WaitFor(int16_t events, SteadyTime deadline) const {
    while (true) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          deadline - std::chrono::steady_clock::now());
      if (left.count() <= 0) return false;
      pollfd poll_fd = {.fd = fd_, .events = events, .revents = 0};
      const int ready = poll(&poll_fd, 1, static_cast<int>(left.count()));
      if (ready > 0) return true;
      if (ready < 0 && errno != EINTR) return false;
    }
  }

  int fd_;
  std::string buffer_;
};

// Splits "Name: value" lines. False if one is malformed.
bool ParseHeaders(std::string_view lines, std::vector<Header>& headers) {
  while (!lines.empty()) {
    const size_t end = lines.find("\r\n");
    const std::string_view line = lines.substr(0, end);
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos || colon == 0) return false;
    headers.push_back({std::string(line.substr(0, colon)),
                       std::string(Trimmed(line.substr(colon + 1)))});
    if (end == std::string_view::npos) return true;
    lines.remove_prefix(end + 2);
  }
  return true;
}

// Reads a chunked body with its trailers. Nothing if it is malformed or longer
// than kMaxBodyBytes.
std::optional<std::string> ReadChunked(Stream& stream, SteadyTime deadline) {
  std::string body;
  while (true) {
    const auto line = stream.ReadUntil("\r\n", 256, deadline);
    if (!line) return std::nullopt;
    const auto size = ParseSize(
        Trimmed(std::string_view(*line).substr(0, line->find(';'))), 16);
    if (!size || *size > kMaxBodyBytes - body.size()) return std::nullopt;
    if (*size == 0) break;
    const auto chunk = stream.ReadExactly(*size, deadline);
    if (!chunk || stream.ReadExactly(2, deadline) != "\r\n") {
      return std::nullopt;
    }
    body += *chunk;
  }
  while (true) {
    const auto trailer = stream.ReadUntil("\r\n", kMaxHeadBytes, deadline);
    if (!trailer) return std::nullopt;
    if (trailer->empty()) return body;
  }
}

std::string_view ReasonPhrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 413:
      return "Content Too Large";
    case 502:
      return "Bad Gateway";
    default:
      return "Other";
  }
}

std::string Head(const Response& response, bool keep_alive) {
  std::string head = "HTTP/1.1 " + std::to_string(response.status) + " ";
  head += ReasonPhrase(response.status);
  head += "\r\nContent-Type: " + response.content_type;
  head += "\r\nContent-Length: " + std::to_string(response.body.size());
  if (!keep_alive) head += "\r\nConnection: close";
  return head + "\r\n\r\n";
}

enum class Received { kRequest, kEnd, kMalformed, kTooLarge };

Received Receive(Stream& stream, Request& request, bool& keep_alive) {
  const SteadyTime deadline = std::chrono::steady_clock::now() + kIdleTimeout;
  const auto head = stream.ReadUntil("\r\n\r\n", kMaxHeadBytes, deadline);
  if (!head) return Received::kEnd;

  const size_t line_end = std::min(head->find("\r\n"), head->size());
  const std::string_view line = std::string_view(*head).substr(0, line_end);
  const size_t first_space = line.find(' ');
  const size_t last_space = line.rfind(' ');
  if (first_space == std::string_view::npos || first_space == last_space) {
    return Received::kMalformed;
  }
  const std::string_view version = line.substr(last_space + 1);
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    return Received::kMalformed;
  }
  const std::string_view target =
      line.substr(first_space + 1, last_space - first_space - 1);
  const size_t question = target.find('?');
  request.method = line.substr(0, first_space);
  request.path = target.substr(0, question);
  if (question != std::string_view::npos) {
    request.query = target.substr(question + 1);
  }
  if (line_end < head->size() &&
      !ParseHeaders(std::string_view(*head).substr(line_end + 2),
                    request.headers)) {
    return Received::kMalformed;
  }

  const auto connection = request.Find("Connection");
  keep_alive = version == "HTTP/1.1" &&
               !(connection && EqualsIgnoringCase(*connection, "close"));

  if (const auto expect = request.Find("Expect");
      expect && EqualsIgnoringCase(*expect, "100-continue")) {
    if (!stream.Send("HTTP/1.1 100 Continue\r\n\r\n", deadline)) {
      return Received::kEnd;
    }
  }
  if (request.Find("Transfer-Encoding")) {
    auto body = ReadChunked(stream, deadline);
    if (!body) return Received::kMalformed;
    request.body = *std::move(body);
  } else if (const auto length = request.Find("Content-Length")) {
    const auto size = ParseSize(*length, 10);
    if (!size) return Received::kMalformed;
    if (*size > kMaxBodyBytes) return Received::kTooLarge;
    auto body = stream.ReadExactly(*size, deadline);
    if (!body) return Received::kEnd;
    request.body = *std::move(body);
  }
  return Received::kRequest;
}

void ServeConnection(int fd, const Handler& handler) {
  Stream stream(fd);
  bool keep_alive = true;
  while (keep_alive) {
    Request request;
    Response response;
    const Received received = Receive(stream, request, keep_alive);
    if (received == Received::kEnd) return;
    if (received == Received::kRequest) {
      response = handler(request);
    } else {
      keep_alive = false;
      response.status = received == Received::kTooLarge ? 413 : 400;
      response.body = R"({"error":"the request cannot be read"})";
    }
    std::string bytes = Head(response, keep_alive);
    if (request.method != "HEAD") bytes += response.body;
    if (!stream.Send(bytes, std::chrono::steady_clock::now() + kIdleTimeout)) {
      return;
    }
  }
}

extern "C" void ExitOnSignal(int /*signal*/) { _exit(0); }

std::string Failure(std::string_view what) {
  return std::string(what) + ": " + std::generic_category().message(errno);
}

// Counts connections, so that there are never more than kMaxConnections.
class ConnectionSlots {
 public:
  void Take() {
    std::unique_lock lock(mutex_);
    freed_.wait(lock, [this] { return used_ < kMaxConnections; });
    ++used_;
  }

  void Give() {
    const std::lock_guard lock(mutex_);
    --used_;
    freed_.notify_one();
  }

 private:
  std::mutex mutex_;
  std::condition_variable freed_;
  int used_ = 0;
};

struct Url {
  std::string host;
  std::string port = "80";
  std::string authority;
  std::string target = "/";
};

std::optional<Url> ParseUrl(std::string_view text) {
  constexpr std::string_view kScheme = "http://";
  if (text.substr(0, kScheme.size()) != kScheme) return std::nullopt;
  text.remove_prefix(kScheme.size());
  Url url;
  const size_t slash = text.find('/');
  url.authority = text.substr(0, slash);
  if (slash != std::string_view::npos) url.target = text.substr(slash);
  const size_t colon = url.authority.rfind(':');
  url.host = url.authority.substr(0, colon);
  if (colon != std::string::npos) url.port = url.authority.substr(colon + 1);
  if (url.host.empty() || url.port.empty()) return std::nullopt;
  return url;
}

// Connects before `deadline`; -1 and `error` on failure.
int ConnectTo(const Url& url, SteadyTime deadline, std::string& error) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int code =
          getaddrinfo(url.host.c_str(), url.port.c_str(), &hints, &found);
      code != 0) {
    error = "cannot resolve " + url.authority + ": " + gai_strerror(code);
    return -1;
  }
  int connected = -1;
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    const int fd =
        socket(at->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    int problem = 0;
    if (connect(fd, at->ai_addr, at->ai_addrlen) != 0) {
      problem = errno;
      if (problem == EINPROGRESS) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            deadline - std::chrono::steady_clock::now());
        pollfd poll_fd = {.fd = fd, .events = POLLOUT, .revents = 0};
        const int wait = std::max(0, static_cast<int>(left.count()));
        socklen_t size = sizeof(problem);
        if (poll(&poll_fd, 1, wait) <= 0) {
          problem = ETIMEDOUT;
        } else {
          getsockopt(fd, SOL_SOCKET, SO_ERROR, &problem, &size);
        }
      }
    }
    if (problem == 0) {
      connected = fd;
      break;
    }
    error = "cannot connect to " + url.authority + ": " +
            std::generic_category().message(problem);
    close(fd);
  }
  freeaddrinfo(found);
  return connected;
}

}  // namespace

std::optional<std::string_view> Request::Find(std::string_view name) const {
  return FindHeader(headers, name);
}

std::string Serve(int port, const Handler& handler) {
  struct sigaction action = {};
  action.sa_handler = ExitOnSignal;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);

  const int listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in6 address = {};
  address.sin6_family = AF_INET6;
  address.sin6_addr = in6addr_any;
  address.sin6_port = htons(static_cast<uint16_t>(port));
  // Where IPv6 is off, the same by IPv4.
  sockaddr_in address4 = {};
  address4.sin_family = AF_INET;
  address4.sin_port = address.sin6_port;
  const bool ipv6 = listener >= 0;
  const int fd =
      ipv6 ? listener : socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return Failure("cannot open a socket");
  const int on = 1;
  const int off = 0;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (ipv6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
  const auto* where = ipv6 ? reinterpret_cast<const sockaddr*>(&address)
                           : reinterpret_cast<const sockaddr*>(&address4);
  const socklen_t where_size = ipv6 ? sizeof(address) : sizeof(address4);
  if (bind(fd, where, where_size) != 0 || listen(fd, SOMAXCONN) != 0) {
    return Failure("cannot listen on port " + std::to_string(port));
  }
  sockaddr_in6 bound = {};
  socklen_t bound_size = sizeof(bound);
  getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &bound_size);
  // The port is at the same place in both kinds of address.
  std::printf("listening on port %d\n", ntohs(bound.sin6_port));
  std::fflush(stdout);

  static ConnectionSlots& slots = *new ConnectionSlots;
  while (true) {
    slots.Take();
    const int connection = accept4(fd, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection < 0) {
      slots.Give();
      // Out of descriptors or memory: what is open now must end first.
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
      }
      continue;
    }
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    std::thread([connection, &handler] {
      ServeConnection(connection, handler);
      slots.Give();
    }).detach();
  }
}

Fetched Get(std::string_view url_text, const std::vector<Header>& headers,
            std::chrono::milliseconds timeout) {
  const SteadyTime deadline = std::chrono::steady_clock::now() + timeout;
  Fetched result;
  const auto url = ParseUrl(url_text);
  if (!url) {
    result.error = "not an http:// URL: " + std::string(url_text);
    return result;
  }
  const int fd = ConnectTo(*url, deadline, result.error);
  if (fd < 0) return result;
  Stream stream(fd);

  std::string request = "GET " + url->target +
                        " HTTP/1.1\r\nHost: " + url->authority +
                        "\r\nConnection: close\r\n";
  for (const Header& header : headers) {
    request += header.name + ": " + header.value + "\r\n";
  }
  request += "\r\n";
  if (!stream.Send(request, deadline)) {
    result.error = "cannot send to " + url->authority;
    return result;
  }

  result.error = "no complete answer from " + url->authority + " within " +
                 std::to_string(timeout.count()) + " ms";
  const auto head = stream.ReadUntil("\r\n\r\n", kMaxHeadBytes, deadline);
  if (!head || head->size() < 12 || head->substr(0, 7) != "HTTP/1.") {
    return result;
  }
  const auto status = ParseSize(std::string_view(*head).substr(9, 3), 10);
  std::vector<Header> response_headers;
  const size_t line_end = head->find("\r\n");
  if (!status || (line_end != std::string::npos &&
                  !ParseHeaders(std::string_view(*head).substr(line_end + 2),
                                response_headers))) {
    return result;
  }
  std::optional<std::string> body;
  const auto length = FindHeader(response_headers, "Content-Length");
  if (FindHeader(response_headers, "Transfer-Encoding")) {
    body = ReadChunked(stream, deadline);
  } else if (length) {
    const auto size = ParseSize(*length, 10);
    if (size && *size <= kMaxBodyBytes) {
      body = stream.ReadExactly(*size, deadline);
    }
  } else {
    body = stream.ReadToEnd(kMaxBodyBytes, deadline);
  }
  if (!body) return result;
  result.error.clear();
  result.status = static_cast<int>(*status);
  result.body = *std::move(body);
  return result;
}

std::string JsonString(std::string_view text) {
  std::string json = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      json += '\\';
      json += c;
    } else if (byte < 0x20 || byte >= 0x7f) {
      constexpr std::string_view kHex = "0123456789abcdef";
      json += "\\u00";
      json += kHex[byte >> 4];
      json += kHex[byte & 15];
    } else {
      json += c;
    }
  }
  return json + '"';
}

std::string EnvironmentOr(const char* name, std::string_view otherwise) {
  // Nothing in these programs changes the environment.
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
  return std::string(
      value == nullptr || *value == '\0' ? otherwise : std::string_view(value));
}

int PortFromEnvironment() {
  const auto port = ParseSize(EnvironmentOr("PORT", "0"), 10);
  return port && *port <= 65535 ? static_cast<int>(*port) : 0;
}

}  // namespace mycelium::examples
