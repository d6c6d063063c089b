#ifndef SERVICES_EDGE_CIDR_H_
#define SERVICES_EDGE_CIDR_H_

#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace mycelium::edge {

// A range of IPv4 or IPv6 addresses; IPv4 counts as mapped into IPv6.
struct Cidr {
  std::array<uint8_t, 16> prefix{};
  int bits = 0;  // Of the 128.
};

// Comma-separated `ADDRESS` or `ADDRESS/BITS`. InvalidArgument names the item.
absl::StatusOr<std::vector<Cidr>> ParseCidrs(absl::string_view text);

// Whether any of `ranges` contains `address`.
bool IsWithin(const std::vector<Cidr>& ranges, const sockaddr_storage& address);

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_CIDR_H_
