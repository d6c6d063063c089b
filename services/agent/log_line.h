// The lines of instances as they are kept in files:
//
//   2026-11-22T10:00:00.123456789Z 3 out GET /hello 200
//
// the time at which the agent read the line, the number of the run of the
// instance's process, where it was written (out, err, or agt for the agent's
// own remarks), and its bytes.

#ifndef SERVICES_AGENT_LOG_LINE_H_
#define SERVICES_AGENT_LOG_LINE_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace mycelium::agent {

// Longer lines are cut into several.
inline constexpr size_t kMaxLineBytes = size_t{16} << 10;

enum class LogStream { kOut, kErr, kAgent };

struct LogLine {
  absl::Time time;
  int64_t run = 0;
  LogStream stream = LogStream::kOut;
  absl::string_view text;  // Without the newline.
};

// Formats lines. Keeps the text of the last second, which most lines share. Not
// thread-safe.
class LogLineFormatter {
 public:
  // Appends `line` and a newline to `out`; newlines in its text become spaces.
  void Append(const LogLine& line, std::string* out);

 private:
  int64_t second_ = -1;
  std::string second_text_;
};

// Reads lines. Not thread-safe.
class LogLineParser {
 public:
  // Reads `text`, one line without its newline; `line->text` points into it.
  // Returns false for what is no such line, as a crash can leave behind.
  bool Parse(absl::string_view text, LogLine* line);

 private:
  std::string second_text_;
  absl::Time second_;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_LOG_LINE_H_
