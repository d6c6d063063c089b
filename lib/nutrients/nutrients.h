// Amounts of resources: what an instance needs, a node has or a budget allows.

#ifndef LIB_NUTRIENTS_NUTRIENTS_H_
#define LIB_NUTRIENTS_NUTRIENTS_H_

#include <cstdint>
#include <string>

#include "mycelium/spore/v1/spore.pb.h"

namespace mycelium {

// An amount. A value type; arithmetic saturates at the ends of int64 instead of
// overflowing, since amounts come from manifests and plans of others.
struct Nutrients {
  // Processor time in thousandths of a core.
  int64_t cpu_milli = 0;
  // Memory in MiB.
  int64_t memory_mb = 0;

  static Nutrients FromProto(const spore::v1::Nutrients& proto);
  spore::v1::Nutrients ToProto() const;

  Nutrients& operator+=(const Nutrients& other);
  // May go below zero: a node that reserved more than it has shows by how much.
  Nutrients& operator-=(const Nutrients& other);

  friend Nutrients operator+(Nutrients a, const Nutrients& b) { return a += b; }
  friend Nutrients operator-(Nutrients a, const Nutrients& b) { return a -= b; }
  friend bool operator==(const Nutrients&, const Nutrients&) = default;

  // Whether each dimension is at most that of `room`.
  bool FitsInto(const Nutrients& room) const;

  // Such as "250 mCPU, 64 MiB".
  std::string ToString() const;
};

// The largest fraction of `capacity` that `used` takes in any dimension: 0 for
// nothing, 1 for all of it, above 1 if it is overcommitted. A dimension without
// capacity counts as full as soon as something of it is used.
double LoadOf(const Nutrients& used, const Nutrients& capacity);

}  // namespace mycelium

#endif  // LIB_NUTRIENTS_NUTRIENTS_H_
