#include "lib/spore/rfc3339.h"

#include "absl/strings/ascii.h"
#include "absl/time/civil_time.h"

namespace mycelium::spore {
namespace {

// Takes `digits` decimal digits from the front of `text` into `value`.
bool TakeNumber(absl::string_view& text, size_t digits, int& value) {
  if (text.size() < digits) return false;
  value = 0;
  for (size_t i = 0; i < digits; ++i) {
    if (!absl::ascii_isdigit(text[i])) return false;
    value = value * 10 + (text[i] - '0');
  }
  text.remove_prefix(digits);
  return true;
}

bool TakeChar(absl::string_view& text, char c) {
  if (text.empty() || text.front() != c) return false;
  text.remove_prefix(1);
  return true;
}

}  // namespace

std::optional<absl::Time> ParseRfc3339(absl::string_view text) {
  int year = 0;
  int month = 0;
  int day = 0;
  int hour = 0;
  int minute = 0;
  int second = 0;
  if (!TakeNumber(text, 4, year) || !TakeChar(text, '-') ||
      !TakeNumber(text, 2, month) || !TakeChar(text, '-') ||
      !TakeNumber(text, 2, day) || !TakeChar(text, 'T') ||
      !TakeNumber(text, 2, hour) || !TakeChar(text, ':') ||
      !TakeNumber(text, 2, minute) || !TakeChar(text, ':') ||
      !TakeNumber(text, 2, second)) {
    return std::nullopt;
  }
  const absl::CivilSecond civil(year, month, day, hour, minute, second);
  // CivilSecond normalizes: 30 February becomes 2 March.
  if (civil.year() != year || civil.month() != month || civil.day() != day ||
      civil.hour() != hour || civil.minute() != minute ||
      civil.second() != second) {
    return std::nullopt;
  }

  absl::Duration fraction;
  if (TakeChar(text, '.')) {
    absl::Duration unit = absl::Seconds(1);
    int digits = 0;
    int digit = 0;
    while (TakeNumber(text, 1, digit)) {
      if (++digits > 9) continue;
      unit /= 10;
      fraction += digit * unit;
    }
    if (digits == 0) return std::nullopt;
  }

  absl::Duration offset;
  if (!TakeChar(text, 'Z')) {
    const bool west = TakeChar(text, '-');
    int offset_hours = 0;
    int offset_minutes = 0;
    if ((!west && !TakeChar(text, '+')) || !TakeNumber(text, 2, offset_hours) ||
        !TakeChar(text, ':') || !TakeNumber(text, 2, offset_minutes) ||
        offset_hours > 23 || offset_minutes > 59) {
      return std::nullopt;
    }
    offset = absl::Hours(offset_hours) + absl::Minutes(offset_minutes);
    if (west) offset = -offset;
  }
  if (!text.empty()) return std::nullopt;
  return absl::FromCivil(civil, absl::UTCTimeZone()) + fraction - offset;
}

std::string FormatRfc3339(absl::Time time) {
  return absl::FormatTime("%E4Y-%m-%d%ET%H:%M:%SZ", time, absl::UTCTimeZone());
}

}  // namespace mycelium::spore
