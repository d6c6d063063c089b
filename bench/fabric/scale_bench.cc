// Measures a real fabric process with the sessions of many agents, all in this
// process: each has a connection of its own, joins, sends its heartbeats,
// claims the slots that hashing gives it, and reports and registers what it
// would run.
//
//   bazel build //bench/fabric:scale_bench
//   bazel-bin/bench/fabric/scale_bench --nodes=20 --instances=5  # seconds
//   bazel-bin/bench/fabric/scale_bench                           # minutes
//
// An agent also watches all slots. With a thousand such watches on one machine
// delivery is most of what is measured, so --watches sets how many sessions
// have one. The first is decoded and decides what is claimed; the others are
// read and counted.
//
// The client runs on the same machine and takes its share of the processor, so
// what is said of the fabric is its own processor time and memory.
//
// The store is below $TMPDIR (or /tmp), which chooses the disk.

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/hash/hash.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "bench/fabric/client.h"
#include "gflags/gflags.h"
#include "grpcpp/grpcpp.h"
#include "lib/base/file.h"
#include "lib/base/mutex.h"
#include "lib/rpc/channel.h"
#include "mycelium/fabric/v1/fabric.grpc.pb.h"

DEFINE_string(fabric, "",
              "the fabric's binary; found beside this one if unset");
DEFINE_int32(nodes, 1000, "agents' sessions");
DEFINE_int32(instances, 100, "instances for each node");
DEFINE_int32(app_size, 1000, "instances of each app, at most");
DEFINE_int32(watches, 10, "sessions that watch all slots; -1: all of them");
DEFINE_int32(in_flight, 256, "calls of all agents together at any time");
DEFINE_double(rivals, 0.33,
              "share of slots that a second agent tries to claim, too");
DEFINE_bool(gate, false, "claim only when all slots are there");
DEFINE_bool(budget, false, "give each app a budget that just covers it");
DEFINE_double(idle_seconds, 10, "how long the mesh is left alone and measured");
DEFINE_int32(touches, 20, "changes of one plan that are measured");
DEFINE_double(limit_seconds, 170, "gives up after so long");

namespace mycelium::bench {
namespace {

namespace v1 = fabric::v1;

int AppCount() {
  const int64_t slots = int64_t{FLAGS_nodes} * FLAGS_instances;
  return static_cast<int>((slots + FLAGS_app_size - 1) / FLAGS_app_size);
}

int SlotsPerApp() { return FLAGS_nodes * FLAGS_instances / AppCount(); }

std::string AppName(int app) { return absl::StrFormat("app-%03d", app); }

std::string SlotText(const v1::Slot& slot) {
  return absl::StrCat(slot.app_name(), "/", slot.index(), "/",
                      slot.generation());
}

// Durations of one kind of call.
class Times {
 public:
  void Add(absl::Duration time) {
    MutexLock lock(mutex_);
    ms_.push_back(absl::ToDoubleMilliseconds(time));
  }
  std::vector<double> Take() {
    MutexLock lock(mutex_);
    return std::exchange(ms_, {});
  }

