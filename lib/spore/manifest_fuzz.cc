// Any bytes as a manifest: whatever is accepted must have one canonical form.

#include <cstdint>
#include <cstdlib>

#include "absl/strings/string_view.h"
#include "lib/spore/json.h"
#include "lib/spore/manifest.h"

namespace mycelium::spore {
namespace {

void Check(bool condition) {
  if (!condition) std::abort();
}

void TryManifest(absl::string_view text) {
  const auto json = ParseJson(text);
  const auto manifest = ParseManifest(text);
  if (!json.ok()) {
    Check(!manifest.ok());
    return;
  }
  const std::string canonical = Canonicalize(*json);
  JsonLimits limits;
  limits.max_bytes = 10 * canonical.size() + 1;
  const auto again = ParseJson(canonical, limits);
  Check(again.ok());
  Check(Canonicalize(*again) == canonical);
  const auto pretty = ParseJson(PrettyPrint(*json), {.max_bytes = 1U << 30});
  Check(pretty.ok() && Canonicalize(*pretty) == canonical);
  if (!manifest.ok()) return;
  Check(IsSporeName(manifest->name));
  if (canonical.size() > kMaxManifestBytes) return;
  const auto same = ParseManifest(canonical);
  Check(same.ok());
  Check(StatementDigest(*same) == StatementDigest(*manifest));
}

}  // namespace
}  // namespace mycelium::spore

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  mycelium::spore::TryManifest({reinterpret_cast<const char*>(data), size});
  return 0;
}
