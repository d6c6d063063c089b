#include "lib/base/ids.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace mycelium {

std::string RandomHex(int bytes) {
  std::string random(static_cast<size_t>(bytes), '\0');
  size_t done = 0;
  while (done < random.size()) {
    const ssize_t got =
        getrandom(random.data() + done, random.size() - done, 0);
    if (got < 0 && errno != EINTR) std::abort();  // No kernel without it.
    if (got > 0) done += static_cast<size_t>(got);
  }
  return absl::BytesToHexString(random);
}

bool IsAppName(absl::string_view name) {
  return !name.empty() && name.size() <= 63 && absl::ascii_islower(name[0]) &&
         name.back() != '-' &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-';
         });
}

bool IsId(absl::string_view id) {
  return !id.empty() && id.size() <= 63 && absl::ascii_isalnum(id.front()) &&
         absl::ascii_isalnum(id.back()) &&
         std::all_of(id.begin(), id.end(), [](char c) {
           return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
         });
}

bool IsDigest(absl::string_view digest) {
  return digest.size() == 64 &&
         std::all_of(digest.begin(), digest.end(), [](char c) {
           return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

std::string Quoted(absl::string_view value) {
  constexpr size_t kMaxBytes = 80;
  return absl::StrCat("'", absl::CHexEscape(value.substr(0, kMaxBytes)),
                      value.size() > kMaxBytes ? "..." : "", "'");
}

}  // namespace mycelium
