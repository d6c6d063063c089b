// The gatekeeper: decides whether a file is a zip with exactly one reading.
//
// Zip has a directory at the end and headers in between, and programs differ in
// which they believe. This reader demands that both say the same, that the
// entries tile the file without gap or overlap, and that nothing is left over.

#ifndef LIB_SPORE_ARCHIVE_H_
#define LIB_SPORE_ARCHIVE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace mycelium::spore {

// What a verifier is ready to read. Beyond it a spore is refused with E_SIZE or
// E_ZIP_COUNT. No limit can be above what a zip without ZIP64 holds.
struct Limits {
  int64_t max_file_bytes = (int64_t{4} << 30) - 1;
  // Unpacked, one entry and all together.
  int64_t max_entry_bytes = int64_t{2} << 30;
  int64_t max_total_bytes = int64_t{4} << 30;
  int max_entries = 4096;
};

// One file of the zip.
struct Entry {
  std::string path;
  bool deflated = false;  // Otherwise STORED.
  int64_t header_offset = 0;
  int64_t data_offset = 0;
  int64_t stored_bytes = 0;  // In the file.
  int64_t size = 0;          // Unpacked, as declared.
  uint32_t crc32 = 0;
};

// Reads the structure of the zip behind `fd` and returns its files in file
// order. Directory entries are checked and left out. Reads the end record, the
// directory and the headers with pread, never the data; memory is bounded by
// the directory of `max_entries` entries. The file must not change meanwhile.
//
// E_SIZE, E_PATH or one of the E_ZIP_ codes; E_IO when the file cannot be read.
absl::StatusOr<std::vector<Entry>> ReadArchive(int fd, const Limits& limits);

// Streams the unpacked bytes of `entry` to `sink`, in pieces of at most 256 KiB
// with bounded memory, and checks that they have exactly the declared size and
// CRC. `sink` sees bytes before that is known, and ends the reading by an
// error, which is returned.
//
// E_ZIP_DATA; E_IO when the file cannot be read.
absl::Status ReadEntry(int fd, const Entry& entry,
                       absl::FunctionRef<absl::Status(absl::string_view)> sink);

}  // namespace mycelium::spore

#endif  // LIB_SPORE_ARCHIVE_H_
