// Base64 with one spelling for each value.

#ifndef LIB_CRYPTO_BASE64_H_
#define LIB_CRYPTO_BASE64_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace mycelium::crypto {

// `bytes` in the standard alphabet of RFC 4648, padded.
std::string Base64Encode(absl::string_view bytes);

// The bytes that Base64Encode makes `text` of; nothing if no bytes do. Other
// alphabets, white space, missing padding and tail bits that are not zero are
// therefore refused.
std::optional<std::string> Base64Decode(absl::string_view text);

}  // namespace mycelium::crypto

#endif  // LIB_CRYPTO_BASE64_H_
