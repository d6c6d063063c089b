// The manifest of a spore. docs/spore-format.md has the rule of every member.

#ifndef LIB_SPORE_MANIFEST_H_
#define LIB_SPORE_MANIFEST_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/spore/json.h"

namespace mycelium::spore {

inline constexpr absl::string_view kManifestPath = "manifest.json";
inline constexpr absl::string_view kSbomPath = "sbom.cdx.json";
inline constexpr absl::string_view kFormatName = "mycelium.spore/v1";
inline constexpr size_t kMaxManifestBytes = size_t{256} << 10;

// How an agent finds out that an instance works.
struct Health {
  enum class Type { kHttp, kTcp };

  std::string path = "/health";
  Type type = Type::kHttp;
  // 0 where the manifest leaves it to the agent.
  int64_t interval_ms = 0;
  int64_t timeout_ms = 0;
};

// What an instance needs. 0 where the manifest does not say.
struct ManifestNutrients {
  int64_t cpu_milli = 0;
  int64_t memory_mb = 0;
};

struct Slo {
  // Above 0; 0 where the manifest does not say.
  double p99_budget_ms = 0;
};

struct Security {
  // Name of a profile of the agent; empty for the agent's default.
  std::string lsm_profile;
  bool read_only_fs = true;
  // Isolation layers without which the instance must not be started, such as
  // "landlock".
  std::vector<std::string> require;
};

// What the signature says about one entry of the zip.
struct FileInfo {
  std::string sha256;  // Hex.
  int64_t size = 0;
  bool exec = false;
};

// A manifest whose every member has been checked. Paths are normalized: without
// the leading `./` that `command` may have.
struct Manifest {
  std::string name;
  std::string version;
  std::string command;
  // The entry that binary_sha256 covers; equal to `command` unless named.
  std::string binary;
  std::string binary_sha256;  // Hex.
  std::vector<std::string> args;
  std::map<std::string, std::string> env;
  std::vector<std::string> provides = {"http"};
  Health health;
  ManifestNutrients nutrients;
  Slo slo;
  Security security;
  absl::Time created_at;
  std::optional<absl::Time> expires_at;
  // Every entry but the manifest, by path; nothing where the manifest has no
  // `files`, and the zip must hold the manifest and the binary alone.
  std::optional<std::map<std::string, FileInfo>> files;
  std::vector<std::string> critical;

  std::string public_key;  // 32 raw bytes.
  std::string signature;   // 64 raw bytes.

  // The object as it was read, with the members that are not modelled above
  // (labels, secrets, config and unknown ones).
  JsonValue json;
  // The canonical form of the object without `signature`: what is signed,
  // together with the hash of the binary.
  std::string signed_json;
};

// Checks a manifest's text. E_SIZE, E_JSON, E_MANIFEST, E_PATH, E_KEY (the
// public key cannot be one) or E_SIG (the signature cannot be one); the message
// names the member, its value and the rule.
absl::StatusOr<Manifest> ParseManifest(absl::string_view text);

// The 32 bytes that are signed: SHA-256(signed_json || hash of the binary).
std::string StatementDigest(const Manifest& manifest);

// The app that a spore of this name is for: the last segment of
// `billing/api`.
absl::string_view ManifestApp(absl::string_view name);

// Whether `name` may name a spore: up to 4 segments.
bool IsSporeName(absl::string_view name);

}  // namespace mycelium::spore

#endif  // LIB_SPORE_MANIFEST_H_
