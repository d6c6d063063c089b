// Measures how fast a large spore is verified, beside plain SHA-256:
//
//   bazel run //lib/spore:verify_bench [-- --size_mb=256]

#include <gflags/gflags.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <iostream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "lib/base/file.h"
#include "lib/crypto/ed25519.h"
#include "lib/crypto/sha256.h"
#include "lib/crypto/trust_store.h"
#include "lib/spore/extract.h"
#include "lib/spore/pack.h"
#include "lib/spore/verify.h"

DEFINE_int32(size_mb, 256, "Size of the binary in the spore, in MiB.");

namespace mycelium::spore {
namespace {

// The best of three, in 10^6 bytes per second.
double Measure(int64_t bytes, const std::function<void()>& work) {
  double best = 0;
  for (int i = 0; i < 3; ++i) {
    const absl::Time start = absl::Now();
    work();
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
    best = std::max(best, static_cast<double>(bytes) / 1e6 / seconds);
  }
  return best;
}

absl::Status Run() {
  absl::StatusOr<TempDirectory> directory = TempDirectory::Create("bench");
  if (!directory.ok()) return directory.status();
  const std::string binary = JoinPath(directory->path(), "binary");
  std::string data(static_cast<size_t>(FLAGS_size_mb) << 20, '\0');
  uint32_t state = 1;
  for (char& c : data) {
    state = state * 1664525 + 1013904223;
    c = static_cast<char>(state >> 24);
  }
  absl::Status status = WriteFileAtomically(binary, data);
  if (!status.ok()) return status;
  data.clear();
  data.shrink_to_fit();

  absl::StatusOr<crypto::PrivateKey> key = crypto::PrivateKey::Generate();
  if (!key.ok()) return key.status();
  PackOptions options;
  options.manifest = JsonValue::MakeObject();
  options.manifest.Set("name", "bench");
  options.manifest.Set("version", "1");
  options.manifest.Set("command", "bench");
  options.created_at = absl::Now();
  options.binary_path = binary;
  const UniqueFd fd(memfd_create("bench.spore", MFD_CLOEXEC));
  int64_t bytes = 0;
  const absl::Time start = absl::Now();
  absl::StatusOr<PackResult> packed = Pack(options, *key, fd.get());
  if (!packed.ok()) return packed.status();
  bytes = packed->size_bytes;
  const double pack = static_cast<double>(bytes) / 1e6 /
                      absl::ToDoubleSeconds(absl::Now() - start);

  crypto::TrustStore trust;
  status = trust.AddKey(key->public_key(), "", {"**"});
  if (!status.ok()) return status;

  const double sha256 = Measure(
      bytes, [&] { crypto::Sha256HexOfFd(fd.get()).status().IgnoreError(); });
  Verdict verdict;
  const double verify = Measure(bytes, [&] {
    verdict = VerifySpore(fd.get(), &trust, absl::Now(), Limits());
  });
  if (!verdict.accept) return verdict.ToStatus();
  const double verify_known = Measure(bytes, [&] {
    verdict =
        VerifySpore(fd.get(), packed->digest, &trust, absl::Now(), Limits());
  });

  // What a receiver does per chunk, and what is left when the last has come.
  const std::string chunk(256 << 10, 'x');
  std::string file(static_cast<size_t>(bytes), '\0');
  if (pread(fd.get(), file.data(), file.size(), 0) !=
      static_cast<ssize_t>(file.size())) {
    return absl::InternalError("short read");
  }
  absl::Duration finish;
  const double streaming = Measure(bytes, [&] {
    StreamingVerifier verifier{Limits()};
    for (size_t i = 0; i < file.size(); i += chunk.size()) {
      verifier.Update(absl::string_view(file).substr(i, chunk.size()))
          .IgnoreError();
    }
    const absl::Time before = absl::Now();
    verdict = verifier.Finish(fd.get(), packed->digest, &trust, absl::Now());
    finish = absl::Now() - before;
  });
  if (!verdict.accept) return verdict.ToStatus();
  const std::string target = JoinPath(directory->path(), "extracted");
  double extract = 0;
  {
    const absl::Time before = absl::Now();
    const auto command = Extract(fd.get(), verdict, target, Limits());
    if (!command.ok()) return command.status();
    extract = static_cast<double>(bytes) / 1e6 /
              absl::ToDoubleSeconds(absl::Now() - before);
  }

  std::cout << absl::StreamFormat(
      "spore of %d bytes, 10^6 bytes/s\n"
      "sha256 of the file, one thread  %8.0f\n"
      "VerifySpore                     %8.0f  (%.0f %%)\n"
      "VerifySpore, digest known       %8.0f  (%.0f %%)\n"
      "StreamingVerifier, one thread   %8.0f  (%.0f %%; Finish %s)\n"
      "Pack                            %8.0f\n"
      "Extract, to disk                %8.0f\n",
      bytes, sha256, verify, 100 * verify / sha256, verify_known,
      100 * verify_known / sha256, streaming, 100 * streaming / sha256,
      absl::FormatDuration(finish), pack, extract);
  return absl::OkStatus();
}

}  // namespace
}  // namespace mycelium::spore

int main(int argc, char** argv) {
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  const absl::Status status = mycelium::spore::Run();
  if (!status.ok()) std::cerr << status << "\n";
  return status.ok() ? 0 : 1;
}
