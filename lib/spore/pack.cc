#include "lib/spore/pack.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <map>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/crypto/base64.h"
#include "lib/crypto/sha256.h"
#include "lib/spore/archive.h"
#include "lib/spore/crc32.h"
#include "lib/spore/refusal.h"
#include "lib/spore/rfc3339.h"

namespace mycelium::spore {
namespace {

constexpr size_t kBufferBytes = size_t{256} << 10;
// What a 32-bit field of a zip holds, without the value that means ZIP64.
constexpr int64_t kMaxZipBytes = 0xfffffffe;

// One file to be written, as it was when it was hashed.
struct Source {
  std::string path;  // On disk.
  int64_t size = 0;
  uint32_t crc32 = 0;
  std::string sha256;  // Hex.
  bool exec = false;
};

// By the path in the spore: the order of the entries.
using Sources = std::map<std::string, Source>;

// Streams the file at `path` to `use`.
absl::Status ForEachChunk(
    const std::string& path,
    absl::FunctionRef<absl::Status(absl::string_view)> use) {
  // O_NONBLOCK: opening a FIFO would wait for a writer.
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) {
    return ErrnoStatus(errno, absl::StrCat("cannot open ", path));
  }
  struct stat info;
  if (fstat(fd.get(), &info) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot stat ", path));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is not a regular file"));
  }
  std::string buffer(kBufferBytes, '\0');
  while (true) {
    const ssize_t got = read(fd.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, absl::StrCat("cannot read ", path));
    if (got == 0) return absl::OkStatus();
    MYC_RETURN_IF_ERROR(use({buffer.data(), static_cast<size_t>(got)}));
  }
}

absl::StatusOr<Source> HashSource(const std::string& path, bool exec) {
  Source source;
  source.path = path;
  source.exec = exec;
  crypto::Sha256 hash;
  MYC_RETURN_IF_ERROR(ForEachChunk(path, [&](absl::string_view chunk) {
    hash.Update(chunk);
    source.crc32 = ExtendCrc32(source.crc32, chunk);
    source.size += static_cast<int64_t>(chunk.size());
    return absl::OkStatus();
  }));
  source.sha256 = absl::BytesToHexString(hash.Finish());
  return source;
}

absl::StatusOr<const std::string*> FindString(const JsonValue& json,
                                              absl::string_view member) {
  const JsonValue* value = json.Find(member);
  if (value == nullptr || !value->is_string()) {
    return Refuse("E_MANIFEST", absl::StrCat("manifest member ", member,
                                             " must be a string"));
  }
  return &value->string();
}

// Adds what the signature says about the files to the manifest, and takes from
// it which of them are executable.
absl::Status ListFiles(Sources& sources, JsonValue& manifest) {
  JsonValue listed = JsonValue::MakeObject();
  if (const JsonValue* given = manifest.Find("files"); given != nullptr) {
    if (!given->is_object()) {
      return Refuse("E_MANIFEST", "manifest member files must be an object");
    }
    for (const auto& [path, value] : given->object()) {
      if (sources.count(path) == 0 || !value.is_object()) {
        return Refuse("E_FILE_MISSING",
                      absl::StrCat("manifest member files lists ", Quoted(path),
                                   ", which is not packed"));
      }
    }
    listed = *given;
  }
  for (auto& [path, source] : sources) {
    const JsonValue* given = listed.Find(path);
    JsonValue info = given == nullptr ? JsonValue::MakeObject() : *given;
    if (given == nullptr && source.exec) info.Set("exec", true);
    const JsonValue* exec = info.Find("exec");
    if (exec != nullptr && exec->is_bool() && exec->boolean()) {
      source.exec = true;
    }
    info.Set("sha256", source.sha256);
    info.Set("size", source.size);
    listed.Set(path, std::move(info));
  }
  manifest.Set("files", std::move(listed));
  return absl::OkStatus();
}

// Writes the zip front to back, hashing it as it goes.
class ZipWriter {
 public:
  explicit ZipWriter(int fd) : fd_(fd) {}

