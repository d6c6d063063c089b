#ifndef SERVICES_EDGE_PROXY_PROTOCOL_H_
#define SERVICES_EDGE_PROXY_PROTOCOL_H_

#include <sys/socket.h>

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace mycelium::edge {

// The header by which a load balancer says for whom it has opened a connection:
// the PROXY protocol, versions 1 (a line of text) and 2 (binary).
struct ProxyHeader {
  // Of a header of version 1, with its line end.
  static constexpr size_t kMaxLine = 107;
  // Of what follows the 16 bytes that version 2 begins with. The protocol
  // allows 65535; no more than a few hundred are ever sent but for
  // certificates.
  static constexpr size_t kMaxBlock = 4096;
  static constexpr size_t kMaxSize = 16 + kMaxBlock;

  // Whether the header names a source. If not (LOCAL, UNKNOWN, and families
  // other than TCP over IPv4 and IPv6), the socket's own address stands.
  bool has_source = false;
  sockaddr_storage source{};  // IPv4 or IPv6, with its port.
  size_t size = 0;            // Bytes of the header.
};

enum class ProxyStatus : uint8_t { kDone, kIncomplete, kError };

// Reads the header at the front of `bytes`. A pure function: called again with
// the same bytes and more, until it is done; what follows the header is not
// looked at. `header` is complete with kDone and otherwise untouched.
//
// Strict: an address in another than its own notation, a number out of range or
// with leading zeros, more or fewer spaces, another version, command, family or
// transport than the protocol knows, a block too short for its addresses, or
// longer than kMaxBlock, additional fields (TLVs) that do not add up, a CRC-32C
// among them that is wrong: kError. The block of LOCAL, and that of a family
// without addresses, is skipped unread, as the protocol asks.
ProxyStatus ParseProxyHeader(absl::string_view bytes, ProxyHeader* header);

// The checksum of additional fields (Castagnoli), of `bytes` behind others
// whose checksum is `before`.
uint32_t Crc32c(absl::string_view bytes, uint32_t before = 0);

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_PROXY_PROTOCOL_H_
