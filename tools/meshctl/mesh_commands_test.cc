// meshctl against a mesh whose answers the test writes.

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/mutex.h"
#include "lib/rpc/status.h"
#include "lib/spore/json.h"
#include "mycelium/agent/v1/agent.grpc.pb.h"
#include "mycelium/fabric/v1/fabric.grpc.pb.h"
#include "tools/meshctl/testing.h"

namespace mycelium::meshctl {
namespace {

using fabric::v1::Slot;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The digest of every plan.
std::string SomeDigest() { return std::string(64, 'a'); }

// A fabric that says what it is told to say.
class FakeFabric final : public fabric::v1::Fabric::Service {
 public:
  void SetPlan(const fabric::v1::Plan& plan) {
    const MutexLock lock(mutex_);
    plans_[plan.app_name()] = plan;
  }
  void SetSlots(std::vector<Slot> slots) {
    const MutexLock lock(mutex_);
    slots_ = std::move(slots);
  }
  void SetNode(const std::string& id, const std::string& address) {
    const MutexLock lock(mutex_);
    node_.set_node_id(id);
    node_.set_address(address);
    node_.set_state(fabric::v1::Node::STATE_READY);
    node_.mutable_capacity()->set_cpu_milli(4000);
    node_.mutable_capacity()->set_memory_mb(8192);
  }
  fabric::v1::PutPlanRequest last_put() {
    const MutexLock lock(mutex_);
    return last_put_;
  }
  // The next PutPlan answers this.
  void FailPut(absl::Status status) {
    const MutexLock lock(mutex_);
    failure_ = std::move(status);
  }

 private:
  grpc::Status PutPlan(grpc::ServerContext* /*context*/,
                       const fabric::v1::PutPlanRequest* request,
                       fabric::v1::PutPlanResponse* response) override {
    const MutexLock lock(mutex_);
    if (!failure_.ok()) return rpc::ToGrpcStatus(failure_);
    last_put_ = *request;
    fabric::v1::Plan plan = request->plan();
    plan.set_count(plan.min());
    plan.set_generation(1);
    const auto before = plans_.find(plan.app_name());
    response->set_changed(true);
    if (before != plans_.end()) {
      *response->mutable_previous() = before->second;
      response->set_changed(before->second.digest() != plan.digest() ||
                            before->second.max() != plan.max());
    }
    *response->mutable_plan() = plan;
    if (!request->validate_only()) plans_[plan.app_name()] = plan;
    return grpc::Status::OK;
  }

  grpc::Status GetPlan(grpc::ServerContext* /*context*/,
                       const fabric::v1::GetPlanRequest* request,
                       fabric::v1::GetPlanResponse* response) override {
    const MutexLock lock(mutex_);
    const auto found = plans_.find(request->app_name());
    if (found == plans_.end()) return NoPlan(request->app_name());
    *response->mutable_plan() = found->second;
    return grpc::Status::OK;
  }

  grpc::Status DeletePlan(grpc::ServerContext* /*context*/,
                          const fabric::v1::DeletePlanRequest* request,
                          fabric::v1::DeletePlanResponse* response) override {
    const MutexLock lock(mutex_);
    if (plans_.erase(request->app_name()) == 0) {
      return NoPlan(request->app_name());
    }
    response->set_revision(9);
    return grpc::Status::OK;
  }

  grpc::Status ListPlans(grpc::ServerContext* /*context*/,
                         const fabric::v1::ListPlansRequest* /*request*/,
                         fabric::v1::ListPlansResponse* response) override {
    const MutexLock lock(mutex_);
    for (const auto& [app, plan] : plans_) *response->add_plans() = plan;
    response->set_revision(7);
    response->set_epoch("e");
    return grpc::Status::OK;
  }

