// The part of TOML that mesh.toml and config.toml are written in.

#ifndef TOOLS_MESHCTL_TOML_H_
#define TOOLS_MESHCTL_TOML_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "lib/spore/json.h"

namespace mycelium::meshctl {

// Reads TOML 1.0 without dates and multi-line strings: tables, arrays of
// tables, dotted and quoted keys, basic and literal strings, integers, floats,
// booleans, arrays over several lines, inline tables.
//
// InvalidArgument: says in which line what is wrong.
absl::StatusOr<spore::JsonValue> ParseToml(absl::string_view text);

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_TOML_H_
