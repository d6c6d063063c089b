#include "lib/flags/command_line.h"

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "gflags/gflags.h"
#include "lib/base/version.h"

namespace mycelium::flags {
namespace {

constexpr size_t kWidth = 78;
constexpr absl::string_view kIndent = "      ";

// Whether a flag is defined in this tree and not in a library of the system,
// whose flags would bury ours.
bool IsOurs(const gflags::CommandLineFlagInfo& flag) {
  for (const absl::string_view directory : {"services/", "lib/", "tools/"}) {
    if (absl::StartsWith(flag.filename, directory)) return true;
  }
  return false;
}

void AppendWrapped(absl::string_view text, std::string& out) {
  size_t column = 0;
  for (const absl::string_view word :
       absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (column == 0 || column + 1 + word.size() > kWidth) {
      absl::StrAppend(&out, column == 0 ? "" : "\n", kIndent);
      column = kIndent.size();
    } else {
      out += ' ';
      ++column;
    }
    absl::StrAppend(&out, word);
    column += word.size();
  }
  out += '\n';
}

}  // namespace

std::string HelpText(const std::string& description) {
  std::vector<gflags::CommandLineFlagInfo> all;
  gflags::GetAllFlags(&all);  // By file, and then by name.
  std::string text = absl::StrCat(description, "\n\nFlags:\n");
  for (const gflags::CommandLineFlagInfo& flag : all) {
    if (!IsOurs(flag)) continue;
    const bool quote = flag.type == "string";
    absl::StrAppend(&text, "  --", flag.name, " (", flag.type, ", default ",
                    quote ? "\"" : "", flag.default_value, quote ? "\"" : "",
                    ")\n");
    AppendWrapped(flag.description, text);
  }
  absl::StrAppend(&text,
                  "\n--v=N logs more, --flagfile=FILE reads flags from a file, "
                  "--version prints the\nversion, --helpfull also lists the "
                  "flags of libraries.\n");
  return text;
}

void ParseCommandLine(const std::string& description, int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const absl::string_view argument = argv[i];
    if (argument == "--") break;
    if (argument == "--help" || argument == "-help" || argument == "-h") {
      std::fputs(HelpText(description).c_str(), stdout);
      // No thread runs yet.
      std::exit(0);  // NOLINT(concurrency-mt-unsafe)
    }
  }
  gflags::SetVersionString(kVersion);
  gflags::SetUsageMessage(description);
  gflags::ParseCommandLineFlags(&argc, &argv, /*remove_flags=*/true);
  if (argc > 1) {
    std::fprintf(stderr, "%s: '%s' is no flag; see %s --help\n", argv[0],
                 argv[1], argv[0]);
    std::exit(2);  // NOLINT(concurrency-mt-unsafe)
  }
}

}  // namespace mycelium::flags
