#include "services/fabric/repo_catalog.h"

#include <string>
#include <utility>

#include "grpcpp/grpcpp.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/status.h"
#include "mycelium/repo/v1/repo.grpc.pb.h"

namespace mycelium::fabric {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(1);

class RepoCatalog final : public SporeCatalog {
 public:
  explicit RepoCatalog(std::shared_ptr<grpc::Channel> channel)
      : stub_(mycelium::repo::v1::Repo::NewStub(std::move(channel))) {}

  void Find(const std::string& digest, Callback callback) override {
    struct Call {
      grpc::ClientContext context;
      mycelium::repo::v1::StatRequest request;
      mycelium::repo::v1::StatResponse response;
      Callback callback;
    };
    auto call = std::make_shared<Call>();
    rpc::SetDeadline(call->context, kTimeout);
    call->request.set_digest(digest);
    call->callback = std::move(callback);
    stub_->async()->Stat(
        &call->context, &call->request, &call->response,
        [call](const grpc::Status& status) {
          if (status.ok()) {
            call->callback(std::move(*call->response.mutable_spore()));
          } else {
            call->callback(rpc::ToAbslStatus(status));
          }
        });
  }

 private:
  const std::unique_ptr<mycelium::repo::v1::Repo::Stub> stub_;
};

}  // namespace

std::unique_ptr<SporeCatalog> NewRepoCatalog(
    std::shared_ptr<grpc::Channel> channel) {
  return std::make_unique<RepoCatalog>(std::move(channel));
}

}  // namespace mycelium::fabric
