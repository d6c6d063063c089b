#ifndef LIB_SPORE_ENTRY_PATH_H_
#define LIB_SPORE_ENTRY_PATH_H_

#include "absl/strings/string_view.h"

namespace mycelium::spore {

// Whether `path` may name a file in a spore: relative, of A-Z, a-z, 0-9 and
// ._+@=,~- only, at most 255 bytes and 16 components of 1 to 128 bytes each,
// none of them `.` or `..` or beginning with `-`.
bool IsEntryPath(absl::string_view path);

}  // namespace mycelium::spore

#endif  // LIB_SPORE_ENTRY_PATH_H_