  grpc::Status ListSlots(grpc::ServerContext* /*context*/,
                         const fabric::v1::ListSlotsRequest* /*request*/,
                         fabric::v1::ListSlotsResponse* response) override {
    const MutexLock lock(mutex_);
    for (const Slot& slot : slots_) *response->add_slots() = slot;
    return grpc::Status::OK;
  }

  grpc::Status ListNodes(grpc::ServerContext* /*context*/,
                         const fabric::v1::ListNodesRequest* /*request*/,
                         fabric::v1::ListNodesResponse* response) override {
    const MutexLock lock(mutex_);
    if (!node_.node_id().empty()) *response->add_nodes() = node_;
    return grpc::Status::OK;
  }

  grpc::Status ListEdges(grpc::ServerContext* /*context*/,
                         const fabric::v1::ListEdgesRequest* /*request*/,
                         fabric::v1::ListEdgesResponse* response) override {
    response->add_edges()->set_edge_id("edge-1");
    return grpc::Status::OK;
  }

  grpc::Status Status(grpc::ServerContext* /*context*/,
                      const fabric::v1::StatusRequest* /*request*/,
                      fabric::v1::StatusResponse* response) override {
    response->set_revision(7);
    return grpc::Status::OK;
  }

  grpc::Status WatchSlots(
      grpc::ServerContext* context,
      const fabric::v1::WatchSlotsRequest* /*request*/,
      grpc::ServerWriter<fabric::v1::WatchSlotsResponse>* writer) override {
    fabric::v1::WatchSlotsResponse snapshot;
    snapshot.set_epoch("e");
    snapshot.set_kind(fabric::v1::WATCH_KIND_SNAPSHOT);
    {
      const MutexLock lock(mutex_);
      for (const Slot& slot : slots_)
        *snapshot.add_changes()->mutable_put() = slot;
    }
    writer->Write(snapshot);
    fabric::v1::WatchSlotsResponse end;
    end.set_epoch("e");
    end.set_kind(fabric::v1::WATCH_KIND_SNAPSHOT_END);
    end.set_revision(7);
    writer->Write(end);
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(5));
    return grpc::Status::OK;
  }

  static grpc::Status NoPlan(const std::string& app) {
    return rpc::ToGrpcStatus(MakeError(
        absl::StatusCode::kNotFound, "fabric.mycelium", "PLAN_NOT_FOUND",
        absl::StrCat("app '", app, "' has no plan"), {{"app_name", app}}));
  }

  Mutex mutex_;
  std::map<std::string, fabric::v1::Plan> plans_ ABSL_GUARDED_BY(mutex_);
  std::vector<Slot> slots_ ABSL_GUARDED_BY(mutex_);
  fabric::v1::Node node_ ABSL_GUARDED_BY(mutex_);
  fabric::v1::PutPlanRequest last_put_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

// An agent with one instance that has crashed.
class FakeAgent final : public agent::v1::Agent::Service {
  grpc::Status ListInstances(
      grpc::ServerContext* /*context*/,
      const agent::v1::ListInstancesRequest* /*request*/,
      agent::v1::ListInstancesResponse* response) override {
    agent::v1::Instance& instance = *response->add_instances();
    instance.set_instance_id("billing-0a1b");
    instance.set_app_name("billing");
    instance.set_state(agent::v1::Instance::STATE_BACKOFF);
    instance.mutable_last_exit()->set_signal(11);
    instance.mutable_last_exit()->add_last_lines("loading index 7");
    instance.mutable_last_exit()->add_last_lines("FATAL index not supported");
    return grpc::Status::OK;
  }

