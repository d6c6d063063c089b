#include "lib/spore/manifest.h"
namespace mycelium::spore {
absl::StatusOr<Manifest> ParseManifest(absl::string_view) {
  return absl::UnimplementedError("manifest");
}
absl::StatusOr<Manifest> CheckManifest(JsonValue) {
  return absl::UnimplementedError("manifest");
}
std::string StatementDigest(const Manifest&) { return ""; }
absl::string_view ManifestApp(absl::string_view name) {
  return name.substr(name.rfind('/') + 1);
}
bool IsSporeName(absl::string_view) { return false; }
bool IsEntryPath(absl::string_view) { return false; }
}  // namespace mycelium::spore
