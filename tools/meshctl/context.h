// Which mesh a command talks to, and where each part of the answer came from.

#ifndef TOOLS_MESHCTL_CONTEXT_H_
#define TOOLS_MESHCTL_CONTEXT_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "tools/meshctl/command.h"

namespace mycelium::meshctl {

// The environment variable, empty if unset.
class Variables {
 public:
  explicit Variables(std::map<std::string, std::string> values)
      : values_(std::move(values)) {}

  std::string Get(absl::string_view name) const;
  bool Has(absl::string_view name) const;

 private:
  std::map<std::string, std::string> values_;
};

// A setting with where it was found: a flag, a variable, a file and line.
struct Setting {
  std::string name;
  std::string value;
  std::string source;
};

// The local mesh of a directory, as `meshctl run` describes it in
// `.mesh/mesh.json` while it runs.
struct LocalMesh {
  std::string directory;  // The `.mesh` directory.
  int64_t pid = 0;        // Of the supervisor.
  std::string fabric;
  std::string repo;
  std::string edge;  // Its gRPC address.
  std::string url;   // Where it takes requests.
  std::string key_file;
  std::string trust_store;
};

class Context {
 public:
  // Finds every setting: flags win over variables, these over the context (the
  // named one, or the one that config.toml calls `current`, or else the local
  // mesh that runs in `directory` or above it).
  //
  // A usage failure when a named context does not exist or config.toml is
  // wrong.
  static absl::StatusOr<Context> Resolve(const Invocation& call,
                                         const Variables& variables,
                                         const std::string& directory);

  // Name of the context, such as `prod` or `dev (local)`; empty if there is
  // none.
  const std::string& name() const { return name_; }
  const std::vector<Setting>& settings() const { return settings_; }
  const std::optional<LocalMesh>& local() const { return local_; }
  // A local mesh that was found but does not run.
  const std::string& stopped_local() const { return stopped_local_; }

  // The value of a setting (`fabric`, `repo`, `edge`, `key-file`,
  // `trust-store`, `tls-cert`, `tls-key`, `tls-ca`), empty if there is none.
  std::string Get(absl::string_view name) const;

  // The value, or a failure that says how to set it.
  absl::StatusOr<std::string> Require(absl::string_view name) const;

  // Names of the contexts in config.toml, the file, and the current one.
  struct Known {
    std::string file;
    std::string current;
    std::vector<std::vector<Setting>> contexts;
    std::vector<std::string> names;
  };
  static absl::StatusOr<Known> List(const Variables& variables);

 private:
  std::string name_;
  std::vector<Setting> settings_;
  std::optional<LocalMesh> local_;
  std::string stopped_local_;
};

// The `.mesh` directory of `directory` or the nearest one above it; empty if
// there is none.
std::string FindMeshDirectory(const std::string& directory);

// Reads a `.mesh` directory. NotFound: no mesh runs there.
absl::StatusOr<LocalMesh> ReadLocalMesh(const std::string& mesh_directory);

// Whether a supervisor holds the lock of a `.mesh` directory.
bool IsMeshLocked(const std::string& mesh_directory);

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_CONTEXT_H_