  grpc::Status GetLogs(
      grpc::ServerContext* /*context*/,
      const agent::v1::GetLogsRequest* request,
      grpc::ServerWriter<agent::v1::GetLogsResponse>* writer) override {
    if (request->app_name() != "billing") {
      return rpc::ToGrpcStatus(MakeError(absl::StatusCode::kNotFound,
                                         "agent.mycelium", "APP_NOT_FOUND",
                                         "no instance of it"));
    }
    agent::v1::GetLogsResponse response;
    for (int i = 1; i <= 2; ++i) {
      agent::v1::LogLine& line = *response.add_lines();
      line.mutable_time()->set_seconds(i);
      line.set_text(absl::StrCat("line ", i, "\xff"));
      line.set_instance_id("billing-0a1b");
      line.set_stream(agent::v1::LogLine::STREAM_STDOUT);
    }
    writer->Write(response);
    return grpc::Status::OK;
  }
};

class MeshCommandsTest : public testing::Test {
 protected:
  MeshCommandsTest() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port_);
    builder.RegisterService(&fabric_);
    builder.RegisterService(&agent_);
    server_ = builder.BuildAndStart();
    address_ = absl::StrCat("127.0.0.1:", port_);
    fabric_.SetNode("node-1", address_);
  }
  ~MeshCommandsTest() override {
    server_->Shutdown(std::chrono::system_clock::now());
  }

  Outcome Run(const std::vector<std::string>& words) {
    return RunWords(words, {{"MESHCTL_FABRIC", address_}, {"LANG", "C.UTF-8"}},
                    directory_.path());
  }

  // A result for programs, which must be one JSON document.
  spore::JsonValue RunJson(std::vector<std::string> words) {
    words.insert(words.end(), {"-o", "json"});
    const Outcome outcome = Run(words);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    const auto json = spore::ParseJson(outcome.out);
    EXPECT_TRUE(json.ok()) << outcome.out;
    return json.ok() ? *json : spore::JsonValue();
  }

  static fabric::v1::Plan PlanOf(int min, int max) {
    fabric::v1::Plan plan;
    plan.set_app_name("billing");
    plan.set_digest(SomeDigest());
    plan.set_min(min);
    plan.set_max(max);
    plan.set_count(min);
    plan.set_revision(5);
    plan.set_generation(1);
    plan.mutable_update_time()->set_seconds(1769904000 - 180);
    return plan;
  }

  static Slot SlotOf(int index, Slot::State state,
                     const std::string& reason = "",
                     const std::string& message = "") {
    Slot slot;
    slot.set_app_name("billing");
    slot.set_index(index);
    slot.set_generation(1);
    slot.set_state(state);
    slot.set_reason(reason);
    slot.set_message(message);
    if (state != Slot::STATE_PENDING) {
      slot.set_node_id("node-1");
      slot.set_instance_id(absl::StrCat("billing-", index, "a1b"));
    }
    return slot;
  }

  const TempDirectory directory_ = *TempDirectory::Create("meshctl");
  FakeFabric fabric_;
  FakeAgent agent_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
  std::string address_;
};

TEST_F(MeshCommandsTest, ShowsPlansAsTableAndAsTheDataContractHasThem) {
  fabric_.SetPlan(PlanOf(2, 4));
  fabric_.SetSlots({SlotOf(0, Slot::STATE_READY)});

  EXPECT_EQ(Run({"list"}).out,
            absl::StrCat("APP      VERSION  READY  MIN  MAX  PORT  DIGEST",
                         std::string(60, ' '), "CHANGED\n",
                         "billing  -          1/2    2    4   any  ",
                         SomeDigest(), "  2026-01-31T23:57:00Z\n"));
  EXPECT_EQ(Run({"list", "--columns", "app,ready", "--no-headers"}).out,
            "billing  1/2\n");
  EXPECT_EQ(Run({"list", "-o", "name"}).out, "billing\n");
  const spore::JsonValue plan = RunJson({"get", "billing"});
  EXPECT_EQ(plan.Find("appName")->string(), "billing");
  EXPECT_EQ(plan.Find("digest")->string(), SomeDigest());
  EXPECT_EQ(plan.Find("min")->integer(), 2);
  EXPECT_EQ(plan.Find("max")->integer(), 4);
  EXPECT_EQ(plan.Find("port")->integer(), 0);
  EXPECT_EQ(RunJson({"list"}).Find("plans")->array().size(), 1u);
}

