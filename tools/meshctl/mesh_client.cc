#include "tools/meshctl/mesh_client.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/mutex.h"
#include "lib/base/status_macros.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/status.h"
#include "mycelium/agent/v1/agent.grpc.pb.h"
#include "mycelium/edge/v1/edge.grpc.pb.h"
#include "mycelium/fabric/v1/fabric.grpc.pb.h"
#include "mycelium/repo/v1/repo.grpc.pb.h"
#include "tools/meshctl/failure.h"

namespace mycelium::meshctl {
namespace {

constexpr int kPageSize = 1000;
constexpr size_t kChunkBytes = size_t{512} << 10;

// A service at an address, for error messages.
struct Peer {
  absl::string_view service;
  std::string address;
};

// What gRPC said about a peer that could not be reached, without its envelope.
std::string Cause(const std::string& message) {
  for (const absl::string_view known :
       {"Connection refused", "No such file or directory",
        "Network is unreachable", "No route to host", "Connection reset",
        "Domain name not found", "Socket closed", "Timeout occurred"}) {
    if (absl::StrContains(message, known)) {
      return std::string(known);
    }
  }
  return message;
}

// `status` as our kind of error. A peer that is not there is named; what a
// service said stays as it said it.
absl::Status FromGrpc(const grpc::Status& status, const Peer& peer) {
  if (status.ok()) return absl::OkStatus();
  absl::Status error = rpc::ToAbslStatus(status);
  if (!ReasonOf(error).empty()) return error;
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
    return ToStatus(
        {.exit = ExitCode::kUnavailable,
         .message =
             absl::StrCat("cannot reach ", peer.service, " ", peer.address,
                          ": ", Cause(status.error_message())),
         .fixes = {"start a local mesh:  meshctl run",
                   "choose another one:  --context NAME, see meshctl context "
                   "ls"}});
  }
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    return ToStatus({.exit = ExitCode::kTimeout,
                     .message = absl::StrCat(peer.service, " ", peer.address,
                                             " did not answer in time"),
                     .fixes = {"give it longer:  --timeout 1m"}});
  }
  if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED) {
    return ToStatus(
        {.exit = ExitCode::kUnavailable,
         .message = absl::StrCat(peer.address, " is no ", peer.service,
                                 ", or one of another version")});
  }
  return Annotate(error, absl::StrCat(peer.service, " ", peer.address));
}

}  // namespace

// Connections, made when they are first used.
class MeshClient::Channels {
 public:
  Channels(MeshAddresses addresses, absl::Duration timeout)
      : addresses_(std::move(addresses)), timeout_(timeout) {}

  absl::Duration timeout() const { return timeout_; }
  const MeshAddresses& addresses() const { return addresses_; }

  absl::StatusOr<std::shared_ptr<grpc::Channel>> To(const Peer& peer) {
    if (peer.address.empty()) {
      return ToStatus({.exit = ExitCode::kUnavailable,
                       .message = absl::StrCat("the address of the ",
                                               peer.service, " is not known"),
                       .fixes = {absl::StrCat("name it:  --", peer.service,
                                              " HOST:PORT")}});
    }
    const MutexLock lock(mutex_);
    std::shared_ptr<grpc::Channel>& channel = channels_[peer.address];
    if (channel == nullptr) {
      MYC_ASSIGN_OR_RETURN(channel, rpc::Connect(peer.address, addresses_.tls));
    }
    return channel;
  }

