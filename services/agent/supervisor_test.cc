#include "services/agent/supervisor.h"

#include <csignal>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/fake_clock.h"
#include "lib/base/file.h"
#include "lib/crypto/sha256.h"
#include "lib/spore/json.h"
#include "lib/spore/test_spore.h"
#include "services/agent/trust_policy.h"

namespace mycelium::agent {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

namespace fv1 = fabric::v1;

absl::Status Error(absl::StatusCode code, absl::string_view reason) {
  return MakeError(code, "fabric.mycelium", reason, reason);
}

// Runs what it is given when the test says so.
class ManualExecutor final : public Executor {
 public:
  void Run(std::function<void()> work, std::function<void()> then) override {
    jobs.emplace_back(std::move(work), std::move(then));
  }

  // False if there was nothing to do.
  bool RunAll() {
    const bool any = !jobs.empty();
    while (!jobs.empty()) {
      auto [work, then] = std::move(jobs.front());
      jobs.pop_front();
      work();
      then();
    }
    return any;
  }

  std::deque<std::pair<std::function<void()>, std::function<void()>>> jobs;
};

// A fabric that remembers what it was told.
class FakeFabric final : public FabricApi {
 public:
  absl::StatusOr<fv1::JoinNodeResponse> JoinNode(
      const fv1::JoinNodeRequest&) override {
    return absl::UnimplementedError("the keeper joins");
  }
  absl::Status LeaveNode(const fv1::LeaveNodeRequest&) override {
    left = true;
    return absl::OkStatus();
  }
  std::unique_ptr<Heartbeats> OpenHeartbeats() override { return nullptr; }

  absl::StatusOr<fv1::ClaimSlotResponse> ClaimSlot(
      const fv1::ClaimSlotRequest& request) override {
    if (away) return Away();
    if (!claim_error.ok()) return claim_error;
    claims.push_back(request);
    fv1::Slot& slot =
        slots[SlotKey{request.app_name(), request.index(), request.generation()}
                  .ToString()];
    slot.set_node_id(request.node_id());
    slot.set_instance_id(request.instance_id());
    slot.set_claim_revision(++revision);
    slot.set_revision(revision);
    slot.set_state(fv1::Slot::STATE_CLAIMED);
    fv1::ClaimSlotResponse response;
    *response.mutable_slot() = slot;
    return response;
  }
  absl::Status UpdateSlot(const fv1::UpdateSlotRequest& request) override {
    if (away) return Away();
    states.push_back(request);
    return absl::OkStatus();
  }
  absl::Status ReleaseSlot(const fv1::ReleaseSlotRequest& request) override {
    if (away) return Away();
    releases.push_back(request);
    return absl::OkStatus();
  }
  absl::Status RegisterEndpoint(
      const fv1::RegisterEndpointRequest& request) override {
    if (away) return Away();
    ++registrations;
    endpoints[request.endpoint().instance_id()] = request.endpoint();
    return register_result;
  }
  absl::Status UpdateEndpoint(
      const fv1::UpdateEndpointRequest& request) override {
    if (away) return Away();
    if (!endpoints.contains(request.instance_id())) {
      return Error(absl::StatusCode::kNotFound, "ENDPOINT_NOT_FOUND");
    }
    endpoints[request.instance_id()].set_state(request.state());
    return absl::OkStatus();
  }
  absl::Status DeregisterEndpoint(
      const fv1::DeregisterEndpointRequest& request) override {
    if (away) return Away();
    endpoints.erase(request.instance_id());
    return absl::OkStatus();
  }
  absl::StatusOr<fv1::ListEndpointsResponse> ListEndpoints(
      const fv1::ListEndpointsRequest&) override {
    if (away) return Away();
    fv1::ListEndpointsResponse response;
    for (const auto& [id, endpoint] : endpoints) {
      *response.add_endpoints() = endpoint;
    }
    return response;
  }
  absl::Status RecordEvents(const fv1::RecordEventsRequest& request) override {
    if (away) return Away();
    events.insert(events.end(), request.events().begin(),
                  request.events().end());
    return absl::OkStatus();
  }
  void Cancel() override {}

  static absl::Status Away() { return absl::UnavailableError("away"); }

