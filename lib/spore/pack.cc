#include "lib/spore/pack.h"
namespace mycelium::spore {
absl::StatusOr<PackResult> Pack(const PackOptions&, const crypto::PrivateKey&,
                                int) {
  return absl::UnimplementedError("pack");
}
absl::StatusOr<PackResult> PackToPath(const PackOptions&,
                                      const crypto::PrivateKey&,
                                      const std::string&) {
  return absl::UnimplementedError("pack");
}
}  // namespace mycelium::spore