  // One unary call.
  template <typename Service, typename Response, typename Request>
  absl::StatusOr<Response> Call(
      const Peer& peer,
      grpc::Status (Service::Stub::*method)(grpc::ClientContext*,
                                            const Request&, Response*),
      const Request& request, absl::Duration timeout) {
    MYC_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                         To(peer));
    typename Service::Stub stub(channel);
    grpc::ClientContext context;
    rpc::SetDeadline(context, timeout);
    Response response;
    MYC_RETURN_IF_ERROR(
        FromGrpc((stub.*method)(&context, request, &response), peer));
    return response;
  }

  template <typename Response, typename Request>
  absl::StatusOr<Response> Fabric(
      grpc::Status (fabric::v1::Fabric::Stub::*method)(grpc::ClientContext*,
                                                       const Request&,
                                                       Response*),
      const Request& request) {
    return Call<fabric::v1::Fabric>({"fabric", addresses_.fabric}, method,
                                    request, timeout_);
  }

  template <typename Response, typename Request>
  absl::StatusOr<Response> Repo(
      grpc::Status (repo::v1::Repo::Stub::*method)(grpc::ClientContext*,
                                                   const Request&, Response*),
      const Request& request) {
    return Call<repo::v1::Repo>({"repo", addresses_.repo}, method, request,
                                timeout_);
  }

  // Every page of a list of the fabric, `items` picking the page's resources.
  template <typename T, typename Response, typename Request, typename Items>
  absl::StatusOr<Listed<T>> List(
      grpc::Status (fabric::v1::Fabric::Stub::*method)(grpc::ClientContext*,
                                                       const Request&,
                                                       Response*),
      Request request, int64_t limit, Items items) {
    Listed<T> listed;
    do {
      request.set_page_size(static_cast<int>(std::min<int64_t>(
          kPageSize, limit - static_cast<int64_t>(listed.items.size()))));
      MYC_ASSIGN_OR_RETURN(Response page, Fabric(method, request));
      for (T& item : *items(page)) listed.items.push_back(std::move(item));
      listed.revision = page.revision();
      listed.epoch = page.epoch();
      request.set_page_token(page.next_page_token());
    } while (!request.page_token().empty() &&
             static_cast<int64_t>(listed.items.size()) < limit);
    return listed;
  }

 private:
  const MeshAddresses addresses_;
  const absl::Duration timeout_;

  Mutex mutex_;
  std::map<std::string, std::shared_ptr<grpc::Channel>> channels_
      ABSL_GUARDED_BY(mutex_);
};

namespace {

using FabricStub = fabric::v1::Fabric::Stub;
using RepoStub = repo::v1::Repo::Stub;

// No mesh has more of anything.
constexpr int64_t kAll = 1'000'000;

class GrpcLogStream final : public MeshClient::LogStream {
 public:
  GrpcLogStream(const std::shared_ptr<grpc::Channel>& channel, Peer peer,
                const agent::v1::GetLogsRequest& request)
      : peer_(std::move(peer)), stub_(channel) {
    reader_ = stub_.GetLogs(&context_, request);
  }

  bool Read(agent::v1::GetLogsResponse& lines) override {
    return reader_->Read(&lines);
  }
  absl::Status Finish() override { return FromGrpc(reader_->Finish(), peer_); }
  void Cancel() override { context_.TryCancel(); }

 private:
  const Peer peer_;
  agent::v1::Agent::Stub stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<agent::v1::GetLogsResponse>> reader_;
};

}  // namespace

MeshClient::MeshClient(MeshAddresses addresses, absl::Duration timeout)
    : channels_(std::make_unique<Channels>(std::move(addresses), timeout)) {}

MeshClient::~MeshClient() = default;

absl::StatusOr<fabric::v1::PutPlanResponse> MeshClient::PutPlan(
    const fabric::v1::PutPlanRequest& request) {
  return channels_->Fabric(&FabricStub::PutPlan, request);
}

absl::StatusOr<fabric::v1::Plan> MeshClient::GetPlan(const std::string& app) {
  fabric::v1::GetPlanRequest request;
  request.set_app_name(app);
  MYC_ASSIGN_OR_RETURN(auto response,
                       channels_->Fabric(&FabricStub::GetPlan, request));
  return std::move(*response.mutable_plan());
}

absl::StatusOr<Listed<fabric::v1::Plan>> MeshClient::ListPlans() {
  return channels_->List<fabric::v1::Plan>(
      &FabricStub::ListPlans, fabric::v1::ListPlansRequest(), kAll,
      [](auto& page) { return page.mutable_plans(); });
}

absl::StatusOr<fabric::v1::DeletePlanResponse> MeshClient::DeletePlan(
    const fabric::v1::DeletePlanRequest& request) {
  return channels_->Fabric(&FabricStub::DeletePlan, request);
}

