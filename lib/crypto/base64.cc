#include "lib/crypto/base64.h"

#include "absl/strings/escaping.h"

namespace mycelium::crypto {

std::string Base64Encode(absl::string_view bytes) {
  return absl::Base64Escape(bytes);
}

std::optional<std::string> Base64Decode(absl::string_view text) {
  std::string bytes;
  // Abseil is lenient in what it decodes; encoding again shows where it was.
  if (!absl::Base64Unescape(text, &bytes)) return std::nullopt;
  if (Base64Encode(bytes) != text) return std::nullopt;
  return bytes;
}

}  // namespace mycelium::crypto
