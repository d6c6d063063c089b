#include "lib/spore/archive.h"

#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <iterator>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/spore/crc32.h"
#include "lib/spore/entry_path.h"
#include "lib/spore/refusal.h"

namespace mycelium::spore {
namespace {

// Signatures of the records (APPNOTE.TXT of PKWARE, version 6.3.3).
constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kZip64LocatorSignature = 0x07064b50;
constexpr uint32_t kCentralSignature = 0x02014b50;
constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr uint32_t kDescriptorSignature = 0x08074b50;

constexpr int64_t kEndBytes = 22;
constexpr int64_t kZip64LocatorBytes = 20;
constexpr size_t kCentralBytes = 46;
constexpr size_t kLocalBytes = 30;

constexpr uint16_t kFlagDescriptor = 1 << 3;
// Deflate options, descriptor, UTF-8 names. No encryption, no patches.
constexpr uint16_t kAllowedFlags = 0x080e;
constexpr uint16_t kStored = 0;
constexpr uint16_t kDeflated = 8;
constexpr uint16_t kMaxVersionNeeded = 20;
// What says "look at the ZIP64 record".
constexpr uint16_t kZip64Count = 0xffff;
constexpr uint32_t kZip64Size = 0xffffffff;

// The directory of 4096 entries with the longest names and the extra fields
// that writers really make has about 1.5 MiB.
constexpr int64_t kMaxDirectoryBytes = int64_t{8} << 20;

constexpr size_t kBufferBytes = size_t{256} << 10;

// Reads little-endian numbers one after the other; the caller has checked that
// there are enough bytes.
class Fields {
 public:
  explicit Fields(absl::string_view bytes) : bytes_(bytes) {}

  uint16_t U16() { return static_cast<uint16_t>(Take(2)); }
  uint32_t U32() { return Take(4); }

 private:
  uint32_t Take(size_t count) {
    uint32_t value = 0;
    for (size_t i = 0; i < count; ++i) {
      value |= static_cast<uint32_t>(static_cast<unsigned char>(bytes_[i]))
               << (8 * i);
    }
    bytes_.remove_prefix(count);
    return value;
  }