TEST_F(MeshCommandsTest, ExitsWith3ForAnUnknownApp) {
  for (const char* command : {"get", "why", "status", "delete"}) {
    const Outcome outcome = Run({command, "nobody"});
    EXPECT_EQ(outcome.code, 3) << command;
    EXPECT_THAT(outcome.err, AllOf(HasSubstr("app 'nobody' has no plan"),
                                   HasSubstr("meshctl list")));
  }
}

TEST_F(MeshCommandsTest, PlansWithoutChangingAnything) {
  fabric_.SetPlan(PlanOf(1, 2));

  const Outcome outcome = Run({"plan", "billing", "--max", "6"});

  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.out,
              AllOf(HasSubstr("~ max               2 → 6"),
                    HasSubstr("No change was made"),
                    HasSubstr(absl::StrCat("meshctl apply billing --digest ",
                                           SomeDigest(),
                                           " --min 1 --max 6 --port 0 "
                                           "--check-revision 5"))));
  EXPECT_TRUE(fabric_.last_put().validate_only());
  EXPECT_EQ(Run({"plan", "billing", "--max", "6", "--detailed-exitcode"}).code,
            10);
  EXPECT_EQ(Run({"plan", "billing", "--detailed-exitcode"}).code, 0);
  const spore::JsonValue json = RunJson({"plan", "billing", "--max", "6"});
  EXPECT_EQ(json.Find("checkRevision")->integer(), 5);
  EXPECT_EQ(json.Find("changes")->array()[0].Find("field")->string(), "max");
}

TEST_F(MeshCommandsTest, PlansToTakeAPolicyOfTrafficAway) {
  fabric::v1::Plan plan = PlanOf(1, 2);
  plan.mutable_traffic()->mutable_hold()->set_max_requests(7);
  plan.mutable_traffic()->set_max_in_flight(5);
  fabric_.SetPlan(plan);

  const Outcome outcome = Run({"plan", "billing", "--max", "6", "--hold", "0s",
                               "--max-in-flight", "0"});

  EXPECT_THAT(
      outcome.out,
      AllOf(
          HasSubstr("~ hold              10s → (default)"),
          HasSubstr("--port 0 --hold 0s --max-in-flight 0 --check-revision 5")))
      << outcome.err;
  // A policy that says nothing is none.
  EXPECT_FALSE(fabric_.last_put().plan().has_traffic());
}

TEST_F(MeshCommandsTest, RefusesNumbersThatItWouldHaveToCut) {
  fabric_.SetPlan(PlanOf(1, 2));
  for (const char* flag : {"--min", "--max-surge", "--max-in-flight"}) {
    const Outcome outcome = Run({"plan", "billing", flag, "4294967297"});
    EXPECT_EQ(outcome.code, 2);
    EXPECT_THAT(outcome.err, HasSubstr(absl::StrCat(flag, " is out of range")));
  }
}

TEST_F(MeshCommandsTest, AppliesAndWaitsUntilInstancesAreReady) {
  fabric_.SetSlots(
      {SlotOf(0, Slot::STATE_READY), SlotOf(1, Slot::STATE_READY)});

  const Outcome outcome =
      Run({"apply", "billing", "--digest", SomeDigest(), "--min", "2"});

  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("✓ billing 2/2 ready"));
  EXPECT_THAT(outcome.err, HasSubstr("billing/1 on node-1 is ready"));
  EXPECT_EQ(fabric_.last_put().plan().max(), 2);
  EXPECT_FALSE(fabric_.last_put().has_expected_revision());
  EXPECT_FALSE(fabric_.last_put().request_id().empty());
}