absl::StatusOr<fabric::v1::Plan> MeshClient::ScaleApp(const std::string& app,
                                                      int count) {
  fabric::v1::ScaleAppRequest request;
  request.set_app_name(app);
  request.set_count(count);
  MYC_ASSIGN_OR_RETURN(auto response,
                       channels_->Fabric(&FabricStub::ScaleApp, request));
  return std::move(*response.mutable_plan());
}

absl::StatusOr<fabric::v1::Budget> MeshClient::PutBudget(
    const fabric::v1::PutBudgetRequest& request) {
  MYC_ASSIGN_OR_RETURN(auto response,
                       channels_->Fabric(&FabricStub::PutBudget, request));
  return std::move(*response.mutable_budget());
}

absl::StatusOr<fabric::v1::Budget> MeshClient::GetBudget(
    const std::string& app) {
  fabric::v1::GetBudgetRequest request;
  request.set_app_name(app);
  MYC_ASSIGN_OR_RETURN(auto response,
                       channels_->Fabric(&FabricStub::GetBudget, request));
  return std::move(*response.mutable_budget());
}

absl::StatusOr<Listed<fabric::v1::Budget>> MeshClient::ListBudgets() {
  return channels_->List<fabric::v1::Budget>(
      &FabricStub::ListBudgets, fabric::v1::ListBudgetsRequest(), kAll,
      [](auto& page) { return page.mutable_budgets(); });
}

absl::StatusOr<fabric::v1::DeleteBudgetResponse> MeshClient::DeleteBudget(
    const fabric::v1::DeleteBudgetRequest& request) {
  return channels_->Fabric(&FabricStub::DeleteBudget, request);
}

absl::StatusOr<Listed<fabric::v1::Endpoint>> MeshClient::ListEndpoints(
    const std::string& app) {
  fabric::v1::ListEndpointsRequest request;
  request.set_app_name(app);
  return channels_->List<fabric::v1::Endpoint>(
      &FabricStub::ListEndpoints, request, kAll,
      [](auto& page) { return page.mutable_endpoints(); });
}

absl::StatusOr<Listed<fabric::v1::Slot>> MeshClient::ListSlots(
    const std::string& app) {
  fabric::v1::ListSlotsRequest request;
  request.set_app_name(app);
  return channels_->List<fabric::v1::Slot>(
      &FabricStub::ListSlots, request, kAll,
      [](auto& page) { return page.mutable_slots(); });
}

absl::StatusOr<Listed<fabric::v1::Node>> MeshClient::ListNodes() {
  return channels_->List<fabric::v1::Node>(
      &FabricStub::ListNodes, fabric::v1::ListNodesRequest(), kAll,
      [](auto& page) { return page.mutable_nodes(); });
}

absl::StatusOr<fabric::v1::Node> MeshClient::DrainNode(
    const std::string& node) {
  fabric::v1::DrainNodeRequest request;
  request.set_node_id(node);
  MYC_ASSIGN_OR_RETURN(auto response,
                       channels_->Fabric(&FabricStub::DrainNode, request));
  return std::move(*response.mutable_node());
}

absl::StatusOr<fabric::v1::Node> MeshClient::CordonNode(
    const std::string& node) {
  fabric::v1::CordonNodeRequest request;
  request.set_node_id(node);
  MYC_ASSIGN_OR_RETURN(auto response,
                       channels_->Fabric(&FabricStub::CordonNode, request));
  return std::move(*response.mutable_node());
}

absl::StatusOr<fabric::v1::Node> MeshClient::UndrainNode(
    const std::string& node) {
  fabric::v1::UndrainNodeRequest request;
  request.set_node_id(node);
  MYC_ASSIGN_OR_RETURN(auto response,
                       channels_->Fabric(&FabricStub::UndrainNode, request));
  return std::move(*response.mutable_node());
}

absl::Status MeshClient::DeleteNode(const std::string& node) {
  fabric::v1::DeleteNodeRequest request;
  request.set_node_id(node);
  return channels_->Fabric(&FabricStub::DeleteNode, request).status();
}

absl::StatusOr<Listed<fabric::v1::EdgeInfo>> MeshClient::ListEdges() {
  return channels_->List<fabric::v1::EdgeInfo>(
      &FabricStub::ListEdges, fabric::v1::ListEdgesRequest(), kAll,
      [](auto& page) { return page.mutable_edges(); });
}

