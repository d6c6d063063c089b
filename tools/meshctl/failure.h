// How a command ends: exit codes, and errors that say why and what to do.
//
// Failures travel as absl::Status, so that they pass through ordinary code, and
// are shown by main as lines for people or an object for programs.

#ifndef TOOLS_MESHCTL_FAILURE_H_
#define TOOLS_MESHCTL_FAILURE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace mycelium::meshctl {

// What the process exits with. Part of the interface: never renumbered.
enum class ExitCode {
  kOk = 0,
  kError = 1,
  kUsage = 2,
  kNotFound = 3,
  kUntrusted = 4,
  kConflict = 5,
  kUnavailable = 6,
  kTimeout = 7,
  kRolloutFailed = 8,
  kNoCapacity = 9,
  kChanges = 10,
  kUnhealthy = 11,
  kInterrupted = 130,
  kTerminated = 143,
};

struct ExitCodeInfo {
  ExitCode code;
  absl::string_view name;
  absl::string_view meaning;
};

// Every exit code, ascending.
const std::vector<ExitCodeInfo>& ExitCodes();

// "NOT_FOUND" and so on.
absl::string_view ExitCodeName(ExitCode code);

struct Failure {
  ExitCode exit = ExitCode::kError;
  // What could not be done: lower case, no full stop.
  std::string message = {};
  // The cause, if `message` does not say it.
  std::string why = {};
  // Commands or actions that mend it, most likely first.
  std::vector<std::string> fixes = {};
  // Where more is told, such as `meshctl help trust`.
  std::string more = {};
  // Last lines of the output of what failed.
  std::vector<std::string> output = {};
};

// `failure` as an error, for code that returns absl::Status.
absl::Status ToStatus(const Failure& failure);

// The failure that ToStatus made, or a description of any other error: its
// exit code follows from its code and reason, and `why` from its details.
Failure ToFailure(const absl::Status& status);

// Ends the command with `code` and says nothing more, because the result that
// was printed tells it.
absl::Status QuietExit(ExitCode code);
bool IsQuietExit(const absl::Status& status);

// A mistake on the command line or in a file that it names.
absl::Status UsageError(absl::string_view message,
                        std::vector<std::string> fixes = {});

// `status` with `message` (what could not be done) and ": " in front. Exit
// code, reasons, fixes and output stay.
absl::Status Explain(const absl::Status& status, absl::string_view message);

// The failure as lines for people. `glyph` is the mark in front of it.
std::string FormatFailure(const Failure& failure, absl::string_view glyph);

// The failure as a JSON object on one line, with a newline.
std::string FormatFailureJson(const Failure& failure);

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_FAILURE_H_