TEST_F(MeshCommandsTest, AppliesAPlanInJsonAndOneInToml) {
  const std::string json = JoinPath(directory_.path(), "plan.json");
  ASSERT_TRUE(
      WriteFileAtomically(
          json, absl::StrCat(R"({"appName":"billing","digest":")", SomeDigest(),
                             R"(","min":1,"max":3,"port":0})"))
          .ok());
  const std::string toml = JoinPath(directory_.path(), "mesh.toml");
  ASSERT_TRUE(WriteFileAtomically(toml,
                                  "name = \"x/billing\"\n[plan]\nmin = 1\n"
                                  "max = 5\nstrategy = {maxSurge = 2}\n")
                  .ok());

  EXPECT_EQ(Run({"apply", json, "-d"}).code, 0);
  EXPECT_EQ(fabric_.last_put().plan().max(), 3);
  EXPECT_EQ(Run({"apply", toml, "-d", "--check-revision", "0"}).code, 0);
  EXPECT_EQ(fabric_.last_put().plan().max(), 5);
  EXPECT_EQ(fabric_.last_put().plan().strategy().max_surge(), 2);
  EXPECT_TRUE(fabric_.last_put().has_expected_revision());

  ASSERT_TRUE(WriteFileAtomically(json, R"({"appname":"x"})").ok());
  EXPECT_EQ(Run({"apply", json}).code, 2);
  EXPECT_EQ(Run({"apply", "fresh"}).code, 2) << "no digest is named";
}

TEST_F(MeshCommandsTest, ExitsWith5WhenThePlanWasChangedMeanwhile) {
  fabric_.SetPlan(PlanOf(1, 2));
  fabric_.FailPut(MakeError(
      absl::StatusCode::kAborted, "fabric.mycelium", "REVISION_MISMATCH", "no",
      {{"expected_revision", "4"}, {"current_revision", "5"}}));

  const Outcome outcome =
      Run({"apply", "billing", "--max", "3", "--check-revision", "4"});

  EXPECT_EQ(outcome.code, 5);
  EXPECT_THAT(outcome.err, HasSubstr("its revision is 5, you planned on 4"));
}

TEST_F(MeshCommandsTest,
       ExitsWith8WhenInstancesDoNotComeUpAndShowsTheirLastWords) {
  fabric_.SetSlots({SlotOf(0, Slot::STATE_BACKOFF, "CRASHLOOP", "5 crashes")});

  const Outcome outcome =
      Run({"apply", "billing", "--digest", SomeDigest(), "--min", "1"});

  EXPECT_EQ(outcome.code, 8);
  EXPECT_THAT(outcome.err,
              AllOf(HasSubstr("do not come up: 0 of 1 instances are ready"),
                    HasSubstr("CRASHLOOP"), HasSubstr("killed by signal 11"),
                    HasSubstr("    | FATAL index not supported\n")));
  EXPECT_THAT(outcome.out, IsEmpty());
}

TEST_F(MeshCommandsTest, ExitsWith8WhenThereIsNoProgress) {
  fabric_.SetSlots({SlotOf(0, Slot::STATE_STARTING, "HEALTH_PENDING",
                           "waiting for GET /health")});

  const Outcome outcome = Run({"apply", "billing", "--digest", SomeDigest(),
                               "--min", "1", "--progress-deadline", "300ms"});

  EXPECT_EQ(outcome.code, 8);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("no progress for 300ms"),
                                 HasSubstr("waiting for GET /health")));
}

TEST_F(MeshCommandsTest, ExitsWith7WhenTheTimeIsUp) {
  fabric_.SetSlots({SlotOf(0, Slot::STATE_STARTING, "HEALTH_PENDING",
                           "waiting for GET /health")});

  const Outcome outcome = Run({"apply", "billing", "--digest", SomeDigest(),
                               "--min", "1", "--timeout", "300ms"});

  EXPECT_EQ(outcome.code, 7);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("waiting for GET /health"),
                                 HasSubstr("meshctl status billing")));
}

