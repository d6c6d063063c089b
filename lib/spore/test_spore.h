// Spores that are wrong in one chosen place, for tests.

#ifndef LIB_SPORE_TEST_SPORE_H_
#define LIB_SPORE_TEST_SPORE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "lib/base/file.h"
#include "lib/crypto/ed25519.h"
#include "lib/crypto/trust_store.h"
#include "lib/spore/json.h"

namespace mycelium::spore {

// The fields of a zip header that a test may want to lie in.
struct ZipHeader {
  uint16_t version_needed = 10;
  uint16_t flags = 0;
  uint16_t method = 0;
  uint32_t crc32 = 0;
  uint32_t stored_bytes = 0;
  uint32_t size = 0;
  std::string name;
  std::string extra;
};

// An entry as it is written: `stored` are its bytes in the file.
struct ZipEntry {
  ZipHeader local;
  ZipHeader central;
  std::string stored;
  std::string descriptor;
  // Bytes between this entry and the next.
  std::string gap;
  uint32_t external_attributes = 0x81a40000;
  std::string comment;
  uint16_t disk = 0;
  // Instead of where the entry really is.
  std::optional<uint32_t> header_offset;
  bool in_directory = true;
};

struct ZipFile {
  std::string prefix;
  std::vector<ZipEntry> entries;
  std::string directory_suffix;  // Counted as part of the directory.
  std::string before_end;        // Not counted.
  std::optional<uint16_t> disk_count;
  std::optional<uint16_t> count;
  std::optional<uint32_t> directory_bytes;
  std::optional<uint32_t> directory_offset;
  uint16_t disk = 0;
  uint16_t directory_disk = 0;
  std::string comment;
  std::string suffix;
};

// An entry that is right, stored or deflated.
ZipEntry StoredEntry(absl::string_view name, absl::string_view data);
ZipEntry DeflatedEntry(absl::string_view name, absl::string_view data);

// Makes a deflated entry one that has its sizes behind its data.
ZipEntry WithDescriptor(ZipEntry entry, bool with_signature);

// `data` as raw deflate.
std::string Deflate(absl::string_view data);

std::string WriteZip(const ZipFile& zip);

// The key that the trust store below trusts for `demo/*`.
const crypto::PrivateKey& TestKey();
crypto::TrustStore TestTrust();

// The binary of the spores here.
inline constexpr absl::string_view kTestBinary = "#!/bin/true\nthe binary\n";

// A manifest without `signature`, for kTestBinary as `hello`, that is right.
JsonValue TestManifest();

// The text of `manifest` signed by `key`, with the statement as it should be.
std::string SignManifest(JsonValue manifest,
                         const crypto::PrivateKey& key = TestKey());

// A zip of a manifest (its text) and the binary.
ZipFile SporeWith(absl::string_view manifest_text);

// A file with these bytes that is gone with its descriptor.
UniqueFd MemoryFile(absl::string_view bytes);

}  // namespace mycelium::spore

#endif  // LIB_SPORE_TEST_SPORE_H_
