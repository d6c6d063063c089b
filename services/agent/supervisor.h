// What the agent does: it claims slots, runs their instances and tells the
// fabric about them.
//
// Both sides are level-triggered. The supervisor compares what an instance is
// with what should be, and what the fabric knows with what is true, and does
// the next thing that brings them together; whatever was lost on the way is
// done again.

#ifndef SERVICES_AGENT_SUPERVISOR_H_
#define SERVICES_AGENT_SUPERVISOR_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/fabric_client/watch.h"
#include "lib/nutrients/ledger.h"
#include "lib/nutrients/nutrients.h"
#include "mycelium/agent/v1/agent.pb.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "services/agent/claimer.h"
#include "services/agent/executor.h"
#include "services/agent/fabric_api.h"
#include "services/agent/health_prober.h"
#include "services/agent/held_instance.h"
#include "services/agent/launcher.h"
#include "services/agent/liveness_budget.h"
#include "services/agent/log_store.h"
#include "services/agent/mesh_view.h"
#include "services/agent/port_allocator.h"
#include "services/agent/spore_cache.h"
#include "services/agent/start_limiter.h"

namespace mycelium::agent {

// Not thread-safe: everything happens on one thread, and `post` brings there
// what others report.
class Supervisor {
 public:
  struct Options {
    std::string node_id;
    Nutrients capacity;
    std::map<std::string, std::string> labels;
    // Host of the URLs under which edges reach instances.
    std::string advertise_host = "127.0.0.1";
    // Work directories and records of instances are below it.
    std::string data_directory;
    InstanceOptions instance;
    StartLimits starts;
    LivenessLimits liveness;
  };

  // What it works with; all must outlive it.
  struct Parts {
    Clock* clock = nullptr;
    FabricApi* fabric = nullptr;
    SporeCache* spores = nullptr;
    Launcher* launcher = nullptr;
    HealthProber* prober = nullptr;
    LogStore* logs = nullptr;
    // For calls of the fabric, and for what takes long.
    Executor* calls = nullptr;
    Executor* pulls = nullptr;
    // Runs a task on the supervisor's thread.
    std::function<void(std::function<void()>)> post;
    // The trust in spores has changed as often as this says.
    std::function<int64_t()> trust_generation;
    // A call was told that a lease has lapsed.
    std::function<void(const std::string&)> lease_not_found;
    // The node is about to leave the mesh. Called on any thread.
    std::function<void()> leaving;
    // Uniform numbers in [0, 1).
    std::function<double()> random;
  };

  Supervisor(const Options& options, const Parts& parts);

  // Takes over the records of instances that a former agent has left; they are
  // listed as stopped.
  void LoadRecords();

  // --- What the fabric says. ---

  void OnSlots(const fabric_client::WatchUpdate<fabric::v1::Slot>& update);
  void OnNodes(const fabric_client::WatchUpdate<fabric::v1::Node>& update);
  void OnJoined(const fabric::v1::JoinNodeResponse& response);
  void OnLeaseLost();

  // --- What the machine says. ---

  void OnExited(const std::string& instance_id, int64_t run,
                const v1::ExitStatus& exit);
  void Tick();
  // How long until Tick has something to do.
  absl::Duration NextDue() const;

  // --- What callers ask. ---

  // The instances that run and those that stopped lately, by id.
  std::vector<v1::Instance> List(absl::string_view app_name) const;

  // The number of the process that runs, or ran last, of an instance; see
  // LogSource. NotFound.
  struct Run {
    std::string app_name;
    int64_t number = 0;
    bool running = false;
  };
  absl::StatusOr<Run> FindRun(absl::string_view instance_id) const;

  // Stops an instance, or starts it again. `done` is called with it when it is
  // gone, or runs again. Errors are those of agent.proto.
  using Done = std::function<void(absl::StatusOr<v1::Instance>)>;
  void Stop(absl::string_view instance_id,
            std::optional<absl::Duration> stop_timeout, Done done);
  void Restart(absl::string_view instance_id,
               std::optional<absl::Duration> stop_timeout, Done done);

