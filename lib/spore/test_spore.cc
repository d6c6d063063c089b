#include "lib/spore/test_spore.h"

#include <sys/mman.h>
#include <zlib.h>

#include <cstdlib>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "lib/crypto/base64.h"
#include "lib/crypto/sha256.h"
#include "lib/spore/crc32.h"

namespace mycelium::spore {
namespace {

void Append16(uint16_t value, std::string& out) {
  out.push_back(static_cast<char>(value & 0xff));
  out.push_back(static_cast<char>(value >> 8));
}

void Append32(uint32_t value, std::string& out) {
  Append16(static_cast<uint16_t>(value & 0xffff), out);
  Append16(static_cast<uint16_t>(value >> 16), out);
}

// What the local header and the record of the directory have in common.
void AppendHeader(const ZipHeader& header, std::string& out) {
  Append16(header.version_needed, out);
  Append16(header.flags, out);
  Append16(header.method, out);
  Append16(0, out);
  Append16(0x21, out);
  Append32(header.crc32, out);
  Append32(header.stored_bytes, out);
  Append32(header.size, out);
  Append16(static_cast<uint16_t>(header.name.size()), out);
  Append16(static_cast<uint16_t>(header.extra.size()), out);
}

}  // namespace

ZipEntry StoredEntry(absl::string_view name, absl::string_view data) {
  ZipEntry entry;
  entry.local.crc32 = ExtendCrc32(0, data);
  entry.local.stored_bytes = static_cast<uint32_t>(data.size());
  entry.local.size = static_cast<uint32_t>(data.size());
  entry.local.name = std::string(name);
  entry.central = entry.local;
  entry.stored = std::string(data);
  return entry;
}

ZipEntry DeflatedEntry(absl::string_view name, absl::string_view data) {
  ZipEntry entry = StoredEntry(name, data);
  entry.stored = Deflate(data);
  entry.local.version_needed = 20;
  entry.local.method = 8;
  entry.local.stored_bytes = static_cast<uint32_t>(entry.stored.size());
  entry.central = entry.local;
  return entry;
}

ZipEntry WithDescriptor(ZipEntry entry, bool with_signature) {
  if (with_signature) Append32(0x08074b50, entry.descriptor);
  Append32(entry.central.crc32, entry.descriptor);
  Append32(entry.central.stored_bytes, entry.descriptor);
  Append32(entry.central.size, entry.descriptor);
  entry.local.crc32 = 0;
  entry.local.stored_bytes = 0;
  entry.local.size = 0;
  entry.local.flags |= 8;
  entry.central.flags |= 8;
  return entry;
}

std::string Deflate(absl::string_view data) {
  z_stream stream = {};
  if (deflateInit2(&stream, 9, Z_DEFLATED, -MAX_WBITS, 9, Z_DEFAULT_STRATEGY) !=
      Z_OK) {
    std::abort();
  }
  std::string out(deflateBound(&stream, data.size()), '\0');
  std::string in(data);
  stream.next_in = reinterpret_cast<unsigned char*>(in.data());
  stream.avail_in = static_cast<unsigned>(in.size());
  stream.next_out = reinterpret_cast<unsigned char*>(out.data());
  stream.avail_out = static_cast<unsigned>(out.size());
  if (deflate(&stream, Z_FINISH) != Z_STREAM_END) std::abort();
  out.resize(out.size() - stream.avail_out);
  deflateEnd(&stream);
  return out;
}

std::string WriteZip(const ZipFile& zip) {
  std::string out = zip.prefix;
  std::string directory;
  uint16_t count = 0;
  for (const ZipEntry& entry : zip.entries) {
    const auto offset = static_cast<uint32_t>(out.size());
    Append32(0x04034b50, out);
    AppendHeader(entry.local, out);
    absl::StrAppend(&out, entry.local.name, entry.local.extra, entry.stored,
                    entry.descriptor, entry.gap);
    if (!entry.in_directory) continue;
    ++count;
    Append32(0x02014b50, directory);
    Append16(0x0314, directory);
    AppendHeader(entry.central, directory);
    Append16(static_cast<uint16_t>(entry.comment.size()), directory);
    Append16(entry.disk, directory);
    Append16(0, directory);
    Append32(entry.external_attributes, directory);
    Append32(entry.header_offset.value_or(offset), directory);
    absl::StrAppend(&directory, entry.central.name, entry.central.extra,
                    entry.comment);
  }
  const auto directory_offset = static_cast<uint32_t>(out.size());
  absl::StrAppend(&directory, zip.directory_suffix);
  absl::StrAppend(&out, directory, zip.before_end);
  Append32(0x06054b50, out);
  Append16(zip.disk, out);
  Append16(zip.directory_disk, out);
  Append16(zip.disk_count.value_or(zip.count.value_or(count)), out);
  Append16(zip.count.value_or(count), out);
  Append32(
      zip.directory_bytes.value_or(static_cast<uint32_t>(directory.size())),
      out);
  Append32(zip.directory_offset.value_or(directory_offset), out);
  Append16(static_cast<uint16_t>(zip.comment.size()), out);
  absl::StrAppend(&out, zip.comment, zip.suffix);
  return out;
}

const crypto::PrivateKey& TestKey() {
  static const crypto::PrivateKey& key = *new crypto::PrivateKey(
      *crypto::PrivateKey::FromPem("-----BEGIN PRIVATE KEY-----\n"
                                   "MC4CAQAwBQYDK2VwBCIEICpr3wAjoHoSkXiD4DIH1V"
                                   "PqNaVisjy5H8g9Jw0xUM5I\n"
                                   "-----END PRIVATE KEY-----\n"));
  return key;
}

crypto::TrustStore TestTrust() {
  crypto::TrustStore trust;
  if (!trust.AddKey(TestKey().public_key(), "test", {"demo/*"}).ok()) {
    std::abort();
  }
  return trust;
}

JsonValue TestManifest() {
  JsonValue manifest = JsonValue::MakeObject();
  manifest.Set("kind", "Spore");
  manifest.Set("name", "demo/hello");
  manifest.Set("version", "1.0.0");
  manifest.Set("command", "hello");
  manifest.Set("created_at", "2026-01-02T03:04:05Z");
  manifest.Set("binary_sha256", crypto::Sha256Hex(kTestBinary));
  manifest.Set("public_key", crypto::Base64Encode(TestKey().public_key()));
  return manifest;
}

std::string SignManifest(JsonValue manifest, const crypto::PrivateKey& key) {
  manifest.Remove("signature");
  const JsonValue* hash = manifest.Find("binary_sha256");
  std::string statement = Canonicalize(manifest);
  if (hash != nullptr && hash->is_string() && hash->string().size() == 64) {
    statement += absl::HexStringToBytes(hash->string());
  }
  manifest.Set("signature",
               crypto::Base64Encode(key.Sign(crypto::Sha256Raw(statement))));
  return Canonicalize(manifest);
}

ZipFile SporeWith(absl::string_view manifest_text) {
  ZipFile zip;
  zip.entries = {StoredEntry("manifest.json", manifest_text),
                 StoredEntry("hello", kTestBinary)};
  return zip;
}

UniqueFd MemoryFile(absl::string_view bytes) {
  UniqueFd fd(memfd_create("test", MFD_CLOEXEC));
  if (!fd.valid() || !WriteFully(fd.get(), bytes).ok()) std::abort();
  return fd;
}

}  // namespace mycelium::spore
