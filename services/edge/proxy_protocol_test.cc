#include "services/edge/proxy_protocol.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <array>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::edge {
namespace {

using namespace std::string_literals;  // NOLINT: for texts with NUL in them.

// "ADDRESS PORT" of the source, "own" if the socket's stands, or what else came
// of it.
std::string SourceOf(const std::string& bytes, size_t* size = nullptr) {
  ProxyHeader header;
  switch (ParseProxyHeader(bytes, &header)) {
    case ProxyStatus::kIncomplete:
      return "incomplete";
    case ProxyStatus::kError:
      return "error";
    case ProxyStatus::kDone:
      break;
  }
  if (size != nullptr) *size = header.size;
  if (!header.has_source) return "own";
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (header.source.ss_family == AF_INET) {
    const auto& source = reinterpret_cast<const sockaddr_in&>(header.source);
    inet_ntop(AF_INET, &source.sin_addr, text.data(), text.size());
    return absl::StrCat(text.data(), " ", ntohs(source.sin_port));
  }
  const auto& source = reinterpret_cast<const sockaddr_in6&>(header.source);
  inet_ntop(AF_INET6, &source.sin6_addr, text.data(), text.size());
  return absl::StrCat(text.data(), " ", ntohs(source.sin6_port));
}

const std::string kSignature = "\r\n\r\n\0\r\nQUIT\n"s;

std::string Uint16(size_t value) {
  return {static_cast<char>(value >> 8), static_cast<char>(value)};
}

std::string Binary(int version_and_command, int family_and_transport,
                   const std::string& block) {
  return kSignature + static_cast<char>(version_and_command) +
         static_cast<char>(family_and_transport) + Uint16(block.size()) + block;
}

std::string Tlv(int type, const std::string& value) {
  return static_cast<char>(type) + Uint16(value.size()) + value;
}

const std::string kIpv4 = "\x01\x02\x03\x04\x05\x06\x07\x08\x10\x92\x00\x50"s;

std::string Ipv6() {
  std::string block(36, '\0');
  block[0] = '\x20';
  block[1] = '\x01';
  block[15] = '\x07';
  block[31] = '\x08';
  block[32] = '\x10';
  block[33] = '\x92';
  return block;
}

// `header` with the checksum that its last four bytes are to be.
std::string WithChecksum(std::string header) {
  const uint32_t crc = Crc32c(header);
  for (int i = 0; i < 4; ++i)
    header[header.size() - 4 + i] = static_cast<char>(crc >> (24 - 8 * i));
  return header;
}

TEST(ProxyProtocolTest, ReadsTheSourceOfALine) {
  EXPECT_EQ(SourceOf("PROXY TCP4 1.2.3.4 5.6.7.8 4242 80\r\n"), "1.2.3.4 4242");
  EXPECT_EQ(SourceOf("PROXY TCP6 2001::7 ::8 4242 80\r\n"), "2001::7 4242");
  EXPECT_EQ(SourceOf("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n"),
            "0.0.0.0 0");
}

TEST(ProxyProtocolTest, AnUnknownSourceIsTheSocketsWhateverFollows) {
  EXPECT_EQ(SourceOf("PROXY UNKNOWN\r\n"), "own");
  EXPECT_EQ(SourceOf("PROXY UNKNOWN ffff::1 ::2 1 2\r\n"), "own");
  EXPECT_EQ(SourceOf("PROXY UNKNOWN what ever\r\n"), "own");
}

TEST(ProxyProtocolTest, ALineHas107BytesAtMost) {
  const std::string begin = "PROXY UNKNOWN ";
  const auto line = [&](size_t size) {
    return begin + std::string(size - begin.size() - 2, 'x') + "\r\n";
  };
  EXPECT_EQ(SourceOf(line(107)), "own");
  EXPECT_EQ(SourceOf(line(108)), "error");
  EXPECT_EQ(SourceOf(line(108).substr(0, 106)), "incomplete");
  EXPECT_EQ(SourceOf(line(108).substr(0, 107)), "error");
  EXPECT_EQ(SourceOf(line(109).substr(0, 107)), "error");
}

TEST(ProxyProtocolTest, RefusesLinesThatAreNotExactlyRight) {
  for (const std::string& line :
       std::vector<std::string>{"GET / HTTP/1.1\r\n",
                                "proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
                                "PROXY\r\n",
                                "PROXY \r\n",
                                "PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
                                "PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
                                "PROXY UNKNOWNX\r\n",
                                "PROXY TCP4\r\n",
                                "PROXY TCP4 \r\n",
                                "PROXY TCP4 1.2.3.4\r\n",
                                "PROXY TCP4 1.2.3.4 5.6.7.8\r\n",
                                "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
                                "PROXY TCP4 1.2.3.4 5.6.7.8 1 \r\n",
                                "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
                                "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
                                "PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n",
                                "PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
                                "PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n",
                                "PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n",
                                "PROXY TCP4 1.2.3.4\0 5.6.7.8 1 2\r\n"s,
                                "PROXY TCP4 ::1 ::2 1 2\r\n",
                                "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
                                "PROXY TCP6 ::1%lo ::2 1 2\r\n",
                                "PROXY TCP6 [::1] ::2 1 2\r\n",
                                "PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n",
                                "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
                                "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
                                "PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
                                "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
                                "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
                                "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rX",
                                "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\r\n",
                                "PROXY UNKNOWN\n"}) {
    EXPECT_EQ(SourceOf(line), "error") << line;
  }
}

TEST(ProxyProtocolTest, ReadsTheSourceOfABinaryHeader) {
  EXPECT_EQ(SourceOf(Binary(0x21, 0x11, kIpv4)), "1.2.3.4 4242");
  EXPECT_EQ(SourceOf(Binary(0x21, 0x21, Ipv6())), "2001::7 4242");
}

TEST(ProxyProtocolTest, SourcesThatAreNotTcpLeaveTheSocketsOwn) {
  EXPECT_EQ(SourceOf(Binary(0x21, 0x00, "")), "own");
  EXPECT_EQ(SourceOf(Binary(0x21, 0x00, "anything")), "own");
  EXPECT_EQ(SourceOf(Binary(0x21, 0x12, kIpv4)), "own") << "UDP";
  EXPECT_EQ(SourceOf(Binary(0x21, 0x31, std::string(216, '/'))), "own")
      << "Unix";
}

TEST(ProxyProtocolTest, TheBlockOfLocalIsSkippedUnread) {
  EXPECT_EQ(SourceOf(Binary(0x20, 0x00, "")), "own");
  EXPECT_EQ(SourceOf(Binary(0x20, 0x11, kIpv4)), "own");
  EXPECT_EQ(SourceOf(Binary(0x20, 0xff, "no addresses")), "own");
}

TEST(ProxyProtocolTest, RefusesVersionsCommandsAndFamiliesThatItDoesNotKnow) {
  EXPECT_EQ(SourceOf(Binary(0x11, 0x11, kIpv4)), "error");
  EXPECT_EQ(SourceOf(Binary(0x31, 0x11, kIpv4)), "error");
  EXPECT_EQ(SourceOf(Binary(0x22, 0x11, kIpv4)), "error");
  EXPECT_EQ(SourceOf(Binary(0x21, 0x41, kIpv4)), "error");
  EXPECT_EQ(SourceOf(Binary(0x21, 0x13, kIpv4)), "error");
  EXPECT_EQ(SourceOf(Binary(0x21, 0x11, kIpv4.substr(1))), "error");
  EXPECT_EQ(SourceOf(Binary(0x21, 0x21, Ipv6().substr(1))), "error");
  EXPECT_EQ(SourceOf(Binary(0x21, 0x31, std::string(215, '/'))), "error");
  std::string signature = Binary(0x21, 0x11, kIpv4);
  signature[11] = '\r';
  EXPECT_EQ(SourceOf(signature), "error");
}

TEST(ProxyProtocolTest, ABlockIsBounded) {
  const auto block = [](size_t size) {
    return Binary(0x20, 0x00, std::string(size, 'x'));
  };
  size_t size = 0;
  EXPECT_EQ(SourceOf(block(ProxyHeader::kMaxBlock), &size), "own");
  EXPECT_EQ(size, ProxyHeader::kMaxSize);
  EXPECT_EQ(SourceOf(block(ProxyHeader::kMaxBlock + 1).substr(0, 16)), "error")
      << "at once, not once the block is there";
}

TEST(ProxyProtocolTest, AdditionalFieldsHaveToAddUp) {
  const auto with = [](const std::string& fields) {
    return SourceOf(Binary(0x21, 0x11, kIpv4 + fields));
  };
  EXPECT_EQ(with(Tlv(0x01, "http/1.1") + Tlv(0x04, "")), "1.2.3.4 4242");
  EXPECT_EQ(with("\x01"), "error");
  EXPECT_EQ(with("\x01\x00"s), "error");
  EXPECT_EQ(with("\x01\x00\x02x"s), "error");
  EXPECT_EQ(with(Tlv(0x01, "x") + "\x01"), "error");
}

TEST(ProxyProtocolTest, KnowsTheChecksum) {
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283U);
  EXPECT_EQ(Crc32c("6789", Crc32c("12345")), 0xe3069283U);
}

