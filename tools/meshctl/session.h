// One run of meshctl: what was asked, of whom, and where the answer goes.

#ifndef TOOLS_MESHCTL_SESSION_H_
#define TOOLS_MESHCTL_SESSION_H_

#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "tools/meshctl/command.h"
#include "tools/meshctl/console.h"
#include "tools/meshctl/context.h"

namespace mycelium::meshctl {

class MeshClient;

// Everything that meshctl takes from the world around it.
struct Environment {
  Variables variables{{}};
  std::string directory;  // The working directory.
  std::string program;    // The path of this binary.
  // What a person types to call it from here.
  std::string invoked_as = "meshctl";
  Clock* clock = nullptr;
  Sink* out = nullptr;
  Sink* err = nullptr;
  // Whether somebody could answer a question.
  bool interactive = false;
  // Columns of the terminal behind `out`, 0 if it is none.
  size_t terminal_width = 0;
};

// Not thread-safe, but for `console`.
class Session {
 public:
  // All must outlive the session.
  Session(const Invocation& call, const Environment& environment,
          Console& console);
  ~Session();

  const Invocation& call;
  const Environment& environment;
  Console& console;

  absl::StatusOr<const Context*> context();

  // A client of the mesh of the context, in which the services that are
  // `needed` (`fabric`, `repo`, `edge`) have an address.
  absl::StatusOr<MeshClient*> mesh(
      std::initializer_list<absl::string_view> needed);

  // --timeout, or else this.
  absl::Duration TimeoutOr(absl::Duration otherwise) const;

  // The words of an argument list, or empty beyond its end.
  std::string Arg(size_t index) const;

  absl::Time Now() const { return environment.clock->Now(); }

 private:
  std::optional<Context> context_;
  std::unique_ptr<MeshClient> mesh_;
};

// Runs a command line (without the program's name) and returns the exit code.
int RunMeshctl(const std::vector<std::string>& words,
               const Environment& environment);

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_SESSION_H_
