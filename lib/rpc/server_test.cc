#include "lib/rpc/server.h"

#include <algorithm>
#include <array>
#include <barrier>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "grpc/health/v1/health.pb.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "gtest/gtest.h"
#include "lib/base/file.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/status.h"

namespace mycelium::rpc {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

// Asks a server for the health of `service`; its status is an error if the call
// fails.
absl::StatusOr<HealthCheckResponse::ServingStatus> HealthOf(
    const std::string& address, const TlsFiles& tls,
    const std::string& service) {
  absl::StatusOr<std::shared_ptr<grpc::Channel>> channel =
      Connect(address, tls);
  if (!channel.ok()) return channel.status();
  grpc::TemplatedGenericStub<HealthCheckRequest, HealthCheckResponse> stub(
      *channel);
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  SetDeadline(context, absl::Seconds(10));
  HealthCheckRequest request;
  request.set_service(service);
  auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check",
                                    request, &queue);
  call->StartCall();
  HealthCheckResponse response;
  grpc::Status status;
  call->Finish(&response, &status, &queue);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  if (!status.ok()) return ToAbslStatus(status);
  return response.status();
}

TEST(ServerTest, AnswersHealthChecksOnAFreePort) {
  const auto server = Server::Start({.listen = "127.0.0.1:0"});
  ASSERT_TRUE(server.ok()) << server.status();

  EXPECT_NE((*server)->port(), 0);
  EXPECT_EQ(*HealthOf((*server)->address(), {}, ""),
            HealthCheckResponse::SERVING);
  (*server)->SetServing(false);
  EXPECT_EQ(*HealthOf((*server)->address(), {}, ""),
            HealthCheckResponse::NOT_SERVING);
}

TEST(ServerTest, NamesThePortThatIsTaken) {
  const auto first = Server::Start({.listen = "127.0.0.1:0"});
  ASSERT_TRUE(first.ok());

  const auto second = Server::Start({.listen = (*first)->address()});

  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()),
              testing::HasSubstr((*first)->address()));
}

TEST(ServerTest, OfServersThatOfferOnePortAtOnceOneGetsIt) {
  std::string address;
  {
    const auto server = Server::Start({.listen = "127.0.0.1:0"});
    ASSERT_TRUE(server.ok()) << server.status();
    address = (*server)->address();
  }
  for (int round = 0; round < 20; ++round) {
    std::array<bool, 4> started = {};
    std::barrier all_tried(std::ssize(started));
    std::vector<std::thread> threads;
    for (bool& mine : started) {
      threads.emplace_back([&] {
        const auto server = Server::Start(
            {.listen = address, .port_sharing = PortSharing::kOffer});
        mine = server.ok();
        all_tried.arrive_and_wait();
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_LE(std::count(started.begin(), started.end(), true), 1);
  }
}

TEST(ServerTest, RefusesOutsideAddressesWithoutTls) {
  EXPECT_EQ(Server::Start({.listen = "0.0.0.0:0"}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(ServerTest, RefusesMalformedAddresses) {
  for (const char* bad : {"", "127.0.0.1", ":1", "127.0.0.1:", "127.0.0.1:x",
                          "127.0.0.1:65536", "127.0.0.1:-1"}) {
    EXPECT_EQ(Server::Start({.listen = bad}).status().code(),
              absl::StatusCode::kInvalidArgument)
        << bad;
  }
}

class TlsTest : public testing::Test {
 protected:
  TlsTest() : directory_(*TempDirectory::Create("tls.")) {
    MakeCa("ca");
    MakeIdentity("ca", "peer");
    MakeCa("other-ca");
    MakeIdentity("other-ca", "stranger");
  }

  std::string Path(const std::string& name) const {
    return JoinPath(directory_.path(), name);
  }

  TlsFiles Files(const std::string& identity, const std::string& ca) const {
    return {.cert_file = Path(identity + ".pem"),
            .key_file = Path(identity + ".key"),
            .ca_file = Path(ca + ".pem")};
  }

 private:
  void Run(const std::string& command) {
    // NOLINTNEXTLINE(concurrency-mt-unsafe): the test has one thread here.
    ASSERT_EQ(system(absl::StrCat("cd ", directory_.path(), " && { ", command,
                                  "; } >openssl.log 2>&1")
                         .c_str()),
              0)
        << *ReadFile(Path("openssl.log"));
  }

  void MakeCa(const std::string& name) {
    Run(absl::StrCat(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "
        "-days 2 -subj /CN=",
        name, " -keyout ", name, ".key -out ", name, ".pem"));
  }

  void MakeIdentity(const std::string& ca, const std::string& name) {
    Run(absl::StrCat(
        "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "
        "-subj /CN=",
        name, " -keyout ", name, ".key -out ", name,
        ".csr && echo subjectAltName=IP:127.0.0.1 > ext && openssl x509 -req "
        "-in ",
        name, ".csr -CA ", ca, ".pem -CAkey ", ca,
        ".key -CAcreateserial -days 2 -extfile ext -out ", name, ".pem"));
  }

  TempDirectory directory_;
};

TEST_F(TlsTest, ServesPeersThatTheCaHasSigned) {
  const auto server =
      Server::Start({.listen = "127.0.0.1:0", .tls = Files("peer", "ca")});
  ASSERT_TRUE(server.ok()) << server.status();

  EXPECT_EQ(*HealthOf((*server)->address(), Files("peer", "ca"), ""),
            HealthCheckResponse::SERVING);
}

TEST_F(TlsTest, RefusesStrangersAndPlainText) {
  const auto server =
      Server::Start({.listen = "127.0.0.1:0", .tls = Files("peer", "ca")});
  ASSERT_TRUE(server.ok()) << server.status();

  EXPECT_EQ(HealthOf((*server)->address(), Files("stranger", "ca"), "")
                .status()
                .code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(HealthOf((*server)->address(), {}, "").status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(TlsTest, NamesTheFileThatIsMissing) {
  const absl::Status status =
      Server::Start({.listen = "127.0.0.1:0", .tls = Files("nobody", "ca")})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("nobody.pem"));
}

TEST_F(TlsTest, WantsAllThreeFiles) {
  TlsFiles files = Files("peer", "ca");
  files.ca_file.clear();
  EXPECT_EQ(
      Server::Start({.listen = "127.0.0.1:0", .tls = files}).status().code(),
      absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace mycelium::rpc
