#ifndef SERVICES_AGENT_EXPANSION_H_
#define SERVICES_AGENT_EXPANSION_H_

#include <functional>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace mycelium::agent {

// Names and values that `${NAME}` may stand for.
using Variables = std::map<std::string, std::string, std::less<>>;

// `text` with every `${NAME}` replaced by the value of NAME, and every `$$` by
// one `$`. Values are not expanded again. A `$` before anything else stays.
//
// InvalidArgument: NAME is not among `variables`, or a `${` is not closed; the
// message names both.
absl::StatusOr<std::string> Expand(absl::string_view text,
                                   const Variables& variables);

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_EXPANSION_H_
