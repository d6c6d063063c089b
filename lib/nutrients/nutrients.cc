#include "lib/nutrients/nutrients.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"

namespace mycelium {
namespace {

int64_t SaturatingAdd(int64_t a, int64_t b) {
  int64_t sum = 0;
  if (!__builtin_add_overflow(a, b, &sum)) return sum;
  return b > 0 ? std::numeric_limits<int64_t>::max()
               : std::numeric_limits<int64_t>::min();
}

int64_t SaturatingSubtract(int64_t a, int64_t b) {
  int64_t difference = 0;
  if (!__builtin_sub_overflow(a, b, &difference)) return difference;
  return b < 0 ? std::numeric_limits<int64_t>::max()
               : std::numeric_limits<int64_t>::min();
}

double FractionOf(int64_t used, int64_t capacity) {
  if (used <= 0) return 0;
  if (capacity <= 0) return 1;
  return static_cast<double>(used) / static_cast<double>(capacity);
}

}  // namespace

Nutrients Nutrients::FromProto(const spore::v1::Nutrients& proto) {
  return {.cpu_milli = proto.cpu_milli(), .memory_mb = proto.memory_mb()};
}

spore::v1::Nutrients Nutrients::ToProto() const {
  spore::v1::Nutrients proto;
  proto.set_cpu_milli(cpu_milli);
  proto.set_memory_mb(memory_mb);
  return proto;
}

Nutrients& Nutrients::operator+=(const Nutrients& other) {
  cpu_milli = SaturatingAdd(cpu_milli, other.cpu_milli);
  memory_mb = SaturatingAdd(memory_mb, other.memory_mb);
  return *this;
}

Nutrients& Nutrients::operator-=(const Nutrients& other) {
  cpu_milli = SaturatingSubtract(cpu_milli, other.cpu_milli);
  memory_mb = SaturatingSubtract(memory_mb, other.memory_mb);
  return *this;
}

bool Nutrients::FitsInto(const Nutrients& room) const {
  return cpu_milli <= room.cpu_milli && memory_mb <= room.memory_mb;
}

std::string Nutrients::ToString() const {
  return absl::StrCat(cpu_milli, " mCPU, ", memory_mb, " MiB");
}

double LoadOf(const Nutrients& used, const Nutrients& capacity) {
  return std::max(FractionOf(used.cpu_milli, capacity.cpu_milli),
                  FractionOf(used.memory_mb, capacity.memory_mb));
}

}  // namespace mycelium
