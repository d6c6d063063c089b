#include "services/fabric/keys.h"

#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace mycelium::fabric {

std::string KeyOf(absl::string_view prefix, absl::string_view name) {
  return absl::StrCat(prefix, name);
}

std::string SlotId::ToString() const {
  return absl::StrCat(app, "/", index, "/", generation);
}

std::string SlotName(const SlotId& id) {
  return absl::StrCat(id.app, "/", absl::Dec(id.index, absl::kZeroPad6), "/",
                      absl::Dec(id.generation, absl::kZeroPad12));
}

std::optional<SlotId> ParseSlotName(absl::string_view name) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '/');
  SlotId id;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[1], &id.index) ||
      !absl::SimpleAtoi(parts[2], &id.generation)) {
    return std::nullopt;
  }
  id.app = std::string(parts[0]);
  return id;
}

std::string EndpointName(absl::string_view app, absl::string_view instance) {
  return absl::StrCat(app, "/", instance);
}

std::string EventName(int64_t sequence, absl::string_view app) {
  return absl::StrCat(absl::Dec(sequence, absl::kZeroPad20), "/", app);
}

absl::string_view EventAppOf(absl::string_view name) {
  const size_t slash = name.find('/');
  return slash == absl::string_view::npos ? "" : name.substr(slash + 1);
}

int64_t EventSequenceOf(absl::string_view name) {
  int64_t sequence = 0;
  if (!absl::SimpleAtoi(name.substr(0, name.find('/')), &sequence)) return 0;
  return sequence;
}

absl::string_view AppOf(absl::string_view name) {
  return name.substr(0, name.find('/'));
}

std::string FormatLease(int64_t lease) {
  return absl::StrCat(absl::Hex(lease, absl::kZeroPad16));
}

int64_t ParseLease(absl::string_view text) {
  uint64_t value = 0;
  if (text.size() != 16 || !absl::SimpleHexAtoi(text, &value) ||
      value > static_cast<uint64_t>(INT64_MAX)) {
    return 0;
  }
  return static_cast<int64_t>(value);
}

}  // namespace mycelium::fabric
