// What meshctl writes and how: results on stdout in the format that was asked
// for, everything else on stderr.

#ifndef TOOLS_MESHCTL_CONSOLE_H_
#define TOOLS_MESHCTL_CONSOLE_H_

#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/mutex.h"
#include "tools/meshctl/json.h"
#include "tools/meshctl/table.h"

namespace mycelium::meshctl {

enum class Format { kTable, kWide, kJson, kYaml, kNdjson, kName };

// Where bytes go; tests put strings in place of descriptors. Thread-safe.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual void Write(absl::string_view text) = 0;
  // Whether a person watches.
  virtual bool IsTerminal() const = 0;
};

struct ConsoleOptions {
  Format format = Format::kTable;
  bool color_out = false;
  bool color_err = false;
  // Whether glyphs beyond ASCII may be used.
  bool unicode = true;
  // Of the terminal; 0 cuts nothing.
  size_t width = 0;
  bool headers = true;
  std::vector<std::string> columns;
  // No progress, remarks and hints.
  bool quiet = false;
  bool hints = true;
  // How progress is told: lines that are redrawn, lines that are added, JSON
  // objects, or not at all.
  enum class Progress { kRedraw, kPlain, kJson, kQuiet };
  Progress progress = Progress::kPlain;
  absl::Time now;
};

// Thread-safe.
class Console {
 public:
  // The sinks must outlive the console.
  Console(ConsoleOptions options, Sink* out, Sink* err)
      : options_(std::move(options)), out_(*out), err_(*err) {}

  const ConsoleOptions& options() const { return options_; }
  // Whether a program reads stdout.
  bool structured() const {
    return options_.format != Format::kTable &&
           options_.format != Format::kWide;
  }
  bool out_is_terminal() const { return out_.IsTerminal(); }

  // Writes text for people to stdout; nothing if a program reads there.
  void Print(absl::string_view text);

  // Writes `text` to stdout as it is.
  void Raw(absl::string_view text);

  // Writes the result of a command in the format that was asked for: `table`
  // for people, `json` for programs (in NDJSON each element of its member
  // `list`, if one is named), or `names`, one in each line.
  void Emit(const Table& table, const Json& json, absl::string_view list,
            const std::vector<std::string>& names);

  // The same for one thing: `text` for people, `name` for `-o name`.
  void Emit(absl::string_view text, const Json& json, absl::string_view name);

  // One line of a stream on stdout: `text` for people, else the object.
  void EmitLine(absl::string_view text, const Json& json);

  // A line about what goes on, on stderr: `text` for people (without newline),
  // `json` with --progress json. Nothing when quiet.
  void Progress(absl::string_view text, const Json& json);

  // As Progress, but the next line replaces it on a terminal, and it is left
  // out elsewhere.
  void Transient(absl::string_view text);

  // A remark on stderr for people; nothing for programs.
  void Note(absl::string_view text);

  // As Note, for what might be done next.
  void Hint(absl::string_view text) {
    if (options_.hints) Note(text);
  }

  // An error on stderr, in the layout or object of failure.h.
  void Error(const absl::Status& status);

  // The table as it would be printed.
  std::string Render(const Table& table) const;

  // Glyphs with their ASCII forms.
  std::string Good() const { return Glyph("✓", "*"); }
  std::string Bad() const { return Glyph("✗", "x"); }
  std::string Glyph(absl::string_view unicode, absl::string_view ascii) const {
    return std::string(options_.unicode ? unicode : ascii);
  }
  std::string ToneOut(absl::string_view text, Tone tone) const {
    return Toned(text, tone, options_.color_out);
  }
  std::string ToneErr(absl::string_view text, Tone tone) const {
    return Toned(text, tone, options_.color_err);
  }

  // How long ago `time` was, as people say it (`3m`, `2h`), or RFC 3339 where a
  // program might read the table; `-` for a time that is unset (the epoch).
  std::string Age(absl::Time time) const;

 private:
  void ClearTransient() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const ConsoleOptions options_;
  Sink& out_;
  Sink& err_;

  Mutex mutex_;
  bool transient_ ABSL_GUARDED_BY(mutex_) = false;
};

// `duration` in one or two units: `850ms`, `12s`, `3m`, `2h`, `9d`.
std::string ShortDuration(absl::Duration duration);

// `bytes` in binary units: `512 B`, `4.2 MiB`.
std::string ShortBytes(int64_t bytes);

// The first 12 digits of a digest.
std::string ShortDigest(absl::string_view digest);

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_CONSOLE_H_