TEST_F(MeshCommandsTest, ExitsWith9WhenThereIsNoRoom) {
  fabric_.SetSlots({SlotOf(0, Slot::STATE_PENDING, "NO_CAPACITY",
                           "needs 2.0 cores, node-1 has 0.5 left")});

  const Outcome outcome =
      Run({"apply", "billing", "--digest", SomeDigest(), "--min", "1",
           "--timeout", "300ms", "-o", "json"});

  EXPECT_EQ(outcome.code, 9);
  EXPECT_THAT(outcome.out, IsEmpty());
  const auto json = spore::ParseJson(outcome.err);
  ASSERT_TRUE(json.ok()) << outcome.err;
  EXPECT_EQ(json->Find("error")->Find("code")->string(), "NO_CAPACITY");
  EXPECT_THAT(json->Find("error")->Find("why")->string(),
              HasSubstr("node-1 has 0.5 left"));
}

TEST_F(MeshCommandsTest, ShowsTheMeshOnOneScreen) {
  fabric_.SetPlan(PlanOf(2, 4));
  fabric_.SetSlots({SlotOf(0, Slot::STATE_READY),
                    SlotOf(1, Slot::STATE_BACKOFF, "CRASHLOOP")});

  const Outcome outcome = Run({"status", "--columns", "app,ready,node,state"});

  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(
      outcome.out,
      "mesh  ◐ 1 thing needs attention   rev 7   nodes 1/1 ready   edges "
      "1\n\n"
      "APP      READY\n"
      "billing    1/2\n\n"
      "NODE    STATE\n"
      "node-1  ready\n\n\n\n\n"
      "Attention  billing has 1 of 2 instances ready: backoff CRASHLOOP  → "
      "meshctl why billing\n");
  EXPECT_EQ(Run({"status", "--exit-code"}).code, 11);
  EXPECT_EQ(RunJson({"status"}).Find("healthy")->boolean(), false);
}

TEST_F(MeshCommandsTest, SaysWhy) {
  fabric_.SetPlan(PlanOf(1, 1));
  fabric_.SetSlots(
      {SlotOf(0, Slot::STATE_PENDING, "NO_CAPACITY", "too small")});

  const Outcome outcome = Run({"why", "billing"});

  EXPECT_THAT(outcome.out,
              AllOf(HasSubstr("billing wants 1 (min 1, max 1) and has 0 ready"),
                    HasSubstr("billing/0@1  pending"),
                    HasSubstr("NO_CAPACITY: too small")));
}

TEST_F(MeshCommandsTest, ShowsLogsOfAllNodes) {
  const Outcome people = Run({"logs", "billing"});
  EXPECT_EQ(people.code, 0) << people.err;
  EXPECT_EQ(people.out,
            "node-1/0a1b  1970-01-01T00:00:01.000Z  line 1\xff\n"
            "node-1/0a1b  1970-01-01T00:00:02.000Z  line 2\xff\n");
  const spore::JsonValue json = RunJson({"logs", "billing"});
  EXPECT_EQ(json.Find("lines")->array()[1].Find("text")->string(),
            "line 2\xef\xbf\xbd");

  EXPECT_EQ(Run({"logs", "nobody"}).code, 3);
  EXPECT_EQ(Run({"logs", "billing", "-i", "zzz"}).code, 3);
}

TEST_F(MeshCommandsTest, DeletesAPlan) {
  fabric_.SetPlan(PlanOf(1, 1));

  EXPECT_EQ(Run({"delete", "billing"}).code, 0);
  EXPECT_EQ(Run({"get", "billing"}).code, 3);
}

TEST_F(MeshCommandsTest, NamesAServiceThatIsAnotherOne) {
  const Outcome outcome = Run({"repo", "ls", "--repo", address_});

  EXPECT_EQ(outcome.code, 6);
  EXPECT_THAT(outcome.err, HasSubstr("is no repo"));
}

}  // namespace
}  // namespace mycelium::meshctl