  std::vector<std::string> EventTypes() const {
    std::vector<std::string> types;
    for (const fv1::Event& event : events) types.push_back(event.type());
    return types;
  }

  bool away = false;
  bool left = false;
  absl::Status claim_error;
  // What a registration that was carried out is answered with.
  absl::Status register_result;
  int64_t revision = 100;
  int registrations = 0;
  std::map<std::string, fv1::Slot> slots;
  std::map<std::string, fv1::Endpoint> endpoints;
  std::vector<fv1::ClaimSlotRequest> claims;
  std::vector<fv1::UpdateSlotRequest> states;
  std::vector<fv1::ReleaseSlotRequest> releases;
  std::vector<fv1::Event> events;
};

class FakeLauncher final : public Launcher {
 public:
  absl::StatusOr<LaunchedProcess> Launch(const LaunchSpec& spec) override {
    if (!error.ok()) return error;
    launches.push_back(spec);
    return LaunchedProcess{.pid = 1000 + static_cast<int64_t>(launches.size()),
                           .layers = Layers()};
  }
  void Terminate(absl::string_view id) override {
    terminated.push_back(std::string(id));
  }
  void Kill(absl::string_view id) override {
    killed.push_back(std::string(id));
  }
  std::vector<v1::IsolationLayer> Layers() const override {
    v1::IsolationLayer layer;
    layer.set_name("process-group");
    layer.set_state(v1::IsolationLayer::STATE_ENFORCED);
    return {layer};
  }

  absl::Status error;
  std::vector<LaunchSpec> launches;
  std::vector<std::string> terminated;
  std::vector<std::string> killed;
};

class FakeProber final : public HealthProber {
 public:
  void Probe(const ProbeTarget& target, absl::Duration,
             Callback callback) override {
    targets.push_back(target);
    callback(healthy, healthy ? "200" : "503");
  }

  bool healthy = true;
  std::vector<ProbeTarget> targets;
};

class MemorySource final : public SporeSource {
 public:
  absl::Status Fetch(const std::string& digest, int64_t offset,
                     Sink sink) override {
    if (!spores.contains(digest)) return absl::NotFoundError("no such spore");
    const std::string& bytes = spores[digest];
    return sink(static_cast<int64_t>(bytes.size()), bytes.substr(offset));
  }

  std::map<std::string, std::string> spores;
};

class SupervisorTest : public ::testing::Test {
 protected:
  SupervisorTest()
      : directory_(TempDirectory::Create("supervisor").value()),
        clock_(absl::Now()) {
    EXPECT_TRUE(MakeDirectories(directory_.path() + "/instances").ok());
    WriteTrust(spore::TestTrust());
    trust_ = TrustPolicy::Load(TrustPath()).value();
    spores_ = SporeCache::Open({.directory = directory_.path() + "/spores"},
                               &source_, trust_.get(), &clock_)
                  .value();
    logs_ = LogStore::Open(directory_.path() + "/logs", {}, &clock_).value();
    digest_ = Publish(spore::TestManifest());
    app_ = std::string(
        spore::ManifestApp(spore::TestManifest().Find("name")->string()));
    supervisor_ = std::make_unique<Supervisor>(
        Supervisor::Options{.node_id = "node-1",
                            .capacity = {4000, 4096},
                            .data_directory = directory_.path()},
        Supervisor::Parts{
            .clock = &clock_,
            .fabric = &fabric_,
            .spores = spores_.get(),
            .launcher = &launcher_,
            .prober = &prober_,
            .logs = logs_.get(),
            .calls = &calls_,
            .pulls = &pulls_,
            .post =
                [this](std::function<void()> task) {
                  posted_.push_back(std::move(task));
                },
            .trust_generation =
                [this] {
                  trust_->Current();
                  return trust_->generation();
                },
            .lease_not_found =
                [this](const std::string& lease) { lost_lease_ = lease; },
            .leaving = [this] { EXPECT_FALSE(fabric_.left); },
            .random = [] { return 0.5; }});
  }

  std::string TrustPath() const { return directory_.path() + "/trust.json"; }

  void WriteTrust(const crypto::TrustStore& trust) {
    ASSERT_TRUE(WriteFileAtomically(TrustPath(), trust.Serialize()).ok());
  }

