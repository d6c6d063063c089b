// An example of a service that runs on the mesh: it answers /health and /hello.
//
// The agent tells it by the environment which port to listen on and which
// instance of which app it is.

#include <cstdio>
#include <string>

#include "examples/http/http.h"

namespace mycelium::examples {
namespace {

Response Answer(const Request& request) {
  if (request.method != "GET" && request.method != "HEAD") {
    return {.status = 405, .body = "{\"error\":\"only GET\"}\n"};
  }
  if (request.path == "/health") return {.body = "{\"status\":\"ok\"}\n"};
  if (request.path != "/hello") {
    return {.status = 404,
            .body = "{\"error\":\"no such path\",\"path\":" +
                    JsonString(request.path) + "}\n"};
  }
  return {.body =
              "{\"app\":" + JsonString(EnvironmentOr("MYCELIUM_APP", "")) +
              ",\"instance\":" +
              JsonString(EnvironmentOr("MYCELIUM_INSTANCE", "")) +
              ",\"node\":" + JsonString(EnvironmentOr("MYCELIUM_NODE", "")) +
              ",\"message\":" +
              JsonString(EnvironmentOr("GREETING", "hello from billing")) +
              "}\n"};
}

}  // namespace
}  // namespace mycelium::examples

int main() {
  namespace examples = mycelium::examples;
  const std::string error =
      examples::Serve(examples::PortFromEnvironment(), examples::Answer);
  std::fprintf(stderr, "billing: %s\n", error.c_str());
  return 1;
}
