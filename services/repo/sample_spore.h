// Spores for tests.

#ifndef SERVICES_REPO_SAMPLE_SPORE_H_
#define SERVICES_REPO_SAMPLE_SPORE_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/crypto/ed25519.h"

namespace mycelium::repo {

struct SampleSpore {
  std::string bytes;
  std::string digest;

  int64_t size_bytes() const { return static_cast<int64_t>(bytes.size()); }
};

// When every sample was created.
inline const absl::Time kSampleTime = absl::FromUnixSeconds(1'767'225'600);

// A spore of this name, signed with `key`, whose binary has `binary_bytes`
// bytes that depend on `name`.
SampleSpore MakeSpore(absl::string_view name, size_t binary_bytes,
                      const crypto::PrivateKey& key);

// As above, with a key that is the same throughout the process.
SampleSpore MakeSpore(absl::string_view name, size_t binary_bytes = 1000);

const crypto::PrivateKey& SampleKey();

}  // namespace mycelium::repo

#endif  // SERVICES_REPO_SAMPLE_SPORE_H_