 private:
  Mutex mutex_;
  std::vector<double> ms_ ABSL_GUARDED_BY(mutex_);
};

// The stream of heartbeats of one node.
class Heartbeats final : public grpc::ClientBidiReactor<v1::HeartbeatRequest,
                                                        v1::HeartbeatResponse> {
 public:
  Heartbeats(v1::Fabric::Stub* stub, v1::HeartbeatRequest request, Times* times)
      : request_(std::move(request)), times_(*times) {
    stub->async()->Heartbeat(&context_, this);
    AddHold();
    StartRead(&response_);
    StartCall();
  }
  ~Heartbeats() override {
    context_.TryCancel();
    RemoveHold();
    MutexLock lock(mutex_);
    while (!done_) changed_.Wait(mutex_);
  }

  // Sends one, unless the last one is not answered yet. False: it is not.
  bool Beat() {
    {
      MutexLock lock(mutex_);
      if (waiting_) return false;
      waiting_ = true;
      sent_at_ = Now();
    }
    StartWrite(&request_);
    return true;
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    {
      MutexLock lock(mutex_);
      waiting_ = false;
      times_.Add(Now() - sent_at_);
    }
    StartRead(&response_);
  }
  void OnDone(const grpc::Status& /*status*/) override {
    MutexLock lock(mutex_);
    done_ = true;
    changed_.NotifyAll();
  }

 private:
  const v1::HeartbeatRequest request_;
  Times& times_;
  grpc::ClientContext context_;
  v1::HeartbeatResponse response_;
  Mutex mutex_;
  CondVar changed_;
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration sent_at_ ABSL_GUARDED_BY(mutex_);
};

// The session of one agent.
struct Agent {
  std::string node_id;
  std::string lease_id;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Fabric::Stub> stub;
  std::unique_ptr<Heartbeats> heartbeats;
  std::unique_ptr<RawStream> watch;
};

// All agents, and what they know and do about slots.
class Mesh {
 public:
  explicit Mesh(std::string address) : address_(std::move(address)) {
    for (int i = 0; i < FLAGS_nodes; ++i) {
      Agent& agent = agents_.emplace_back();
      agent.node_id = absl::StrFormat("node-%04d", i);
      agent.channel = *rpc::Connect(address_, {});
      agent.stub = v1::Fabric::NewStub(agent.channel);
    }
  }
  ~Mesh() {
    {
      MutexLock lock(mutex_);
      stopping_ = true;
      queue_.clear();
      while (running_ > 0) changed_.Wait(mutex_);
    }
    StopBeating();
    for (Agent& agent : agents_) agent.watch.reset();
    for (Agent& agent : agents_) agent.heartbeats.reset();
  }

  // What is there, by the watch that is decoded.
  struct Counts {
    int64_t slots = 0;
    int64_t claimed = 0;
    int64_t ready = 0;
    // Calls that wait for their turn or their answer.
    int64_t calls = 0;
  };

  void Join();
  void Watch(int count);
  void StartBeating();
  void StopBeating();

  // Waits for `wanted`; false after --limit_seconds of the whole run.
  bool Await(const std::function<bool(const Counts&)>& wanted);

  void OpenGate() {
    {
      MutexLock lock(mutex_);
      gate_open_ = true;
    }
    Pump();
  }
  // Reports and registers everything that is claimed, now and from now on.
  void ReportClaims();

  v1::Fabric::Stub* stub() { return agents_[0].stub.get(); }
  int64_t synced() const { return synced_; }
  int64_t delivered() const { return delivered_; }
  int64_t tries() const { return tries_; }
  int64_t beats() const { return beats_; }
  int64_t late_beats() const { return late_beats_; }
  int64_t errors() const { return errors_; }
  std::string last_error() {
    MutexLock lock(mutex_);
    return last_error_;
  }
  absl::Duration first_claim() {
    MutexLock lock(mutex_);
    return first_claim_;
  }
  absl::Duration last_claim() {
    MutexLock lock(mutex_);
    return last_claim_;
  }

  Times join_times;
  Times claim_times;
  Times report_times;
  Times beat_times;

 private:
  // What the bench knows of a slot.
  struct Known {
    bool claimed = false;
    bool ready = false;
    bool asked = false;      // Somebody tries or tried to claim it.
    bool releasing = false;  // Its holder was told to stop.
    // Who holds it, once the claim was answered.
    size_t agent = 0;
    std::string instance_id;
    int64_t claim_revision = 0;
    v1::Slot slot;
  };

