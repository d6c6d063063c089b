// A gRPC server as every service of a mesh runs it.

#ifndef LIB_RPC_SERVER_H_
#define LIB_RPC_SERVER_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/rpc/credentials.h"

namespace grpc {
class CallbackGenericService;
class Server;
class Service;
}  // namespace grpc

namespace mycelium::rpc {

// One service and its full name, such as `mycelium.repo.v1.Repo` (the generated
// `v1::Repo::service_full_name()`), under which health checks ask for it.
struct ServedService {
  grpc::Service* service;  // Must outlive the server.
  std::string full_name;
};

// Whether several servers of one user may listen on one port.
enum class PortSharing {
  kNone,   // A port that is taken is an error.
  kOffer,  // Also an error, but later servers may join.
  kJoin,   // Joins one that offered it.
};

struct ServerOptions {
  // `HOST:PORT`; port 0 takes a free one.
  std::string listen;

  // Identity; empty for loopback addresses only.
  TlsFiles tls;

  // With several servers each gets some of the connections: for a process that
  // is about to take over from another one.
  PortSharing port_sharing = PortSharing::kNone;

  // Messages above this are refused with RESOURCE_EXHAUSTED.
  int max_message_bytes = 8 << 20;

  // What is served.
  std::vector<ServedService> services;

  // Takes the methods that no service has. May be null; must outlive the
  // server.
  grpc::CallbackGenericService* generic_service = nullptr;

  // Settings of the transport by gRPC's names (GRPC_ARG_...), for services that
  // carry bulk data.
  std::vector<std::pair<std::string, int>> transport_settings;
};

// Serves gRPC with health checks (`grpc.health.v1`: the whole and each service
// by name) and reflection. Thread-safe.
class Server {
 public:
  // Listens and serves. The error names the address and why it can't be had.
  static absl::StatusOr<std::unique_ptr<Server>> Start(
      const ServerOptions& options);

  // Shuts down at once if Shutdown() was not called.
  ~Server();

  // Where it listens, as `HOST:PORT` with the real port.
  const std::string& address() const { return address_; }
  int port() const { return port_; }

  // What health checks are told; serving from the start.
  void SetServing(bool serving);

  // Takes no new calls, waits for those that run for at most `grace`, then
  // cancels them. Returns when all are finished.
  void Shutdown(absl::Duration grace);

 private:
  Server(std::unique_ptr<grpc::Server> server, std::string address, int port,
         std::vector<std::string> service_names);

  const std::unique_ptr<grpc::Server> server_;
  const std::string address_;
  const int port_;
  const std::vector<std::string> service_names_;
};

// Writes `address` and a newline to `path` atomically, so that who started the
// process with port 0 learns where it listens. Does nothing if `path` is empty.
absl::Status WritePortFile(const std::string& path, absl::string_view address);

}  // namespace mycelium::rpc

#endif  // LIB_RPC_SERVER_H_
