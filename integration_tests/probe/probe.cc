// The app of the integration tests: it says what it was given and does on
// request what apps do to those that run them. It has no shutdown code.

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <thread>

#include "examples/http/http.h"

namespace mycelium {
namespace {

using examples::JsonString;

// What the process was started with, as JSON members.
std::string& Arguments() {
  static std::string* const arguments = new std::string();
  return *arguments;
}

// The number after `name=` in the query, or 0.
int NumberIn(const std::string& query, std::string_view name) {
  const std::string key = std::string(name) + "=";
  const size_t at = query.find(key);
  return at == std::string::npos ? 0 : std::atoi(&query[at + key.size()]);
}

std::string Environment() {
  std::string json = "{";
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    if (json.size() > 1) json += ",";
    json += JsonString(text.substr(0, equals)) + ":" +
            JsonString(text.substr(equals + 1));
  }
  return json + "}";
}

// `/` and everything that is not below: which instance of what this is.
std::string Identity() {
  return "{\"app\":" + JsonString(examples::EnvironmentOr("MYCELIUM_APP", "")) +
         ",\"instance\":" +
         JsonString(examples::EnvironmentOr("MYCELIUM_INSTANCE", "")) +
         ",\"node\":" +
         JsonString(examples::EnvironmentOr("MYCELIUM_NODE", "")) +
         ",\"version\":" + JsonString(examples::EnvironmentOr("VERSION", "")) +
         ",\"pid\":" + std::to_string(getpid()) + "}\n";
}

examples::Response Answer(const examples::Request& request) {
  if (request.path == "/started") {
    return {.body = "{\"args\":[" + Arguments() + "],\"env\":" + Environment() +
                    "}\n"};
  }
  if (request.path == "/slow") {
    std::this_thread::sleep_for(
        std::chrono::milliseconds(NumberIn(request.query, "ms")));
  }
  if (request.path == "/unhealthy") return {.status = 500};
  if (request.path == "/exit") _exit(NumberIn(request.query, "code"));
  if (request.path == "/say") {
    std::printf("%s\n", request.body.c_str());
    std::fflush(stdout);
    std::fprintf(stderr, "%s (stderr)\n", request.body.c_str());
  }
  if (request.path == "/echo") return {.body = request.body};
  return {.body = Identity()};
}

}  // namespace
}  // namespace mycelium

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    mycelium::Arguments() +=
        (i > 1 ? "," : "") + mycelium::examples::JsonString(argv[i]);
  }
  std::printf("probe %s is up\n",
              mycelium::examples::EnvironmentOr("VERSION", "").c_str());
  std::fflush(stdout);
  // No other thread runs yet.
  // NOLINTNEXTLINE(concurrency-mt-unsafe)
  if (std::getenv("FAIL_AT_START") != nullptr) {
    std::fprintf(stderr, "probe: told to fail\n");
    return 3;
  }
  const std::string error = mycelium::examples::Serve(
      mycelium::examples::PortFromEnvironment(), mycelium::Answer);
  std::fprintf(stderr, "probe: %s\n", error.c_str());
  return 1;
}
