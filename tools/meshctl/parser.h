// Reads a command line against the table of commands.

#ifndef TOOLS_MESHCTL_PARSER_H_
#define TOOLS_MESHCTL_PARSER_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "tools/meshctl/command.h"

namespace mycelium::meshctl {

// Reads `words`, the command line without the program's name. Global flags may
// stand anywhere; `--name=value`, `--name value`, `-n value`, `-nvalue` and
// switches run together (`-vv`) are read; words behind `--` are no flags. An
// empty command line, `--help` and `--version` give a null command or leave
// required arguments unchecked, for the caller to answer.
//
// A usage failure names the word that is wrong, and what was probably meant.
absl::StatusOr<Invocation> ParseCommandLine(
    const std::vector<std::string>& words);

// Whether the global flag --version is given.
bool AsksForVersion(const Invocation& call);

// Whichever of `known` is so near to `word` that it is probably meant; nothing
// if none is.
std::optional<std::string> DidYouMean(absl::string_view word,
                                      const std::vector<std::string>& known);

// `10s`, `1m30s`, `2h`, `1d`, `500ms`, or a bare number of seconds; never
// negative.
std::optional<absl::Duration> ParseDurationFlag(absl::string_view text);

// RFC 3339 with zone, or a duration: so long before `now`.
std::optional<absl::Time> ParseTimeFlag(absl::string_view text, absl::Time now);

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_PARSER_H_
