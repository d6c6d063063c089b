// The command line of a service: gflags, with a --help that shows what is ours.

#ifndef LIB_FLAGS_COMMAND_LINE_H_
#define LIB_FLAGS_COMMAND_LINE_H_

#include <string>

namespace mycelium::flags {

// Parses the flags. What asks for no more than an answer ends the process:
// --help (or -h) prints `description` and our own flags to stdout, --version
// the version, both with status 0. Flags that are not known and arguments that
// are no flags are named on stderr; the status is then not 0. Call it in
// main(), before any other thread runs. `description` says what the program is
// for and shows a usual call of it.
void ParseCommandLine(const std::string& description, int argc, char** argv);

// What --help prints: `description`, and each flag of this tree with its type,
// default and text.
std::string HelpText(const std::string& description);

}  // namespace mycelium::flags

#endif  // LIB_FLAGS_COMMAND_LINE_H_