  absl::string_view bytes_;
};

absl::Status ReadFully(int fd, int64_t offset, size_t bytes,
                       std::string& buffer) {
  buffer.resize(bytes);
  size_t done = 0;
  while (done < bytes) {
    const ssize_t got = pread(fd, buffer.data() + done, bytes - done,
                              offset + static_cast<int64_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return Refuse("E_IO",
                    absl::StrCat("cannot read the spore: ",
                                 std::generic_category().message(errno)));
    }
    if (got == 0) {
      return Refuse("E_IO", "the spore became shorter while it was read");
    }
    done += static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

struct End {
  uint16_t count = 0;
  int64_t directory_offset = 0;
  int64_t directory_bytes = 0;
};

// A record of the directory.
struct Central {
  std::string name;  // As written: with the slash of a directory.
  uint16_t version_needed = 0;
  uint16_t flags = 0;
  uint16_t method = 0;
  uint32_t crc32 = 0;
  uint32_t stored_bytes = 0;
  uint32_t size = 0;
  uint32_t external_attributes = 0;
  uint32_t header_offset = 0;

  bool is_directory() const { return absl::EndsWith(name, "/"); }
};

absl::StatusOr<End> ReadEnd(int fd, int64_t file_bytes) {
  if (file_bytes < kEndBytes) {
    return Refuse("E_ZIP_EOCD", absl::StrCat("the file has ", file_bytes,
                                             " bytes, less than an empty zip"));
  }
  const int64_t end_offset = file_bytes - kEndBytes;
  std::string record;
  MYC_RETURN_IF_ERROR(ReadFully(fd, end_offset, kEndBytes, record));
  Fields fields(record);
  if (fields.U32() != kEndSignature) {
    return Refuse("E_ZIP_EOCD",
                  "the file does not end in the end record of a zip");
  }
  const uint16_t disk = fields.U16();
  const uint16_t directory_disk = fields.U16();
  const uint16_t disk_count = fields.U16();
  const uint16_t count = fields.U16();
  const uint32_t directory_bytes = fields.U32();
  const uint32_t directory_offset = fields.U32();
  const uint16_t comment_bytes = fields.U16();
  if (disk != 0 || directory_disk != 0 || disk_count != count) {
    return Refuse("E_ZIP_EOCD", "the zip is a part of a split one");
  }
  if (comment_bytes != 0) {
    return Refuse("E_ZIP_EOCD", "the zip has a comment");
  }
  if (count == kZip64Count || directory_bytes == kZip64Size ||
      directory_offset == kZip64Size) {
    return Refuse("E_ZIP_EOCD", "the zip is a ZIP64");
  }
  if (end_offset >= kZip64LocatorBytes) {
    MYC_RETURN_IF_ERROR(ReadFully(fd, end_offset - kZip64LocatorBytes,
                                  kZip64LocatorBytes, record));
    if (Fields(record).U32() == kZip64LocatorSignature) {
      return Refuse("E_ZIP_EOCD", "the zip has a ZIP64 locator");
    }
  }
  if (int64_t{directory_offset} + directory_bytes != end_offset) {
    return Refuse(
        "E_ZIP_LAYOUT",
        absl::StrCat("the directory (offset ", directory_offset, ", ",
                     directory_bytes,
                     " bytes) does not end at the end record (offset ",
                     end_offset, ")"));
  }
  return End{.count = count,
             .directory_offset = directory_offset,
             .directory_bytes = directory_bytes};
}

// Extra fields carry times and owners, which are ignored. Others can change
// what a reader takes for the name, the size or the contents.
absl::Status CheckExtra(absl::string_view extra, absl::string_view name) {
  constexpr uint16_t kUnixTimes = 0x5455;
  constexpr std::array<uint16_t, 4> kAllowed = {
      0x000a,      // NTFS times
      kUnixTimes,  // UT
      0x7875,      // ux: owner
      0xcafe,      // JAR marker
  };
  while (!extra.empty()) {
    if (extra.size() < 4) {
      return Refuse("E_ZIP_EXTRA", absl::StrCat("the extra field of ",
                                                Quoted(name), " is cut off"));
    }
    Fields fields(extra);
    const uint16_t id = fields.U16();
    const uint16_t bytes = fields.U16();
    extra.remove_prefix(4);
    if (bytes > extra.size()) {
      return Refuse("E_ZIP_EXTRA",
                    absl::StrCat("an extra field of ", Quoted(name),
                                 " is longer than its space"));
    }
    if (std::find(kAllowed.begin(), kAllowed.end(), id) == kAllowed.end()) {
      return Refuse(
          "E_ZIP_EXTRA",
          absl::StrCat("extra field 0x", absl::Hex(id, absl::kZeroPad4), " of ",
                       Quoted(name), " is not allowed"));
    }
    // It begins with a byte of flags; libarchive unpacks nothing without.
    if (id == kUnixTimes && bytes == 0) {
      return Refuse("E_ZIP_EXTRA", absl::StrCat("the extra field UT of ",
                                                Quoted(name), " is empty"));
    }
    extra.remove_prefix(bytes);
  }
  return absl::OkStatus();
}

// Only regular files and empty directories; the name says which of them.
absl::Status CheckType(const Central& entry) {
  constexpr uint32_t kDosVolume = 0x08;
  constexpr uint32_t kDosDirectory = 0x10;
  constexpr uint32_t kDosDevice = 0x40;
  constexpr uint32_t kDosReparsePoint = 0x400;
  const uint32_t type = entry.external_attributes >> 16 & S_IFMT;
  const uint32_t wanted = entry.is_directory() ? S_IFDIR : S_IFREG;
  uint32_t forbidden = kDosVolume | kDosDevice | kDosReparsePoint;
  if (!entry.is_directory()) forbidden |= kDosDirectory;
  if ((type != 0 && type != wanted) ||
      (entry.external_attributes & 0xffff & forbidden) != 0) {
    return Refuse("E_ZIP_TYPE",
                  absl::StrCat("entry ", Quoted(entry.name),
                               " is neither a regular file nor a directory "
                               "named as such"));
  }
  if (entry.is_directory() && (entry.size != 0 || entry.stored_bytes != 0 ||
                               entry.crc32 != 0 || entry.method != kStored)) {
    return Refuse("E_ZIP_TYPE", absl::StrCat("directory ", Quoted(entry.name),
                                             " carries bytes"));
  }
  return absl::OkStatus();
}

absl::Status CheckCentral(const Central& entry) {
  absl::string_view path = entry.name;
  absl::ConsumeSuffix(&path, "/");
  if (!IsEntryPath(path)) {
    return Refuse("E_PATH", absl::StrCat("entry name ", Quoted(entry.name),
                                         " is not allowed"));
  }
  if ((entry.flags & ~kAllowedFlags) != 0) {
    return Refuse(
        "E_ZIP_FLAGS",
        absl::StrCat("entry ", Quoted(entry.name), " has the flags 0x",
                     absl::Hex(entry.flags, absl::kZeroPad4)));
  }
  if (entry.method != kStored && entry.method != kDeflated) {
    return Refuse(
        "E_ZIP_METHOD",
        absl::StrCat("entry ", Quoted(entry.name), " is compressed by method ",
                     entry.method,
                     "; only 0 (stored) and 8 (deflate) are allowed"));
  }
  if (entry.method == kStored && (entry.flags & kFlagDescriptor) != 0) {
    return Refuse("E_ZIP_FLAGS",
                  absl::StrCat("entry ", Quoted(entry.name),
                               " is stored and has its size behind its data"));
  }
  if (entry.version_needed > kMaxVersionNeeded) {
    return Refuse("E_ZIP_CD",
                  absl::StrCat("entry ", Quoted(entry.name), " needs version ",
                               entry.version_needed, " of zip"));
  }
  MYC_RETURN_IF_ERROR(CheckType(entry));
  if (entry.method == kStored && entry.size != entry.stored_bytes) {
    return Refuse("E_ZIP_CD",
                  absl::StrCat("entry ", Quoted(entry.name), " is stored, but ",
                               entry.stored_bytes, " bytes are said to become ",
                               entry.size));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Central>> ReadDirectory(int fd, const End& end) {
  if (end.directory_bytes > kMaxDirectoryBytes) {
    return Refuse(
        "E_ZIP_CD",
        absl::StrCat("the directory has ", end.directory_bytes,
                     " bytes; at most ", kMaxDirectoryBytes, " are allowed"));
  }
  std::string directory;
  MYC_RETURN_IF_ERROR(ReadFully(fd, end.directory_offset,
                                static_cast<size_t>(end.directory_bytes),
                                directory));
  absl::string_view rest = directory;
  std::vector<Central> entries;
  for (uint16_t i = 0; i < end.count; ++i) {
    Fields fields(rest);
    if (rest.size() < kCentralBytes || fields.U32() != kCentralSignature) {
      return Refuse("E_ZIP_CD", absl::StrCat("record ", i,
                                             " of the directory is not one of "
                                             "an entry"));
    }
    Central entry;
    fields.U16();  // Version made by: says nothing that is relied on.
    entry.version_needed = fields.U16();
    entry.flags = fields.U16();
    entry.method = fields.U16();
    fields.U32();  // Time and date.
    entry.crc32 = fields.U32();
    entry.stored_bytes = fields.U32();
    entry.size = fields.U32();
    const uint16_t name_bytes = fields.U16();
    const uint16_t extra_bytes = fields.U16();
    const uint16_t comment_bytes = fields.U16();
    const uint16_t disk = fields.U16();
    fields.U16();  // Internal attributes: whether it is thought to be text.
    entry.external_attributes = fields.U32();
    entry.header_offset = fields.U32();
    rest.remove_prefix(kCentralBytes);
    if (size_t{name_bytes} + extra_bytes + comment_bytes > rest.size()) {
      return Refuse("E_ZIP_CD",
                    absl::StrCat("record ", i, " of the directory is cut off"));
    }
    entry.name = std::string(rest.substr(0, name_bytes));
    const absl::string_view extra = rest.substr(name_bytes, extra_bytes);
    rest.remove_prefix(size_t{name_bytes} + extra_bytes + comment_bytes);
    if (disk != 0) {
      return Refuse("E_ZIP_CD", absl::StrCat("entry ", Quoted(entry.name),
                                             " is on another disk"));
    }
    if (comment_bytes != 0) {
      return Refuse("E_ZIP_CD", absl::StrCat("entry ", Quoted(entry.name),
                                             " has a comment"));
    }
    MYC_RETURN_IF_ERROR(CheckCentral(entry));
    MYC_RETURN_IF_ERROR(CheckExtra(extra, entry.name));
    entries.push_back(std::move(entry));
  }
  if (!rest.empty()) {
    return Refuse("E_ZIP_CD", absl::StrCat(rest.size(),
                                           " bytes of the directory belong to "
                                           "none of its ",
                                           end.count, " entries"));
  }
  return entries;
}

// No two entries with one name, also where upper and lower case are the same;
// no file where another entry needs a directory.
absl::Status CheckNames(const std::vector<Central>& entries) {
  std::set<std::string> names;
  std::set<std::string> files;
  for (const Central& entry : entries) {
    absl::string_view path = entry.name;
    absl::ConsumeSuffix(&path, "/");
    std::string folded = absl::AsciiStrToLower(path);
    if (!names.insert(folded).second) {
      return Refuse("E_ZIP_DUP", absl::StrCat("there is a second entry ",
                                              Quoted(entry.name)));
    }
    if (!entry.is_directory()) files.insert(std::move(folded));
  }
  for (const std::string& name : names) {
    for (size_t slash = name.find('/'); slash != std::string::npos;
         slash = name.find('/', slash + 1)) {
      if (files.count(name.substr(0, slash)) > 0) {
        return Refuse(
            "E_ZIP_DUP",
            absl::StrCat("entry ", Quoted(name.substr(0, slash)),
                         " is a file and the directory of ", Quoted(name)));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Mismatch(const Central& entry, absl::string_view what) {
  return Refuse(
      "E_ZIP_MISMATCH",
      absl::StrCat("the local header and the directory differ in the ", what,
                   " of entry ", Quoted(entry.name)));
}

// Checks the local header of `entry` against its record in the directory and
// returns where its data begins.
absl::StatusOr<int64_t> CheckLocalHeader(int fd, const Central& entry,
                                         int64_t directory_offset) {
  const int64_t offset = entry.header_offset;
  if (offset + static_cast<int64_t>(kLocalBytes) > directory_offset) {
    return Refuse("E_ZIP_LAYOUT", absl::StrCat("entry ", Quoted(entry.name),
                                               " reaches into the directory"));
  }
  std::string header;
  MYC_RETURN_IF_ERROR(ReadFully(fd, offset, kLocalBytes, header));
  Fields fields(header);
  if (fields.U32() != kLocalSignature) {
    return Refuse("E_ZIP_LAYOUT",
                  absl::StrCat("there is no local header of entry ",
                               Quoted(entry.name), " at offset ", offset));
  }
  if (fields.U16() != entry.version_needed) return Mismatch(entry, "version");
  if (fields.U16() != entry.flags) return Mismatch(entry, "flags");
  if (fields.U16() != entry.method) return Mismatch(entry, "method");
  fields.U32();  // Time and date.
  const uint32_t crc32 = fields.U32();
  const uint32_t stored_bytes = fields.U32();
  const uint32_t size = fields.U32();
  const uint16_t name_bytes = fields.U16();
  const uint16_t extra_bytes = fields.U16();
  if (name_bytes != entry.name.size()) return Mismatch(entry, "name");
  // With a descriptor the header may leave the three at zero.
  const bool deferred = (entry.flags & kFlagDescriptor) != 0 && crc32 == 0 &&
                        stored_bytes == 0 && size == 0;
  if (!deferred) {
    if (crc32 != entry.crc32) return Mismatch(entry, "CRC");
    if (stored_bytes != entry.stored_bytes) return Mismatch(entry, "size");
    if (size != entry.size) return Mismatch(entry, "unpacked size");
  }
  const int64_t data_offset =
      offset + static_cast<int64_t>(kLocalBytes) + name_bytes + extra_bytes;
  if (data_offset + entry.stored_bytes > directory_offset) {
    return Refuse("E_ZIP_LAYOUT", absl::StrCat("entry ", Quoted(entry.name),
                                               " reaches into the directory"));
  }
  std::string names;
  MYC_RETURN_IF_ERROR(ReadFully(fd, offset + static_cast<int64_t>(kLocalBytes),
                                size_t{name_bytes} + extra_bytes, names));
  const absl::string_view bytes = names;
  if (bytes.substr(0, name_bytes) != entry.name) {
    return Mismatch(entry, "name");
  }
  MYC_RETURN_IF_ERROR(CheckExtra(bytes.substr(name_bytes), entry.name));
  return data_offset;
}

// Checks that the bytes from `offset` to `end` are the descriptor of `entry`,
// with the signature that is optional or without it, and nothing else.
absl::Status CheckDescriptor(int fd, const Central& entry, int64_t offset,
                             int64_t end) {
  constexpr int64_t kBare = 12;
  constexpr int64_t kSigned = 16;
  const int64_t room = end - offset;
  if (room < kBare) {
    return Refuse("E_ZIP_MISMATCH",
                  absl::StrCat("entry ", Quoted(entry.name), " has ", room,
                               " bytes where its descriptor must be"));
  }
  std::string bytes;
  MYC_RETURN_IF_ERROR(ReadFully(
      fd, offset, static_cast<size_t>(std::min(room, kSigned)), bytes));
  const auto agrees = [&](absl::string_view descriptor) {
    Fields fields(descriptor);
    return fields.U32() == entry.crc32 && fields.U32() == entry.stored_bytes &&
           fields.U32() == entry.size;
  };
  int64_t length = 0;
  if (room >= kSigned && Fields(bytes).U32() == kDescriptorSignature &&
      agrees(absl::string_view(bytes).substr(4))) {
    length = kSigned;
  } else if (agrees(bytes)) {
    length = kBare;
  } else {
    return Mismatch(entry, "descriptor");
  }
  if (length != room) {
    return Refuse("E_ZIP_LAYOUT",
                  absl::StrCat(room - length, " bytes behind entry ",
                               Quoted(entry.name), " belong to no entry"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Entry>> ReadArchive(int fd, const Limits& limits) {
  struct stat info;
  if (fstat(fd, &info) != 0) {
    return Refuse("E_IO", absl::StrCat("cannot stat the spore: ",
                                       std::generic_category().message(errno)));
  }
  if (!S_ISREG(info.st_mode)) {
    return Refuse("E_IO", "the spore is not a regular file");
  }
  if (info.st_size > limits.max_file_bytes) {
    return Refuse(
        "E_SIZE",
        absl::StrCat("the file has ", info.st_size, " bytes; at most ",
                     limits.max_file_bytes, " are allowed"));
  }
  MYC_ASSIGN_OR_RETURN(const End end, ReadEnd(fd, info.st_size));
  if (end.count > limits.max_entries) {
    return Refuse("E_ZIP_COUNT",
                  absl::StrCat("the zip has ", end.count, " entries; at most ",
                               limits.max_entries, " are allowed"));
  }
  MYC_ASSIGN_OR_RETURN(const std::vector<Central> directory,
                       ReadDirectory(fd, end));
  MYC_RETURN_IF_ERROR(CheckNames(directory));

  std::vector<Entry> entries;
  int64_t position = 0;
  int64_t total_bytes = 0;
  for (size_t i = 0; i < directory.size(); ++i) {
    const Central& record = directory[i];
    if (record.header_offset != position) {
      return Refuse("E_ZIP_LAYOUT",
                    absl::StrCat("entry ", Quoted(record.name),
                                 " is at offset ", record.header_offset,
                                 ", but the one before it ends at ", position));
    }
    MYC_ASSIGN_OR_RETURN(const int64_t data_offset,
                         CheckLocalHeader(fd, record, end.directory_offset));
    position = data_offset + record.stored_bytes;
    if ((record.flags & kFlagDescriptor) != 0) {
      const int64_t next = i + 1 < directory.size()
                               ? int64_t{directory[i + 1].header_offset}
                               : end.directory_offset;
      MYC_RETURN_IF_ERROR(CheckDescriptor(fd, record, position, next));
      position = next;
    }
    if (record.is_directory()) continue;
    total_bytes += record.size;
    if (record.size > limits.max_entry_bytes ||
        total_bytes > limits.max_total_bytes) {
      return Refuse(
          "E_SIZE",
          absl::StrCat("with entry ", Quoted(record.name), " of ", record.size,
                       " bytes the spore unpacks to ", total_bytes,
                       "; at most ", limits.max_entry_bytes, " per entry and ",
                       limits.max_total_bytes, " in all are allowed"));
    }
    entries.push_back({.path = record.name,
                       .deflated = record.method == kDeflated,
                       .header_offset = record.header_offset,
                       .data_offset = data_offset,
                       .stored_bytes = record.stored_bytes,
                       .size = record.size,
                       .crc32 = record.crc32});
  }
  if (position != end.directory_offset) {
    return Refuse("E_ZIP_LAYOUT",
                  absl::StrCat(end.directory_offset - position,
                               " bytes before the directory belong to no "
                               "entry"));
  }
  return entries;
}

namespace {

// Counts what passes on to the sink, and stops at the declared size.
class CheckedSink {
 public:
  CheckedSink(const Entry& entry,
              absl::FunctionRef<absl::Status(absl::string_view)> sink)
      : entry_(entry), sink_(sink) {}

  absl::Status Put(absl::string_view bytes) {
    if (bytes.empty()) return absl::OkStatus();
    size_ += static_cast<int64_t>(bytes.size());
    if (size_ > entry_.size) return Bad("is longer than declared");
    crc32_ = ExtendCrc32(crc32_, bytes);
    return sink_(bytes);
  }

  absl::Status Finish() const {
    if (size_ != entry_.size) return Bad("is shorter than declared");
    if (crc32_ != entry_.crc32) return Bad("does not have the declared CRC");
    return absl::OkStatus();
  }

  absl::Status Bad(absl::string_view what) const {
    return Refuse("E_ZIP_DATA",
                  absl::StrCat("entry ", Quoted(entry_.path), " ", what));
  }

 private:
  const Entry& entry_;
  const absl::FunctionRef<absl::Status(absl::string_view)> sink_;
  int64_t size_ = 0;
  uint32_t crc32_ = 0;
};

// Streams the stored bytes of `entry` to `use`.
absl::Status ForEachStoredChunk(
    int fd, const Entry& entry,
    absl::FunctionRef<absl::Status(absl::string_view)> use) {
  std::string buffer;
  for (int64_t done = 0; done < entry.stored_bytes;) {
    const int64_t bytes =
        std::min<int64_t>(entry.stored_bytes - done, int64_t{kBufferBytes});
    MYC_RETURN_IF_ERROR(ReadFully(fd, entry.data_offset + done,
                                  static_cast<size_t>(bytes), buffer));
    MYC_RETURN_IF_ERROR(use(buffer));
    done += bytes;
  }
  return absl::OkStatus();
}

// An inflater of raw deflate data, ended with its owner.
class Inflater {
 public:
  Inflater() { ok_ = inflateInit2(&stream_, -MAX_WBITS) == Z_OK; }
  ~Inflater() {
    if (ok_) inflateEnd(&stream_);
  }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  // Inflates all of `input` to `sink`. Nothing may follow the final block.
  absl::Status Put(absl::string_view input, CheckedSink& sink) {
    if (!ok_) return sink.Bad("cannot be inflated: out of memory");
    if (buffer_.empty()) buffer_.resize(kBufferBytes);
    stream_.next_in = reinterpret_cast<unsigned char*>(
        const_cast<char*>(input.data()));  // zlib does not write to it.
    stream_.avail_in = static_cast<unsigned>(input.size());
    while (true) {
      if (ended_ && stream_.avail_in > 0) {
        return sink.Bad("has bytes after the end of its deflate data");
      }
      if (ended_) return absl::OkStatus();
      stream_.next_out = reinterpret_cast<unsigned char*>(buffer_.data());
      stream_.avail_out = static_cast<unsigned>(buffer_.size());
      const int result = inflate(&stream_, Z_NO_FLUSH);
      // Z_BUF_ERROR says that there is no input left, or only half of a code.
      if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR) {
        return sink.Bad("is not valid deflate data");
      }
      const size_t made = buffer_.size() - stream_.avail_out;
      MYC_RETURN_IF_ERROR(sink.Put({buffer_.data(), made}));
      ended_ = result == Z_STREAM_END;
      // With room left in the output, all input has been used.
      if (!ended_ && stream_.avail_out > 0) return absl::OkStatus();
    }
  }

  bool ended() const { return ended_; }

 private:
  z_stream stream_ = {};
  bool ok_ = false;
  bool ended_ = false;
  std::string buffer_;
};

}  // namespace

absl::Status ReadEntry(
    int fd, const Entry& entry,
    absl::FunctionRef<absl::Status(absl::string_view)> sink) {
  CheckedSink checked(entry, sink);
  if (entry.deflated) {
    Inflater inflater;
    MYC_RETURN_IF_ERROR(ForEachStoredChunk(
        fd, entry,
        [&](absl::string_view chunk) { return inflater.Put(chunk, checked); }));
    if (!inflater.ended()) return checked.Bad("has deflate data without end");
  } else {
    MYC_RETURN_IF_ERROR(ForEachStoredChunk(
        fd, entry,
        [&](absl::string_view chunk) { return checked.Put(chunk); }));
  }
  return checked.Finish();
}

}  // namespace mycelium::spore
