// Times as manifests and trust stores write them.

#ifndef LIB_SPORE_RFC3339_H_
#define LIB_SPORE_RFC3339_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace mycelium::spore {

// The instant that `text` names: a date and a time of RFC 3339 with its zone
// (`2026-01-02T03:04:05Z`, `…05.25+01:00`); nothing if it is none. T and Z are
// upper case, and there are no leap seconds. Fractions may have any number of
// digits; those below the nanosecond are dropped.
std::optional<absl::Time> ParseRfc3339(absl::string_view text);

// `time` in UTC and whole seconds: `2026-01-02T03:04:05Z`.
std::string FormatRfc3339(absl::Time time);

}  // namespace mycelium::spore

#endif  // LIB_SPORE_RFC3339_H_
