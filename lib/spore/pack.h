// Makes spores.
//
//   PackOptions options;
//   options.manifest = JsonValue::MakeObject();
//   options.manifest.Set("name", "billing");
//   options.manifest.Set("version", "1.0.0");
//   options.manifest.Set("command", "billing");
//   options.created_at = clock.Now();
//   options.binary_path = "bazel-bin/examples/billing/billing";
//   MYC_ASSIGN_OR_RETURN(const PackResult result,
//                        PackToPath(options, key, "billing.spore"));

#ifndef LIB_SPORE_PACK_H_
#define LIB_SPORE_PACK_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lib/crypto/ed25519.h"
#include "lib/spore/json.h"
#include "lib/spore/manifest.h"

namespace mycelium::spore {

// A file to be packed beside the binary.
struct PackFile {
  std::string path;    // In the spore.
  std::string source;  // On disk.
  bool exec = false;
};

struct PackOptions {
  // The manifest's object. `name`, `version` and `command` must be there; Pack
  // sets `binary_sha256`, `public_key` and `signature`, and where they are
  // missing `kind` and `created_at`. Members that are not modelled are kept.
  JsonValue manifest;
  // When `manifest` has no `created_at`. Whole seconds are written. For a
  // reproducible spore, take it from SOURCE_DATE_EPOCH.
  std::optional<absl::Time> created_at;
  // The file on disk that becomes the entry `binary` (or else `command`).
  std::string binary_path;
  std::vector<PackFile> files;
};

struct PackResult {
  std::string digest;            // SHA-256 of the file, in hex.
  std::string statement_digest;  // In hex.
  int64_t size_bytes = 0;
  Manifest manifest;
};

// Packs, signs with `key` and writes a spore to `fd`: an empty regular file
// that is open for reading and writing. The same input makes the same bytes,
// whenever and wherever. Sources are streamed: once to hash them, once to copy
// them; one that changes in between is an error. `files` is written into the
// manifest when there are files beside the binary or `manifest` has it already
// (its hashes and sizes are set anew).
//
// InvalidArgument: the manifest breaks a rule (with the reason that a verifier
// would give), a source is no regular file, or it is too large. Aborted: a
// source changed. On error the file holds rubbish.
absl::StatusOr<PackResult> Pack(const PackOptions& options,
                                const crypto::PrivateKey& key, int fd);

// As Pack, into a new file that replaces `path` when it is whole.
absl::StatusOr<PackResult> PackToPath(const PackOptions& options,
                                      const crypto::PrivateKey& key,
                                      const std::string& path);

}  // namespace mycelium::spore

#endif  // LIB_SPORE_PACK_H_
