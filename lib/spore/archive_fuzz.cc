// Any bytes as a spore: the reader stays within its limits, and a spore that is
// received in pieces gets the verdict of the whole file.

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/file.h"
#include "lib/crypto/sha256.h"
#include "lib/spore/archive.h"
#include "lib/spore/entry_path.h"
#include "lib/spore/verify.h"

namespace mycelium::spore {
namespace {

constexpr int64_t kMaxBytes = int64_t{1} << 20;

void Check(bool condition) {
  if (!condition) std::abort();
}

void TryArchive(absl::string_view bytes) {
  const Limits limits = {.max_file_bytes = kMaxBytes,
                         .max_entry_bytes = kMaxBytes,
                         .max_total_bytes = kMaxBytes,
                         .max_entries = 100};
  const UniqueFd fd(memfd_create("fuzz", MFD_CLOEXEC));
  Check(fd.valid() && WriteFully(fd.get(), bytes).ok());

  const auto entries = ReadArchive(fd.get(), limits);
  if (entries.ok()) {
    int64_t total = 0;
    for (const Entry& entry : *entries) {
      Check(IsEntryPath(entry.path));
      int64_t size = 0;
      const absl::Status status =
          ReadEntry(fd.get(), entry, [&](absl::string_view chunk) {
            size += static_cast<int64_t>(chunk.size());
            Check(size <= entry.size);
            return absl::OkStatus();
          });
      Check(!status.ok() || size == entry.size);
      total += size;
    }
    Check(total <= limits.max_total_bytes);
  }

  const Verdict whole =
      VerifySpore(fd.get(), nullptr, absl::UnixEpoch(), limits);
  Check(entries.ok() || !whole.accept);
  StreamingVerifier streaming(limits);
  const size_t half = bytes.size() / 2;
  const bool fed = streaming.Update(bytes.substr(0, half)).ok() &&
                   streaming.Update(bytes.substr(half)).ok();
  if (!fed) {
    Check(whole.code == "E_SIZE");
    return;
  }
  const Verdict streamed = streaming.Finish(fd.get(), crypto::Sha256Hex(bytes),
                                            nullptr, absl::UnixEpoch());
  Check(streamed.code == whole.code && streamed.message == whole.message);
}

}  // namespace
}  // namespace mycelium::spore

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  mycelium::spore::TryArchive({reinterpret_cast<const char*>(data), size});
  return 0;
}
