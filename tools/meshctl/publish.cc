#include "tools/meshctl/publish.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/status_macros.h"
#include "lib/crypto/sha256.h"
#include "lib/spore/archive.h"
#include "lib/spore/manifest.h"
#include "lib/spore/verify.h"
#include "tools/meshctl/console.h"
#include "tools/meshctl/failure.h"
#include "tools/meshctl/mesh_client.h"

namespace mycelium::meshctl {
namespace {

absl::StatusOr<UniqueFd> OpenRegular(const std::string& path,
                                     int64_t& size_bytes) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info = {};
  if (!fd.valid() || fstat(fd.get(), &info) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot read ", path));
  }
  if (!S_ISREG(info.st_mode)) {
    return UsageError(absl::StrCat(path, " is no regular file"));
  }
  size_bytes = info.st_size;
  return fd;
}

}  // namespace

absl::StatusOr<Published> PublishFile(MeshClient& mesh, Console& console,
                                      const std::string& path,
                                      absl::Duration timeout) {
  int64_t size_bytes = 0;
  MYC_ASSIGN_OR_RETURN(const UniqueFd fd, OpenRegular(path, size_bytes));
  MYC_ASSIGN_OR_RETURN(const std::string digest,
                       crypto::Sha256HexOfFd(fd.get()));
  const absl::Time start = absl::Now();
  absl::Time shown = start;
  const auto progress = [&](int64_t sent) {
    const absl::Time now = absl::Now();
    if (now - shown < absl::Milliseconds(100)) return;
    shown = now;
    const double seconds = absl::ToDoubleSeconds(now - start);
    console.Transient(absl::StrFormat(
        "Uploading %s  %d%%  %s of %s  %s/s", path, sent * 100 / size_bytes,
        ShortBytes(sent), ShortBytes(size_bytes),
        ShortBytes(static_cast<int64_t>(static_cast<double>(sent) / seconds))));
  };
  MYC_ASSIGN_OR_RETURN(
      const repo::v1::PutResponse response,
      mesh.PutSpore(fd.get(), digest, size_bytes, timeout, progress));
  console.Transient("");
  Published published;
  published.spore = response.spore();
  published.existed = response.existed();
  return published;
}

absl::StatusOr<crypto::PrivateKey> ReadPrivateKey(const std::string& path) {
  MYC_ASSIGN_OR_RETURN(std::string pem, ReadFile(path, 65536));
  absl::StatusOr<crypto::PrivateKey> key = crypto::PrivateKey::FromPem(pem);
  crypto::Wipe(pem);
  if (!key.ok()) {
    return UsageError(absl::StrCat(path, ": ", key.status().message()));
  }
  return key;
}

absl::Status PackFailure(const absl::Status& status, absl::string_view name) {
  Failure failure = ToFailure(status);
  if (!ReasonOf(status).empty()) failure.exit = ExitCode::kUsage;
  failure.message = absl::StrCat("cannot pack ", name, ": ", failure.message);
  return ToStatus(failure);
}

absl::StatusOr<SporeFile> ReadSporeFile(const std::string& path,
                                        absl::Time now) {
  int64_t size_bytes = 0;
  MYC_ASSIGN_OR_RETURN(const UniqueFd fd, OpenRegular(path, size_bytes));
  const spore::Verdict verdict =
      spore::VerifySpore(fd.get(), nullptr, now, spore::Limits());
  if (!verdict.accept) {
    return Explain(verdict.ToStatus(),
                   absl::StrCat(path, " is no intact spore"));
  }
  SporeFile file;
  file.app = std::string(spore::ManifestApp(verdict.manifest.name));
  file.digest = verdict.digest;
  if (verdict.manifest.health.type == spore::Health::Type::kHttp) {
    file.health_path = verdict.manifest.health.path;
  }
  return file;
}

}  // namespace mycelium::meshctl
