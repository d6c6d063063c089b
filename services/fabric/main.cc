// The fabric: keeps what should run, what runs and where, and streams changes.

#include <csignal>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gflags/gflags.h"
#include "glog/logging.h"
#include "grpcpp/impl/codegen/service_type.h"
#include "lib/base/file.h"
#include "lib/base/process_signals.h"
#include "lib/base/status_macros.h"
#include "lib/base/version.h"
#include "lib/flags/command_line.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/flags.h"
#include "lib/rpc/server.h"
#include "lib/telemetry/logging.h"
#include "mycelium/fabric/v1/fabric.grpc.pb.h"
#include "services/fabric/fabric_core.h"
#include "services/fabric/fabric_service.h"
#include "services/fabric/repo_catalog.h"
#include "services/fabric/store/memory_store.h"
#include "services/fabric/store/sqlite_store.h"

DEFINE_string(listen, "127.0.0.1:7700",
              "HOST:PORT to serve gRPC on; port 0 takes a free one. Without "
              "the --tls_ flags it must be a loopback address");
DEFINE_string(port_file, "",
              "file to which HOST:PORT is written once the fabric serves");
DEFINE_string(store, "sqlite",
              "where state is kept: sqlite (durable, in --data_dir) or memory "
              "(gone with the process)");
DEFINE_string(data_dir, "fabric-data",
              "directory of the sqlite store; made if it does not exist");
DEFINE_string(repo, "",
              "HOST:PORT of the repo, which is asked about the spores of "
              "plans; none if empty");

namespace mycelium::fabric {
namespace {

constexpr absl::Duration kShutdownGrace = absl::Seconds(2);

absl::StatusOr<std::unique_ptr<Store>> OpenStore() {
  if (FLAGS_store == "memory") return NewMemoryStore({});
  if (FLAGS_store != "sqlite") {
    return absl::InvalidArgumentError(
        absl::StrCat("--store=", FLAGS_store, " must be sqlite or memory"));
  }
  MYC_RETURN_IF_ERROR(MakeDirectories(FLAGS_data_dir, 0700));
  return OpenSqliteStore(JoinPath(FLAGS_data_dir, "fabric.db"), {});
}

absl::Status Serve() {
  MYC_ASSIGN_OR_RETURN(const std::unique_ptr<Store> store, OpenStore());
  std::unique_ptr<SporeCatalog> catalog;
  if (!FLAGS_repo.empty()) {
    MYC_ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel,
                         rpc::Connect(FLAGS_repo, rpc::TlsFilesFromFlags()));
    catalog = NewRepoCatalog(std::move(channel));
  }
  FabricOptions options;
  options.catalog = catalog.get();
  options.store_kind = FLAGS_store;
  const std::unique_ptr<FabricCore> fabric =
      FabricCore::Create(store.get(), options);
  const std::unique_ptr<grpc::Service> service = NewFabricService(fabric.get());

  rpc::ServerOptions server_options;
  server_options.listen = FLAGS_listen;
  server_options.tls = rpc::TlsFilesFromFlags();
  server_options.services = {{service.get(), v1::Fabric::service_full_name()}};
  MYC_ASSIGN_OR_RETURN(const std::unique_ptr<rpc::Server> server,
                       rpc::Server::Start(server_options));
  LOG(INFO) << "fabric " << kVersion << " serves at " << server->address()
            << ", store " << FLAGS_store << ", epoch " << store->Epoch()
            << ", revision " << store->Revision();
  MYC_RETURN_IF_ERROR(rpc::WritePortFile(FLAGS_port_file, server->address()));

  const int signal = WaitForStopSignal();
  LOG(INFO) << "stopping on signal " << signal;
  server->SetServing(false);
  fabric->StopWatches();
  server->Shutdown(kShutdownGrace);
  return absl::OkStatus();
}

}  // namespace
}  // namespace mycelium::fabric

int main(int argc, char** argv) {
  mycelium::BlockStopSignals();
  // A file size limit is then an error like a full disk, and not the end.
  std::signal(SIGXFSZ, SIG_IGN);
  mycelium::flags::ParseCommandLine(
      "fabric keeps what should run, what runs and where, and streams all "
      "changes of it.\n\n"
      "  fabric --data_dir=DIR [--listen=HOST:PORT] [--repo=HOST:PORT]\n\n"
      "An acknowledged write survives crashes. It stops orderly on SIGINT and "
      "SIGTERM.",
      argc, argv);
  mycelium::telemetry::InitLogging(argv[0]);
  const absl::Status status = mycelium::fabric::Serve();
  if (!status.ok()) {
    LOG(ERROR) << "fabric: " << status.message();
    return 1;
  }
  return 0;
}
