// The agent as a process, beside a real fabric and a real repo.

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gflags/gflags.h"
#include "gmock/gmock.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/sync_stream.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"
#include "lib/crypto/trust_store.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/status.h"
#include "lib/spore/pack.h"
#include "lib/spore/test_spore.h"
#include "mycelium/agent/v1/agent.grpc.pb.h"
#include "mycelium/fabric/v1/fabric.grpc.pb.h"
#include "mycelium/repo/v1/repo.grpc.pb.h"
#include "services/agent/process_launcher.h"
#include "services/agent/process_tree.h"

DEFINE_string(agent, "services/agent/agent", "the agent's binary");
DEFINE_string(fabric, "services/fabric/fabric", "the fabric's binary");
DEFINE_string(repo, "services/repo/repo", "the repo's binary");

namespace mycelium::agent {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr absl::Duration kTimeout = absl::Seconds(30);

// The smallest healthy app that is not a compiled program.
constexpr char kApp[] = R"(#!/usr/bin/python3
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args):
        pass
print("up on", os.environ["PORT"], flush=True)
http.server.HTTPServer(
    ("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
)";

// A service that is started with port 0, and killed with its owner.
class Process {
 public:
  Process(const std::string& binary, const std::string& directory,
          const std::vector<std::string>& flags) {
    const std::string port_file = JoinPath(directory, "port");
    unlink(port_file.c_str());
    std::vector<std::string> arguments = {
        binary, "--listen=127.0.0.1:0",
        absl::StrCat("--port_file=", port_file)};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    EXPECT_EQ(posix_spawn(&pid_, binary.c_str(), nullptr, nullptr, argv.data(),
                          environ),
              0);
    const absl::Time deadline = absl::Now() + kTimeout;
    while (absl::Now() < deadline) {
      if (absl::StatusOr<std::string> text = ReadFile(port_file); text.ok()) {
        address_ = std::string(absl::StripSuffix(*text, "\n"));
        return;
      }
      absl::SleepFor(absl::Milliseconds(5));
    }
    ADD_FAILURE() << binary << " does not serve";
  }

  ~Process() {
    if (pid_ > 0) Stop(SIGKILL);
  }

  const std::string& address() const { return address_; }

  // The exit code; -1 if a signal ended it.
  int Stop(int signal) {
    kill(pid_, signal);
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_ = -1;
  std::string address_;
};

class AgentProcessTest : public ::testing::Test {
 protected:
  AgentProcessTest()
      : directory_(TempDirectory::Create("agent-process").value()),
        node_("node-" + RandomHex(4)) {
    WriteTrust(spore::TestTrust());
    repo_ = Start(FLAGS_repo, "repo", {});
    fabric_ = Start(FLAGS_fabric, "fabric",
                    {"--store=memory", "--repo=" + repo_->address()});
    repo_stub_ =
        repo::v1::Repo::NewStub(rpc::Connect(repo_->address(), {}).value());
    fabric_stub_ = fabric::v1::Fabric::NewStub(
        rpc::Connect(fabric_->address(), {}).value());
    StartAgent();
  }

  // A killed agent leaves its instances running; the test must not.
  ~AgentProcessTest() override {
    agent_.reset();
    ProcessLauncher::EndLeftovers(JoinPath(directory_.path(), "agent/run"),
                                  absl::ZeroDuration());
  }

  std::unique_ptr<Process> Start(const std::string& binary,
                                 const std::string& name,
                                 std::vector<std::string> flags) {
    const std::string directory = JoinPath(directory_.path(), name);
    EXPECT_TRUE(MakeDirectories(directory).ok());
    flags.push_back("--data_dir=" + directory);
    return std::make_unique<Process>(binary, directory, flags);
  }

  void StartAgent() {
    agent_ = Start(FLAGS_agent, "agent",
                   {"--node_id=" + node_, "--trust_store=" + TrustPath(),
                    "--fabric=" + fabric_->address(),
                    "--repo=" + repo_->address(), "--lease_ttl_s=2"});
    agent_stub_ =
        v1::Agent::NewStub(rpc::Connect(agent_->address(), {}).value());
  }

  std::string TrustPath() const { return directory_.path() + "/trust.json"; }

  void WriteTrust(const crypto::TrustStore& trust) {
    ASSERT_TRUE(WriteFileAtomically(TrustPath(), trust.Serialize()).ok());
  }

  // Packs and publishes the app; returns its digest.
  std::string Publish() {
    const std::string program = directory_.path() + "/app.py";
    EXPECT_TRUE(WriteFileAtomically(program, kApp).ok());
    spore::PackOptions options;
    options.manifest = spore::TestManifest();
    options.manifest.Remove("binary_sha256");
    options.binary_path = program;
    const std::string path = directory_.path() + "/app.spore";
    const absl::StatusOr<spore::PackResult> packed =
        spore::PackToPath(options, spore::TestKey(), path);
    EXPECT_TRUE(packed.ok()) << packed.status();

    grpc::ClientContext context;
    rpc::SetDeadline(context, kTimeout);
    repo::v1::PutResponse response;
    const auto writer = repo_stub_->Put(&context, &response);
    repo::v1::PutRequest request;
    request.mutable_header()->set_digest(packed->digest);
    request.mutable_header()->set_size_bytes(packed->size_bytes);
    writer->Write(request);
    request.set_chunk(ReadFile(path).value());
    writer->Write(request);
    writer->WritesDone();
    const grpc::Status status = writer->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return packed->digest;
  }

  void Plan(const std::string& digest, int count) {
    fabric::v1::PutPlanRequest request;
    fabric::v1::Plan& plan = *request.mutable_plan();
    plan.set_app_name("hello");
    plan.set_digest(digest);
    plan.set_min(count);
    plan.set_max(count);
    grpc::ClientContext context;
    rpc::SetDeadline(context, kTimeout);
    fabric::v1::PutPlanResponse response;
    const grpc::Status status =
        fabric_stub_->PutPlan(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }

  std::vector<v1::Instance> Instances() {
    grpc::ClientContext context;
    rpc::SetDeadline(context, kTimeout);
    v1::ListInstancesResponse response;
    const grpc::Status status =
        agent_stub_->ListInstances(&context, {}, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return {response.instances().begin(), response.instances().end()};
  }

  // The instances that are READY, once there are `count`.
  std::vector<v1::Instance> WaitForReady(size_t count) {
    std::vector<v1::Instance> ready;
    WaitUntil([&] {
      ready = Instances();
      std::erase_if(ready, [](const v1::Instance& instance) {
        return instance.state() != v1::Instance::STATE_READY;
      });
      return ready.size() == count;
    });
    EXPECT_THAT(ready, SizeIs(count));
    return ready;
  }

  std::vector<fabric::v1::Slot> Slots() {
    grpc::ClientContext context;
    rpc::SetDeadline(context, kTimeout);
    fabric::v1::ListSlotsResponse response;
    EXPECT_TRUE(fabric_stub_->ListSlots(&context, {}, &response).ok());
    return {response.slots().begin(), response.slots().end()};
  }

  std::vector<fabric::v1::Endpoint> Endpoints() {
    grpc::ClientContext context;
    rpc::SetDeadline(context, kTimeout);
    fabric::v1::ListEndpointsResponse response;
    EXPECT_TRUE(fabric_stub_->ListEndpoints(&context, {}, &response).ok());
    return {response.endpoints().begin(), response.endpoints().end()};
  }

  std::vector<fabric::v1::Event> Events() {
    grpc::ClientContext context;
    rpc::SetDeadline(context, kTimeout);
    fabric::v1::ListEventsResponse response;
    EXPECT_TRUE(fabric_stub_->ListEvents(&context, {}, &response).ok());
    return {response.events().begin(), response.events().end()};
  }

  // Waits for a state of other processes, which cannot tell when it changes.
  static void WaitUntil(const std::function<bool()>& condition) {
    const absl::Time deadline = absl::Now() + kTimeout;
    while (!condition()) {
      ASSERT_LT(absl::Now(), deadline) << "it does not come to pass";
      absl::SleepFor(absl::Milliseconds(10));
    }
  }

  TempDirectory directory_;
  const std::string node_;
  std::unique_ptr<Process> repo_;
  std::unique_ptr<Process> fabric_;
  std::unique_ptr<Process> agent_;
  std::unique_ptr<repo::v1::Repo::Stub> repo_stub_;
  std::unique_ptr<fabric::v1::Fabric::Stub> fabric_stub_;
  std::unique_ptr<v1::Agent::Stub> agent_stub_;
};

TEST_F(AgentProcessTest, RunsASporeAndStopsItWithItself) {
  Plan(Publish(), 2);

  const std::vector<v1::Instance> ready = WaitForReady(2);

  EXPECT_THAT(Endpoints(), SizeIs(2));
  for (const v1::Instance& instance : ready) {
    EXPECT_EQ(instance.url(),
              absl::StrCat("http://127.0.0.1:", instance.port()));
    EXPECT_FALSE(instance.isolation_layers().empty());
  }
  EXPECT_EQ(agent_->Stop(SIGTERM), 0);
  EXPECT_THAT(Endpoints(), IsEmpty());
  for (const v1::Instance& instance : ready) {
    EXPECT_THAT(FindProcesses(instance.instance_id(), 0), IsEmpty());
  }
}

TEST_F(AgentProcessTest, ReplacesAKilledInstance) {
  Plan(Publish(), 1);
  const v1::Instance before = WaitForReady(1)[0];

  kill(static_cast<pid_t>(before.pid()), SIGKILL);
  v1::Instance after;
  WaitUntil([&] {
    after = Instances()[0];
    return after.restarts() == 1 && after.state() == v1::Instance::STATE_READY;
  });

  EXPECT_EQ(after.instance_id(), before.instance_id());
  EXPECT_NE(after.pid(), before.pid());
  EXPECT_EQ(after.last_exit().signal(), SIGKILL);
  WaitUntil([&] {
    const std::vector<fabric::v1::Endpoint> endpoints = Endpoints();
    return endpoints.size() == 1 && endpoints[0].url() == after.url();
  });
}

TEST_F(AgentProcessTest, FreesItsSlotsWhenItIsKilledAndLeavesNoOrphan) {
  Plan(Publish(), 1);
  const v1::Instance before = WaitForReady(1)[0];

  agent_->Stop(SIGKILL);
  EXPECT_THAT(FindProcesses(before.instance_id(), 0), SizeIs(1))
      << "the instance goes on";
  WaitUntil([&] { return Endpoints().empty(); });
  for (const fabric::v1::Slot& slot : Slots()) {
    EXPECT_EQ(slot.claim_revision(), 0);
  }

  StartAgent();
  const v1::Instance after = WaitForReady(1)[0];
  EXPECT_NE(after.instance_id(), before.instance_id());
  EXPECT_THAT(FindProcesses(before.instance_id(), 0), IsEmpty());
}

TEST_F(AgentProcessTest, TakesItsSlotsBackWhenItReturnsWithinItsLease) {
  Plan(Publish(), 1);
  const v1::Instance before = WaitForReady(1)[0];

  agent_->Stop(SIGKILL);
  StartAgent();

  const v1::Instance after = WaitForReady(1)[0];
  EXPECT_THAT(FindProcesses(before.instance_id(), 0), IsEmpty());
  WaitUntil([&] {
    const std::vector<fabric::v1::Endpoint> endpoints = Endpoints();
    return endpoints.size() == 1 &&
           endpoints[0].instance_id() == after.instance_id();
  });
}

TEST_F(AgentProcessTest, RefusesARevokedSporeWithAnEventThatNamesTheCheck) {
  const std::string digest = Publish();
  crypto::TrustStore trust = spore::TestTrust();
  ASSERT_TRUE(trust.RevokeSpore(digest).ok());
  WriteTrust(trust);

  Plan(digest, 1);

  fabric::v1::Event refused;
  WaitUntil([&] {
    for (const fabric::v1::Event& event : Events()) {
      if (event.type() == "SPORE_REFUSED") refused = event;
    }
    return !refused.type().empty();
  });
  EXPECT_EQ(refused.details().at("code"), "E_REVOKED");
  EXPECT_EQ(refused.details().at("digest"), digest);
  EXPECT_THAT(refused.message(), HasSubstr("E_REVOKED"));
  WaitUntil(
      [&] { return Slots()[0].state() == fabric::v1::Slot::STATE_REFUSED; });
  EXPECT_EQ(Slots()[0].reason(), "E_REVOKED");
}

TEST_F(AgentProcessTest, ServesLogsAndStopsAndRestartsOnRequest) {
  Plan(Publish(), 1);
  const v1::Instance before = WaitForReady(1)[0];

  v1::RestartInstanceRequest restart;
  restart.set_instance_id(before.instance_id());
  v1::RestartInstanceResponse restarted;
  grpc::ClientContext restart_context;
  rpc::SetDeadline(restart_context, kTimeout);
  ASSERT_TRUE(
      agent_stub_->RestartInstance(&restart_context, restart, &restarted).ok());
  EXPECT_EQ(restarted.instance().instance_id(), before.instance_id());
  EXPECT_EQ(restarted.instance().restarts(), 1);
  WaitForReady(1);

  v1::GetLogsRequest request;
  request.set_app_name("hello");
  request.set_stream(v1::LogLine::STREAM_STDOUT);
  grpc::ClientContext logs_context;
  rpc::SetDeadline(logs_context, kTimeout);
  const auto logs = agent_stub_->GetLogs(&logs_context, request);
  std::vector<std::string> lines;
  v1::GetLogsResponse response;
  while (logs->Read(&response)) {
    for (const v1::LogLine& line : response.lines()) {
      lines.push_back(line.text());
    }
  }
  EXPECT_TRUE(logs->Finish().ok());
  ASSERT_THAT(lines, SizeIs(2));
  EXPECT_EQ(lines[0], absl::StrCat("up on ", before.port()));

  v1::StopInstanceRequest stop;
  stop.set_instance_id(before.instance_id());
  v1::StopInstanceResponse stopped;
  grpc::ClientContext stop_context;
  rpc::SetDeadline(stop_context, kTimeout);
  ASSERT_TRUE(agent_stub_->StopInstance(&stop_context, stop, &stopped).ok());
  EXPECT_EQ(stopped.instance().state(), v1::Instance::STATE_STOPPED);
  grpc::ClientContext again_context;
  rpc::SetDeadline(again_context, kTimeout);
  EXPECT_EQ(ReasonOf(rpc::ToAbslStatus(
                agent_stub_->StopInstance(&again_context, stop, &stopped))),
            "INSTANCE_STOPPED");
  EXPECT_NE(WaitForReady(1)[0].instance_id(), before.instance_id());
}

TEST_F(AgentProcessTest, GoesOnWhileTheFabricIsAway) {
  Plan(Publish(), 1);
  const v1::Instance before = WaitForReady(1)[0];

  fabric_->Stop(SIGKILL);
  kill(static_cast<pid_t>(before.pid()), SIGKILL);

  v1::Instance after;
  WaitUntil([&] {
    after = Instances()[0];
    return after.restarts() == 1 && after.state() == v1::Instance::STATE_READY;
  });
  EXPECT_EQ(agent_->Stop(SIGTERM), 0);
  EXPECT_THAT(FindProcesses(after.instance_id(), 0), IsEmpty());
}

TEST_F(AgentProcessTest, KeepsASecondAgentOutOfItsDirectory) {
  std::string binary = FLAGS_agent;
  std::vector<std::string> arguments = {
      binary,
      "--listen=127.0.0.1:0",
      "--data_dir=" + JoinPath(directory_.path(), "agent"),
      "--trust_store=" + TrustPath(),
      "--fabric=" + fabric_->address(),
      "--repo=" + repo_->address()};
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t pid = -1;
  ASSERT_EQ(
      posix_spawn(&pid, binary.c_str(), nullptr, nullptr, argv.data(), environ),
      0);

  int status = 0;
  waitpid(pid, &status, 0);

  EXPECT_EQ(WEXITSTATUS(status), 1);
}

}  // namespace
}  // namespace mycelium::agent

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  return RUN_ALL_TESTS();
}