  std::string Publish(spore::JsonValue manifest) {
    const std::string bytes = spore::WriteZip(
        spore::SporeWith(spore::SignManifest(std::move(manifest))));
    const std::string digest = crypto::Sha256Hex(bytes);
    source_.spores[digest] = bytes;
    return digest;
  }

  void Join(const std::string& lease = "lease-1") {
    fv1::JoinNodeResponse response;
    response.set_lease_id(lease);
    supervisor_->OnJoined(response);
    SendSlots("epoch-1", /*reset=*/true);
  }

  // Tells the supervisor all slots of the fabric.
  void SendSlots(const std::string& epoch, bool reset) {
    fabric_client::WatchUpdate<fv1::Slot> update;
    update.epoch = epoch;
    update.revision = ++fabric_.revision;
    update.reset = reset;
    for (const auto& [key, slot] : fabric_.slots) update.puts.push_back(slot);
    supervisor_->OnSlots(update);
    Settle();
  }

  void Want(int index = 0) {
    fv1::Slot slot;
    slot.set_app_name(app_);
    slot.set_index(index);
    slot.set_generation(1);
    slot.set_digest(digest_);
    slot.mutable_nutrients()->set_cpu_milli(100);
    slot.set_revision(fabric_.revision);
    fabric_.slots[SlotKey::Of(slot).ToString()] = slot;
  }

  fv1::Slot& TheSlot() { return fabric_.slots.begin()->second; }

  // Does everything that can be done without time passing.
  void Settle() {
    bool busy = true;
    while (busy) {
      supervisor_->Tick();
      busy = calls_.RunAll();
      busy = pulls_.RunAll() || busy;
      while (!posted_.empty()) {
        const std::function<void()> task = std::move(posted_.front());
        posted_.pop_front();
        task();
        busy = true;
      }
    }
  }

  void Advance(absl::Duration by) {
    clock_.Advance(by);
    Settle();
  }

  // The only instance that is not stopped.
  v1::Instance Running() {
    v1::Instance running;
    for (const v1::Instance& instance : supervisor_->List("")) {
      if (instance.state() != v1::Instance::STATE_STOPPED) running = instance;
    }
    return running;
  }

  void RunOne() {
    Want();
    Join();
    Advance(absl::Milliseconds(20));
    ASSERT_EQ(Running().state(), v1::Instance::STATE_READY);
  }

  void Exit(int code) {
    v1::ExitStatus exit;
    exit.set_code(code);
    const std::string id = Running().instance_id();
    supervisor_->OnExited(id, static_cast<int64_t>(launcher_.launches.size()),
                          exit);
    Settle();
  }

