// The repo: spores by the digest of their content. `repo --help` says more.

#include <malloc.h>

#include <csignal>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gflags/gflags.h"
#include "glog/logging.h"
#include "lib/base/clock.h"
#include "lib/base/process_signals.h"
#include "lib/base/status_macros.h"
#include "lib/flags/command_line.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/flags.h"
#include "lib/rpc/server.h"
#include "lib/telemetry/logging.h"
#include "services/repo/collector.h"
#include "services/repo/fabric_plan_source.h"
#include "services/repo/repo_service.h"
#include "services/repo/spore_store.h"
#include "services/repo/trust_store_file.h"

DEFINE_string(listen, "127.0.0.1:7701",
              "HOST:PORT to serve gRPC on; port 0 takes a free one. Addresses "
              "other than loopback need --tls_*");
DEFINE_string(port_file, "",
              "file that HOST:PORT is written to once the repo listens");
DEFINE_string(data_dir, "", "directory of the spores; made if it is missing");
DEFINE_string(
    trust_store, "",
    "trust.json; if set, only spores that it accepts are stored. Read "
    "again whenever it changes");
DEFINE_string(fabric, "",
              "HOST:PORT of a fabric; if set, spores that its plans refer to "
              "are not deleted");
DEFINE_int64(max_spore_bytes, (int64_t{4} << 30) - 1,
             "largest spore that is taken, in bytes; at most 4 GiB - 1");
DEFINE_int32(max_uploads, 32,
             "uploads at a time, 1 to 1000; each may take 6 MiB of memory");
DEFINE_int32(upload_idle_timeout_s, 30,
             "seconds, 1 to 3600, after which an upload that brings nothing is "
             "given up");

namespace mycelium::repo {
namespace {

// How long calls may go on after a signal to stop.
constexpr absl::Duration kGrace = absl::Seconds(5);
constexpr absl::Duration kFabricTimeout = absl::Seconds(5);

// Keeps what the transport allocates for each piece that it receives, up to
// this, instead of giving it back to the kernel and faulting it in again.
constexpr int kKeptHeapBytes = 16 << 20;

absl::Status CheckFlags() {
  if (FLAGS_data_dir.empty()) {
    return absl::InvalidArgumentError("--data_dir must be set");
  }
  if (FLAGS_max_spore_bytes < 1) {
    return absl::InvalidArgumentError("--max_spore_bytes must be at least 1");
  }
  if (FLAGS_max_uploads < 1 || FLAGS_max_uploads > 1000) {
    return absl::InvalidArgumentError("--max_uploads must be 1 to 1000");
  }
  if (FLAGS_upload_idle_timeout_s < 1 || FLAGS_upload_idle_timeout_s > 3600) {
    return absl::InvalidArgumentError(
        "--upload_idle_timeout_s must be 1 to 3600");
  }
  return absl::OkStatus();
}

absl::Status Run() {
  MYC_RETURN_IF_ERROR(CheckFlags());

  std::unique_ptr<TrustStoreFile> trust;
  if (!FLAGS_trust_store.empty()) {
    MYC_ASSIGN_OR_RETURN(trust, TrustStoreFile::Open(FLAGS_trust_store));
  }
  std::unique_ptr<PlanSource> plans;
  if (!FLAGS_fabric.empty()) {
    MYC_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                         rpc::Connect(FLAGS_fabric, rpc::TlsFilesFromFlags()));
    plans = std::make_unique<FabricPlanSource>(
        fabric::v1::Fabric::NewStub(channel), kFabricTimeout);
  }
  MYC_ASSIGN_OR_RETURN(
      const std::unique_ptr<SporeStore> store,
      SporeStore::Open(
          {.data_dir = FLAGS_data_dir,
           .max_spore_bytes = FLAGS_max_spore_bytes,
           .max_uploads = FLAGS_max_uploads,
           .upload_idle_timeout = absl::Seconds(FLAGS_upload_idle_timeout_s),
           .trust = trust.get()}));
  Collector collector(store.get(), plans.get(), Clock::Real());
  RepoService service(store.get(), &collector, RepoService::Options());

  const rpc::ServerOptions options = {
      .listen = FLAGS_listen,
      .tls = rpc::TlsFilesFromFlags(),
      .services = {{&service, v1::Repo::service_full_name()}},
      .transport_settings = RepoService::TransportSettings()};
  MYC_ASSIGN_OR_RETURN(const std::unique_ptr<rpc::Server> server,
                       rpc::Server::Start(options));
  MYC_RETURN_IF_ERROR(rpc::WritePortFile(FLAGS_port_file, server->address()));
  LOG(INFO) << "serving " << store->Ages().size() << " spores of "
            << FLAGS_data_dir << " on " << server->address();

  const int signal = WaitForStopSignal();
  LOG(INFO) << "stopping on signal " << signal;
  server->Shutdown(kGrace);
  return absl::OkStatus();
}

}  // namespace
}  // namespace mycelium::repo

int main(int argc, char** argv) {
  mycelium::BlockStopSignals();
  // No other thread runs yet.
  mallopt(M_TRIM_THRESHOLD,  // NOLINT(concurrency-mt-unsafe)
          mycelium::repo::kKeptHeapBytes);
  mallopt(M_MMAP_THRESHOLD,  // NOLINT(concurrency-mt-unsafe)
          mycelium::repo::kKeptHeapBytes);
  // A file size limit is then an error like a full disk, and not the end.
  std::signal(SIGXFSZ, SIG_IGN);
  mycelium::flags::ParseCommandLine(
      "repo stores spores by their digest and hands them out.\n\n"
      "  repo --data_dir=DIR [--listen=HOST:PORT] [--trust_store=FILE] "
      "[--fabric=HOST:PORT]",
      argc, argv);
  mycelium::telemetry::InitLogging(argv[0]);

  if (const absl::Status status = mycelium::repo::Run(); !status.ok()) {
    LOG(ERROR) << status.message();
    return 1;
  }
  return 0;
}