TEST(ProxyProtocolTest, AChecksumThatIsThereHasToBeRight) {
  const std::string right = WithChecksum(
      Binary(0x21, 0x11, kIpv4 + Tlv(0x01, "h2") + Tlv(0x03, "\0\0\0\0"s)));
  EXPECT_EQ(SourceOf(right), "1.2.3.4 4242");
  for (size_t i = 16; i < right.size(); ++i) {
    if (i == right.size() - 7) continue;  // Makes it another kind of field.
    std::string wrong = right;
    wrong[i] = static_cast<char>(wrong[i] ^ 1);
    EXPECT_EQ(SourceOf(wrong), "error") << i;
  }
  EXPECT_EQ(SourceOf(Binary(0x21, 0x11, kIpv4 + Tlv(0x03, "\0\0\0"s))),
            "error");
  EXPECT_EQ(
      SourceOf(Binary(0x21, 0x11,
                      kIpv4 + Tlv(0x03, "\0\0\0\0"s) + Tlv(0x03, "\0\0\0\0"s))),
      "error");
}

TEST(ProxyProtocolTest, SaysTheSameAtEverySplitAndLeavesWhatFollows) {
  const std::string checked = WithChecksum(
      Binary(0x21, 0x21, Ipv6() + Tlv(0x01, "h2") + Tlv(0x03, "\0\0\0\0"s)));
  for (const std::string& header :
       {"PROXY TCP4 1.2.3.4 5.6.7.8 4242 80\r\n"s, "PROXY UNKNOWN\r\n"s,
        Binary(0x21, 0x11, kIpv4), Binary(0x20, 0x00, ""), checked}) {
    const std::string want = SourceOf(header);
    ASSERT_NE(want, "error");
    for (size_t i = 0; i < header.size(); ++i)
      ASSERT_EQ(SourceOf(header.substr(0, i)), "incomplete") << i;
    size_t size = 0;
    EXPECT_EQ(SourceOf(header + "GET / HTTP/1.1\r\n", &size), want);
    EXPECT_EQ(size, header.size());
    EXPECT_EQ(SourceOf(header + header, &size), want);
    EXPECT_EQ(size, header.size());
  }
}

TEST(ProxyProtocolTest, RefusesAnotherProtocolAtItsFirstStrangeByte) {
  EXPECT_EQ(SourceOf(""), "incomplete");
  EXPECT_EQ(SourceOf("G"), "error");
  EXPECT_EQ(SourceOf("P"), "incomplete");
  EXPECT_EQ(SourceOf("PO"), "error");
  EXPECT_EQ(SourceOf("\r\n\r\n\r"), "error");
  EXPECT_EQ(SourceOf("\x16\x03\x01"), "error") << "TLS";
}

}  // namespace
}  // namespace mycelium::edge
