// Why a spore is refused: a constant code for programs, a sentence for people.

#ifndef LIB_SPORE_REFUSAL_H_
#define LIB_SPORE_REFUSAL_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace mycelium::spore {

// The domain of the errors of this library.
inline constexpr absl::string_view kErrorDomain = "spore.mycelium";

// An error whose ReasonOf is `code` (an E_ constant of docs/spore-format.md).
// Its status code tells what to do: PermissionDenied when keys or policy are
// the cause, ResourceExhausted for a limit of this verifier, and
// InvalidArgument for a file that is wrong whoever looks at it.
absl::Status Refuse(absl::string_view code, absl::string_view message);

}  // namespace mycelium::spore

#endif  // LIB_SPORE_REFUSAL_H_