absl::StatusOr<Listed<fabric::v1::Event>> MeshClient::ListEvents(
    const fabric::v1::ListEventsRequest& request, int64_t limit) {
  return channels_->List<fabric::v1::Event>(
      &FabricStub::ListEvents, request, limit,
      [](auto& page) { return page.mutable_events(); });
}

absl::StatusOr<fabric::v1::StatusResponse> MeshClient::FabricStatus() {
  return channels_->Fabric(&FabricStub::Status, fabric::v1::StatusRequest());
}

absl::StatusOr<MeshClient::Watch> MeshClient::WatchPlans(
    const std::string& app,
    fabric_client::WatchCallback<fabric::v1::Plan> callback) {
  MYC_ASSIGN_OR_RETURN(
      auto channel, channels_->To({"fabric", channels_->addresses().fabric}));
  return fabric_client::WatchPlans(channel, app, std::move(callback));
}

absl::StatusOr<MeshClient::Watch> MeshClient::WatchEndpoints(
    const std::string& app,
    fabric_client::WatchCallback<fabric::v1::Endpoint> callback) {
  MYC_ASSIGN_OR_RETURN(
      auto channel, channels_->To({"fabric", channels_->addresses().fabric}));
  return fabric_client::WatchEndpoints(channel, app, std::move(callback));
}

absl::StatusOr<MeshClient::Watch> MeshClient::WatchSlots(
    const std::string& app,
    fabric_client::WatchCallback<fabric::v1::Slot> callback) {
  MYC_ASSIGN_OR_RETURN(
      auto channel, channels_->To({"fabric", channels_->addresses().fabric}));
  return fabric_client::WatchSlots(channel, app, std::move(callback));
}

absl::StatusOr<MeshClient::Watch> MeshClient::WatchNodes(
    fabric_client::WatchCallback<fabric::v1::Node> callback) {
  MYC_ASSIGN_OR_RETURN(
      auto channel, channels_->To({"fabric", channels_->addresses().fabric}));
  return fabric_client::WatchNodes(channel, std::move(callback));
}

absl::StatusOr<MeshClient::Watch> MeshClient::WatchEvents(
    const std::string& app,
    fabric_client::WatchCallback<fabric::v1::Event> callback) {
  MYC_ASSIGN_OR_RETURN(
      auto channel, channels_->To({"fabric", channels_->addresses().fabric}));
  return fabric_client::WatchEvents(channel, app, std::move(callback));
}

absl::StatusOr<repo::v1::PutResponse> MeshClient::PutSpore(
    int fd, const std::string& digest, int64_t size_bytes,
    absl::Duration timeout, const std::function<void(int64_t)>& progress) {
  const Peer peer = {"repo", channels_->addresses().repo};
  MYC_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                       channels_->To(peer));
  repo::v1::Repo::Stub stub(channel);
  grpc::ClientContext context;
  rpc::SetDeadline(context, timeout);
  repo::v1::PutResponse response;
  const auto writer = stub.Put(&context, &response);

  repo::v1::PutRequest request;
  request.mutable_header()->set_digest(digest);
  request.mutable_header()->set_size_bytes(size_bytes);
  // A repo that has the spore, or refuses it, ends the call before the last
  // byte: a failed Write means that the answer is there.
  bool open = writer->Write(request);
  std::string buffer(kChunkBytes, '\0');
  for (int64_t sent = 0; open && sent < size_bytes;) {
    const ssize_t count = pread(fd, buffer.data(), buffer.size(), sent);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      context.TryCancel();
      writer->Finish();
      return count < 0 ? ErrnoStatus(errno, "cannot read the spore")
                       : absl::AbortedError(
                             "the spore became shorter while it was sent");
    }
    request.set_chunk(buffer.data(), static_cast<size_t>(count));
    open = writer->Write(request);
    sent += count;
    if (open) progress(sent);
  }
  if (open) writer->WritesDone();
  MYC_RETURN_IF_ERROR(FromGrpc(writer->Finish(), peer));
  return response;
}

absl::StatusOr<spore::v1::SporeInfo> MeshClient::StatSpore(
    const std::string& digest) {
  repo::v1::StatRequest request;
  request.set_digest(digest);
  MYC_ASSIGN_OR_RETURN(auto response,
                       channels_->Repo(&RepoStub::Stat, request));
  return std::move(*response.mutable_spore());
}

