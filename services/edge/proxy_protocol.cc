#include "services/edge/proxy_protocol.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <array>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace mycelium::edge {
namespace {

constexpr absl::string_view kLineBegin = "PROXY ";
constexpr absl::string_view kSignature("\r\n\r\n\0\r\nQUIT\n", 12);
constexpr size_t kFixedSize = 16;

constexpr std::array<uint32_t, 256> MakeCrcTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit)
      value = (value >> 1) ^ ((value & 1) != 0 ? 0x82f63b78U : 0);
    table[i] = value;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kCrcTable = MakeCrcTable();

// Takes what is before the next space off `rest`.
bool TakeWord(absl::string_view* rest, absl::string_view* word) {
  const size_t space = rest->find(' ');
  if (space == absl::string_view::npos) return false;
  *word = rest->substr(0, space);
  rest->remove_prefix(space + 1);
  return true;
}

bool ParsePort(absl::string_view text, uint16_t* port) {
  if (text.empty() || text.size() > 5 || (text[0] == '0' && text.size() > 1))
    return false;
  uint32_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return false;
    value = value * 10 + static_cast<uint32_t>(c - '0');
  }
  if (value > 65535) return false;
  *port = static_cast<uint16_t>(value);
  return true;
}

// Reads an address into 4 or 16 bytes, in network order.
bool ParseAddress(int family, absl::string_view text, void* out) {
  std::array<char, INET6_ADDRSTRLEN> terminated{};
  // A NUL would hide what follows it.
  if (text.size() >= terminated.size() ||
      text.find('\0') != absl::string_view::npos) {
    return false;
  }
  text.copy(terminated.data(), text.size());
  return inet_pton(family, terminated.data(), out) == 1;
}

void SetSource(int family, const void* address, uint16_t port,
               ProxyHeader* header) {
  header->has_source = true;
  header->source = {};
  header->source.ss_family = static_cast<sa_family_t>(family);
  if (family == AF_INET) {
    auto& source = reinterpret_cast<sockaddr_in&>(header->source);
    std::memcpy(&source.sin_addr, address, 4);
    source.sin_port = htons(port);
  } else {
    auto& source = reinterpret_cast<sockaddr_in6&>(header->source);
    std::memcpy(&source.sin6_addr, address, 16);
    source.sin6_port = htons(port);
  }
}

// Reads "TCP4 1.2.3.4 5.6.7.8 9 10", what is between "PROXY " and the line end.
bool ParseLine(absl::string_view line, ProxyHeader* header) {
  // Whatever follows is to be ignored, says the protocol.
  if (line == "UNKNOWN" || absl::StartsWith(line, "UNKNOWN ")) {
    header->has_source = false;
    return true;
  }
  int family = AF_UNSPEC;
  if (absl::ConsumePrefix(&line, "TCP4 ")) {
    family = AF_INET;
  } else if (absl::ConsumePrefix(&line, "TCP6 ")) {
    family = AF_INET6;
  } else {
    return false;
  }
  absl::string_view source;
  absl::string_view destination;
  absl::string_view source_port;
  std::array<uint8_t, 16> from{};
  std::array<uint8_t, 16> to{};
  uint16_t from_port = 0;
  uint16_t to_port = 0;
  if (!TakeWord(&line, &source) || !TakeWord(&line, &destination) ||
      !TakeWord(&line, &source_port) ||
      !ParseAddress(family, source, from.data()) ||
      !ParseAddress(family, destination, to.data()) ||
      !ParsePort(source_port, &from_port) || !ParsePort(line, &to_port)) {
    return false;
  }
  SetSource(family, from.data(), from_port, header);
  return true;
}

ProxyStatus ParseTextHeader(absl::string_view bytes, ProxyHeader* header) {
  const absl::string_view head = bytes.substr(0, ProxyHeader::kMaxLine);
  const size_t line_end = head.find_first_of("\r\n");
  if (line_end == absl::string_view::npos) {
    return head.size() == ProxyHeader::kMaxLine ? ProxyStatus::kError
                                                : ProxyStatus::kIncomplete;
  }
  if (head[line_end] != '\r') return ProxyStatus::kError;
  if (line_end + 1 == head.size()) {
    return head.size() == ProxyHeader::kMaxLine ? ProxyStatus::kError
                                                : ProxyStatus::kIncomplete;
  }
  if (head[line_end + 1] != '\n') return ProxyStatus::kError;
  if (!ParseLine(head.substr(kLineBegin.size(), line_end - kLineBegin.size()),
                 header)) {
    return ProxyStatus::kError;
  }
  header->size = line_end + 2;
  return ProxyStatus::kDone;
}

