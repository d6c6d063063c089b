#include "services/agent/expansion.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "lib/base/ids.h"

namespace mycelium::agent {
namespace {

absl::Status UnknownVariable(absl::string_view name, absl::string_view text,
                             const Variables& variables) {
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown variable ", Quoted(name), " in ", Quoted(text), "; known are ",
      absl::StrJoin(variables, ", ",
                    [](std::string* out, const auto& variable) {
                      absl::StrAppend(out, variable.first);
                    }),
      "; write $$ for a dollar sign"));
}

}  // namespace

absl::StatusOr<std::string> Expand(absl::string_view text,
                                   const Variables& variables) {
  std::string expanded;
  size_t position = 0;
  while (position < text.size()) {
    const size_t dollar = text.find('$', position);
    absl::StrAppend(&expanded, text.substr(position, dollar - position));
    if (dollar == absl::string_view::npos) break;

    const absl::string_view rest = text.substr(dollar + 1);
    if (absl::StartsWith(rest, "$")) {
      expanded.push_back('$');
      position = dollar + 2;
    } else if (absl::StartsWith(rest, "{")) {
      const size_t close = rest.find('}');
      if (close == absl::string_view::npos) {
        return absl::InvalidArgumentError(
            absl::StrCat("'${' without '}' in ", Quoted(text)));
      }
      const absl::string_view name = rest.substr(1, close - 1);
      const auto value = variables.find(name);
      if (value == variables.end()) {
        return UnknownVariable(name, text, variables);
      }
      absl::StrAppend(&expanded, value->second);
      position = dollar + 1 + close + 1;
    } else {
      expanded.push_back('$');
      position = dollar + 1;
    }
  }
  return expanded;
}

}  // namespace mycelium::agent
