#ifndef SERVICES_AGENT_UTF8_TEXT_H_
#define SERVICES_AGENT_UTF8_TEXT_H_

#include <string>

#include "absl/strings/string_view.h"

namespace mycelium::agent {

// `bytes` with what is not UTF-8 replaced by '?', and not longer than they are.
// What instances wrote may be anything; strings of protos must be UTF-8.
std::string ToValidUtf8(absl::string_view bytes);

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_UTF8_TEXT_H_