  // Drains and stops everything, and leaves the mesh. `done` is called when all
  // is gone.
  void Shutdown(std::function<void()> done);

 private:
  using Held = HeldInstance;
  using HeldMap = std::map<std::string, Held, std::less<>>;

  // --- Lives of instances: supervisor.cc. ---

  void Advance(Held& held);
  void Pull(Held& held);
  void OnPulled(const std::string& id,
                const absl::StatusOr<CachedSpore>& spore);
  absl::Status CheckSpore(const Held& held, const CachedSpore& spore) const;
  void Launch(Held& held);
  absl::StatusOr<LaunchSpec> SpecOf(const Held& held) const;
  void SendProbes(Held& held);
  void ReleasePort(Held& held);
  StopRequest StopOf(const Held& held, absl::string_view reason,
                     absl::string_view message) const;
  void RequestStop(Held& held, absl::string_view reason,
                   absl::string_view message);
  // Records what has changed, and answers those who wait for it.
  void Notice(Held& held);
  void AnswerWaiters(Held& held);
  // Moves an instance that is gone, and that the fabric has forgotten, to the
  // stopped ones.
  void FinishGone();
  void AskTo(absl::string_view instance_id,
             std::optional<absl::Duration> stop_timeout, bool restart,
             Done done);
  v1::Instance ToProto(const Held& held) const;
  void WriteRecord(const v1::Instance& instance);
  void PruneOld();
  void PruneLogs();
  void CheckTrust();
  int RunningOf(const std::string& app_name) const;

  // --- The fabric: supervisor_fabric.cc. ---

  // What a call needs of an instance once it is over: it may be gone by then.
  using AfterCall = std::function<void(Held&, const absl::Status&)>;

  void ClaimSlots();
  void Claim(const fabric::v1::Slot& slot);
  // `lease` is the one that the slot was claimed with.
  void OnClaimed(const std::string& id, const std::string& lease,
                 const absl::StatusOr<fabric::v1::ClaimSlotResponse>& response);
  void Reclaim(Held& held);
  void ReleaseUnknownClaims();
  void CompareWithSlot(Held& held, const std::string& epoch, int64_t revision);
  // Makes the next call that tells the fabric what is true of `held`.
  void Sync(Held& held);
  bool SyncEndpoint(Held& held);
  bool SyncSlot(Held& held);
  void Call(Held& held, std::function<absl::Status()> call, AfterCall after);
  void OnCallFailed(Held& held, const absl::Status& status);
  void PollDrains();
  void RemoveStaleEndpoints();
  void ForgetRegistrations();
  void AddEvent(const Held& held, absl::string_view type,
                fabric::v1::Event::Severity severity, absl::string_view message,
                const std::map<std::string, std::string>& details = {});
  void SendEvents();
  void UpdateNeeded();
  void FinishShutdown();
  OwnNode Self() const;

  const Options options_;
  const Parts parts_;
  Clock& clock_;

  MeshView view_;
  std::string slots_epoch_;
  int64_t slots_revision_ = 0;
  bool slots_synced_ = false;
  Claimer claimer_;
  Ledger ledger_;
  StartLimiter starts_;
  LivenessBudget liveness_;
  PortAllocator ports_;

  bool joined_ = false;
  std::string lease_id_;

  HeldMap held_;
  // Instances that stopped lately, by id.
  std::map<std::string, v1::Instance, std::less<>> stopped_;
  // Claims of this node that nobody knows and that are being released.
  std::set<std::string> releasing_;

  std::deque<fabric::v1::Event> events_;
  bool sending_events_ = false;
  absl::Duration next_events_ = absl::ZeroDuration();
  bool polling_drains_ = false;
  absl::Duration next_drain_poll_ = absl::ZeroDuration();
  bool needed_changed_ = true;
  absl::Duration next_housekeeping_ = absl::ZeroDuration();
  absl::Duration next_prune_ = absl::ZeroDuration();
  int64_t trust_generation_ = 0;

  bool shutting_down_ = false;
  bool leaving_ = false;
  std::function<void()> shutdown_done_;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_SUPERVISOR_H_
