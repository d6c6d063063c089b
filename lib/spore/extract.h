// Unpacks a spore that was accepted.

#ifndef LIB_SPORE_EXTRACT_H_
#define LIB_SPORE_EXTRACT_H_

#include <string>

#include "absl/status/statusor.h"
#include "lib/spore/archive.h"
#include "lib/spore/verify.h"

namespace mycelium::spore {

// Unpacks the spore behind `fd`, which `accepted` is the verdict on, and
// returns the path of its command (target_directory/command).
//
// Everything is written to a private directory beside `target_directory` first
// and renamed when it is whole, hashed again and on disk, so that
// `target_directory` either has exactly the signed bytes or does not exist.
// The manifest itself is not unpacked. Files get mode 0555 (command, binary,
// `exec`) or 0444, directories 0755; modes, owners and times in the zip are
// ignored. No path leaves the directory, whatever the zip says and whoever
// plants symbolic links meanwhile. A failure leaves nothing behind.
//
// FailedPrecondition: the verdict does not accept. AlreadyExists:
// `target_directory` is there. E_ codes when the file is not the one that was
// verified. ResourceExhausted: disk full.
absl::StatusOr<std::string> Extract(int fd, const Verdict& accepted,
                                    const std::string& target_directory,
                                    const Limits& limits);

}  // namespace mycelium::spore

#endif  // LIB_SPORE_EXTRACT_H_
