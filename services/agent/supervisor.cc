#include "services/agent/supervisor.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "glog/logging.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/spore/manifest.h"
#include "services/agent/expansion.h"
#include "services/agent/utf8_text.h"

namespace mycelium::agent {
namespace {

constexpr absl::string_view kErrorDomain = "agent.mycelium";
constexpr absl::string_view kRecordSuffix = ".instance";
constexpr absl::Duration kKeepStopped = absl::Hours(24);
constexpr size_t kMaxStopped = 2000;
// Calls that wait for one instance.
constexpr size_t kMaxWaiters = 64;
constexpr absl::Duration kHousekeeping = absl::Seconds(2);
constexpr absl::Duration kPrune = absl::Minutes(1);

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) +
         absl::Nanoseconds(duration.nanos());
}

void SetTime(absl::Time time, google::protobuf::Timestamp* proto) {
  const int64_t nanos = absl::ToUnixNanos(time);
  proto->set_seconds(absl::ToUnixSeconds(time));
  proto->set_nanos(
      static_cast<int32_t>(nanos - proto->seconds() * 1'000'000'000));
}

absl::Status NotFound(absl::string_view instance_id) {
  return MakeError(
      absl::StatusCode::kNotFound, kErrorDomain, "INSTANCE_NOT_FOUND",
      absl::StrCat("this node has no instance ", Quoted(instance_id)),
      {{"instance_id", std::string(instance_id)}});
}

}  // namespace

Supervisor::Supervisor(const Options& options, const Parts& parts)
    : options_(options),
      parts_(parts),
      clock_(*parts.clock),
      claimer_(options.node_id, parts.clock),
      ledger_(options.capacity),
      starts_(options.starts),
      liveness_(options.liveness),
      ports_(parts.clock),
      trust_generation_(parts.trust_generation()) {}

void Supervisor::LoadRecords() {
  const std::string directory = JoinPath(options_.data_directory, "instances");
  const absl::StatusOr<std::vector<std::string>> names =
      ListDirectory(directory);
  if (!names.ok()) return;
  for (const std::string& name : *names) {
    if (!absl::EndsWith(name, kRecordSuffix)) continue;
    const std::string path = JoinPath(directory, name);
    const absl::StatusOr<std::string> bytes = ReadFile(path);
    v1::Instance instance;
    if (!bytes.ok() || !instance.ParseFromString(*bytes) ||
        !IsId(instance.instance_id())) {
      LOG(WARNING) << path << " is not a record of an instance; removed";
      unlink(path.c_str());
      continue;
    }
    if (instance.state() != v1::Instance::STATE_STOPPED) {
      instance.set_state(v1::Instance::STATE_STOPPED);
      instance.set_reason("AGENT_RESTARTED");
      instance.set_message("ended when its agent came back");
      SetTime(clock_.Now(), instance.mutable_since_time());
      instance.clear_until_time();
      instance.clear_pid();
    }
    stopped_[instance.instance_id()] = std::move(instance);
  }
}

void Supervisor::OnExited(const std::string& instance_id, int64_t run,
                          const v1::ExitStatus& exit) {
  const auto entry = held_.find(instance_id);
  if (entry == held_.end() || entry->second.run != run) return;
  Held& held = entry->second;
  parts_.logs->AppendRemark(held.id, held.run, DescribeExit(exit));
  const bool asked = held.machine.state() == v1::Instance::STATE_DRAINING ||
                     held.machine.state() == v1::Instance::STATE_STOPPING;
  ReleasePort(held);
  held.machine.OnExited(exit);
  if (!asked) {
    AddEvent(held, "INSTANCE_EXITED", fabric::v1::Event::SEVERITY_WARNING,
             DescribeExit(exit));
  }
  Advance(held);
}

void Supervisor::Tick() {
  const absl::Duration now = clock_.Monotonic();
  if (now >= next_housekeeping_) {
    next_housekeeping_ = now + kHousekeeping;
    CheckTrust();
    PruneOld();
    // Those whose release has failed.
    ReleaseUnknownClaims();
    if (needed_changed_) UpdateNeeded();
  }
  if (now >= next_prune_) {
    next_prune_ = now + kPrune;
    PruneLogs();
  }
  ClaimSlots();
  for (auto& [id, held] : held_) Advance(held);
  FinishGone();
  PollDrains();
  SendEvents();
  if (shutting_down_) FinishShutdown();
}

absl::Duration Supervisor::NextDue() const {
  const absl::Duration now = clock_.Monotonic();
  absl::Duration due = next_housekeeping_;
  if (joined_ && slots_synced_ && !shutting_down_) {
    due = std::min(due, claimer_.next_due());
  }
  for (const auto& [id, held] : held_) {
    if (held.claim == Held::Claim::kClaiming) continue;
    due = std::min(due, held.machine.next_due());
    // Places among the starts and for restarts come free without a word.
    if (held.machine.wants_launch())
      due = std::min(due, now + absl::Milliseconds(20));
    if (held.next_call > now) due = std::min(due, held.next_call);
    if (!polling_drains_ && joined_ &&
        held.machine.state() == v1::Instance::STATE_DRAINING &&
        held.endpoint_state == fabric::v1::Endpoint::STATE_DRAINING) {
      due = std::min(due, std::max(now, next_drain_poll_));
    }
  }
  if (!events_.empty() && !sending_events_ && joined_) {
    due = std::min(due, std::max(now, next_events_));
  }
  return due - now;
}

std::vector<v1::Instance> Supervisor::List(absl::string_view app_name) const {
  std::map<std::string, v1::Instance> instances;
  for (const auto& [id, instance] : stopped_) {
    if (app_name.empty() || instance.app_name() == app_name) {
      instances[id] = instance;
    }
  }
  for (const auto& [id, held] : held_) {
    if (held.claim == Held::Claim::kClaiming) continue;
    if (app_name.empty() || held.slot.app_name() == app_name) {
      instances[id] = ToProto(held);
    }
  }
  std::vector<v1::Instance> list;
  list.reserve(instances.size());
  for (auto& [id, instance] : instances) list.push_back(std::move(instance));
  return list;
}

absl::StatusOr<Supervisor::Run> Supervisor::FindRun(
    absl::string_view instance_id) const {
  const auto held = held_.find(instance_id);
  if (held != held_.end()) {
    return Run{.app_name = held->second.slot.app_name(),
               .number = held->second.run,
               .running = held->second.machine.has_process()};
  }
  const auto stopped = stopped_.find(instance_id);
  if (stopped == stopped_.end()) return NotFound(instance_id);
  return Run{.app_name = stopped->second.app_name(),
             .number = stopped->second.restarts() + 1,
             .running = false};
}

void Supervisor::Stop(absl::string_view instance_id,
                      std::optional<absl::Duration> stop_timeout, Done done) {
  AskTo(instance_id, stop_timeout, /*restart=*/false, std::move(done));
}

void Supervisor::Restart(absl::string_view instance_id,
                         std::optional<absl::Duration> stop_timeout,
                         Done done) {
  AskTo(instance_id, stop_timeout, /*restart=*/true, std::move(done));
}

void Supervisor::Shutdown(std::function<void()> done) {
  shutting_down_ = true;
  shutdown_done_ = std::move(done);
  for (auto& [id, held] : held_) {
    RequestStop(held, "NODE_STOPS", "the agent of the node stops");
    Advance(held);
  }
}

void Supervisor::Advance(Held& held) {
  if (held.claim == Held::Claim::kClaiming) return;
  InstanceMachine& machine = held.machine;
  machine.OnTick();
  if (machine.wants_pull() && !held.pulling) Pull(held);
  if (machine.wants_launch()) Launch(held);
  SendProbes(held);
  if (machine.wants_liveness_restart() &&
      liveness_.TryRestart(held.slot.app_name(),
                           RunningOf(held.slot.app_name()),
                           clock_.Monotonic())) {
    machine.RestartForLiveness();
  }
  if (const std::optional<InstanceMachine::Signal> signal =
          machine.TakeSignal()) {
    if (*signal == InstanceMachine::Signal::kKill) {
      parts_.launcher->Kill(held.id);
    } else {
      parts_.launcher->Terminate(held.id);
    }
  }
  Notice(held);
  Sync(held);
}

void Supervisor::Pull(Held& held) {
  // Or else the cache makes room by evicting what is wanted next.
  if (needed_changed_) UpdateNeeded();
  held.pulling = true;
  held.machine.OnPullBegun();
  auto spore = std::make_shared<absl::StatusOr<CachedSpore>>(
      absl::UnknownError("not fetched"));
  parts_.pulls->Run(
      [spore, cache = parts_.spores, digest = held.slot.digest()] {
        *spore = cache->Get(digest);
      },
      [this, spore, id = held.id] { OnPulled(id, *spore); });
}

void Supervisor::OnPulled(const std::string& id,
                          const absl::StatusOr<CachedSpore>& spore) {
  const auto entry = held_.find(id);
  if (entry == held_.end()) return;
  Held& held = entry->second;
  held.pulling = false;
  const absl::Status status =
      spore.ok() ? CheckSpore(held, *spore) : spore.status();
  const std::string reason = ReasonOf(status);
  if (status.ok()) {
    held.spore = *spore;
    held.machine.OnPulled();
  } else if (spore.ok() || SporeCache::IsRefusal(status)) {
    held.machine.OnRefused(reason, status.message());
    AddEvent(held, "SPORE_REFUSED", fabric::v1::Event::SEVERITY_ERROR,
             absl::StrCat(reason, ": ", status.message()),
             {{"code", reason}, {"digest", held.slot.digest()}});
  } else {
    held.machine.OnPullFailed(reason.empty() ? "PULL_FAILED" : reason, status);
  }
  Advance(held);
}

absl::Status Supervisor::CheckSpore(const Held& held,
                                    const CachedSpore& spore) const {
  const absl::string_view app = spore::ManifestApp(spore.manifest.name);
  if (app != held.slot.app_name()) {
    return MakeError(
        absl::StatusCode::kFailedPrecondition, kErrorDomain, "NAME_MISMATCH",
        absl::StrCat("the spore is signed as ", Quoted(spore.manifest.name),
                     " and cannot run as app ", Quoted(held.slot.app_name())));
  }
  const std::vector<v1::IsolationLayer> layers = parts_.launcher->Layers();
  for (const std::string& required : spore.manifest.security.require) {
    const auto layer = std::find_if(
        layers.begin(), layers.end(),
        [&](const v1::IsolationLayer& l) { return l.name() == required; });
    if (layer != layers.end() &&
        layer->state() == v1::IsolationLayer::STATE_ENFORCED) {
      continue;
    }
    return MakeError(
        absl::StatusCode::kFailedPrecondition, kErrorDomain,
        "ISOLATION_MISSING",
        absl::StrCat(
            "the spore requires isolation layer ", Quoted(required),
            ", which this node does not enforce",
            layer == layers.end() ? "" : absl::StrCat(": ", layer->detail())));
  }
  return absl::OkStatus();
}

void Supervisor::Launch(Held& held) {
  const absl::Duration now = clock_.Monotonic();
  if (!starts_.Has(held.id, now)) {
    if (!starts_.MayStart(held.slot.app_name(), now)) return;
    starts_.Begin(held.slot.app_name(), held.id, now);
  }
  if (held.slot.port() != 0) {
    if (!PortAllocator::IsFree(held.slot.port())) {
      held.machine.OnLaunchFailed(
          "PORT_TAKEN",
          absl::UnavailableError(absl::StrCat(
              "port ", held.slot.port(),
              " of the plan is taken by something else on this machine")));
      return;
    }
    held.port = held.slot.port();
    ports_.Use(held.port);
  } else {
    const absl::StatusOr<int32_t> port = ports_.Allocate();
    if (!port.ok()) {
      held.machine.OnLaunchFailed("NO_PORT", port.status());
      return;
    }
    held.port = *port;
  }
  held.url = absl::StrCat("http://",
                          absl::StrContains(options_.advertise_host, ":")
                              ? absl::StrCat("[", options_.advertise_host, "]")
                              : options_.advertise_host,
                          ":", held.port);

  ++held.run;
  const absl::StatusOr<LaunchSpec> spec = SpecOf(held);
  if (!spec.ok()) {
    ReleasePort(held);
    held.machine.OnRefused("ARGUMENTS_INVALID", spec.status().message());
    AddEvent(held, "LAUNCH_REFUSED", fabric::v1::Event::SEVERITY_ERROR,
             spec.status().message(), {{"digest", held.slot.digest()}});
    return;
  }
  const absl::StatusOr<LaunchedProcess> process =
      parts_.launcher->Launch(*spec);
  if (!process.ok()) {
    ReleasePort(held);
    parts_.logs->AppendRemark(
        held.id, held.run,
        absl::StrCat("cannot be started: ", process.status().message()));
    held.machine.OnLaunchFailed("LAUNCH_FAILED", process.status());
    return;
  }
  held.layers = process->layers;
  held.machine.OnLaunched(process->pid);
  parts_.logs->AppendRemark(
      held.id, held.run,
      absl::StrCat("started: pid ", process->pid, ", port ", held.port));
  WriteRecord(ToProto(held));
}

absl::StatusOr<LaunchSpec> Supervisor::SpecOf(const Held& held) const {
  const spore::Manifest& manifest = held.spore->manifest;
  LaunchSpec spec;
  spec.instance_id = held.id;
  spec.run = held.run;
  spec.program = held.spore->program;
  spec.work_directory =
      JoinPath(JoinPath(options_.data_directory, "work"), held.id);

  // Ours win: a manifest cannot pretend to be another instance.
  Variables own = {{"MYCELIUM_APP", held.slot.app_name()},
                   {"MYCELIUM_INSTANCE", held.id},
                   {"MYCELIUM_NODE", options_.node_id},
                   {"PORT", absl::StrCat(held.port)}};
  Variables environment = {{"HOME", spec.work_directory},
                           {"LANG", "C.UTF-8"},
                           {"PATH", "/usr/local/bin:/usr/bin:/bin"}};
  for (const auto& [name, value] : manifest.env) environment[name] = value;
  for (const auto& [name, value] : own) environment[name] = value;
  // Where the files of the spore are, for those that have more than one.
  own["MYCELIUM_SPORE_DIR"] = held.spore->directory;
  environment["MYCELIUM_SPORE_DIR"] = held.spore->directory;

  Variables variables = own;
  variables.insert(manifest.env.begin(), manifest.env.end());
  for (const std::string& argument : manifest.args) {
    MYC_ASSIGN_OR_RETURN(std::string expanded, Expand(argument, variables));
    spec.arguments.push_back(std::move(expanded));
  }
  for (const auto& [name, value] : environment) {
    spec.environment.push_back(absl::StrCat(name, "=", value));
  }
  return spec;
}

void Supervisor::SendProbes(Held& held) {
  for (const HealthTracker::Probe& probe : held.machine.TakeProbes()) {
    const spore::Health& health = held.spore->manifest.health;
    const ProbeTarget target = {
        .port = held.port,
        .path = health.type == spore::Health::Type::kTcp ? "" : health.path};
    // The run tells a late answer from one of the process that came after.
    parts_.prober->Probe(
        target, probe.timeout,
        [this, id = held.id, run = held.run, kind = probe.kind](
            bool success, const std::string& detail) {
          parts_.post([this, id, run, kind, success, detail] {
            const auto entry = held_.find(id);
            if (entry == held_.end() || entry->second.run != run) return;
            entry->second.machine.OnProbe(kind, success, detail);
            Advance(entry->second);
          });
        });
  }
}

void Supervisor::ReleasePort(Held& held) {
  if (held.port != 0) ports_.Release(held.port);
  held.port = 0;
  held.url.clear();
}

StopRequest Supervisor::StopOf(const Held& held, absl::string_view reason,
                               absl::string_view message) const {
  StopRequest request;
  request.reason = std::string(reason);
  request.message = std::string(message);
  if (held.slot.has_drain_timeout()) {
    request.drain_timeout = FromProto(held.slot.drain_timeout());
  }
  request.stop_timeout = held.slot.has_stop_timeout()
                             ? FromProto(held.slot.stop_timeout())
                             : options_.instance.stop_timeout;
  return request;
}

void Supervisor::RequestStop(Held& held, absl::string_view reason,
                             absl::string_view message) {
  if (held.claim == Held::Claim::kClaiming || held.machine.stopping()) return;
  LOG(INFO) << "stopping " << held.id << ": " << reason;
  held.machine.RequestStop(StopOf(held, reason, message));
}

void Supervisor::Notice(Held& held) {
  const InstanceMachine& machine = held.machine;
  const v1::Instance::State state = machine.state();
  const bool new_state = state != held.seen_state;
  const bool new_reason = machine.reason() != held.seen_reason;
  if (new_state) {
    switch (state) {
      case v1::Instance::STATE_READY:
        starts_.Done(held.id);
        AddEvent(held, "INSTANCE_READY", fabric::v1::Event::SEVERITY_INFO,
                 absl::StrCat("answers at ", held.url),
                 {{"url", held.url}, {"digest", held.slot.digest()}});
        break;
      case v1::Instance::STATE_UNHEALTHY:
        AddEvent(held, "INSTANCE_UNHEALTHY",
                 fabric::v1::Event::SEVERITY_WARNING, machine.message());
        break;
      case v1::Instance::STATE_BACKOFF:
      case v1::Instance::STATE_REFUSED:
        starts_.Done(held.id);
        break;
      case v1::Instance::STATE_STOPPED:
        starts_.Done(held.id);
        AddEvent(held, "INSTANCE_STOPPED", fabric::v1::Event::SEVERITY_INFO,
                 absl::StrCat(machine.reason(), ": ", machine.message()));
        break;
      default:
        break;
    }
  }
  if (new_reason && machine.reason() == "CRASHLOOP") {
    AddEvent(held, "CRASHLOOP", fabric::v1::Event::SEVERITY_ERROR,
             machine.message());
  } else if (new_reason && state == v1::Instance::STATE_PULLING &&
             !machine.reason().empty()) {
    AddEvent(held, "PULL_FAILED", fabric::v1::Event::SEVERITY_WARNING,
             absl::StrCat(machine.reason(), ": ", machine.message()),
             {{"digest", held.slot.digest()}});
  }
  held.seen_state = state;
  held.seen_reason = machine.reason();
  AnswerWaiters(held);
}

void Supervisor::AnswerWaiters(Held& held) {
  for (size_t i = 0; i < held.waiters.size();) {
    const Held::Waiter& waiter = held.waiters[i];
    const bool restarted = waiter.after_run >= 0 &&
                           held.run > waiter.after_run &&
                           held.machine.has_process();
    if (!restarted && !held.machine.stopped()) {
      ++i;
      continue;
    }
    const auto done = std::move(held.waiters[i].done);
    held.waiters.erase(held.waiters.begin() + static_cast<int64_t>(i));
    done(ToProto(held));
  }
}

void Supervisor::FinishGone() {
  for (auto entry = held_.begin(); entry != held_.end();) {
    Held& held = entry->second;
    // Without a lease nothing is registered, and when the node leaves all of it
    // goes with the lease, should the fabric not answer before that.
    const bool gives_up = shutting_down_ && held.failed_calls > 2;
    const bool fabric_knows =
        !gives_up && (held.claim == Held::Claim::kHeld || held.endpoint_known);
    if (!held.machine.stopped() || held.calling || held.pulling ||
        (fabric_knows && joined_)) {
      ++entry;
      continue;
    }
    const v1::Instance instance = ToProto(held);
    WriteRecord(instance);
    stopped_[held.id] = instance;
    ledger_.Release(held.id);
    starts_.Done(held.id);
    ReleasePort(held);
    parts_.logs->Close(held.id);
    claimer_.Forget(held.key);
    parts_.pulls->Run(
        [directory =
             JoinPath(JoinPath(options_.data_directory, "work"), held.id)] {
          const absl::Status status = RemoveTree(directory);
          if (!status.ok()) LOG(WARNING) << status;
        },
        [] {});
    needed_changed_ = true;
    entry = held_.erase(entry);
  }
}

void Supervisor::AskTo(absl::string_view instance_id,
                       std::optional<absl::Duration> stop_timeout, bool restart,
                       Done done) {
  const auto entry = held_.find(instance_id);
  if (entry == held_.end() || entry->second.claim == Held::Claim::kClaiming) {
    const auto stopped = stopped_.find(instance_id);
    if (stopped == stopped_.end()) {
      done(NotFound(instance_id));
    } else {
      done(MakeError(
          absl::StatusCode::kFailedPrecondition, kErrorDomain,
          "INSTANCE_STOPPED",
          absl::StrCat("instance ", Quoted(instance_id),
                       " has already stopped: ", stopped->second.reason())));
    }
    return;
  }
  Held& held = entry->second;
  if (held.machine.stopped()) {
    done(MakeError(absl::StatusCode::kFailedPrecondition, kErrorDomain,
                   "INSTANCE_STOPPED",
                   absl::StrCat("instance ", Quoted(instance_id),
                                " has already stopped")));
    return;
  }
  if (held.waiters.size() >= kMaxWaiters) {
    done(MakeError(absl::StatusCode::kResourceExhausted, kErrorDomain,
                   "OVERLOADED", "too many calls wait for this instance"));
    return;
  }
  StopRequest request =
      restart ? StopOf(held, "RESTART_REQUESTED", "a restart was asked for")
              : StopOf(held, "STOP_REQUESTED", "a stop was asked for");
  request.restart = restart;
  if (stop_timeout.has_value()) request.stop_timeout = *stop_timeout;
  held.waiters.push_back(
      {.after_run = restart ? held.run : -1, .done = std::move(done)});
  held.machine.RequestStop(request);
  Advance(held);
}

v1::Instance Supervisor::ToProto(const Held& held) const {
  const InstanceMachine& machine = held.machine;
  v1::Instance instance;
  instance.set_instance_id(held.id);
  instance.set_app_name(held.slot.app_name());
  instance.set_index(held.slot.index());
  instance.set_generation(held.slot.generation());
  instance.set_digest(held.slot.digest());
  instance.set_state(machine.state());
  instance.set_reason(machine.reason());
  instance.set_message(ToValidUtf8(machine.message()));
  SetTime(machine.since(), instance.mutable_since_time());
  if (const std::optional<absl::Time> until = machine.until()) {
    SetTime(*until, instance.mutable_until_time());
  }
  instance.set_pid(machine.pid());
  instance.set_port(held.port);
  instance.set_url(held.url);
  instance.set_restarts(machine.restarts());
  if (machine.last_exit().has_value()) {
    *instance.mutable_last_exit() = *machine.last_exit();
  }
  *instance.mutable_nutrients() = held.slot.nutrients();
  if (machine.start_time().has_value()) {
    SetTime(*machine.start_time(), instance.mutable_start_time());
  }
  for (const v1::IsolationLayer& layer : held.layers) {
    *instance.add_isolation_layers() = layer;
  }
  return instance;
}

void Supervisor::WriteRecord(const v1::Instance& instance) {
  const std::string path =
      JoinPath(JoinPath(options_.data_directory, "instances"),
               absl::StrCat(instance.instance_id(), kRecordSuffix));
  parts_.pulls->Run(
      [path, bytes = instance.SerializeAsString()] {
        const absl::Status status = WriteFileAtomically(path, bytes, 0600);
        if (!status.ok()) {
          LOG(WARNING) << "an instance is not recorded: " << status;
        }
      },
      [] {});
}

void Supervisor::PruneOld() {
  const absl::Time oldest = clock_.Now() - kKeepStopped;
  const auto since = [](const v1::Instance& instance) {
    return absl::FromUnixSeconds(instance.since_time().seconds());
  };
  const auto forget = [this](const std::string& id) {
    unlink(JoinPath(JoinPath(options_.data_directory, "instances"),
                    absl::StrCat(id, kRecordSuffix))
               .c_str());
  };
  for (auto entry = stopped_.begin(); entry != stopped_.end();) {
    if (since(entry->second) >= oldest) {
      ++entry;
      continue;
    }
    forget(entry->first);
    entry = stopped_.erase(entry);
  }
  while (stopped_.size() > kMaxStopped) {
    const auto first = std::min_element(
        stopped_.begin(), stopped_.end(), [&](const auto& a, const auto& b) {
          return since(a.second) < since(b.second);
        });
    forget(first->first);
    stopped_.erase(first);
  }
}

void Supervisor::PruneLogs() {
  std::set<std::string> running;
  for (const auto& [id, held] : held_) running.insert(id);
  parts_.pulls->Run(
      [logs = parts_.logs, running = std::move(running)] {
        logs->Prune(
            [&](const std::string& id) { return running.contains(id); });
      },
      [] {});
}

void Supervisor::CheckTrust() {
  const int64_t generation = parts_.trust_generation();
  if (generation == trust_generation_) return;
  trust_generation_ = generation;
  for (auto& [id, held] : held_) {
    if (!held.machine.refused()) continue;
    StopRequest request = StopOf(held, "TRUST_CHANGED", "is verified again");
    request.restart = true;
    held.machine.RequestStop(request);
  }
}

int Supervisor::RunningOf(const std::string& app_name) const {
  int running = 0;
  for (const auto& [id, held] : held_) {
    if (held.slot.app_name() == app_name && held.machine.has_process()) {
      ++running;
    }
  }
  return running;
}

}  // namespace mycelium::agent
