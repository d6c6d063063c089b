// A load generator for the edge's bench: one thread, one epoll.
//
//   closed loop   --rate=0: every connection asks again as soon as it has its
//                 answer; shows what a request costs and how many fit.
//   open loop     --rate=N: requests arrive on a fixed schedule, whether or not
//                 the ones before them are answered. Latency counts from the
//                 time a request was due, so a stall is charged to all that it
//                 held up (no coordinated omission).
//   idle          --idle: every connection asks once and then stays open until
//                 standard input ends; prints a line when all are there.
//
// Every response is checked: status 200 and exactly --expect_bytes of body by
// Content-Length. Prints one line of JSON: counts, errors, the latencies, and
// the processor time that --pids used within the same window.

#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "gflags/gflags.h"

DEFINE_int32(port, 0, "port on 127.0.0.1 to ask");
DEFINE_int32(connections, 64, "connections, all at once");
DEFINE_double(seconds, 1, "that are measured");
DEFINE_double(warmup_seconds, 0.2, "before, once every connection has asked");
DEFINE_int32(rate, 0, "requests per second; 0: a closed loop");
DEFINE_bool(new_connections, false, "a connection for each request");
DEFINE_bool(idle, false, "ask once on every connection, then hold them");
DEFINE_string(path, "/app/", "to ask for");
DEFINE_int32(post_bytes, 0, "of a body to send; 0: GET");
DEFINE_int32(expect_bytes, 20, "of the response's body");
DEFINE_bool(tls, false, "speak TLS");
DEFINE_bool(resume, false, "resume TLS sessions on new connections");
DEFINE_string(pids, "", "processes whose processor time is counted");
DEFINE_string(helper_pids, "", "processes that take part otherwise");
DEFINE_string(cores, "", "cores that nothing else should use");

namespace {

constexpr int64_t kSecond = 1'000'000'000;
// Source addresses 127.0.0.2 and on: each has ports of its own.
constexpr uint32_t kSourceAddresses = 64;

int64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kSecond + now.tv_nsec;
}

// Nanoseconds on a processor, user and system, of all threads of `pid`.
int64_t CpuNs(int pid) {
  const std::string directory = absl::StrCat("/proc/", pid, "/task");
  const std::unique_ptr<DIR, int (*)(DIR*)> tasks(opendir(directory.c_str()),
                                                  closedir);
  if (tasks == nullptr) return 0;
  int64_t total = 0;
  // One thread reads this stream.
  // NOLINTNEXTLINE(concurrency-mt-unsafe)
  while (const dirent* const task = readdir(tasks.get())) {
    if (task->d_name[0] == '.') continue;
    const std::string path =
        absl::StrCat(directory, "/", task->d_name, "/schedstat");
    const std::unique_ptr<FILE, int (*)(FILE*)> file(fopen(path.c_str(), "re"),
                                                     fclose);
    if (file == nullptr) continue;
    std::array<char, 64> text{};
    if (fgets(text.data(), text.size(), file.get()) == nullptr) continue;
    int64_t on_cpu = 0;
    const absl::string_view line(text.data());
    if (absl::SimpleAtoi(line.substr(0, line.find(' ')), &on_cpu))
      total += on_cpu;
  }
  return total;
}

// Nanoseconds that `cores` were not idle, those taken by a hypervisor included.
int64_t BusyNs(const std::vector<int>& cores) {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(fopen("/proc/stat", "re"),
                                                   fclose);
  if (file == nullptr) return 0;
  int64_t ticks = 0;
  std::array<char, 512> text{};
  while (fgets(text.data(), text.size(), file.get()) != nullptr) {
    const std::vector<absl::string_view> fields =
        absl::StrSplit(text.data(), ' ', absl::SkipEmpty());
    for (const int core : cores) {
      if (fields[0] != absl::StrCat("cpu", core)) continue;
      // user, nice, system, irq, softirq, steal.
      for (const size_t field : {1, 2, 3, 6, 7, 8}) {
        int64_t value = 0;
        if (absl::SimpleAtoi(fields[field], &value)) ticks += value;
      }
    }
  }
  return ticks * (kSecond / sysconf(_SC_CLK_TCK));
}

