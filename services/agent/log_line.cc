#include "services/agent/log_line.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace mycelium::agent {
namespace {

constexpr char kSecondFormat[] = "%Y-%m-%dT%H:%M:%S";
constexpr size_t kSecondLength = 19;  // 2026-11-22T10:00:00
constexpr size_t kTimeLength = 30;    // …and .123456789Z

absl::string_view NameOf(LogStream stream) {
  switch (stream) {
    case LogStream::kOut:
      return "out";
    case LogStream::kErr:
      return "err";
    case LogStream::kAgent:
      break;
  }
  return "agt";
}

}  // namespace

void LogLineFormatter::Append(const LogLine& line, std::string* out) {
  const int64_t second = absl::ToUnixSeconds(line.time);
  if (second != second_) {
    second_ = second;
    second_text_ = absl::FormatTime(
        kSecondFormat, absl::FromUnixSeconds(second), absl::UTCTimeZone());
  }
  const int64_t nanos =
      absl::ToInt64Nanoseconds(line.time - absl::FromUnixSeconds(second));
  absl::StrAppend(out, second_text_, ".", absl::Dec(nanos, absl::kZeroPad9),
                  "Z ", line.run, " ", NameOf(line.stream), " ");
  const size_t begin = out->size();
  absl::StrAppend(out, line.text);
  for (size_t i = begin; i < out->size(); ++i) {
    if ((*out)[i] == '\n') (*out)[i] = ' ';
  }
  out->push_back('\n');
}

bool LogLineParser::Parse(absl::string_view text, LogLine* line) {
  // The shortest line is that of an empty text: "TIME 1 out ".
  if (text.size() < kTimeLength + 7 || text[kSecondLength] != '.' ||
      text[kTimeLength - 1] != 'Z' || text[kTimeLength] != ' ') {
    return false;
  }
  const absl::string_view second = text.substr(0, kSecondLength);
  if (second != second_text_) {
    std::string error;
    if (!absl::ParseTime(kSecondFormat, second, &second_, &error)) return false;
    second_text_ = std::string(second);
  }
  int64_t nanos = 0;
  if (!absl::SimpleAtoi(text.substr(kSecondLength + 1, 9), &nanos)) {
    return false;
  }
  line->time = second_ + absl::Nanoseconds(nanos);

  text.remove_prefix(kTimeLength + 1);
  const size_t space = text.find(' ');
  if (space == absl::string_view::npos ||
      !absl::SimpleAtoi(text.substr(0, space), &line->run)) {
    return false;
  }
  text.remove_prefix(space + 1);
  if (text.size() < 4 || text[3] != ' ') return false;
  const absl::string_view stream = text.substr(0, 3);
  if (stream == "out") {
    line->stream = LogStream::kOut;
  } else if (stream == "err") {
    line->stream = LogStream::kErr;
  } else if (stream == "agt") {
    line->stream = LogStream::kAgent;
  } else {
    return false;
  }
  line->text = text.substr(4);
  return true;
}

}  // namespace mycelium::agent
