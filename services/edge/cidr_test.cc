#include "services/edge/cidr.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "gtest/gtest.h"

namespace mycelium::edge {
namespace {

sockaddr_storage Address(const char* text) {
  sockaddr_storage address{};
  auto& ipv4 = reinterpret_cast<sockaddr_in&>(address);
  auto& ipv6 = reinterpret_cast<sockaddr_in6&>(address);
  if (inet_pton(AF_INET, text, &ipv4.sin_addr) == 1) {
    ipv4.sin_family = AF_INET;
  } else if (inet_pton(AF_INET6, text, &ipv6.sin6_addr) == 1) {
    ipv6.sin6_family = AF_INET6;
  }
  return address;
}

TEST(CidrTest, ContainsWhatItsPrefixSays) {
  const auto ranges = ParseCidrs("10.0.0.0/8,192.168.1.1,fd00::/12");
  ASSERT_TRUE(ranges.ok()) << ranges.status();

  for (const char* inside :
       {"10.255.0.1", "192.168.1.1", "fd0f::1", "::ffff:10.1.2.3"}) {
    EXPECT_TRUE(IsWithin(*ranges, Address(inside))) << inside;
  }
  for (const char* outside : {"11.0.0.1", "192.168.1.2", "fd10::1", "::1"}) {
    EXPECT_FALSE(IsWithin(*ranges, Address(outside))) << outside;
  }
  EXPECT_TRUE(IsWithin(*ParseCidrs("0.0.0.0/0"), Address("8.8.8.8")));
  EXPECT_FALSE(IsWithin(*ParseCidrs(""), Address("8.8.8.8")));
}

TEST(CidrTest, RefusesWhatIsNone) {
  for (const char* text :
       {"host", "10.0.0.0/33", "10.0.0.0/-1", "fd00::/129", "10.0.0/8"}) {
    EXPECT_FALSE(ParseCidrs(text).ok()) << text;
  }
}

}  // namespace
}  // namespace mycelium::edge
