#include "services/edge/route_table.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::edge {
namespace {

using ::testing::HasSubstr;

TEST(ParseEndpointUrlTest, ReadsAddresses) {
  const auto endpoint = ParseEndpointUrl("http://127.0.0.1:8081/");

  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  EXPECT_EQ(endpoint->authority, "127.0.0.1:8081");
  const auto& address = reinterpret_cast<const sockaddr_in&>(endpoint->address);
  EXPECT_EQ(ntohs(address.sin_port), 8081);
  EXPECT_EQ(ntohl(address.sin_addr.s_addr), INADDR_LOOPBACK);
  EXPECT_EQ(ParseEndpointUrl("http://[::1]:80")->address.ss_family, AF_INET6);
}

TEST(ParseEndpointUrlTest, NamesWhatIsWrong) {
  for (const absl::string_view url :
       {"", "127.0.0.1:80", "https://127.0.0.1:80", "http://127.0.0.1",
        "http://:80", "http://127.0.0.1:0", "http://127.0.0.1:65536",
        "http://127.0.0.1:x", "http://127.0.0.1:80/path",
        "http://u@127.0.0.1:80", "http://[::1:80"}) {
    const auto endpoint = ParseEndpointUrl(url);
    ASSERT_EQ(endpoint.status().code(), absl::StatusCode::kInvalidArgument)
        << url;
    EXPECT_THAT(endpoint.status().message(), HasSubstr("http://HOST:PORT"));
  }
}

TEST(ParseStaticEndpointsTest, CollectsEndpointsByApp) {
  const auto snapshot = ParseStaticEndpoints(
      "a=http://127.0.0.1:1,b=http://127.0.0.1:2, a=http://127.0.0.1:3,c=", 1,
      BalancePolicy::kRoundRobin);

  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  ASSERT_EQ(snapshot->apps.size(), 3);
  EXPECT_EQ(snapshot->apps.at("a")->ready.size(), 2);
  EXPECT_EQ(snapshot->apps.at("b")->ready.size(), 1);
  EXPECT_EQ(snapshot->apps.at("c")->ready.size(), 0);
  EXPECT_NE(snapshot->apps.at("a")->ready[0]->stats,
            snapshot->apps.at("a")->ready[1]->stats);
}

TEST(ParseStaticEndpointsTest, NamesWhatIsWrong) {
  for (const absl::string_view text :
       {"junk", "A=http://127.0.0.1:1", "a=junk", "=http://h:1"}) {
    EXPECT_EQ(ParseStaticEndpoints(text, 1, BalancePolicy::kRoundRobin)
                  .status()
                  .code(),
              absl::StatusCode::kInvalidArgument)
        << text;
  }
}

TEST(RouteTableTest, CountsVersionsUp) {
  RouteTable table;
  EXPECT_EQ(table.version(), 0);
  EXPECT_EQ(table.Current(), nullptr);

  EXPECT_EQ(table.Publish({}), 1);
  EXPECT_EQ(table.Publish({}), 2);

  EXPECT_EQ(table.version(), 2);
  EXPECT_EQ(table.Current()->version, 2);
}

}  // namespace
}  // namespace mycelium::edge