  // Begins an entry; `size` bytes must follow through Write.
  absl::Status BeginEntry(absl::string_view path, uint32_t crc32, int64_t size,
                          bool exec) {
    constexpr uint32_t kRegular = 0100000;
    const auto local_offset = static_cast<uint32_t>(offset_);
    // What both headers say: version 1.0, no flags, stored, 1980-01-01, no
    // extra field.
    std::string common;
    Append16(10, common);
    Append16(0, common);
    Append16(0, common);
    Append16(0, common);
    Append16(0x21, common);
    Append32(crc32, common);
    Append32(static_cast<uint32_t>(size), common);
    Append32(static_cast<uint32_t>(size), common);
    Append16(static_cast<uint16_t>(path.size()), common);
    Append16(0, common);

    std::string local;
    Append32(0x04034b50, local);
    absl::StrAppend(&local, common, path);

    Append32(0x02014b50, directory_);
    Append16(0x0314, directory_);  // Made on Unix, by version 2.0.
    directory_ += common;
    Append16(0, directory_);  // No comment,
    Append16(0, directory_);  // first disk,
    Append16(0, directory_);  // nothing known of the contents.
    Append32((kRegular | (exec ? 0755U : 0644U)) << 16, directory_);
    Append32(local_offset, directory_);
    absl::StrAppend(&directory_, path);
    ++entries_;
    return Write(local);
  }

  absl::Status Write(absl::string_view bytes) {
    offset_ += static_cast<int64_t>(bytes.size());
    if (offset_ > kMaxZipBytes) {
      return absl::InvalidArgumentError(
          "the spore would have more than 4 GiB, which its format cannot hold");
    }
    hash_.Update(bytes);
    return WriteFully(fd_, bytes);
  }

  // Writes the directory and returns the SHA-256 of the file in hex.
  absl::StatusOr<std::string> Finish() {
    std::string end;
    Append32(0x06054b50, end);
    Append16(0, end);
    Append16(0, end);
    Append16(entries_, end);
    Append16(entries_, end);
    Append32(static_cast<uint32_t>(directory_.size()), end);
    Append32(static_cast<uint32_t>(offset_), end);
    Append16(0, end);
    MYC_RETURN_IF_ERROR(Write(directory_));
    MYC_RETURN_IF_ERROR(Write(end));
    return absl::BytesToHexString(hash_.Finish());
  }

  int64_t size() const { return offset_; }

 private:
  static void Append16(uint16_t value, std::string& out) {
    out.push_back(static_cast<char>(value & 0xff));
    out.push_back(static_cast<char>(value >> 8));
  }

  static void Append32(uint32_t value, std::string& out) {
    Append16(static_cast<uint16_t>(value & 0xffff), out);
    Append16(static_cast<uint16_t>(value >> 16), out);
  }

  const int fd_;
  int64_t offset_ = 0;
  uint16_t entries_ = 0;
  std::string directory_;
  crypto::Sha256 hash_;
};

absl::Status CopySource(const Source& source, ZipWriter& zip) {
  // The CRC is enough to notice an accident; what deceives it does not verify.
  uint32_t crc32 = 0;
  int64_t size = 0;
  const auto changed = [&] {
    return absl::AbortedError(
        absl::StrCat(source.path,
                     " changed while it was packed; try again when it is at "
                     "rest"));
  };
  MYC_RETURN_IF_ERROR(
      ForEachChunk(source.path, [&](absl::string_view chunk) -> absl::Status {
        size += static_cast<int64_t>(chunk.size());
        if (size > source.size) return changed();
        crc32 = ExtendCrc32(crc32, chunk);
        return zip.Write(chunk);
      }));
  if (size != source.size || crc32 != source.crc32) return changed();
  return absl::OkStatus();
}

absl::StatusOr<Sources> HashSources(const PackOptions& options,
                                    const std::string& command,
                                    const std::string& binary) {
  Sources sources;
  MYC_ASSIGN_OR_RETURN(Source source, HashSource(options.binary_path, true));
  sources.emplace(binary, std::move(source));
  for (const PackFile& file : options.files) {
    MYC_ASSIGN_OR_RETURN(
        source, HashSource(file.source, file.exec || file.path == command));
    if (!sources.emplace(file.path, std::move(source)).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(Quoted(file.path), " is to be packed twice"));
    }
  }
  if (sources.count(command) == 0) {
    return Refuse("E_BINARY_MISSING",
                  absl::StrCat("the command ", Quoted(command),
                               " is not among the files to be packed"));
  }
  return sources;
}

}  // namespace

