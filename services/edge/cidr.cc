#include "services/edge/cidr.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <cstring>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "lib/base/ids.h"

namespace mycelium::edge {
namespace {

using Bytes = std::array<uint8_t, 16>;

Bytes Mapped(const void* ipv4) {
  Bytes bytes{};
  bytes[10] = bytes[11] = 0xff;
  std::memcpy(&bytes[12], ipv4, 4);
  return bytes;
}

bool Contains(const Cidr& range, const Bytes& address) {
  for (int bit = 0; bit < range.bits; bit += 8) {
    const int left = range.bits - bit;
    const auto mask =
        static_cast<uint8_t>(left >= 8 ? 0xff : 0xff << (8 - left));
    const auto i = static_cast<size_t>(bit / 8);
    if (((range.prefix[i] ^ address[i]) & mask) != 0) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<std::vector<Cidr>> ParseCidrs(absl::string_view text) {
  std::vector<Cidr> ranges;
  for (const absl::string_view item :
       absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(item, absl::MaxSplits('/', 1));
    Cidr range;
    int base = 0;
    in_addr ipv4{};
    if (inet_pton(AF_INET, parts.first.c_str(), &ipv4) == 1) {
      range.prefix = Mapped(&ipv4);
      base = 96;
    } else if (inet_pton(AF_INET6, parts.first.c_str(), range.prefix.data()) !=
               1) {
      return absl::InvalidArgumentError(
          absl::StrCat(Quoted(item), " is not an IP address or ADDRESS/BITS"));
    }
    int bits = 128 - base;
    if (!parts.second.empty() && (!absl::SimpleAtoi(parts.second, &bits) ||
                                  bits < 0 || bits > 128 - base)) {
      return absl::InvalidArgumentError(absl::StrCat(
          Quoted(item), ": prefix length must be 0 to ", 128 - base));
    }
    range.bits = base + bits;
    ranges.push_back(range);
  }
  return ranges;
}

bool IsWithin(const std::vector<Cidr>& ranges,
              const sockaddr_storage& address) {
  if (ranges.empty()) return false;
  Bytes bytes{};
  if (address.ss_family == AF_INET) {
    bytes = Mapped(&reinterpret_cast<const sockaddr_in&>(address).sin_addr);
  } else if (address.ss_family == AF_INET6) {
    std::memcpy(bytes.data(),
                &reinterpret_cast<const sockaddr_in6&>(address).sin6_addr, 16);
  } else {
    return false;
  }
  for (const Cidr& range : ranges) {
    if (Contains(range, bytes)) return true;
  }
  return false;
}

}  // namespace mycelium::edge
