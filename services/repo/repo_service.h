#ifndef SERVICES_REPO_REPO_SERVICE_H_
#define SERVICES_REPO_REPO_SERVICE_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "mycelium/repo/v1/repo.grpc.pb.h"
#include "services/repo/buffer_pool.h"
#include "services/repo/collector.h"
#include "services/repo/spore_store.h"
#include "services/repo/stall_guard.h"
#include "services/repo/worker_pool.h"

namespace mycelium::repo {

// Serves mycelium.repo.v1.Repo. The two methods that carry spores take and give
// raw messages, so that no byte is copied on its way between socket and file.
// Thread-safe.
class RepoService final
    : public v1::Repo::WithRawCallbackMethod_Put<
          v1::Repo::WithRawCallbackMethod_Get<v1::Repo::WithCallbackMethod_Stat<
              v1::Repo::WithCallbackMethod_List<
                  v1::Repo::WithCallbackMethod_Delete<
                      v1::Repo::WithCallbackMethod_Gc<v1::Repo::Service>>>>>> {
 public:
  struct Options {
    // Streams that read a spore at a time; more are refused. Each costs at most
    // three chunks of memory.
    int max_downloads = 128;
    // A download whose reader takes nothing for so long is ended, as is an
    // upload without a header.
    absl::Duration stall_timeout = absl::Seconds(60);
  };

  // What a server that carries spores needs: frames as large as chunks, and a
  // bound on what it receives ahead of the upload. For rpc::ServerOptions.
  static std::vector<std::pair<std::string, int>> TransportSettings();

  // Both must outlive the service.
  RepoService(SporeStore* store, Collector* collector, const Options& options);

  grpc::ServerReadReactor<grpc::ByteBuffer>* Put(
      grpc::CallbackServerContext* context,
      grpc::ByteBuffer* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Get(
      grpc::CallbackServerContext* context,
      const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Stat(grpc::CallbackServerContext* context,
                                 const v1::StatRequest* request,
                                 v1::StatResponse* response) override;
  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* context,
                                 const v1::ListRequest* request,
                                 v1::ListResponse* response) override;
  grpc::ServerUnaryReactor* Delete(grpc::CallbackServerContext* context,
                                   const v1::DeleteRequest* request,
                                   v1::DeleteResponse* response) override;
  grpc::ServerUnaryReactor* Gc(grpc::CallbackServerContext* context,
                               const v1::GcRequest* request,
                               v1::GcResponse* response) override;

 private:
  class PutReactor;
  class GetReactor;

  static grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                          const absl::Status& status);

  // Runs `work` where it may block, and answers with its status.
  grpc::ServerUnaryReactor* RunBlocking(grpc::CallbackServerContext* context,
                                        std::function<absl::Status()> work);

  SporeStore& store_;
  Collector& collector_;
  const Options options_;
  std::atomic<int> downloads_ = 0;
  const std::shared_ptr<BufferPool> buffers_;
  StallGuard stalls_;

  // Last, so that their threads have ended before anything else goes.
  WorkerPool readers_;
  WorkerPool deleters_;
};

}  // namespace mycelium::repo

#endif  // SERVICES_REPO_REPO_SERVICE_H_
