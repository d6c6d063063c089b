// Which entries a signed manifest covers. Used by verification and extraction.

#ifndef LIB_SPORE_CONTENTS_H_
#define LIB_SPORE_CONTENTS_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/spore/archive.h"
#include "lib/spore/manifest.h"

namespace mycelium::spore {

// An entry together with what the signature says about it.
struct SignedEntry {
  Entry entry;
  std::string sha256;  // Hex.
  bool exec = false;
};

// The entries but the manifest, in file order, if they are exactly those that
// `manifest` covers and have the signed sizes. Reads no data.
//
// E_BINARY_MISSING, E_UNSIGNED_FILE, E_FILE_MISSING or E_HASH.
absl::StatusOr<std::vector<SignedEntry>> MatchEntries(
    const Manifest& manifest, const std::vector<Entry>& entries);

}  // namespace mycelium::spore

#endif  // LIB_SPORE_CONTENTS_H_