  void OnMessage(const v1::WatchSlotsResponse& message);
  void OnPut(const v1::Slot& slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Queue(std::function<void()> call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    queue_.push_back(std::move(call));
  }
  // Starts queued calls as far as --in_flight allows.
  void Pump();
  // After a call was answered.
  void Finish(const grpc::Status& status, bool expected);
  void Claim(const std::string& key, size_t index, int attempt);
  void Report(const std::string& key, v1::Slot::State state,
              bool then_register);
  void Register(const std::string& key);
  void Release(const std::string& key);

  const std::string address_;
  std::deque<Agent> agents_;
  std::atomic<int64_t> synced_ = 0;
  std::atomic<int64_t> delivered_ = 0;
  std::atomic<int64_t> tries_ = 0;
  std::atomic<int64_t> beats_ = 0;
  std::atomic<int64_t> late_beats_ = 0;
  std::atomic<int64_t> errors_ = 0;
  const absl::Duration started_ = Now();

  Mutex mutex_;
  CondVar changed_;
  absl::flat_hash_map<std::string, Known> known_ ABSL_GUARDED_BY(mutex_);
  Counts counts_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
  bool gate_open_ ABSL_GUARDED_BY(mutex_) = false;
  bool reporting_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::string last_error_ ABSL_GUARDED_BY(mutex_);
  absl::Duration first_claim_ ABSL_GUARDED_BY(mutex_);
  absl::Duration last_claim_ ABSL_GUARDED_BY(mutex_);

  std::atomic<bool> beating_ = false;
  std::thread beater_;
};

void Mesh::Join() {
  {
    MutexLock lock(mutex_);
    for (Agent& agent : agents_) {
      Queue([this, &agent] {
        v1::JoinNodeRequest request;
        v1::Node& node = *request.mutable_node();
        node.set_node_id(agent.node_id);
        node.set_address("127.0.0.1:1");
        // A little more than its share.
        node.mutable_capacity()->set_cpu_milli(int64_t{FLAGS_instances} * 120);
        node.mutable_capacity()->set_memory_mb(int64_t{FLAGS_instances} * 80);
        const absl::Duration sent = Now();
        Invoke<v1::JoinNodeResponse>(
            std::move(request),
            [&agent](auto* context, const auto* in, auto* out, auto answered) {
              agent.stub->async()->JoinNode(context, in, out,
                                            std::move(answered));
            },
            [this, &agent, sent](const grpc::Status& status,
                                 const v1::JoinNodeResponse& response) {
              join_times.Add(Now() - sent);
              agent.lease_id = response.lease_id();
              Finish(status, /*expected=*/false);
            });
      });
    }
  }
  Pump();
  Await([](const Counts& counts) { return counts.calls == 0; });
}

void Mesh::Watch(int count) {
  for (int i = 0; i < count; ++i) {
    const bool decoded = i == 0;
    agents_[static_cast<size_t>(i)].watch = std::make_unique<RawStream>(
        agents_[static_cast<size_t>(i)].channel,
        "/mycelium.fabric.v1.Fabric/WatchSlots", v1::WatchSlotsRequest(),
        /*half_close=*/true,
        [this, decoded, begun = false](grpc::ByteBuffer* bytes) mutable {
          if (!begun) {
            begun = true;
            ++synced_;
          }
          if (!decoded) {
            delivered_ += CountElements(*bytes, 4);
            return;
          }
          v1::WatchSlotsResponse message;
          if (grpc::SerializationTraits<v1::WatchSlotsResponse>::Deserialize(
                  bytes, &message)
                  .ok()) {
            delivered_ += message.changes_size();
            OnMessage(message);
          }
        });
  }
  Await([this, count](const Counts&) { return synced_ >= count; });
}

void Mesh::StartBeating() {
  for (Agent& agent : agents_) {
    v1::HeartbeatRequest request;
    request.set_node_id(agent.node_id);
    request.set_lease_id(agent.lease_id);
    agent.heartbeats = std::make_unique<Heartbeats>(
        agent.stub.get(), std::move(request), &beat_times);
  }
  beating_ = true;
  // Each node once a second, one after the other.
  beater_ = std::thread([this] {
    const absl::Duration begin = Now();
    for (int64_t i = 0; beating_; ++i) {
      const absl::Duration due = begin + absl::Seconds(i) / FLAGS_nodes;
      const absl::Duration wait = due - Now();
      if (wait > absl::ZeroDuration()) absl::SleepFor(wait);
      Agent& agent = agents_[static_cast<size_t>(i % FLAGS_nodes)];
      ++(agent.heartbeats->Beat() ? beats_ : late_beats_);
    }
  });
}

void Mesh::StopBeating() {
  beating_ = false;
  if (beater_.joinable()) beater_.join();
}

bool Mesh::Await(const std::function<bool(const Counts&)>& wanted) {
  MutexLock lock(mutex_);
  while (true) {
    counts_.calls = static_cast<int64_t>(queue_.size()) + running_;
    if (wanted(counts_)) return true;
    if (Now() - started_ > absl::Seconds(FLAGS_limit_seconds)) return false;
    changed_.WaitFor(mutex_, absl::Milliseconds(20));
  }
}

void Mesh::OnMessage(const v1::WatchSlotsResponse& message) {
  {
    MutexLock lock(mutex_);
    for (const v1::SlotChange& change : message.changes()) {
      if (change.has_put()) {
        OnPut(change.put());
        continue;
      }
      const auto it = known_.find(change.delete_().key());
      if (it == known_.end()) continue;
      --counts_.slots;
      counts_.claimed -= it->second.claimed ? 1 : 0;
      counts_.ready -= it->second.ready ? 1 : 0;
      known_.erase(it);
    }
    changed_.NotifyAll();
  }
  Pump();
}

void Mesh::OnPut(const v1::Slot& slot) {
  const std::string key = SlotText(slot);
  const auto [it, is_new] = known_.try_emplace(key);
  Known& known = it->second;
  counts_.slots += is_new ? 1 : 0;
  const bool claimed = slot.claim_revision() != 0;
  const bool ready = slot.state() == v1::Slot::STATE_READY;
  counts_.claimed += (claimed ? 1 : 0) - (known.claimed ? 1 : 0);
  counts_.ready += (ready ? 1 : 0) - (known.ready ? 1 : 0);
  known.claimed = claimed;
  known.ready = ready;
  known.slot = slot;
  if (!claimed && !slot.surplus() && !known.asked) {
    known.asked = true;
    // Neighbours in the order of hashes are the first and second in rank.
    const size_t hash = absl::HashOf(key);
    const size_t first = hash % agents_.size();
    Queue([this, key, first] { Claim(key, first, 0); });
    if (static_cast<double>(hash / agents_.size() % 1000) <
        FLAGS_rivals * 1000) {
      const size_t second = (first + 1) % agents_.size();
      Queue([this, key, second] { Claim(key, second, 0); });
    }
  }
  if (claimed && slot.surplus() && known.claim_revision != 0 &&
      !known.releasing) {
    known.releasing = true;
    Queue([this, key] { Release(key); });
  }
}

void Mesh::Pump() {
  while (true) {
    std::function<void()> next;
    {
      MutexLock lock(mutex_);
      if (queue_.empty() || running_ >= FLAGS_in_flight) return;
      if (!gate_open_ && counts_.slots > 0) return;
      next = std::move(queue_.front());
      queue_.pop_front();
      ++running_;
    }
    next();
  }
}

void Mesh::Finish(const grpc::Status& status, bool expected) {
  if (!status.ok() && !expected) ++errors_;
  {
    MutexLock lock(mutex_);
    if (!status.ok() && !expected) last_error_ = status.error_message();
    --running_;
    changed_.NotifyAll();
    if (stopping_) return;
  }
  Pump();
}

void Mesh::Claim(const std::string& key, size_t index, int attempt) {
  Agent& agent = agents_[index];
  v1::ClaimSlotRequest request;
  {
    MutexLock lock(mutex_);
    const auto it = known_.find(key);
    if (it != known_.end()) {
      request.set_app_name(it->second.slot.app_name());
      request.set_index(it->second.slot.index());
      request.set_generation(it->second.slot.generation());
    }
    if (first_claim_ == absl::ZeroDuration()) first_claim_ = Now();
  }
  request.set_node_id(agent.node_id);
  request.set_lease_id(agent.lease_id);
  request.set_instance_id(absl::StrCat(request.app_name(), "-",
                                       absl::Hex(absl::HashOf(key, index))));
  const absl::Duration sent = Now();
  ++tries_;
  Invoke<v1::ClaimSlotResponse>(
      std::move(request),
      [&agent](auto* context, const auto* in, auto* out, auto answered) {
        agent.stub->async()->ClaimSlot(context, in, out, std::move(answered));
      },
      [this, key, index, attempt, sent](const grpc::Status& status,
                                        const v1::ClaimSlotResponse& response) {
        const absl::Duration now = Now();
        claim_times.Add(now - sent);
        bool expected = false;
        {
          MutexLock lock(mutex_);
          const auto it = known_.find(key);
          if (status.ok() && it != known_.end()) {
            Known& known = it->second;
            known.agent = index;
            known.instance_id = response.slot().instance_id();
            known.claim_revision = response.slot().claim_revision();
            last_claim_ = now;
            if (reporting_) {
              Queue([this, key] {
                Report(key, v1::Slot::STATE_STARTING, /*then_register=*/true);
              });
            }
          } else if (it == known_.end() ||
                     status.error_code() == grpc::StatusCode::ABORTED) {
            // Somebody was faster, or the store too busy; only the holder
            // knows which, so that it is tried again until somebody holds it.
            expected = it == known_.end() ||
                       absl::StrContains(status.error_message(), "is claimed");
          }
          if (!status.ok() && !expected && attempt < 10) {
            Queue([this, key, index, attempt] {
              Claim(key, index, attempt + 1);
            });
          }
        }
        Finish(status, expected);
      });
}

void Mesh::Report(const std::string& key, v1::Slot::State state,
                  bool then_register) {
  v1::UpdateSlotRequest request;
  size_t index = 0;
  {
    MutexLock lock(mutex_);
    const Known& known = known_[key];
    index = known.agent;
    request.set_app_name(known.slot.app_name());
    request.set_index(known.slot.index());
    request.set_generation(known.slot.generation());
    request.set_claim_revision(known.claim_revision);
  }
  request.set_state(state);
  Agent& agent = agents_[index];
  const absl::Duration sent = Now();
  Invoke<v1::UpdateSlotResponse>(
      std::move(request),
      [&agent](auto* context, const auto* in, auto* out, auto answered) {
        agent.stub->async()->UpdateSlot(context, in, out, std::move(answered));
      },
      [this, key, then_register, sent](const grpc::Status& status,
                                       const v1::UpdateSlotResponse&) {
        report_times.Add(Now() - sent);
        if (then_register && status.ok()) {
          MutexLock lock(mutex_);
          Queue([this, key] { Register(key); });
        }
        Finish(status, /*expected=*/false);
      });
}

void Mesh::Register(const std::string& key) {
  v1::RegisterEndpointRequest request;
  size_t index = 0;
  {
    MutexLock lock(mutex_);
    const Known& known = known_[key];
    index = known.agent;
    v1::Endpoint& endpoint = *request.mutable_endpoint();
    endpoint.set_app_name(known.slot.app_name());
    endpoint.set_url(absl::StrCat("http://10.0.", index / 250, ".",
                                  index % 250 + 1, ":",
                                  20000 + known.slot.index()));
    endpoint.set_instance_id(known.instance_id);
    endpoint.set_digest(known.slot.digest());
    endpoint.set_generation(known.slot.generation());
    endpoint.set_index(known.slot.index());
    endpoint.set_claim_revision(known.claim_revision);
  }
  Agent& agent = agents_[index];
  request.set_lease_id(agent.lease_id);
  request.mutable_endpoint()->set_node_id(agent.node_id);
  const absl::Duration sent = Now();
  Invoke<v1::RegisterEndpointResponse>(
      std::move(request),
      [&agent](auto* context, const auto* in, auto* out, auto answered) {
        agent.stub->async()->RegisterEndpoint(context, in, out,
                                              std::move(answered));
      },
      [this, key, sent](const grpc::Status& status,
                        const v1::RegisterEndpointResponse&) {
        report_times.Add(Now() - sent);
        if (status.ok()) {
          MutexLock lock(mutex_);
          Queue([this, key] {
            Report(key, v1::Slot::STATE_READY, /*then_register=*/false);
          });
        }
        Finish(status, /*expected=*/false);
      });
}

void Mesh::Release(const std::string& key) {
  v1::ReleaseSlotRequest request;
  size_t index = 0;
  {
    MutexLock lock(mutex_);
    const Known& known = known_[key];
    index = known.agent;
    request.set_app_name(known.slot.app_name());
    request.set_index(known.slot.index());
    request.set_generation(known.slot.generation());
    request.set_claim_revision(known.claim_revision);
  }
  Agent& agent = agents_[index];
  Invoke<v1::ReleaseSlotResponse>(
      std::move(request),
      [&agent](auto* context, const auto* in, auto* out, auto answered) {
        agent.stub->async()->ReleaseSlot(context, in, out, std::move(answered));
      },
      [this](const grpc::Status& status, const v1::ReleaseSlotResponse&) {
        Finish(status, /*expected=*/false);
      });
}

void Mesh::ReportClaims() {
  {
    MutexLock lock(mutex_);
    reporting_ = true;
    for (const auto& [key, known] : known_) {
      if (known.claim_revision == 0) continue;
      Queue([this, key = key] {
        Report(key, v1::Slot::STATE_STARTING, /*then_register=*/true);
      });
    }
  }
  Pump();
}

// What one phase took and cost.
class Phase {
 public:
  Phase(const Process& process, std::string name)
      : process_(process),
        name_(std::move(name)),
        begin_(Now()),
        cpu_(process.Cpu()) {}

