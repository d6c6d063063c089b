#include "services/agent/port_allocator.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <set>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "lib/base/fake_clock.h"
#include "lib/base/file.h"

namespace mycelium::agent {
namespace {

class PortAllocatorTest : public ::testing::Test {
 protected:
  FakeClock clock_{absl::FromUnixSeconds(1'800'000'000)};
  PortAllocator ports_{&clock_};
};

TEST_F(PortAllocatorTest, GivesEachPortOnce) {
  std::set<int32_t> seen;
  for (int i = 0; i < 200; ++i) {
    const absl::StatusOr<int32_t> port = ports_.Allocate();
    ASSERT_TRUE(port.ok()) << port.status();
    EXPECT_TRUE(seen.insert(*port).second) << *port;
    EXPECT_TRUE(PortAllocator::IsFree(*port));
  }
}

TEST_F(PortAllocatorTest, LetsAPortRestBeforeItIsUsedAgain) {
  std::set<int32_t> released;
  for (int i = 0; i < 100; ++i) {
    const int32_t port = ports_.Allocate().value();
    ports_.Release(port);
    EXPECT_TRUE(released.insert(port).second) << port;
  }
}

TEST_F(PortAllocatorTest, SeesThatAPortIsTaken) {
  const UniqueFd fd(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  ASSERT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(listen(fd.get(), 1), 0);
  ASSERT_EQ(
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);

  EXPECT_FALSE(PortAllocator::IsFree(ntohs(address.sin_port)));
}

}  // namespace
}  // namespace mycelium::agent
