// What a command of meshctl is: one row of the table from which the parser, the
// help, the completions and docs/cli.md are made.

#ifndef TOOLS_MESHCTL_COMMAND_H_
#define TOOLS_MESHCTL_COMMAND_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "tools/meshctl/failure.h"

namespace mycelium::meshctl {

class Session;

enum class FlagKind {
  kSwitch,  // Takes no value.
  kCount,   // Takes no value, and may be repeated for more.
  kText,
  kTexts,  // May be repeated; values add up.
  kInteger,
  kDuration,  // `10s`, `5m`, `1h30m`.
  kTime,      // RFC 3339, or a duration: so long ago.
  kChoice,
};

// What the shell offers for a value.
enum class Completer {
  kNone,
  kFile,
  kDirectory,
  kChoices,
  kApp,
  kNode,
  kDigest,
  kCommand,
  kTopic,
};

struct Flag {
  std::string name;  // Without the dashes.
  char letter = 0;   // 0 if there is none.
  FlagKind kind = FlagKind::kSwitch;
  // What the value is, such as FILE; empty for switches.
  std::string value = {};
  std::string help;  // One sentence without a full stop.
  std::vector<std::string> choices = {};
  Completer completer = Completer::kNone;
  // Other names that are understood and not shown.
  std::vector<std::string> aliases = {};
};

struct Arg {
  std::string name;  // In capitals.
  std::string help;
  bool required = true;
  bool repeated = false;
  Completer completer = Completer::kNone;
  std::vector<std::string> choices = {};
};

struct Example {
  std::string line;
  std::string says;
};

using Handler = absl::Status (*)(Session&);

struct Command {
  std::string path;         // Words, such as `nodes drain`.
  std::string group;        // Heading in the list of commands.
  std::string summary;      // One sentence without a full stop.
  std::string description;  // Paragraphs, wrapped when they are shown.
  std::vector<Arg> args = {};
  std::vector<Flag> flags = {};
  std::vector<Example> examples = {};
  // Besides 0, 1 and 2, which every command has.
  std::vector<ExitCode> exits = {};
  std::vector<std::string> aliases = {};
  // Where words after `--` go; empty if the command takes none.
  std::string passthrough = {};
  // Null for a command that exists for its subcommands only.
  Handler handler = nullptr;
  bool hidden = false;
};

struct Topic {
  std::string name;
  std::string summary;
  std::string text;
};

// The tables. Every command comes after the one that its path extends.
const std::vector<Command>& Commands();
const std::vector<Flag>& GlobalFlags();
const std::vector<Topic>& Topics();

// The command of this path or alias, or null.
const Command* FindCommand(absl::string_view path);

// The commands below `path` (`nodes` has `nodes drain`), in table order.
std::vector<const Command*> Subcommands(absl::string_view path);

// What a command line says. Every value has been checked against its flag.
class Invocation {
 public:
  const Command* command = nullptr;
  std::vector<std::string> args;
  std::vector<std::string> passthrough;
  std::map<std::string, std::vector<std::string>> flags;

  bool Has(absl::string_view flag) const;
  // How often a flag is there.
  int Count(absl::string_view flag) const;
  // The last value of a flag.
  std::string Get(absl::string_view flag,
                  absl::string_view otherwise = "") const;
  std::vector<std::string> GetAll(absl::string_view flag) const;
  int64_t GetInteger(absl::string_view flag, int64_t otherwise) const;
  absl::Duration GetDuration(absl::string_view flag,
                             absl::Duration otherwise) const;
};

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_COMMAND_H_