  TempDirectory directory_;
  FakeClock clock_;
  FakeFabric fabric_;
  FakeLauncher launcher_;
  FakeProber prober_;
  MemorySource source_;
  ManualExecutor calls_;
  ManualExecutor pulls_;
  std::deque<std::function<void()>> posted_;
  std::unique_ptr<TrustPolicy> trust_;
  std::unique_ptr<SporeCache> spores_;
  std::unique_ptr<LogStore> logs_;
  std::string digest_;
  std::string app_;
  std::string lost_lease_;
  std::unique_ptr<Supervisor> supervisor_;
};

TEST_F(SupervisorTest, RunsAWantedSlotAndRegistersItOnceHealthy) {
  prober_.healthy = false;
  Want();
  Join();
  ASSERT_THAT(launcher_.launches, SizeIs(1));
  EXPECT_THAT(fabric_.endpoints, IsEmpty());
  EXPECT_EQ(fabric_.states.back().state(), fv1::Slot::STATE_STARTING);
  EXPECT_EQ(fabric_.states.back().reason(), "HEALTH_PENDING");

  prober_.healthy = true;
  Advance(absl::Milliseconds(20));

  ASSERT_THAT(fabric_.endpoints, SizeIs(1));
  const fv1::Endpoint& endpoint = fabric_.endpoints.begin()->second;
  const v1::Instance instance = Running();
  EXPECT_EQ(endpoint.url(), absl::StrCat("http://127.0.0.1:", instance.port()));
  EXPECT_EQ(endpoint.state(), fv1::Endpoint::STATE_READY);
  EXPECT_EQ(endpoint.claim_revision(), TheSlot().claim_revision());
  EXPECT_EQ(fabric_.states.back().state(), fv1::Slot::STATE_READY);
  EXPECT_THAT(fabric_.EventTypes(), Contains("INSTANCE_READY"));
}

TEST_F(SupervisorTest, GivesTheProgramItsEnvironmentAndNothingElse) {
  RunOne();

  const LaunchSpec& spec = launcher_.launches[0];
  const v1::Instance instance = Running();
  EXPECT_THAT(
      spec.environment,
      AllOf(Contains(absl::StrCat("PORT=", instance.port())),
            Contains("MYCELIUM_APP=" + app_), Contains("MYCELIUM_NODE=node-1"),
            Contains("MYCELIUM_INSTANCE=" + instance.instance_id()),
            Contains("LANG=C.UTF-8"), Not(Contains(HasSubstr("TEST_")))));
  EXPECT_TRUE(absl::StartsWith(spec.program, spores_->Get(digest_)->directory));
}

TEST_F(SupervisorTest, ExpandsArgumentsAndLetsTheManifestAddVariables) {
  spore::JsonValue manifest = spore::TestManifest();
  manifest.Set("args", spore::JsonValue::Array{"--at=${MYCELIUM_NODE}:${PORT}",
                                               "${MODE}", "$${PORT}"});
  spore::JsonValue environment = spore::JsonValue::MakeObject();
  environment.Set("MODE", "fast");
  manifest.Set("env", environment);
  digest_ = Publish(std::move(manifest));

  RunOne();

  EXPECT_THAT(launcher_.launches[0].arguments,
              ElementsAre(absl::StrCat("--at=node-1:", Running().port()),
                          "fast", "${PORT}"));
  EXPECT_THAT(launcher_.launches[0].environment, Contains("MODE=fast"));
}

TEST_F(SupervisorTest, RefusesToLaunchWithAnUnknownVariable) {
  spore::JsonValue manifest = spore::TestManifest();
  manifest.Set("args", spore::JsonValue::Array{"${NOWHERE}"});
  digest_ = Publish(std::move(manifest));
  Want();

  Join();
  Advance(absl::Minutes(5));

  EXPECT_THAT(launcher_.launches, IsEmpty());
  EXPECT_EQ(fabric_.states.back().state(), fv1::Slot::STATE_REFUSED);
  EXPECT_EQ(fabric_.states.back().reason(), "ARGUMENTS_INVALID");
  EXPECT_THAT(fabric_.states.back().message(), HasSubstr("'NOWHERE'"));
  EXPECT_THAT(fabric_.EventTypes(), Contains("LAUNCH_REFUSED"));
}

TEST_F(SupervisorTest, RefusesASporeAndNamesTheCheckThatFailed) {
  crypto::TrustStore trust = spore::TestTrust();
  ASSERT_TRUE(trust.RevokeSpore(digest_).ok());
  WriteTrust(trust);
  Want();

  Join();

  EXPECT_THAT(launcher_.launches, IsEmpty());
  EXPECT_EQ(Running().state(), v1::Instance::STATE_REFUSED);
  EXPECT_EQ(fabric_.states.back().state(), fv1::Slot::STATE_REFUSED);
  EXPECT_EQ(fabric_.states.back().reason(), "E_REVOKED");
  ASSERT_THAT(fabric_.EventTypes(), Contains("SPORE_REFUSED"));
  EXPECT_EQ(fabric_.events.back().details().at("code"), "E_REVOKED");
  EXPECT_THAT(fabric_.events.back().message(), HasSubstr("E_REVOKED: "));
}

TEST_F(SupervisorTest, GivesUpARefusedSlotThatIsOfferedToOthers) {
  crypto::TrustStore trust = spore::TestTrust();
  ASSERT_TRUE(trust.RevokeSpore(digest_).ok());
  WriteTrust(trust);
  Want();
  Join();
  ASSERT_EQ(Running().state(), v1::Instance::STATE_REFUSED);
  fabric_.claim_error =
      Error(absl::StatusCode::kFailedPrecondition, "SLOT_REFUSED");
  TheSlot().clear_node_id();
  TheSlot().clear_instance_id();
  TheSlot().clear_claim_revision();
  TheSlot().set_revision(++fabric_.revision);

  SendSlots("epoch-1", false);

  ASSERT_THAT(supervisor_->List(""), SizeIs(1));
  EXPECT_EQ(supervisor_->List("")[0].state(), v1::Instance::STATE_STOPPED);
  EXPECT_EQ(supervisor_->List("")[0].reason(), "REOFFERED");
}

TEST_F(SupervisorTest, VerifiesARefusedSporeAgainWhenTheTrustChanges) {
  crypto::TrustStore nobody;
  WriteTrust(nobody);
  while (trust_->Current()->version() != nobody.version() ||
         !trust_->Current()->keys().empty()) {
    nobody.SetExpires(std::nullopt);
    WriteTrust(nobody);
  }
  Want();
  Join();
  ASSERT_EQ(Running().state(), v1::Instance::STATE_REFUSED);

  crypto::TrustStore trust = spore::TestTrust();
  while (trust.version() <= nobody.version()) trust.SetExpires(std::nullopt);
  WriteTrust(trust);
  Advance(absl::Seconds(2));
  Advance(absl::Milliseconds(20));

  EXPECT_EQ(Running().state(), v1::Instance::STATE_READY);
}

TEST_F(SupervisorTest, DoesNotRunASporeOfAnotherApp) {
  app_ = "another";
  Want();

  Join();

  EXPECT_EQ(fabric_.states.back().state(), fv1::Slot::STATE_REFUSED);
  EXPECT_EQ(fabric_.states.back().reason(), "NAME_MISMATCH");
}

TEST_F(SupervisorTest, DoesNotRunWhatRequiresALayerThatIsMissing) {
  spore::JsonValue manifest = spore::TestManifest();
  spore::JsonValue security = spore::JsonValue::MakeObject();
  security.Set("require", spore::JsonValue::Array{"landlock"});
  manifest.Set("security", security);
  digest_ = Publish(std::move(manifest));
  Want();

  Join();

  EXPECT_EQ(fabric_.states.back().reason(), "ISOLATION_MISSING");
  EXPECT_THAT(launcher_.launches, IsEmpty());
}

TEST_F(SupervisorTest, TriesAgainWhenTheRepoDoesNotHaveTheSpore) {
  const std::string bytes = source_.spores[digest_];
  source_.spores.clear();
  Want();
  Join();
  EXPECT_EQ(fabric_.states.back().state(), fv1::Slot::STATE_PULLING);
  EXPECT_EQ(fabric_.states.back().reason(), "PULL_FAILED");

  source_.spores[digest_] = bytes;
  Advance(absl::Milliseconds(250));
  Advance(absl::Milliseconds(20));

  EXPECT_EQ(Running().state(), v1::Instance::STATE_READY);
}

TEST_F(SupervisorTest, TakesACrashedInstanceOutOfTrafficAndStartsItAgain) {
  RunOne();
  const std::string first_url = Running().url();
  Advance(absl::Seconds(10));

  Exit(1);

  EXPECT_THAT(launcher_.launches, SizeIs(2)) << "at once";
  EXPECT_EQ(launcher_.launches[1].run, 2);
  EXPECT_THAT(fabric_.endpoints, IsEmpty());
  Advance(absl::Milliseconds(20));
  ASSERT_THAT(fabric_.endpoints, SizeIs(1));
  EXPECT_NE(fabric_.endpoints.begin()->second.url(), first_url);
  EXPECT_EQ(Running().restarts(), 1);
  EXPECT_THAT(fabric_.EventTypes(), Contains("INSTANCE_EXITED"));
}

TEST_F(SupervisorTest, RestartsWhatCrashesWhileTheFabricIsAway) {
  RunOne();
  Advance(absl::Seconds(10));
  fabric_.away = true;

  Exit(1);
  Advance(absl::Milliseconds(20));
  EXPECT_EQ(Running().state(), v1::Instance::STATE_READY);

  fabric_.away = false;
  Advance(absl::Seconds(5));
  ASSERT_THAT(fabric_.endpoints, SizeIs(1));
  EXPECT_EQ(fabric_.endpoints.begin()->second.url(), Running().url());
}

TEST_F(SupervisorTest, UpdatesTheEndpointWithItsHealth) {
  RunOne();
  prober_.healthy = false;
  Advance(absl::Seconds(2));
  Advance(absl::Seconds(2));
  EXPECT_EQ(fabric_.endpoints.begin()->second.state(),
            fv1::Endpoint::STATE_UNREADY);
  EXPECT_EQ(fabric_.states.back().state(), fv1::Slot::STATE_UNHEALTHY);

  prober_.healthy = true;
  Advance(absl::Seconds(2));

  EXPECT_EQ(fabric_.endpoints.begin()->second.state(),
            fv1::Endpoint::STATE_READY);
}

TEST_F(SupervisorTest, StopsASurplusInstanceOnlyWhenTheEdgesAreDone) {
  RunOne();
  const std::string id = Running().instance_id();

  TheSlot().set_surplus(true);
  SendSlots("epoch-1", false);
  EXPECT_EQ(fabric_.endpoints[id].state(), fv1::Endpoint::STATE_DRAINING);
  Advance(absl::Seconds(1));
  EXPECT_THAT(launcher_.terminated, IsEmpty());

  fabric_.endpoints[id].set_state(fv1::Endpoint::STATE_DRAINED);
  Advance(absl::Milliseconds(50));
  EXPECT_THAT(launcher_.terminated, ElementsAre(id));
  EXPECT_TRUE(fabric_.endpoints.contains(id)) << "until it is gone";

  Exit(0);
  EXPECT_THAT(fabric_.endpoints, IsEmpty());
  ASSERT_THAT(fabric_.releases, SizeIs(1));
  EXPECT_EQ(fabric_.releases[0].claim_revision(), TheSlot().claim_revision());
  EXPECT_EQ(supervisor_->List("")[0].state(), v1::Instance::STATE_STOPPED);
}

TEST_F(SupervisorTest, DrainsAnEndpointWhoseRegistrationWasNotAnswered) {
  fabric_.register_result = absl::DeadlineExceededError("no answer");
  RunOne();
  const std::string id = Running().instance_id();
  ASSERT_EQ(fabric_.registrations, 1);

  TheSlot().set_surplus(true);
  SendSlots("epoch-1", false);
  Advance(absl::Seconds(1));

  EXPECT_EQ(fabric_.endpoints[id].state(), fv1::Endpoint::STATE_DRAINING);
  EXPECT_THAT(launcher_.terminated, IsEmpty());
}

TEST_F(SupervisorTest, RegistersAgainWhatWasNotAnswered) {
  fabric_.register_result = absl::DeadlineExceededError("no answer");
  RunOne();
  ASSERT_EQ(fabric_.registrations, 1);
  fabric_.register_result = absl::OkStatus();

  Advance(absl::Milliseconds(100));
  Advance(absl::Seconds(10));

  EXPECT_EQ(fabric_.registrations, 2);
}

TEST_F(SupervisorTest, StopsAtTheDrainTimeoutWhileTheFabricIsAway) {
  Want();
  TheSlot().mutable_drain_timeout()->set_seconds(3);
  Join();
  Advance(absl::Milliseconds(20));
  TheSlot().set_surplus(true);
  SendSlots("epoch-1", false);
  fabric_.away = true;

  Advance(absl::Seconds(2));
  EXPECT_THAT(launcher_.terminated, IsEmpty());
  Advance(absl::Seconds(1));
  EXPECT_THAT(launcher_.terminated, SizeIs(1));
  Advance(absl::Seconds(10));
  EXPECT_THAT(launcher_.killed, SizeIs(1));
}

TEST_F(SupervisorTest, RegistersEverythingAgainUnderANewLease) {
  RunOne();
  const std::string id = Running().instance_id();
  supervisor_->OnLeaseLost();
  fabric_.endpoints.clear();
  TheSlot().clear_node_id();
  TheSlot().clear_instance_id();
  TheSlot().clear_claim_revision();
  TheSlot().set_revision(++fabric_.revision);

  SendSlots("epoch-1", false);
  Join("lease-2");
  Advance(absl::Milliseconds(1));

  EXPECT_THAT(launcher_.launches, SizeIs(1)) << "the process is not touched";
  ASSERT_THAT(fabric_.claims, SizeIs(2));
  EXPECT_EQ(fabric_.claims[1].instance_id(), id);
  EXPECT_EQ(fabric_.claims[1].lease_id(), "lease-2");
  ASSERT_THAT(fabric_.endpoints, SizeIs(1));
  EXPECT_EQ(fabric_.endpoints[id].claim_revision(), TheSlot().claim_revision());
}

TEST_F(SupervisorTest, StopsWhenAnotherNodeHasTakenTheSlot) {
  RunOne();
  const std::string id = Running().instance_id();
  supervisor_->OnLeaseLost();
  fabric_.endpoints.clear();
  TheSlot().set_node_id("node-2");
  TheSlot().set_instance_id("other");
  TheSlot().set_claim_revision(++fabric_.revision);
  TheSlot().set_revision(fabric_.revision);

  SendSlots("epoch-1", false);
  Join("lease-2");

  EXPECT_THAT(launcher_.terminated, ElementsAre(id));
  Exit(0);
  EXPECT_THAT(fabric_.releases, IsEmpty()) << "it is not ours to release";
}

TEST_F(SupervisorTest, StopsWhenTheSlotIsGone) {
  RunOne();
  fabric_client::WatchUpdate<fv1::Slot> update;
  update.epoch = "epoch-1";
  update.revision = ++fabric_.revision;
  update.deletes = {fabric_.slots.begin()->first};
  fabric_.endpoints.begin()->second.set_state(fv1::Endpoint::STATE_READY);

  supervisor_->OnSlots(update);
  Settle();

  EXPECT_EQ(Running().state(), v1::Instance::STATE_DRAINING);
  EXPECT_EQ(Running().reason(), "SLOT_GONE");
}

TEST_F(SupervisorTest, KeepsRunningWhenTheFabricHasLostItsStore) {
  RunOne();
  supervisor_->OnLeaseLost();
  fabric_.slots.clear();
  fabric_.endpoints.clear();
  fabric_.revision = 1;

  SendSlots("epoch-2", true);
  fv1::JoinNodeResponse response;
  response.set_lease_id("lease-2");
  supervisor_->OnJoined(response);
  Advance(absl::Seconds(30));

  EXPECT_EQ(Running().state(), v1::Instance::STATE_READY);
  EXPECT_THAT(launcher_.terminated, IsEmpty());
}

TEST_F(SupervisorTest, ReleasesClaimsAndEndpointsOfAnAgentBeforeIt) {
  Want();
  TheSlot().set_node_id("node-1");
  TheSlot().set_instance_id("from-before");
  TheSlot().set_claim_revision(77);
  fabric_.endpoints["from-before"].set_instance_id("from-before");

  Join();

  ASSERT_THAT(fabric_.releases, SizeIs(1));
  EXPECT_EQ(fabric_.releases[0].claim_revision(), 77);
  EXPECT_THAT(fabric_.endpoints, IsEmpty());
}

TEST_F(SupervisorTest, ClaimsAnotherSlotOnlyAfterAFailureHasPassed) {
  fabric_.claim_error = Error(absl::StatusCode::kAborted, "SLOT_CLAIMED");
  Want();
  Join();
  EXPECT_THAT(supervisor_->List(""), IsEmpty());
  EXPECT_THAT(launcher_.launches, IsEmpty());

  fabric_.claim_error = absl::OkStatus();
  Advance(absl::Milliseconds(500));

  EXPECT_THAT(launcher_.launches, SizeIs(1));
}

TEST_F(SupervisorTest, TellsTheKeeperThatTheLeaseIsGone) {
  fabric_.claim_error = Error(absl::StatusCode::kNotFound, "LEASE_NOT_FOUND");
  Want();

  Join();

  EXPECT_EQ(lost_lease_, "lease-1");
}

TEST_F(SupervisorTest, DoesNotBlameANewLeaseForAClaimWithTheOldOne) {
  Want();
  fv1::JoinNodeResponse first;
  first.set_lease_id("lease-1");
  supervisor_->OnJoined(first);
  calls_.RunAll();
  fabric_client::WatchUpdate<fv1::Slot> update;
  update.epoch = "epoch-1";
  update.revision = ++fabric_.revision;
  update.reset = true;
  update.puts = {TheSlot()};
  supervisor_->OnSlots(update);
  supervisor_->Tick();
  ASSERT_THAT(calls_.jobs, SizeIs(1)) << "the claim";
  fabric_.claim_error = Error(absl::StatusCode::kNotFound, "LEASE_NOT_FOUND");

  fv1::JoinNodeResponse second;
  second.set_lease_id("lease-2");
  supervisor_->OnJoined(second);
  calls_.RunAll();

  EXPECT_EQ(lost_lease_, "");
}

TEST_F(SupervisorTest, StopsOnRequestAndGivesTheSlotBack) {
  RunOne();
  const std::string id = Running().instance_id();
  std::optional<absl::StatusOr<v1::Instance>> answer;

  supervisor_->Stop(id, absl::Seconds(1),
                    [&](absl::StatusOr<v1::Instance> stopped) {
                      answer = std::move(stopped);
                    });
  Settle();
  fabric_.endpoints[id].set_state(fv1::Endpoint::STATE_DRAINED);
  Advance(absl::Milliseconds(50));
  EXPECT_FALSE(answer.has_value());
  Exit(0);

  ASSERT_TRUE(answer.has_value());
  ASSERT_TRUE(answer->ok()) << answer->status();
  EXPECT_EQ((*answer)->state(), v1::Instance::STATE_STOPPED);
  EXPECT_EQ(fabric_.releases[0].reason(), "STOP_REQUESTED");

  supervisor_->Stop(id, std::nullopt, [&](absl::StatusOr<v1::Instance> again) {
    EXPECT_EQ(ReasonOf(again.status()), "INSTANCE_STOPPED");
  });
  supervisor_->Stop("nobody", std::nullopt,
                    [&](absl::StatusOr<v1::Instance> none) {
                      EXPECT_EQ(ReasonOf(none.status()), "INSTANCE_NOT_FOUND");
                    });
}

TEST_F(SupervisorTest, RestartsOnRequestInTheSameSlot) {
  RunOne();
  const std::string id = Running().instance_id();
  std::optional<absl::StatusOr<v1::Instance>> answer;

  supervisor_->Restart(
      id, std::nullopt,
      [&](absl::StatusOr<v1::Instance> again) { answer = std::move(again); });
  Settle();
  fabric_.endpoints[id].set_state(fv1::Endpoint::STATE_DRAINED);
  Advance(absl::Milliseconds(50));
  Exit(0);

  ASSERT_TRUE(answer.has_value());
  ASSERT_TRUE(answer->ok()) << answer->status();
  EXPECT_EQ((*answer)->instance_id(), id);
  EXPECT_EQ((*answer)->restarts(), 1);
  EXPECT_THAT(fabric_.releases, IsEmpty());
}

TEST_F(SupervisorTest, LeavesOnlyWhenEverythingHasStopped) {
  RunOne();
  const std::string id = Running().instance_id();
  bool done = false;

  supervisor_->Shutdown([&] { done = true; });
  Settle();
  EXPECT_FALSE(fabric_.left);
  fabric_.endpoints[id].set_state(fv1::Endpoint::STATE_DRAINED);
  Advance(absl::Milliseconds(50));
  Exit(0);

  EXPECT_TRUE(fabric_.left);
  EXPECT_TRUE(done);
  EXPECT_THAT(fabric_.claims, SizeIs(1)) << "nothing new is claimed";
}

TEST_F(SupervisorTest, ListsWhatAnAgentBeforeItHasLeftAsStopped) {
  RunOne();
  const std::string id = Running().instance_id();
  Supervisor next({.node_id = "node-1", .data_directory = directory_.path()},
                  {.clock = &clock_,
                   .fabric = &fabric_,
                   .spores = spores_.get(),
                   .launcher = &launcher_,
                   .prober = &prober_,
                   .logs = logs_.get(),
                   .calls = &calls_,
                   .pulls = &pulls_,
                   .post = [](const std::function<void()>&) {},
                   .trust_generation = [] { return 1; },
                   .lease_not_found = [](const std::string&) {},
                   .leaving = [] {},
                   .random = [] { return 0.5; }});

  next.LoadRecords();

  ASSERT_THAT(next.List(app_), SizeIs(1));
  EXPECT_EQ(next.List(app_)[0].instance_id(), id);
  EXPECT_EQ(next.List(app_)[0].state(), v1::Instance::STATE_STOPPED);
  EXPECT_EQ(next.List(app_)[0].reason(), "AGENT_RESTARTED");
}

}  // namespace
}  // namespace mycelium::agent
