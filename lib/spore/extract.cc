#include "lib/spore/extract.h"
namespace mycelium::spore {
absl::StatusOr<std::string> Extract(int, const Verdict&, const std::string&,
                                    const Limits&) {
  return absl::UnimplementedError("extract");
}
}  // namespace mycelium::spore