uint8_t ByteAt(absl::string_view bytes, size_t at) {
  return static_cast<uint8_t>(bytes[at]);
}

uint16_t Uint16At(absl::string_view bytes, size_t at) {
  return static_cast<uint16_t>(ByteAt(bytes, at) << 8 | ByteAt(bytes, at + 1));
}

// Whether the additional fields of `whole` that begin at `at` add up, and the
// checksum among them, if there is one, is right.
bool CheckFields(absl::string_view whole, size_t at) {
  constexpr uint8_t kTypeCrc32c = 0x03;
  constexpr size_t kFieldHead = 3;
  size_t checksum_at = 0;
  while (at < whole.size()) {
    if (whole.size() - at < kFieldHead) return false;
    const size_t size = Uint16At(whole, at + 1);
    const size_t value_at = at + kFieldHead;
    if (whole.size() - value_at < size) return false;
    if (ByteAt(whole, at) == kTypeCrc32c) {
      if (size != 4 || checksum_at != 0) return false;
      checksum_at = value_at;
    }
    at = value_at + size;
  }
  if (checksum_at == 0) return true;
  // Of the whole header, as if the checksum itself were zero.
  uint32_t crc = Crc32c(whole.substr(0, checksum_at));
  crc = Crc32c({"\0\0\0\0", 4}, crc);
  crc = Crc32c(whole.substr(checksum_at + 4), crc);
  return crc == (uint32_t{Uint16At(whole, checksum_at)} << 16 |
                 Uint16At(whole, checksum_at + 2));
}

ProxyStatus ParseBinaryHeader(absl::string_view bytes, ProxyHeader* header) {
  constexpr uint8_t kVersion = 2;
  // Each field is judged as soon as it is there.
  if (bytes.size() <= 12) return ProxyStatus::kIncomplete;
  const uint8_t command = ByteAt(bytes, 12) & 0x0f;
  if (ByteAt(bytes, 12) >> 4 != kVersion || command > 1)
    return ProxyStatus::kError;
  if (bytes.size() <= 13) return ProxyStatus::kIncomplete;
  const bool local = command == 0;
  const uint8_t family = ByteAt(bytes, 13) >> 4;
  const uint8_t transport = ByteAt(bytes, 13) & 0x0f;
  if (!local && (family > 3 || transport > 2)) return ProxyStatus::kError;
  if (bytes.size() < kFixedSize) return ProxyStatus::kIncomplete;
  const size_t block = Uint16At(bytes, 14);
  constexpr std::array<size_t, 4> kAddressSizes = {0, 12, 36, 216};
  if (block > ProxyHeader::kMaxBlock ||
      (!local && block < kAddressSizes[family])) {
    return ProxyStatus::kError;
  }
  if (bytes.size() < kFixedSize + block) return ProxyStatus::kIncomplete;

  const absl::string_view whole = bytes.substr(0, kFixedSize + block);
  if (!local && family != 0 &&
      !CheckFields(whole, kFixedSize + kAddressSizes[family])) {
    return ProxyStatus::kError;
  }
  header->has_source = false;
  if (!local && transport == 1 && family == 1) {
    SetSource(AF_INET, &whole[16], Uint16At(whole, 24), header);
  } else if (!local && transport == 1 && family == 2) {
    SetSource(AF_INET6, &whole[16], Uint16At(whole, 48), header);
  }
  header->size = whole.size();
  return ProxyStatus::kDone;
}

}  // namespace

uint32_t Crc32c(absl::string_view bytes, uint32_t before) {
  uint32_t crc = ~before;
  for (const char c : bytes)
    crc = kCrcTable[(crc ^ static_cast<uint8_t>(c)) & 0xff] ^ (crc >> 8);
  return ~crc;
}

ProxyStatus ParseProxyHeader(absl::string_view bytes, ProxyHeader* header) {
  for (const bool text : {true, false}) {
    const absl::string_view begin = text ? kLineBegin : kSignature;
    if (absl::StartsWith(bytes, begin)) {
      return text ? ParseTextHeader(bytes, header)
                  : ParseBinaryHeader(bytes, header);
    }
    if (absl::StartsWith(begin, bytes)) return ProxyStatus::kIncomplete;
  }
  return ProxyStatus::kError;
}

}  // namespace mycelium::edge