  void Print(int64_t done, const std::vector<double>& times_ms = {}) const {
    Print(done, Now() - begin_, times_ms);
  }
  void Print(int64_t done, absl::Duration took,
             const std::vector<double>& times_ms) const {
    const double seconds = absl::ToDoubleSeconds(took);
    const double cpu = absl::ToDoubleSeconds(process_.Cpu() - cpu_);
    const double count = static_cast<double>(std::max<int64_t>(1, done));
    absl::PrintF("%-24s %9d %9.2f %9.0f %9.2f %9.2f %9.2f %9.0f %9.0f\n", name_,
                 done, seconds, static_cast<double>(done) / seconds,
                 Percentile(times_ms, 0.5), Percentile(times_ms, 0.99), cpu,
                 cpu * 1e6 / count,
                 static_cast<double>(process_.MemoryKb()) / 1024);
    fflush(stdout);
  }
  double cpu_seconds() const {
    return absl::ToDoubleSeconds(process_.Cpu() - cpu_);
  }
  absl::Duration age() const { return Now() - begin_; }

 private:
  const Process& process_;
  const std::string name_;
  const absl::Duration begin_;
  const absl::Duration cpu_;
};

bool PutPlan(v1::Fabric::Stub* stub, int app) {
  v1::PutPlanRequest request;
  v1::Plan& plan = *request.mutable_plan();
  plan.set_app_name(AppName(app));
  plan.set_digest(std::string(64, 'a'));
  plan.set_min(SlotsPerApp() - 1);
  plan.set_max(SlotsPerApp());
  grpc::ClientContext context;
  rpc::SetDeadline(context, absl::Seconds(30));
  v1::PutPlanResponse response;
  const grpc::Status status = stub->PutPlan(&context, request, &response);
  if (!status.ok()) {
    absl::FPrintF(stderr, "PutPlan: %s\n", status.error_message());
  }
  return status.ok();
}

bool PutBudget(v1::Fabric::Stub* stub, int app) {
  v1::PutBudgetRequest request;
  request.mutable_budget()->set_app_name(AppName(app));
  request.mutable_budget()->set_max_instances(SlotsPerApp());
  grpc::ClientContext context;
  rpc::SetDeadline(context, absl::Seconds(30));
  v1::PutBudgetResponse response;
  const grpc::Status status = stub->PutBudget(&context, request, &response);
  if (!status.ok()) {
    absl::FPrintF(stderr, "PutBudget: %s\n", status.error_message());
  }
  return status.ok();
}

bool Scale(v1::Fabric::Stub* stub, int app, int count) {
  v1::ScaleAppRequest request;
  request.set_app_name(AppName(app));
  request.set_count(count);
  grpc::ClientContext context;
  rpc::SetDeadline(context, absl::Seconds(30));
  v1::ScaleAppResponse response;
  return stub->ScaleApp(&context, request, &response).ok();
}

int GiveUp(Mesh& mesh, const char* phase) {
  absl::FPrintF(stderr, "%s was not done in time; last error: %s\n", phase,
                mesh.last_error());
  return 1;
}

int Measure(const Process& process, Mesh& mesh) {
  const int apps = AppCount();
  const int64_t slots = int64_t{apps} * (SlotsPerApp() - 1);
  const int watches = FLAGS_watches < 0
                          ? FLAGS_nodes
                          : std::clamp(FLAGS_watches, 1, FLAGS_nodes);
  absl::PrintF(
      "%d nodes, %d apps with %d slots each, %d watches of all slots\n",
      FLAGS_nodes, apps, SlotsPerApp() - 1, watches);
  absl::PrintF("%-24s %9s %9s %9s %9s %9s %9s %9s %9s\n", "", "done", "seconds",
               "per s", "p50 ms", "p99 ms", "CPU s", "CPU us", "RSS MiB");

  {
    const Phase phase(process, "nodes joined");
    mesh.Join();
    if (mesh.errors() > 0) return GiveUp(mesh, "joining");
    mesh.StartBeating();
    mesh.Watch(watches);
    phase.Print(FLAGS_nodes, mesh.join_times.Take());
  }
  if (FLAGS_budget) {
    for (int app = 0; app < apps; ++app) {
      if (!PutBudget(mesh.stub(), app)) return 1;
    }
  }
  if (!FLAGS_gate) mesh.OpenGate();
  const Phase placing(process, "PutPlan to all claimed");
  const Phase claiming(process, "claims");
  {
    const Phase phase(process, "plans put");
    for (int app = 0; app < apps; ++app) {
      if (!PutPlan(mesh.stub(), app)) return 1;
    }
    phase.Print(apps);
  }
  {
    const Phase phase(process, "slots there");
    if (!mesh.Await([&](const Mesh::Counts& c) { return c.slots >= slots; })) {
      return GiveUp(mesh, "making slots");
    }
    phase.Print(slots, placing.age(), {});
  }
  const Phase gated(process, "claims");
  mesh.OpenGate();
  if (!mesh.Await([&](const Mesh::Counts& c) {
        return c.claimed >= slots && c.calls == 0;
      })) {
    return GiveUp(mesh, "claiming");
  }
  placing.Print(slots);
  (FLAGS_gate ? gated : claiming)
      .Print(slots, mesh.last_claim() - mesh.first_claim(),
             mesh.claim_times.Take());
  {
    const Phase phase(process, "reports and endpoints");
    mesh.ReportClaims();
    if (!mesh.Await([&](const Mesh::Counts& c) {
          return c.ready >= slots && c.calls == 0;
        })) {
      return GiveUp(mesh, "reporting");
    }
    phase.Print(3 * slots, mesh.report_times.Take());
  }
  // Instances prove themselves for 3 s, watchers catch up.
  const int64_t late_meanwhile = mesh.late_beats();
  for (int64_t before = -1; before != mesh.delivered();) {
    before = mesh.delivered();
    absl::SleepFor(absl::Seconds(4));
  }
  double idle_share = 0;
  {
    mesh.beat_times.Take();
    const int64_t beats = mesh.beats();
    const Phase phase(process, "idle: heartbeats");
    absl::SleepFor(absl::Seconds(FLAGS_idle_seconds));
    phase.Print(mesh.beats() - beats, mesh.beat_times.Take());
    idle_share = phase.cpu_seconds() / absl::ToDoubleSeconds(phase.age());
  }
  std::map<std::string, std::vector<double>> touch_ms;
  const Phase touching(process, "one slot more, one less");
  double touch_cpu = 0;
  for (int i = 0; i < FLAGS_touches; ++i) {
    const int app = i % apps;
    const Phase phase(process, "");
    const absl::Duration begin = Now();
    const auto note = [&](const char* what) {
      touch_ms[what].push_back(absl::ToDoubleMilliseconds(Now() - begin));
    };
    if (!Scale(mesh.stub(), app, SlotsPerApp())) return 1;
    note("1 answered");
    if (!mesh.Await([&](const Mesh::Counts& c) { return c.slots > slots; })) {
      return GiveUp(mesh, "one slot more");
    }
    note("2 its slot seen");
    if (!mesh.Await([&](const Mesh::Counts& c) { return c.claimed > slots; })) {
      return GiveUp(mesh, "one claim more");
    }
    note("3 its claim seen");
    if (!mesh.Await([&](const Mesh::Counts& c) { return c.ready > slots; })) {
      return GiveUp(mesh, "one instance more");
    }
    note("4 its READY seen");
    touch_cpu +=
        phase.cpu_seconds() - idle_share * absl::ToDoubleSeconds(phase.age());
    if (!Scale(mesh.stub(), app, SlotsPerApp() - 1) ||
        !mesh.Await([&](const Mesh::Counts& c) { return c.slots == slots; })) {
      return GiveUp(mesh, "one instance less");
    }
  }
  touching.Print(int64_t{2} * FLAGS_touches);
  absl::PrintF(
      "\nclaims: %.2f tries for each slot; heartbeats that were due before the "
      "last one was answered: %d while placing, %d later; failed calls: %d %s\n"
      "idle: %.1f %% of a core; slots delivered to watches: %d\n",
      static_cast<double>(mesh.tries()) / static_cast<double>(slots),
      late_meanwhile, mesh.late_beats() - late_meanwhile, mesh.errors(),
      mesh.last_error(), 100 * idle_share, mesh.delivered());
  absl::PrintF(
      "one instance more, from ScaleApp until READY is seen: %.2f ms of the "
      "fabric's processor time beyond what is used anyway\n",
      1000 * touch_cpu / std::max(1, FLAGS_touches));
  for (const auto& [what, times] : touch_ms) {
    absl::PrintF("  until %-20s p50 %8.2f ms  p99 %8.2f ms\n", what.substr(2),
                 Percentile(times, 0.5), Percentile(times, 0.99));
  }
  fflush(stdout);
  return 0;
}

int Run() {
  if (FLAGS_nodes < 1 || FLAGS_instances < 1 || FLAGS_in_flight < 1 ||
      FLAGS_app_size < 2 || FLAGS_app_size > 1000 ||
      FLAGS_nodes * FLAGS_instances < 2) {
    absl::FPrintF(stderr, "a flag is out of range\n");
    return 2;
  }
  RaiseFileLimit();
  const absl::StatusOr<TempDirectory> directory =
      TempDirectory::Create("scale-bench-");
  if (!directory.ok()) return 1;
  const FabricProcess fabric(FLAGS_fabric, directory->path());
  if (fabric.address().empty()) {
    absl::FPrintF(stderr, "%s did not start\n", FLAGS_fabric);
    return 1;
  }
  Mesh mesh(fabric.address());
  return Measure(fabric.process(), mesh);
}

}  // namespace
}  // namespace mycelium::bench

int main(int argc, char** argv) {
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  if (FLAGS_fabric.empty()) {
    FLAGS_fabric = mycelium::bench::FabricBinary(argv[0]);
  }
  return mycelium::bench::Run();
}