// Log-linear: every power of two is cut into 128, so a value is known to 0.8 %.
class Histogram {
 public:
  void Add(int64_t ns) {
    const auto value = static_cast<uint64_t>(std::max<int64_t>(ns, 0));
    ++counts_[IndexOf(value)];
    ++total_;
    max_ns_ = std::max(max_ns_, ns);
  }
  int64_t total() const { return total_; }
  double max_us() const { return static_cast<double>(max_ns_) / 1000; }
  double QuantileUs(double quantile) const {
    const auto rank =
        static_cast<int64_t>(quantile * static_cast<double>(total_));
    int64_t seen = 0;
    for (size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen > rank) return static_cast<double>(MiddleOf(i)) / 1000;
    }
    return max_us();
  }

 private:
  static constexpr int kBits = 7;

  static size_t IndexOf(uint64_t value) {
    if (value < (uint64_t{1} << kBits)) return value;
    const int shift = 63 - __builtin_clzll(value) - kBits;
    return (static_cast<size_t>(shift + 1) << kBits) +
           static_cast<size_t>((value >> shift) - (uint64_t{1} << kBits));
  }
  static uint64_t MiddleOf(size_t index) {
    if (index < (size_t{1} << kBits)) return index;
    const size_t shift = (index >> kBits) - 1;
    const uint64_t mantissa =
        (index & ((size_t{1} << kBits) - 1)) + (uint64_t{1} << kBits);
    return (mantissa << shift) + ((uint64_t{1} << shift) >> 1);
  }

  std::vector<int64_t> counts_ =
      std::vector<int64_t>(static_cast<size_t>(64 - kBits + 1) << kBits);
  int64_t total_ = 0;
  int64_t max_ns_ = 0;
};

struct Errors {
  int64_t connect = 0;
  int64_t closed = 0;  // Before the response was whole.
  int64_t status = 0;
  int64_t length = 0;
  int64_t tls = 0;

  int64_t total() const { return connect + closed + status + length + tls; }
};

enum class State : uint8_t {
  kClosed,
  kConnecting,
  kHandshaking,
  kIdle,
  kAsking,
  kEnding,  // The response is whole; the peer's end is not there yet.
};

struct Connection {
  int fd = -1;
  State state = State::kClosed;
  std::unique_ptr<SSL, void (*)(SSL*)> ssl{nullptr, SSL_free};
  bool has_request = false;  // To be sent as soon as there is a connection.
  bool asked_once = false;
  int64_t due_ns = 0;
  size_t sent = 0;
  std::string head;
  bool head_done = false;
  int64_t body_left = 0;
};

