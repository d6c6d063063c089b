#include "services/repo/sample_spore.h"

#include <fstream>
#include <random>

#include "absl/status/statusor.h"
#include "glog/logging.h"
#include "lib/base/file.h"
#include "lib/spore/pack.h"

namespace mycelium::repo {

const crypto::PrivateKey& SampleKey() {
  static const crypto::PrivateKey* const key = [] {
    absl::StatusOr<crypto::PrivateKey> made = crypto::PrivateKey::Generate();
    CHECK(made.ok()) << made.status();
    return new crypto::PrivateKey(*std::move(made));
  }();
  return *key;
}

SampleSpore MakeSpore(absl::string_view name, size_t binary_bytes) {
  return MakeSpore(name, binary_bytes, SampleKey());
}

SampleSpore MakeSpore(absl::string_view name, size_t binary_bytes,
                      const crypto::PrivateKey& key) {
  const absl::StatusOr<TempDirectory> directory =
      TempDirectory::Create("sample_spore.");
  CHECK(directory.ok()) << directory.status();
  spore::PackOptions options;
  options.manifest = spore::JsonValue::MakeObject();
  options.manifest.Set("name", name);
  options.manifest.Set("version", "1.2.3");
  options.manifest.Set("command", "run");
  options.created_at = kSampleTime;
  options.binary_path = JoinPath(directory->path(), "run");
  {
    std::seed_seq seed(name.begin(), name.end());
    std::mt19937_64 random(seed);
    std::string binary;
    binary.reserve(binary_bytes + sizeof(uint64_t));
    while (binary.size() < binary_bytes) {
      const uint64_t word = random();
      binary.append(reinterpret_cast<const char*>(&word), sizeof(word));
    }
    binary.resize(binary_bytes);
    std::ofstream(options.binary_path, std::ios::binary) << binary;
  }
  const std::string path = JoinPath(directory->path(), "sample.spore");
  const absl::StatusOr<spore::PackResult> packed =
      spore::PackToPath(options, key, path);
  CHECK(packed.ok()) << packed.status();
  absl::StatusOr<std::string> bytes = ReadFile(path, int64_t{4} << 30);
  CHECK(bytes.ok()) << bytes.status();
  return {.bytes = *std::move(bytes), .digest = packed->digest};
}

}  // namespace mycelium::repo
