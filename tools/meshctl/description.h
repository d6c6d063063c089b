// What is to be packed and planned, as a mesh.toml or flags describe it.

#ifndef TOOLS_MESHCTL_DESCRIPTION_H_
#define TOOLS_MESHCTL_DESCRIPTION_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/spore/json.h"
#include "lib/spore/pack.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "tools/meshctl/command.h"
#include "tools/meshctl/context.h"

namespace mycelium::meshctl {

struct Description {
  // Manifest, binary and files; ready for spore::Pack once checked.
  spore::PackOptions pack;
  // The [plan] table as members of a Plan, without app and digest; null if
  // there is none.
  std::optional<spore::JsonValue> plan;
  // `path` of the [run] table: what `run` asks the app for, and shows.
  std::string open_path;

  // Name and version, empty if they are not given.
  std::string name() const;
  std::string version() const;
};

// The file that `path` means: itself, or mesh.toml in it if it is a directory.
std::string DescriptionFile(const std::string& path);

// Reads a mesh.toml, or a .json file with the same members:
//
//   name, version, command, args, env, health, nutrients, provides, slo,
//   security, labels, secrets, config, critical, expires_at: as in a manifest
//   binary: the executable, relative to the file
//   files:  a list of {path, source, exec}; source relative to the file
//   plan:   {min, max, port, strategy, placement}
//   run:    {path}: what `meshctl run` asks the app for, and shows as its URL
//
// `${MESH_NAME:-otherwise}` in values of env is taken from `variables`.
//
// NotFound: there is no such file. Usage failures name the member.
absl::StatusOr<Description> ReadDescription(const std::string& path,
                                            const Variables& variables);

// Adds what the flags of `build` say, which wins over what is there, and what
// follows from the rest, such as the command from the binary. `now` is the time
// of creation unless SOURCE_DATE_EPOCH is set.
//
// A usage failure names what is still missing.
absl::Status CompleteDescription(const Invocation& call,
                                 const Variables& variables, absl::Time now,
                                 Description& description);

// Puts what the [plan] table says into `plan`. Usage failures name the member.
absl::Status ApplyPlanTable(const spore::JsonValue& table,
                            fabric::v1::Plan& plan);

// Reads a whole plan in proto3 JSON. Usage failures say where it is wrong.
absl::StatusOr<fabric::v1::Plan> ParsePlanJson(const std::string& text);

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_DESCRIPTION_H_
