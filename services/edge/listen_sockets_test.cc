#include "services/edge/listen_sockets.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "lib/base/file.h"

namespace mycelium::edge {
namespace {

sockaddr_in AddressOf(int fd) {
  sockaddr_in address{};
  socklen_t size = sizeof(address);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  return address;
}

// Begins to connect; on loopback that is done at once, or not soon.
UniqueFd BeginConnect(const sockaddr_in& to, int* error) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  *error =
      connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0
          ? 0
          : errno;
  return fd;
}

bool IsConnected(const UniqueFd& fd) {
  pollfd wait = {fd.get(), POLLOUT, 0};
  return poll(&wait, 1, 0) == 1 && (wait.revents & (POLLERR | POLLHUP)) == 0;
}

TEST(ListenSocketsTest, ListensOnOnePortWithSeveralSockets) {
  const auto sockets = Listen("127.0.0.1:0", 3);

  ASSERT_TRUE(sockets.ok()) << sockets.status();
  ASSERT_EQ(sockets->fds.size(), 3);
  for (const UniqueFd& fd : sockets->fds) {
    EXPECT_EQ(AddressOf(fd.get()).sin_port,
              AddressOf(sockets->fds[0].get()).sin_port);
  }
}

TEST(ListenSocketsTest, APortThatIsTakenIsNotShared) {
  const auto first = Listen("127.0.0.1:0", 1);
  ASSERT_TRUE(first.ok()) << first.status();

  EXPECT_EQ(Listen(first->address, 1).status().code(),
            absl::StatusCode::kAlreadyExists);
}

TEST(ListenSocketsTest, AdoptsSocketsAndAddsWhatIsMissing) {
  auto sockets = Listen("127.0.0.1:0", 2);
  ASSERT_TRUE(sockets.ok()) << sockets.status();
  const int first = sockets->fds[0].get();
  const in_port_t port = AddressOf(first).sin_port;
  sockets->address.clear();

  const auto adopted = Adopt(*std::move(sockets), 4);

  ASSERT_TRUE(adopted.ok()) << adopted.status();
  ASSERT_EQ(adopted->fds.size(), 4);
  EXPECT_EQ(adopted->fds[0].get(), first);
  EXPECT_EQ(AddressOf(adopted->fds[3].get()).sin_port, port);
  EXPECT_TRUE(absl::StartsWith(adopted->address, "127.0.0.1:"));
}

TEST(ListenSocketsTest, AddsNoneToWhatAServiceManagerKeeps) {
  auto sockets = Listen("127.0.0.1:0", 1);
  ASSERT_TRUE(sockets.ok()) << sockets.status();
  sockets->kept_elsewhere = true;

  const auto adopted = Adopt(*std::move(sockets), 4);

  ASSERT_TRUE(adopted.ok()) << adopted.status();
  EXPECT_EQ(adopted->fds.size(), 1);
}

TEST(ListenSocketsTest, AdoptsNoSocketThatDoesNotListen) {
  ListenSockets sockets;
  sockets.fds.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));

  EXPECT_EQ(Adopt(std::move(sockets), 1).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ListenSocketsTest, DealsEachSocketToOneWorker) {
  auto sockets = Listen("127.0.0.1:0", 5);
  ASSERT_TRUE(sockets.ok()) << sockets.status();

  const auto dealt = Deal(std::move(sockets->fds), 2);

  ASSERT_TRUE(dealt.ok()) << dealt.status();
  ASSERT_EQ(dealt->size(), 2);
  EXPECT_EQ((*dealt)[0].size(), 3);
  EXPECT_EQ((*dealt)[1].size(), 2);
}

TEST(ListenSocketsTest, WorkersShareWhatThereIsTooLittleOf) {
  auto sockets = Listen("127.0.0.1:0", 2);
  ASSERT_TRUE(sockets.ok()) << sockets.status();

  const auto dealt = Deal(std::move(sockets->fds), 3);

  ASSERT_TRUE(dealt.ok()) << dealt.status();
  std::set<int> fds;
  for (const std::vector<UniqueFd>& some : *dealt) {
    ASSERT_EQ(some.size(), 1);
    fds.insert(some[0].get());
  }
  EXPECT_EQ(fds.size(), 3);
}

TEST(ListenSocketsTest, RefusingNewConnectionsLeavesThoseThatWait) {
  const auto sockets = Listen("127.0.0.1:0", 1);
  ASSERT_TRUE(sockets.ok()) << sockets.status();
  const int listener = sockets->fds[0].get();
  const sockaddr_in address = AddressOf(listener);
  int error = 0;
  const UniqueFd before = BeginConnect(address, &error);
  ASSERT_TRUE(IsConnected(before)) << error;

  ASSERT_TRUE(RefuseNewConnections(listener));
  const UniqueFd after = BeginConnect(address, &error);

  EXPECT_EQ(error, EINPROGRESS);
  EXPECT_FALSE(IsConnected(after))
      << "its first packet is dropped, not refused";
  const UniqueFd taken(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  EXPECT_TRUE(taken.valid());
  EXPECT_TRUE(IsConnected(before));
}

}  // namespace
}  // namespace mycelium::edge
