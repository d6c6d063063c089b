#include "lib/spore/entry_path.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"

namespace mycelium::spore {
namespace {

constexpr size_t kMaxPathBytes = 255;
constexpr size_t kMaxComponentBytes = 128;
constexpr size_t kMaxDepth = 16;

bool IsPathCharacter(char c) {
  constexpr absl::string_view kPunctuation = "._+@=,~-";
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
         absl::StrContains(kPunctuation, c);
}

bool IsComponent(absl::string_view component) {
  return !component.empty() && component.size() <= kMaxComponentBytes &&
         component != "." && component != ".." && component.front() != '-' &&
         std::all_of(component.begin(), component.end(), IsPathCharacter);
}

}  // namespace

bool IsEntryPath(absl::string_view path) {
  if (path.size() > kMaxPathBytes) return false;
  const std::vector<absl::string_view> components = absl::StrSplit(path, '/');
  return components.size() <= kMaxDepth &&
         std::all_of(components.begin(), components.end(), IsComponent);
}

}  // namespace mycelium::spore
