// What meshctl says about itself, made from the table of commands.

#ifndef TOOLS_MESHCTL_HELP_H_
#define TOOLS_MESHCTL_HELP_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tools/meshctl/command.h"

namespace mycelium::meshctl {

// What `meshctl` alone prints: what it is for, and every command by group.
std::string OverviewText();

// `meshctl help COMMAND`.
std::string CommandHelp(const Command& command);

// `meshctl help TOPIC`; empty if there is no such topic.
std::string TopicHelp(absl::string_view name);

// All of it as Markdown: docs/cli.md.
std::string MarkdownReference();

// A completion script. `shell` is bash, zsh or fish.
std::string CompletionScript(absl::string_view shell);

// What could come last on the command line `words`, the last of which is
// unfinished (and may be empty). Each line is a candidate; a line that begins
// with `:` asks the shell for more (`:files`, `:directories`) or names what the
// mesh must be asked for (`:apps`, `:nodes`, `:digests`).
std::vector<std::string> Complete(const std::vector<std::string>& words);

// `text` wrapped at `width`, each line after `margin` spaces. Paragraphs are
// separated by empty lines; lines that begin with two spaces stay as they are.
std::string Wrapped(absl::string_view text, size_t margin, size_t width);

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_HELP_H_