class Generator {
 public:
  Generator() : connections_(static_cast<size_t>(FLAGS_connections)) {
    request_ =
        absl::StrCat(FLAGS_post_bytes > 0 ? "POST " : "GET ", FLAGS_path,
                     " HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: "
                     "load/1\r\nAccept: */*\r\n",
                     FLAGS_new_connections ? "Connection: close\r\n" : "");
    if (FLAGS_post_bytes > 0)
      absl::StrAppend(&request_, "Content-Length: ", FLAGS_post_bytes, "\r\n");
    absl::StrAppend(&request_, "\r\n",
                    std::string(static_cast<size_t>(FLAGS_post_bytes), 'x'));
    pids_ = Numbers(FLAGS_pids);
    helper_pids_ = Numbers(FLAGS_helper_pids);
    helper_pids_.push_back(getpid());
    cores_ = Numbers(FLAGS_cores);
    if (FLAGS_tls) {
      tls_.reset(SSL_CTX_new(TLS_client_method()));
      SSL_CTX_set_verify(tls_.get(), SSL_VERIFY_NONE, nullptr);
      SSL_CTX_set_read_ahead(tls_.get(), 1);
      SSL_CTX_set_mode(tls_.get(), SSL_MODE_ENABLE_PARTIAL_WRITE |
                                       SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                       SSL_MODE_RELEASE_BUFFERS);
      SSL_CTX_set_session_cache_mode(
          tls_.get(), SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
      SSL_CTX_set_app_data(tls_.get(), this);
      if (FLAGS_resume) {
        SSL_CTX_sess_set_new_cb(tls_.get(), [](SSL* ssl, SSL_SESSION* session) {
          auto* const self = static_cast<Generator*>(
              SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
          self->session_.reset(session);
          return 1;
        });
      }
    }
  }

  int Run() {
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    for (Connection& connection : connections_) free_.push_back(&connection);
    if (FLAGS_idle) return HoldIdle();

    // Every connection asks once before anything counts.
    const int64_t give_up = NowNs() + 30 * kSecond;
    warm_ = 0;
    size_t begun = 0;
    while (warm_ < connections_.size()) {
      while (begun < connections_.size() && begun - warm_ < 64) {
        Connection* const connection = &connections_[begun++];
        free_.pop_front();
        Begin(connection, NowNs());
      }
      Poll(kSecond / 10);
      if (NowNs() > give_up) {
        std::fprintf(stderr, "%zu of %zu connections had no answer\n",
                     connections_.size() - warm_, connections_.size());
        break;
      }
    }

    const int64_t start = NowNs();
    next_due_ns_ = start;
    load_ = true;
    const int64_t warm_until =
        start + static_cast<int64_t>(FLAGS_warmup_seconds * kSecond);
    RunUntil(warm_until);
    const int64_t cpu_before = Cpu(pids_);
    const int64_t helpers_before = Cpu(helper_pids_);
    const int64_t busy_before = BusyNs(cores_);
    const int64_t from = NowNs();
    measuring_ = true;
    RunUntil(from + static_cast<int64_t>(FLAGS_seconds * kSecond));
    measuring_ = false;
    const int64_t to = NowNs();
    const int64_t cpu = Cpu(pids_) - cpu_before;
    if (!cores_.empty()) {
      foreign_ns_ = BusyNs(cores_) - busy_before - cpu -
                    (Cpu(helper_pids_) - helpers_before);
    }
    // What was due and is not answered would be missing from the tail.
    for (const int64_t due : backlog_) histogram_.Add(to - due);
    if (FLAGS_rate > 0) {
      for (const Connection& connection : connections_) {
        if (connection.state == State::kAsking && connection.due_ns < to)
          histogram_.Add(to - connection.due_ns);
      }
    }
    Print(static_cast<double>(to - from) / kSecond, cpu);
    return 0;
  }

 private:
  static std::vector<int> Numbers(absl::string_view list) {
    std::vector<int> numbers;
    for (const absl::string_view text :
         absl::StrSplit(list, ',', absl::SkipEmpty())) {
      int number = 0;
      if (absl::SimpleAtoi(text, &number)) numbers.push_back(number);
    }
    return numbers;
  }

  static int64_t Cpu(const std::vector<int>& pids) {
    int64_t total = 0;
    for (const int pid : pids) total += CpuNs(pid);
    return total;
  }

  void Print(double seconds, int64_t cpu_ns) const {
    const auto number = [](absl::string_view name, double value) {
      return absl::StrFormat("\"%s\":%.1f,", name, value);
    };
    const std::string line = absl::StrCat(
        "{", number("cpu_us", static_cast<double>(cpu_ns) / 1000),
        number("foreign_us", static_cast<double>(foreign_ns_) / 1000),
        number("p50_us", histogram_.QuantileUs(0.5)),
        number("p99_us", histogram_.QuantileUs(0.99)),
        number("p999_us", histogram_.QuantileUs(0.999)),
        number("max_us", histogram_.max_us()), "\"requests\":", requests_,
        ",\"seconds\":", seconds, ",\"backlog\":", backlog_.size(),
        ",\"resumed\":", resumed_, ",\"errors\":", errors_.total(),
        ",\"connect\":", errors_.connect, ",\"closed\":", errors_.closed,
        ",\"status\":", errors_.status, ",\"length\":", errors_.length,
        ",\"tls\":", errors_.tls, "}");
    std::puts(line.c_str());
    std::fflush(stdout);
  }

  int HoldIdle() {
    const int64_t give_up = NowNs() + 60 * kSecond;
    size_t begun = 0;
    while (warm_ < connections_.size() && errors_.total() == 0 &&
           NowNs() < give_up) {
      // Few at a time, so that the proxy needs few connections to the origin.
      while (begun < connections_.size() && begun - warm_ < 16) {
        free_.pop_front();
        Begin(&connections_[begun++], NowNs());
      }
      Poll(kSecond / 10);
    }
    Print(0, 0);
    std::array<char, 16> bytes;
    while (read(STDIN_FILENO, bytes.data(), bytes.size()) > 0) {
    }
    while (Poll(0) > 0) {
    }
    int64_t open = 0;
    for (const Connection& connection : connections_)
      open += connection.state == State::kIdle ? 1 : 0;
    std::printf("{\"open\":%lld}\n", static_cast<long long>(open));
    return 0;
  }

  void RunUntil(int64_t end_ns) {
    for (;;) {
      int64_t now = NowNs();
      if (now >= end_ns) return;
      int64_t wait = end_ns - now;
      if (FLAGS_rate > 0) {
        const int64_t interval = kSecond / FLAGS_rate;
        while (next_due_ns_ <= now) {
          backlog_.push_back(next_due_ns_);
          next_due_ns_ += interval;
        }
        while (!backlog_.empty() && !free_.empty()) {
          Connection* const connection = free_.front();
          free_.pop_front();
          const int64_t due = backlog_.front();
          backlog_.pop_front();
          Begin(connection, due);
        }
        now = NowNs();
        wait = std::clamp<int64_t>(next_due_ns_ - now, 0, wait);
      } else {
        while (!free_.empty()) {
          Connection* const connection = free_.front();
          free_.pop_front();
          Begin(connection, now);
        }
      }
      Poll(wait);
    }
  }

  int Poll(int64_t wait_ns) {
    std::array<epoll_event, 256> events;
    const timespec wait{wait_ns / kSecond, wait_ns % kSecond};
    const int count = epoll_pwait2(
        epoll_, events.data(), static_cast<int>(events.size()), &wait, nullptr);
    for (int i = 0; i < count; ++i)
      OnEvent(static_cast<Connection*>(events[i].data.ptr), events[i].events);
    return count;
  }

  // Sends a request that was due at `due_ns` on `connection`.
  void Begin(Connection* connection, int64_t due_ns) {
    connection->due_ns = due_ns;
    connection->sent = 0;
    connection->head.clear();
    connection->head_done = false;
    connection->has_request = true;
    if (connection->state == State::kClosed) {
      Connect(connection);
      return;
    }
    connection->state = State::kAsking;
    Send(connection);
  }

  void Connect(Connection* connection) {
    const int fd =
        socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
      std::perror("socket");
      // NOLINTNEXTLINE(concurrency-mt-unsafe): there is one thread.
      std::exit(1);
    }
    connection->fd = fd;
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    sockaddr_in from{};
    from.sin_family = AF_INET;
    from.sin_addr.s_addr =
        htonl(INADDR_LOOPBACK + 1 + source_++ % kSourceAddresses);
    if (bind(fd, reinterpret_cast<const sockaddr*>(&from), sizeof(from)) != 0)
      return Fail(connection, &errors_.connect);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(static_cast<uint16_t>(FLAGS_port));
    if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) != 0 &&
        errno != EINPROGRESS) {
      return Fail(connection, &errors_.connect);
    }
    connection->state = State::kConnecting;
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    event.data.ptr = connection;
    epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
  }

  void OnEvent(Connection* connection, uint32_t events) {
    if (connection->state == State::kConnecting) {
      if ((events & (EPOLLERR | EPOLLHUP)) != 0)
        return Fail(connection, &errors_.connect);
      if ((events & EPOLLOUT) == 0) return;
      if (tls_ != nullptr) {
        connection->ssl.reset(SSL_new(tls_.get()));
        SSL_set_fd(connection->ssl.get(), connection->fd);
        SSL_set_tlsext_host_name(connection->ssl.get(), "bench.test");
        SSL_set_connect_state(connection->ssl.get());
        if (FLAGS_resume && session_ != nullptr)
          SSL_set_session(connection->ssl.get(), session_.get());
        connection->state = State::kHandshaking;
      } else {
        connection->state = State::kAsking;
        return Send(connection);
      }
    }
    if (connection->state == State::kHandshaking) {
      const int result = SSL_do_handshake(connection->ssl.get());
      if (result != 1) {
        const int error = SSL_get_error(connection->ssl.get(), result);
        if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)
          Fail(connection, &errors_.tls);
        return;
      }
      if (SSL_session_reused(connection->ssl.get()) == 1) ++resumed_;
      connection->state = State::kAsking;
      return Send(connection);
    }
    if (connection->state == State::kAsking &&
        connection->sent < request_.size() && (events & EPOLLOUT) != 0) {
      Send(connection);
    }
    if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
      Receive(connection);
  }

  void Send(Connection* connection) {
    while (connection->sent < request_.size()) {
      const char* const data = request_.data() + connection->sent;
      const size_t size = request_.size() - connection->sent;
      ssize_t sent = 0;
      if (connection->ssl != nullptr) {
        size_t written = 0;
        if (SSL_write_ex(connection->ssl.get(), data, size, &written) != 1)
          return;  // A failure shows when reading.
        sent = static_cast<ssize_t>(written);
      } else {
        sent = send(connection->fd, data, size, MSG_NOSIGNAL);
        if (sent < 0) return;
      }
      connection->sent += static_cast<size_t>(sent);
    }
  }

  // As recv: bytes, 0 at the end, -1 with errno EAGAIN.
  ssize_t Read(Connection* connection, size_t size) {
    if (connection->ssl != nullptr) {
      size_t got = 0;
      if (SSL_read_ex(connection->ssl.get(), buffer_.data(),
                      std::min(size, buffer_.size()), &got) == 1) {
        return static_cast<ssize_t>(got);
      }
      const int error = SSL_get_error(connection->ssl.get(), 0);
      if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
        errno = EAGAIN;
        return -1;
      }
      return 0;
    }
    // Of a large body the kernel need not copy what only its length is known
    // of; that leaves the core to the origin.
    if (connection->head_done && connection->body_left > 4096) {
      return recv(connection->fd, nullptr,
                  static_cast<size_t>(connection->body_left), MSG_TRUNC);
    }
    return recv(connection->fd, buffer_.data(), buffer_.size(), 0);
  }

  void Receive(Connection* connection) {
    for (;;) {
      if (connection->fd < 0) return;
      const ssize_t got = Read(connection, buffer_.size());
      if (got < 0) {
        if (errno == EAGAIN || errno == EINTR) return;
        return Ended(connection);
      }
      if (got == 0) return Ended(connection);
      if (connection->state != State::kAsking) {
        // Nobody asked for these.
        return Fail(connection, &errors_.length);
      }
      auto size = static_cast<size_t>(got);
      if (!connection->head_done) {
        const size_t before = connection->head.size();
        connection->head.append(buffer_.data(), size);
        const size_t end = connection->head.find("\r\n\r\n");
        if (end == std::string::npos) continue;
        if (!TakeHead(connection,
                      absl::string_view(connection->head).substr(0, end + 2))) {
          return;
        }
        size -= end + 4 - before;
      }
      connection->body_left -= static_cast<int64_t>(size);
      if (connection->body_left < 0) return Fail(connection, &errors_.length);
      if (connection->body_left == 0) Finish(connection);
      // A connection of one request still has its end to read.
      if (connection->state == State::kIdle ||
          (connection->state == State::kAsking && connection->ssl == nullptr &&
           !connection->head_done)) {
        return;
      }
    }
  }

  bool TakeHead(Connection* connection, absl::string_view head) {
    if (!absl::StartsWith(head, "HTTP/1.1 200 ")) {
      Fail(connection, &errors_.status);
      return false;
    }
    int64_t length = -1;
    for (const absl::string_view line : absl::StrSplit(head, "\r\n")) {
      if (absl::StartsWithIgnoreCase(line, "content-length:") &&
          !absl::SimpleAtoi(line.substr(15), &length)) {
        length = -1;
      }
    }
    if (length != FLAGS_expect_bytes) {
      Fail(connection, &errors_.length);
      return false;
    }
    connection->head_done = true;
    connection->body_left = length;
    return true;
  }

  void Finish(Connection* connection) {
    if (!connection->asked_once) {
      connection->asked_once = true;
      ++warm_;
    }
    if (measuring_) {
      ++requests_;
      histogram_.Add(NowNs() - connection->due_ns);
    }
    connection->has_request = false;
    if (FLAGS_new_connections) {
      connection->state = State::kEnding;
      return;
    }
    connection->state = State::kIdle;
    Reuse(connection);
  }

  void Reuse(Connection* connection) {
    if (load_ && FLAGS_rate == 0) {
      Begin(connection, NowNs());
    } else if (load_ && !backlog_.empty()) {
      const int64_t due = backlog_.front();
      backlog_.pop_front();
      Begin(connection, due);
    } else {
      free_.push_back(connection);
    }
  }

  // The peer has closed.
  void Ended(Connection* connection) {
    if (connection->state == State::kEnding) {
      Close(connection);
      return Reuse(connection);
    }
    if (connection->state == State::kIdle) {
      // Between requests a server may; but it is in free_ already.
      Close(connection);
      ++errors_.closed;
      return;
    }
    Fail(connection, &errors_.closed);
  }

  void Fail(Connection* connection, int64_t* counter) {
    ++*counter;
    // Many failures mean that nothing here can be measured.
    if (errors_.total() > 1000) {
      Print(0, 0);
      // NOLINTNEXTLINE(concurrency-mt-unsafe): there is one thread.
      std::exit(1);
    }
    const bool free = connection->state == State::kIdle;
    Close(connection);
    if (!free) free_.push_back(connection);
  }

  static void Close(Connection* connection) {
    connection->ssl.reset();
    if (connection->fd >= 0) close(connection->fd);
    connection->fd = -1;
    connection->state = State::kClosed;
  }

  struct SessionDeleter {
    void operator()(SSL_SESSION* session) const { SSL_SESSION_free(session); }
  };
  struct ContextDeleter {
    void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
  };

  std::string request_;
  std::vector<int> pids_;
  std::vector<int> helper_pids_;
  std::vector<int> cores_;
  int64_t foreign_ns_ = 0;  // Used on the cores by nobody of ours.
  std::unique_ptr<SSL_CTX, ContextDeleter> tls_;
  std::unique_ptr<SSL_SESSION, SessionDeleter> session_;
  int epoll_ = -1;
  uint32_t source_ = 0;
  std::vector<Connection> connections_;
  std::deque<Connection*> free_;  // Closed or idle, first in, first out.
  std::deque<int64_t> backlog_;   // When requests were due that wait for one.
  int64_t next_due_ns_ = 0;
  size_t warm_ = 0;
  bool load_ = false;
  bool measuring_ = false;
  int64_t requests_ = 0;
  int64_t resumed_ = 0;
  Errors errors_;
  Histogram histogram_;
  std::array<char, 65536> buffer_{};
};

}  // namespace

int main(int argc, char** argv) {
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  signal(SIGPIPE, SIG_IGN);
  // The default of 50 us would be added to every arrival.
  prctl(PR_SET_TIMERSLACK, 1UL);
  if (FLAGS_rate > 0) {
    // The origin shares the core. Its time slices are not the proxy's latency,
    // so what is due or has arrived comes first.
    const sched_param priority{.sched_priority = 1};
    if (sched_setscheduler(0, SCHED_FIFO, &priority) != 0)
      std::perror("latencies include waiting for the core: sched_setscheduler");
  }
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  return std::make_unique<Generator>()->Run();
}
