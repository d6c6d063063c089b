// HTTP/1.1 as far as the example services need it: plain sockets, one thread
// for each connection, no dependency but the standard library.

#ifndef EXAMPLES_HTTP_HTTP_H_
#define EXAMPLES_HTTP_HTTP_H_

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mycelium::examples {

struct Header {
  std::string name;
  std::string value;
};

struct Request {
  std::string method;
  // Without the query, such as `/hello`.
  std::string path;
  std::string query;
  std::vector<Header> headers;
  // At most 1 MiB; a longer one is answered with 413 before the handler runs.
  std::string body;

  // Value of the first header of this name, whatever its case; nothing if there
  // is none.
  std::optional<std::string_view> Find(std::string_view name) const;
};

struct Response {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
};

// Answers a request. Called on the thread of the connection, so several run at
// a time.
using Handler = std::function<Response(const Request&)>;

// Listens on every address and serves until the process ends, which SIGTERM and
// SIGINT bring about at once, with status 0. Returns only if it cannot listen:
// what failed, in words. `port` 0 picks a free one; the port is printed.
//
// At most 512 connections are served at a time; more wait in the kernel's
// queue. A connection that is idle for 75 s is closed.
std::string Serve(int port, const Handler& handler);

// What came of a request to another server.
struct Fetched {
  // 0 if there was no complete answer; `error` says why.
  int status = 0;
  std::string body;
  std::string error;
};

// GETs `url` (`http://HOST[:PORT]/PATH`) with these headers besides Host, and
// gives up after `timeout`, all steps together. Bodies of more than 1 MiB are
// an error.
Fetched Get(std::string_view url, const std::vector<Header>& headers,
            std::chrono::milliseconds timeout);

// `text` as a JSON string, quotes included. Bytes that are not printable ASCII
// are escaped one by one.
std::string JsonString(std::string_view text);

// The environment variable, or `otherwise` if it is unset or empty.
std::string EnvironmentOr(const char* name, std::string_view otherwise);

// The port that the agent chose for this instance: PORT, or else 0.
int PortFromEnvironment();

}  // namespace mycelium::examples

#endif  // EXAMPLES_HTTP_HTTP_H_
