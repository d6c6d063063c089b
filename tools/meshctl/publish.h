// Uploading spores, for commands that do so on their way.

#ifndef TOOLS_MESHCTL_PUBLISH_H_
#define TOOLS_MESHCTL_PUBLISH_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/crypto/ed25519.h"
#include "mycelium/spore/v1/spore.pb.h"

namespace mycelium::meshctl {

class Console;
class MeshClient;

struct Published {
  spore::v1::SporeInfo spore;
  // Whether the repo had it before.
  bool existed = false;
};

// Uploads the spore at `path`, showing progress on `console`.
absl::StatusOr<Published> PublishFile(MeshClient& mesh, Console& console,
                                      const std::string& path,
                                      absl::Duration timeout);

// Reads a private key. NotFound, or a usage failure if it is none.
absl::StatusOr<crypto::PrivateKey> ReadPrivateKey(const std::string& path);

// `status` of spore::Pack as a failure: what is wrong with a description is a
// mistake of its author, not of a signature.
absl::Status PackFailure(const absl::Status& status, absl::string_view name);

// The app and the digest of a spore on disk, which is checked to be intact.
struct SporeFile {
  std::string app;
  std::string digest;
  std::string health_path;  // Empty unless it is checked by HTTP.
};
absl::StatusOr<SporeFile> ReadSporeFile(const std::string& path,
                                        absl::Time now);

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_PUBLISH_H_
