// An example of a service that calls another one: /hello asks billing through
// the edge, as any client of the mesh would, and shows both answers.

#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "examples/http/http.h"

namespace mycelium::examples {
namespace {

constexpr std::chrono::milliseconds kTimeout(2000);

std::string WithoutNewline(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

std::string Identity() {
  return "\"app\":" + JsonString(EnvironmentOr("MYCELIUM_APP", "")) +
         ",\"instance\":" + JsonString(EnvironmentOr("MYCELIUM_INSTANCE", "")) +
         ",\"node\":" + JsonString(EnvironmentOr("MYCELIUM_NODE", ""));
}

Response Hello(const Request& request) {
  const std::string url =
      EnvironmentOr("EDGE_URL", "http://127.0.0.1:8080/billing/hello");
  // Whoever follows a request through the mesh needs its id on every hop.
  std::vector<Header> headers;
  for (const char* name : {"X-Request-Id", "Traceparent"}) {
    if (const auto value = request.Find(name)) {
      headers.push_back({name, std::string(*value)});
    }
  }
  const Fetched billing = Get(url, headers, kTimeout);
  if (billing.status == 200) {
    return {.body = "{" + Identity() +
                    ",\"billing\":" + WithoutNewline(billing.body) + "}\n"};
  }
  const std::string why =
      billing.status == 0
          ? billing.error
          : "billing answered " + std::to_string(billing.status);
  return {.status = 502,
          .body = "{" + Identity() + ",\"error\":" + JsonString(why) +
                  ",\"url\":" + JsonString(url) + "}\n"};
}

Response Answer(const Request& request) {
  if (request.method != "GET" && request.method != "HEAD") {
    return {.status = 405, .body = "{\"error\":\"only GET\"}\n"};
  }
  if (request.path == "/health") return {.body = "{\"status\":\"ok\"}\n"};
  if (request.path == "/hello") return Hello(request);
  return {.status = 404,
          .body = "{\"error\":\"no such path\",\"path\":" +
                  JsonString(request.path) + "}\n"};
}

}  // namespace
}  // namespace mycelium::examples

int main() {
  namespace examples = mycelium::examples;
  const std::string error =
      examples::Serve(examples::PortFromEnvironment(), examples::Answer);
  std::fprintf(stderr, "frontend: %s\n", error.c_str());
  return 1;
}