absl::StatusOr<std::vector<spore::v1::SporeInfo>> MeshClient::ListSpores(
    const std::string& name) {
  std::vector<spore::v1::SporeInfo> spores;
  repo::v1::ListRequest request;
  request.set_page_size(kPageSize);
  request.set_name(name);
  do {
    MYC_ASSIGN_OR_RETURN(auto page, channels_->Repo(&RepoStub::List, request));
    for (auto& info : *page.mutable_spores()) spores.push_back(std::move(info));
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return spores;
}

absl::StatusOr<repo::v1::DeleteResponse> MeshClient::DeleteSpore(
    const std::string& digest, bool force) {
  repo::v1::DeleteRequest request;
  request.set_digest(digest);
  request.set_force(force);
  return channels_->Repo(&RepoStub::Delete, request);
}

absl::StatusOr<repo::v1::GcResponse> MeshClient::CollectSpores(
    const repo::v1::GcRequest& request) {
  return channels_->Repo(&RepoStub::Gc, request);
}

absl::StatusOr<std::vector<agent::v1::Instance>> MeshClient::ListInstances(
    const std::string& address, const std::string& app) {
  std::vector<agent::v1::Instance> instances;
  agent::v1::ListInstancesRequest request;
  request.set_page_size(kPageSize);
  request.set_app_name(app);
  do {
    MYC_ASSIGN_OR_RETURN(auto page, channels_->Call<agent::v1::Agent>(
                                        {"agent", address},
                                        &agent::v1::Agent::Stub::ListInstances,
                                        request, channels_->timeout()));
    for (auto& instance : *page.mutable_instances()) {
      instances.push_back(std::move(instance));
    }
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return instances;
}

absl::StatusOr<agent::v1::Instance> MeshClient::StopInstance(
    const std::string& address, const agent::v1::StopInstanceRequest& request,
    absl::Duration timeout) {
  MYC_ASSIGN_OR_RETURN(auto response, channels_->Call<agent::v1::Agent>(
                                          {"agent", address},
                                          &agent::v1::Agent::Stub::StopInstance,
                                          request, timeout));
  return std::move(*response.mutable_instance());
}

absl::StatusOr<agent::v1::Instance> MeshClient::RestartInstance(
    const std::string& address,
    const agent::v1::RestartInstanceRequest& request, absl::Duration timeout) {
  MYC_ASSIGN_OR_RETURN(
      auto response,
      channels_->Call<agent::v1::Agent>(
          {"agent", address}, &agent::v1::Agent::Stub::RestartInstance, request,
          timeout));
  return std::move(*response.mutable_instance());
}

absl::StatusOr<std::unique_ptr<MeshClient::LogStream>> MeshClient::GetLogs(
    const std::string& address, const agent::v1::GetLogsRequest& request) {
  const Peer peer = {"agent", address};
  MYC_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                       channels_->To(peer));
  return std::make_unique<GrpcLogStream>(channel, peer, request);
}

absl::StatusOr<std::vector<edge::v1::Route>> MeshClient::ListRoutes(
    const std::string& app) {
  std::vector<edge::v1::Route> routes;
  edge::v1::ListRoutesRequest request;
  request.set_page_size(kPageSize);
  request.set_app_name(app);
  do {
    MYC_ASSIGN_OR_RETURN(auto page, channels_->Call<edge::v1::Edge>(
                                        {"edge", channels_->addresses().edge},
                                        &edge::v1::Edge::Stub::ListRoutes,
                                        request, channels_->timeout()));
    for (auto& route : *page.mutable_routes())
      routes.push_back(std::move(route));
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return routes;
}

absl::StatusOr<edge::v1::EdgeStats> MeshClient::GetEdgeStats(
    const std::string& address, const std::string& app) {
  edge::v1::GetStatsRequest request;
  request.set_app_name(app);
  MYC_ASSIGN_OR_RETURN(auto response,
                       channels_->Call<edge::v1::Edge>(
                           {"edge", address}, &edge::v1::Edge::Stub::GetStats,
                           request, channels_->timeout()));
  return std::move(*response.mutable_stats());
}

}  // namespace mycelium::meshctl
