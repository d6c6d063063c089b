// Identifiers: how they are made, and which ones are valid.

#ifndef LIB_BASE_IDS_H_
#define LIB_BASE_IDS_H_

#include <string>

#include "absl/strings/string_view.h"

namespace mycelium {

// `bytes` bytes from the kernel's random generator, as lower-case hex.
std::string RandomHex(int bytes);

// A DNS label as RFC 1123 has it, in lower case: 1 to 63 of [a-z0-9-], the
// first a letter, the last not a hyphen. Names of apps.
bool IsAppName(absl::string_view name);

// 1 to 63 of [A-Za-z0-9._-], the first and the last alphanumeric. Ids of nodes,
// instances and edges.
bool IsId(absl::string_view id);

// 64 lower-case hex digits: the SHA-256 by which a spore is known.
bool IsDigest(absl::string_view digest);

// What IsAppName, IsId and IsDigest ask for, in words, for error messages.
inline constexpr absl::string_view kAppNameRule =
    "must be a DNS label: 1 to 63 of a-z, 0-9 and '-', starting with a letter "
    "and not ending in '-'";
inline constexpr absl::string_view kIdRule =
    "must be 1 to 63 of A-Z, a-z, 0-9, '.', '_' and '-', starting and ending "
    "with a letter or digit";
inline constexpr absl::string_view kDigestRule =
    "must be the lower-case hex SHA-256 of a spore (64 digits)";

// `value` in single quotes, cut to 80 bytes, with control bytes and quotes
// escaped: fit for an error message or a log line, whoever sent it.
std::string Quoted(absl::string_view value);

}  // namespace mycelium

#endif  // LIB_BASE_IDS_H_
