#include "tools/meshctl/console.h"

#include <array>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "tools/meshctl/failure.h"

namespace mycelium::meshctl {

void Console::ClearTransient() {
  if (!transient_) return;
  err_.Write("\r\x1b[K");
  transient_ = false;
}

void Console::Print(absl::string_view text) {
  if (structured()) return;
  Raw(text);
}

void Console::Raw(absl::string_view text) {
  const MutexLock lock(mutex_);
  ClearTransient();
  out_.Write(text);
}

void Console::Emit(const Table& table, const Json& json, absl::string_view list,
                   const std::vector<std::string>& names) {
  switch (options_.format) {
    case Format::kTable:
    case Format::kWide:
      return Raw(Render(table));
    case Format::kJson:
      return Raw(json.Pretty());
    case Format::kYaml:
      return Raw(json.Yaml());
    case Format::kNdjson: {
      const Json* elements = list.empty() ? nullptr : json.Find(list);
      if (elements == nullptr) return Raw(json.Compact() + "\n");
      std::string lines;
      for (const Json& element : elements->elements()) {
        absl::StrAppend(&lines, element.Compact(), "\n");
      }
      return Raw(lines);
    }
    case Format::kName: {
      std::string lines;
      for (const std::string& name : names) absl::StrAppend(&lines, name, "\n");
      return Raw(lines);
    }
  }
}

void Console::Emit(absl::string_view text, const Json& json,
                   absl::string_view name) {
  switch (options_.format) {
    case Format::kTable:
    case Format::kWide:
      return Raw(text);
    case Format::kJson:
      return Raw(json.Pretty());
    case Format::kYaml:
      return Raw(json.Yaml());
    case Format::kNdjson:
      return Raw(json.Compact() + "\n");
    case Format::kName:
      return Raw(absl::StrCat(name, "\n"));
  }
}

void Console::EmitLine(absl::string_view text, const Json& json) {
  if (options_.format == Format::kYaml) {
    return Raw(absl::StrCat("---\n", json.Yaml()));
  }
  if (structured()) return Raw(json.Compact() + "\n");
  Raw(absl::StrCat(text, "\n"));
}

void Console::Progress(absl::string_view text, const Json& json) {
  if (options_.quiet || options_.progress == ConsoleOptions::Progress::kQuiet) {
    return;
  }
  const MutexLock lock(mutex_);
  ClearTransient();
  if (options_.progress == ConsoleOptions::Progress::kJson) {
    err_.Write(json.Compact() + "\n");
  } else {
    err_.Write(absl::StrCat(text, "\n"));
  }
}

void Console::Transient(absl::string_view text) {
  if (options_.quiet ||
      options_.progress != ConsoleOptions::Progress::kRedraw) {
    return;
  }
  const MutexLock lock(mutex_);
  ClearTransient();
  // A line that wraps could not be taken back.
  err_.Write(options_.width > 1 ? FitToWidth(text, options_.width - 1)
                                : std::string(text));
  transient_ = true;
}

void Console::Note(absl::string_view text) {
  if (options_.quiet || structured()) return;
  const MutexLock lock(mutex_);
  ClearTransient();
  err_.Write(absl::StrCat(text, "\n"));
}

void Console::Error(const absl::Status& status) {
  const Failure failure = ToFailure(status);
  const MutexLock lock(mutex_);
  ClearTransient();
  err_.Write(structured() ? FormatFailureJson(failure)
                          : FormatFailure(failure, ToneErr(Bad(), Tone::kBad)));
}

std::string Console::Render(const Table& table) const {
  TableStyle style;
  style.width = options_.width;
  style.wide = options_.format == Format::kWide;
  style.color = options_.color_out;
  style.headers = options_.headers;
  style.columns = options_.columns;
  return table.Render(style);
}

std::string Console::Age(absl::Time time) const {
  if (time <= absl::UnixEpoch()) return "-";
  if (!out_.IsTerminal()) {
    return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, absl::UTCTimeZone());
  }
  return ShortDuration(options_.now - time);
}

std::string ShortDuration(absl::Duration duration) {
  if (duration < absl::ZeroDuration()) duration = absl::ZeroDuration();
  if (duration < absl::Seconds(1)) {
    return absl::StrCat(absl::ToInt64Milliseconds(duration), "ms");
  }
  if (duration < absl::Seconds(10)) {
    return absl::StrFormat("%.1fs", absl::ToDoubleSeconds(duration));
  }
  if (duration < absl::Minutes(2)) {
    return absl::StrCat(absl::ToInt64Seconds(duration), "s");
  }
  if (duration < absl::Hours(2)) {
    return absl::StrCat(absl::ToInt64Minutes(duration), "m");
  }
  if (duration < absl::Hours(48)) {
    return absl::StrCat(absl::ToInt64Hours(duration), "h");
  }
  return absl::StrCat(absl::ToInt64Hours(duration) / 24, "d");
}

std::string ShortBytes(int64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  constexpr std::array<absl::string_view, 4> kUnits = {"KiB", "MiB", "GiB",
                                                       "TiB"};
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string ShortDigest(absl::string_view digest) {
  return std::string(digest.substr(0, 12));
}

}  // namespace mycelium::meshctl
