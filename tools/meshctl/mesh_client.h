// The services of a mesh as plain calls: the one place where meshctl speaks
// gRPC.

#ifndef TOOLS_MESHCTL_MESH_CLIENT_H_
#define TOOLS_MESHCTL_MESH_CLIENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lib/fabric_client/watch.h"
#include "lib/rpc/credentials.h"
#include "mycelium/agent/v1/agent.pb.h"
#include "mycelium/edge/v1/edge.pb.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "mycelium/repo/v1/repo.pb.h"

namespace mycelium::meshctl {

struct MeshAddresses {
  std::string fabric;  // `HOST:PORT`, as all of them; empty if not known.
  std::string repo;
  std::string edge;
  rpc::TlsFiles tls;
};

// A list of resources and the revision that it is true at.
template <typename T>
struct Listed {
  std::vector<T> items;
  int64_t revision = 0;
  std::string epoch;
};

// Every call connects when it must, and fails with UNAVAILABLE naming service
// and address if nobody answers there. Errors of the services keep their
// details. Thread-safe.
class MeshClient {
 public:
  // `timeout` bounds each call but uploads, logs and watches.
  MeshClient(MeshAddresses addresses, absl::Duration timeout);
  MeshClient(const MeshClient&) = delete;
  MeshClient& operator=(const MeshClient&) = delete;
  ~MeshClient();

  // The fabric.
  absl::StatusOr<fabric::v1::PutPlanResponse> PutPlan(
      const fabric::v1::PutPlanRequest& request);
  absl::StatusOr<fabric::v1::Plan> GetPlan(const std::string& app);
  absl::StatusOr<Listed<fabric::v1::Plan>> ListPlans();
  absl::StatusOr<fabric::v1::DeletePlanResponse> DeletePlan(
      const fabric::v1::DeletePlanRequest& request);
  absl::StatusOr<fabric::v1::Plan> ScaleApp(const std::string& app, int count);
  absl::StatusOr<fabric::v1::Budget> PutBudget(
      const fabric::v1::PutBudgetRequest& request);
  absl::StatusOr<fabric::v1::Budget> GetBudget(const std::string& app);
  absl::StatusOr<Listed<fabric::v1::Budget>> ListBudgets();
  absl::StatusOr<fabric::v1::DeleteBudgetResponse> DeleteBudget(
      const fabric::v1::DeleteBudgetRequest& request);
  // Of one app, or of all if `app` is empty.
  absl::StatusOr<Listed<fabric::v1::Endpoint>> ListEndpoints(
      const std::string& app);
  absl::StatusOr<Listed<fabric::v1::Slot>> ListSlots(const std::string& app);
  absl::StatusOr<Listed<fabric::v1::Node>> ListNodes();
  absl::StatusOr<fabric::v1::Node> DrainNode(const std::string& node);
  absl::StatusOr<fabric::v1::Node> CordonNode(const std::string& node);
  absl::StatusOr<fabric::v1::Node> UndrainNode(const std::string& node);
  absl::Status DeleteNode(const std::string& node);
  absl::StatusOr<Listed<fabric::v1::EdgeInfo>> ListEdges();
  // Newest first, at most `limit`.
  absl::StatusOr<Listed<fabric::v1::Event>> ListEvents(
      const fabric::v1::ListEventsRequest& request, int64_t limit);
  absl::StatusOr<fabric::v1::StatusResponse> FabricStatus();

  // Watches of the fabric; see lib/fabric_client/watch.h. They go on trying
  // while the fabric is away.
  using Watch = std::unique_ptr<fabric_client::Watch>;
  absl::StatusOr<Watch> WatchPlans(
      const std::string& app,
      fabric_client::WatchCallback<fabric::v1::Plan> callback);
  absl::StatusOr<Watch> WatchEndpoints(
      const std::string& app,
      fabric_client::WatchCallback<fabric::v1::Endpoint> callback);
  absl::StatusOr<Watch> WatchSlots(
      const std::string& app,
      fabric_client::WatchCallback<fabric::v1::Slot> callback);
  absl::StatusOr<Watch> WatchNodes(
      fabric_client::WatchCallback<fabric::v1::Node> callback);
  absl::StatusOr<Watch> WatchEvents(
      const std::string& app,
      fabric_client::WatchCallback<fabric::v1::Event> callback);

  // The repo.
  //
  // Uploads the file behind `fd`, whose SHA-256 is `digest`, and calls
  // `progress` with the bytes sent so far. `timeout` bounds it all.
  absl::StatusOr<repo::v1::PutResponse> PutSpore(
      int fd, const std::string& digest, int64_t size_bytes,
      absl::Duration timeout, const std::function<void(int64_t)>& progress);
  absl::StatusOr<spore::v1::SporeInfo> StatSpore(const std::string& digest);
  // Of one name or app, or all if `name` is empty.
  absl::StatusOr<std::vector<spore::v1::SporeInfo>> ListSpores(
      const std::string& name);
  absl::StatusOr<repo::v1::DeleteResponse> DeleteSpore(
      const std::string& digest, bool force);
  absl::StatusOr<repo::v1::GcResponse> CollectSpores(
      const repo::v1::GcRequest& request);

  // The agent at `address`.
  absl::StatusOr<std::vector<agent::v1::Instance>> ListInstances(
      const std::string& address, const std::string& app);
  absl::StatusOr<agent::v1::Instance> StopInstance(
      const std::string& address, const agent::v1::StopInstanceRequest& request,
      absl::Duration timeout);
  absl::StatusOr<agent::v1::Instance> RestartInstance(
      const std::string& address,
      const agent::v1::RestartInstanceRequest& request, absl::Duration timeout);

  // A stream of log lines that another thread may cancel. Thread-safe.
  class LogStream {
   public:
    virtual ~LogStream() = default;
    // Waits for the next lines. False at the end; `Finish` says why.
    virtual bool Read(agent::v1::GetLogsResponse& lines) = 0;
    // To be called once, after Read returned false.
    virtual absl::Status Finish() = 0;
    virtual void Cancel() = 0;
  };
  absl::StatusOr<std::unique_ptr<LogStream>> GetLogs(
      const std::string& address, const agent::v1::GetLogsRequest& request);

  // The edge.
  absl::StatusOr<std::vector<edge::v1::Route>> ListRoutes(
      const std::string& app);
  absl::StatusOr<edge::v1::EdgeStats> GetEdgeStats(const std::string& address,
                                                   const std::string& app);

 private:
  class Channels;

  std::unique_ptr<Channels> channels_;
};

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_MESH_CLIENT_H_
