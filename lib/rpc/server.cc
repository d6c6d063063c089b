#include "lib/rpc/server.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "grpc/health/v1/health.pb.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/rpc/locks.h"

namespace mycelium::rpc {
namespace {

struct HostAndPort {
  std::string host;
  std::string port;
};

absl::StatusOr<HostAndPort> Split(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == listen.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "cannot listen on ", Quoted(listen),
        ": write HOST:PORT, for example 127.0.0.1:7700; port 0 takes a free "
        "one"));
  }
  // getaddrinfo would take the low 16 bits of a larger one.
  int port = 0;
  if (!absl::SimpleAtoi(listen.substr(colon + 1), &port) || port < 0 ||
      port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat(
        "cannot listen on ", Quoted(listen), ": the port must be 0 to 65535"));
  }
  return HostAndPort{.host = listen.substr(0, colon),
                     .port = absl::StrCat(port)};
}

// Lets one server at a time begin to offer a port: between the look at the port
// and the call that listens, another one could do the same, and both would get
// it. An abstract name belongs to the network namespace, as ports do, and ends
// with the descriptor that is returned; invalid for a port that nobody shares.
absl::StatusOr<UniqueFd> BeginOffer(const ServerOptions& options,
                                    const HostAndPort& where) {
  if (options.port_sharing != PortSharing::kOffer || where.port == "0") {
    return UniqueFd();
  }
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string name = absl::StrCat("mycelium-offer-", options.listen)
                               .substr(0, sizeof(address.sun_path) - 1);
  name.copy(address.sun_path + 1, name.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid() ||
      bind(fd.get(), reinterpret_cast<const sockaddr*>(&address),
           static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 +
                                  name.size())) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot listen on ", options.listen,
                                           ", where another server starts"));
  }
  return fd;
}

// gRPC does not say why it can't bind, so the question is asked beforehand. The
// address may still be lost to another process in between; BuildAndStart then
// fails without a reason.
absl::Status CheckCanBind(const std::string& listen, const HostAndPort& where,
                          PortSharing sharing) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const std::string host(
      absl::StripSuffix(absl::StripPrefix(where.host, "["), "]"));
  const int error =
      getaddrinfo(host.c_str(), where.port.c_str(), &hints, &found);
  if (error != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot listen on ", listen, ": ", gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found,
                                                             freeaddrinfo);
  const UniqueFd fd(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  const int join = sharing == PortSharing::kJoin ? 1 : 0;
  if (!fd.valid() ||
      setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
      setsockopt(fd.get(), SOL_SOCKET, SO_REUSEPORT, &join, sizeof(join)) !=
          0 ||
      bind(fd.get(), found->ai_addr, found->ai_addrlen) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot listen on ", listen));
  }
  return absl::OkStatus();
}

// Health must be linked as a protobuf descriptor: without it, reflection
// clients that list all services fail on the one that gRPC serves by itself.
std::string HealthServiceName() {
  return grpc::health::v1::HealthCheckRequest::descriptor()
      ->file()
      ->service(0)
      ->full_name();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(
    const ServerOptions& options) {
  if (absl::StartsWith(options.listen, "unix:")) {
    return absl::InvalidArgumentError(
        "cannot listen on a Unix socket: write HOST:PORT");
  }
  MYC_ASSIGN_OR_RETURN(const HostAndPort where, Split(options.listen));
  MYC_ASSIGN_OR_RETURN(
      const std::shared_ptr<grpc::ServerCredentials> credentials,
      MakeServerCredentials(options.tls, options.listen));
  MYC_ASSIGN_OR_RETURN(const UniqueFd offer, BeginOffer(options, where));
  MYC_RETURN_IF_ERROR(
      CheckCanBind(options.listen, where, options.port_sharing));

  DisableDeadlockSearch();
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options.listen, credentials, &port);
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  builder.SetMaxSendMessageSize(options.max_message_bytes);
  // By default two servers may share a port, and each gets half of the calls.
  builder.AddChannelArgument(
      GRPC_ARG_ALLOW_REUSEPORT,
      options.port_sharing == PortSharing::kNone ? 0 : 1);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(
      GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  for (const auto& [name, value] : options.transport_settings) {
    builder.AddChannelArgument(name, value);
  }
  std::vector<std::string> names = {HealthServiceName()};
  for (const ServedService& served : options.services) {
    builder.RegisterService(served.service);
    names.push_back(served.full_name);
  }
  if (options.generic_service != nullptr) {
    builder.RegisterCallbackGenericService(options.generic_service);
  }
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", options.listen));
  }

  const std::string address = absl::StrCat(where.host, ":", port);
  std::unique_ptr<Server> result(
      new Server(std::move(server), address, port, std::move(names)));
  result->SetServing(true);
  return result;
}

Server::Server(std::unique_ptr<grpc::Server> server, std::string address,
               int port, std::vector<std::string> service_names)
    : server_(std::move(server)),
      address_(std::move(address)),
      port_(port),
      service_names_(std::move(service_names)) {}

Server::~Server() { Shutdown(absl::ZeroDuration()); }

void Server::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  for (const std::string& name : service_names_) {
    health->SetServingStatus(name, serving);
  }
  health->SetServingStatus("", serving);
}

void Server::Shutdown(absl::Duration grace) {
  server_->Shutdown(std::chrono::system_clock::now() +
                    absl::ToChronoMicroseconds(grace));
  server_->Wait();
}

absl::Status WritePortFile(const std::string& path, absl::string_view address) {
  if (path.empty()) return absl::OkStatus();
  return WriteFileAtomically(path, absl::StrCat(address, "\n"));
}

}  // namespace mycelium::rpc