absl::StatusOr<PackResult> Pack(const PackOptions& options,
                                const crypto::PrivateKey& key, int fd) {
  JsonValue json = options.manifest;
  if (!json.is_object()) {
    return Refuse("E_MANIFEST", "the manifest must be an object");
  }
  if (json.Find("kind") == nullptr) json.Set("kind", "Spore");
  if (json.Find("created_at") == nullptr) {
    if (!options.created_at.has_value()) {
      return absl::InvalidArgumentError(
          "the time of creation must be given, by the manifest or the caller");
    }
    json.Set("created_at", FormatRfc3339(*options.created_at));
  }
  MYC_ASSIGN_OR_RETURN(const std::string* name, FindString(json, "command"));
  const std::string command(absl::StripPrefix(*name, "./"));
  std::string binary = command;
  if (json.Find("binary") != nullptr) {
    MYC_ASSIGN_OR_RETURN(name, FindString(json, "binary"));
    binary = *name;
  }

  MYC_ASSIGN_OR_RETURN(Sources sources, HashSources(options, command, binary));
  if (sources.size() > 1 || json.Find("files") != nullptr) {
    MYC_RETURN_IF_ERROR(ListFiles(sources, json));
  }
  json.Set("binary_sha256", sources.at(binary).sha256);
  json.Set("public_key", crypto::Base64Encode(key.public_key()));
  json.Remove("signature");
  crypto::Sha256 statement;
  statement.Update(Canonicalize(json));
  statement.Update(absl::HexStringToBytes(sources.at(binary).sha256));
  const std::string statement_digest = statement.Finish();
  json.Set("signature", crypto::Base64Encode(key.Sign(statement_digest)));

  // The text is judged as any other verifier will judge it.
  const std::string text = Canonicalize(json);
  PackResult result;
  MYC_ASSIGN_OR_RETURN(result.manifest, ParseManifest(text));
  result.statement_digest = absl::BytesToHexString(statement_digest);

  ZipWriter zip(fd);
  MYC_RETURN_IF_ERROR(zip.BeginEntry(kManifestPath, ExtendCrc32(0, text),
                                     static_cast<int64_t>(text.size()), false));
  MYC_RETURN_IF_ERROR(zip.Write(text));
  for (const auto& [path, source] : sources) {
    if (source.size > kMaxZipBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(source.path, " has ", source.size,
                       " bytes; a spore holds at most ", kMaxZipBytes));
    }
    MYC_RETURN_IF_ERROR(
        zip.BeginEntry(path, source.crc32, source.size, source.exec));
    MYC_RETURN_IF_ERROR(CopySource(source, zip));
  }
  MYC_ASSIGN_OR_RETURN(result.digest, zip.Finish());
  result.size_bytes = zip.size();
  // Names that exclude each other, and too many of them.
  MYC_RETURN_IF_ERROR(
      ReadArchive(fd, {.max_entry_bytes = kMaxZipBytes}).status());
  return result;
}

absl::StatusOr<PackResult> PackToPath(const PackOptions& options,
                                      const crypto::PrivateKey& key,
                                      const std::string& path) {
  const std::string temporary =
      absl::StrCat(path, ".", RandomHex(8), ".partial");
  UniqueFd fd(
      open(temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd.valid()) {
    return ErrnoStatus(errno, absl::StrCat("cannot create ", temporary));
  }
  absl::StatusOr<PackResult> result = Pack(options, key, fd.get());
  if (result.ok() && fsync(fd.get()) != 0) {
    result = ErrnoStatus(errno, absl::StrCat("cannot write ", temporary));
  }
  if (result.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
    result = ErrnoStatus(errno, absl::StrCat("cannot create ", path));
  }
  if (!result.ok()) unlink(temporary.c_str());
  return result;
}

}  // namespace mycelium::spore
