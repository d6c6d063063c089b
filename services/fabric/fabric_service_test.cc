// The fabric over real gRPC on loopback: what the service adds to the domain
// classes, and one life of an app from plan to drain.

#include "services/fabric/fabric_service.h"

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/server.h"
#include "lib/rpc/status.h"
#include "mycelium/fabric/v1/fabric.grpc.pb.h"
#include "services/fabric/fabric_core.h"
#include "services/fabric/store/memory_store.h"
#include "services/fabric/store/sqlite_store.h"

namespace mycelium::fabric {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const std::string& DigestA() {
  static const std::string& digest = *new std::string(64, 'a');
  return digest;
}

// A client's context with a deadline that no healthy call reaches.
class Context : public grpc::ClientContext {
 public:
  explicit Context(absl::Duration timeout = absl::Seconds(20)) {
    rpc::SetDeadline(*this, timeout);
  }
};

v1::PutPlanRequest PlanRequest(const std::string& app, int min, int max) {
  v1::PutPlanRequest request;
  request.mutable_plan()->set_app_name(app);
  request.mutable_plan()->set_digest(DigestA());
  request.mutable_plan()->set_min(min);
  request.mutable_plan()->set_max(max);
  // What follows is not about waiting.
  *request.mutable_plan()->mutable_strategy()->mutable_min_ready() =
      google::protobuf::Duration();
  return request;
}

class FabricServiceTest : public testing::TestWithParam<std::string> {
 protected:
  FabricServiceTest() : directory_(*TempDirectory::Create("fabric-")) {
    Start();
  }

  ~FabricServiceTest() override { Stop(); }

  void Start() {
    if (GetParam() == "memory") {
      if (store_ == nullptr) store_ = NewMemoryStore({});
    } else {
      absl::StatusOr<std::unique_ptr<Store>> store =
          OpenSqliteStore(JoinPath(directory_.path(), "fabric.db"), {});
      ASSERT_TRUE(store.ok()) << store.status();
      store_ = *std::move(store);
    }
    FabricOptions options;
    options.store_kind = GetParam();
    fabric_ = FabricCore::Create(store_.get(), options);
    service_ = NewFabricService(fabric_.get());
    rpc::ServerOptions server_options;
    server_options.listen = "127.0.0.1:0";
    server_options.services = {
        {service_.get(), v1::Fabric::service_full_name()}};
    server_ = *rpc::Server::Start(server_options);
    stub_ = v1::Fabric::NewStub(*rpc::Connect(server_->address(), {}));
  }

  void Stop() {
    stub_.reset();
    fabric_->StopWatches();
    server_->Shutdown(absl::Seconds(1));
    server_.reset();
    service_.reset();
    fabric_.reset();
    if (GetParam() != "memory") store_.reset();
  }

  v1::PutPlanResponse PutPlan(const v1::PutPlanRequest& request) {
    Context context;
    v1::PutPlanResponse response;
    const grpc::Status status = stub_->PutPlan(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  absl::Status PutPlanError(const v1::PutPlanRequest& request) {
    Context context;
    v1::PutPlanResponse response;
    return rpc::ToAbslStatus(stub_->PutPlan(&context, request, &response));
  }

  v1::JoinNodeResponse Join(const std::string& node) {
    Context context;
    v1::JoinNodeRequest request;
    request.mutable_node()->set_node_id(node);
    request.mutable_node()->set_address("127.0.0.1:7703");
    request.mutable_node()->mutable_capacity()->set_cpu_milli(4000);
    request.mutable_node()->mutable_capacity()->set_memory_mb(4096);
    *request.mutable_lease_ttl() = google::protobuf::Duration();
    request.mutable_lease_ttl()->set_seconds(60);
    v1::JoinNodeResponse response;
    const grpc::Status status = stub_->JoinNode(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  std::vector<v1::Slot> Slots() {
    Context context;
    v1::ListSlotsResponse response;
    EXPECT_TRUE(stub_->ListSlots(&context, {}, &response).ok());
    return {response.slots().begin(), response.slots().end()};
  }

  TempDirectory directory_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<FabricCore> fabric_;
  std::unique_ptr<grpc::Service> service_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<v1::Fabric::Stub> stub_;
};

INSTANTIATE_TEST_SUITE_P(Stores, FabricServiceTest,
                         testing::Values("memory", "sqlite"),
                         [](const auto& info) { return info.param; });

// Reads a watch of slots into a map, by "index/generation".
class SlotReader {
 public:
  explicit SlotReader(v1::Fabric::Stub* stub)
      : reader_(stub->WatchSlots(&context_, {})) {}
  ~SlotReader() {
    context_.TryCancel();
    while (reader_->Read(&message_)) {
    }
    reader_->Finish();
  }

  // Reads until `holds` is true of all slots.
  template <typename Condition>
  bool Until(Condition holds) {
    while (!synced_ || !holds(slots_)) {
      if (!reader_->Read(&message_)) return false;
      for (const v1::SlotChange& change : message_.changes()) {
        if (change.has_put()) {
          slots_[absl::StrCat(change.put().app_name(), "/",
                              change.put().index(), "/",
                              change.put().generation())] = change.put();
        } else {
          slots_.erase(change.delete_().key());
        }
      }
      synced_ |= message_.kind() == v1::WATCH_KIND_SNAPSHOT_END;
    }
    return true;
  }

  using Slots = std::map<std::string, v1::Slot>;
  const Slots& slots() const { return slots_; }

 private:
  Context context_{absl::Seconds(30)};
  std::unique_ptr<grpc::ClientReader<v1::WatchSlotsResponse>> reader_;
  v1::WatchSlotsResponse message_;
  Slots slots_;
  bool synced_ = false;
};

TEST_P(FabricServiceTest, StoresAPlanAndReturnsItWithWhatTheFabricSets) {
  const v1::PutPlanResponse put = PutPlan(PlanRequest("billing", 2, 4));

  EXPECT_TRUE(put.changed());
  EXPECT_EQ(put.plan().generation(), 1);
  EXPECT_EQ(put.plan().count(), 2);
  EXPECT_GT(put.plan().revision(), 0);
  Context context;
  v1::GetPlanRequest request;
  request.set_app_name("billing");
  v1::GetPlanResponse got;
  ASSERT_TRUE(stub_->GetPlan(&context, request, &got).ok());
  EXPECT_EQ(got.plan().SerializeAsString(), put.plan().SerializeAsString());
}

TEST_P(FabricServiceTest, NamesEveryWrongFieldOfAPlan) {
  v1::PutPlanRequest request;
  request.mutable_plan()->set_app_name("Billing_");
  request.mutable_plan()->set_digest("abc");
  request.mutable_plan()->set_min(5);
  request.mutable_plan()->set_max(2);
  request.mutable_plan()->set_port(70000);

  const absl::Status status = PutPlanError(request);

  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), "PLAN_INVALID");
  const auto payload =
      status.GetPayload("type.googleapis.com/google.rpc.BadRequest");
  ASSERT_TRUE(payload.has_value());
  google::rpc::BadRequest details;
  ASSERT_TRUE(details.ParseFromString(std::string(*payload)));
  std::vector<std::string> fields;
  for (const auto& violation : details.field_violations()) {
    fields.push_back(violation.field());
  }
  EXPECT_THAT(fields, ElementsAre("plan.appName", "plan.digest", "plan.max",
                                  "plan.port"));
  EXPECT_THAT(details.field_violations(2).description(), HasSubstr("2"));
}

TEST_P(FabricServiceTest, TellsBothRevisionsWhenAPlanHasMovedOn) {
  const int64_t revision =
      PutPlan(PlanRequest("billing", 1, 1)).plan().revision();
  v1::PutPlanRequest stale = PlanRequest("billing", 2, 2);
  stale.set_expected_revision(revision + 1000);

  const absl::Status status = PutPlanError(stale);

  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(status), "REVISION_MISMATCH");
  EXPECT_EQ(MetadataOf(status, "expected_revision"),
            absl::StrCat(revision + 1000));
  EXPECT_EQ(MetadataOf(status, "current_revision"), absl::StrCat(revision));
}

TEST_P(FabricServiceTest, CarriesAnAppFromPlanToDrainedEndpoint) {
  const v1::JoinNodeResponse node = Join("node-1");
  SlotReader slots(stub_.get());
  PutPlan(PlanRequest("billing", 1, 1));
  ASSERT_TRUE(slots.Until([](const auto& s) { return s.size() == 1; }));
  EXPECT_EQ(slots.slots().begin()->second.state(), v1::Slot::STATE_PENDING);

  v1::ClaimSlotRequest claim;
  claim.set_app_name("billing");
  claim.set_index(0);
  claim.set_generation(1);
  claim.set_node_id("node-1");
  claim.set_lease_id(node.lease_id());
  claim.set_instance_id("i-1");
  v1::ClaimSlotResponse claimed;
  {
    Context context;
    const grpc::Status status = stub_->ClaimSlot(&context, claim, &claimed);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  EXPECT_GT(claimed.slot().claim_revision(), 0);

  v1::RegisterEndpointRequest registration;
  registration.set_lease_id(node.lease_id());
  v1::Endpoint* endpoint = registration.mutable_endpoint();
  endpoint->set_app_name("billing");
  endpoint->set_url("http://127.0.0.1:8081");
  endpoint->set_node_id("node-1");
  endpoint->set_instance_id("i-1");
  endpoint->set_digest(DigestA());
  endpoint->set_generation(1);
  endpoint->set_claim_revision(claimed.slot().claim_revision());
  {
    Context context;
    v1::RegisterEndpointResponse response;
    const grpc::Status status =
        stub_->RegisterEndpoint(&context, registration, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.endpoint().state(), v1::Endpoint::STATE_READY);
  }

  // The plan goes, so the slot is surplus; the agent drains. An edge is there,
  // which the fabric waits for.
  Context edge_context;
  v1::ReportEdgeResponse edge_response;
  auto edge = stub_->ReportEdge(&edge_context, &edge_response);
  v1::ReportEdgeRequest report;
  report.mutable_edge()->set_edge_id("edge-1");
  report.set_epoch(node.epoch());
  report.set_applied_revision(1);
  ASSERT_TRUE(edge->Write(report));
  for (bool seen = false; !seen;) {
    Context context;
    v1::ListEdgesResponse edges;
    ASSERT_TRUE(stub_->ListEdges(&context, {}, &edges).ok());
    seen = edges.edges_size() == 1;
  }
  {
    Context context;
    v1::DeletePlanRequest request;
    request.set_app_name("billing");
    v1::DeletePlanResponse response;
    ASSERT_TRUE(stub_->DeletePlan(&context, request, &response).ok());
  }
  ASSERT_TRUE(slots.Until([](const auto& s) {
    return s.size() == 1 && s.begin()->second.surplus();
  }));
  v1::UpdateEndpointResponse draining;
  {
    Context context;
    v1::UpdateEndpointRequest request;
    request.set_app_name("billing");
    request.set_instance_id("i-1");
    request.set_lease_id(node.lease_id());
    request.set_state(v1::Endpoint::STATE_DRAINING);
    ASSERT_TRUE(stub_->UpdateEndpoint(&context, request, &draining).ok());
  }
  EXPECT_EQ(draining.endpoint().state(), v1::Endpoint::STATE_DRAINING);
  report.set_applied_revision(draining.endpoint().revision());
  v1::EndpointLoad* load = report.add_draining();
  load->set_app_name("billing");
  load->set_instance_id("i-1");
  ASSERT_TRUE(edge->Write(report));

  Context watch_context;
  auto endpoints = stub_->WatchEndpoints(&watch_context, {});
  v1::WatchEndpointsResponse message;
  bool drained = false;
  while (!drained && endpoints->Read(&message)) {
    for (const v1::EndpointChange& change : message.changes()) {
      drained |= change.put().state() == v1::Endpoint::STATE_DRAINED;
    }
  }
  EXPECT_TRUE(drained);
  watch_context.TryCancel();
  while (endpoints->Read(&message)) {
  }
  endpoints->Finish();
  edge->WritesDone();
  EXPECT_TRUE(edge->Finish().ok());

  {
    Context context;
    v1::ReleaseSlotRequest request;
    request.set_app_name("billing");
    request.set_index(0);
    request.set_generation(1);
    request.set_claim_revision(claimed.slot().claim_revision());
    v1::ReleaseSlotResponse response;
    ASSERT_TRUE(stub_->ReleaseSlot(&context, request, &response).ok());
  }
  EXPECT_TRUE(slots.Until([](const auto& s) { return s.empty(); }));
  Context context;
  v1::ListEndpointsResponse left;
  ASSERT_TRUE(stub_->ListEndpoints(&context, {}, &left).ok());
  EXPECT_THAT(left.endpoints(), IsEmpty());
}

TEST_P(FabricServiceTest, AnswersHeartbeatsAndRefusesOtherLeases) {
  const v1::JoinNodeResponse node = Join("node-1");
  Context context;
  auto stream = stub_->Heartbeat(&context);
  v1::HeartbeatRequest beat;
  beat.set_node_id("node-1");
  beat.set_lease_id(node.lease_id());
  v1::HeartbeatResponse answer;

  ASSERT_TRUE(stream->Write(beat));
  ASSERT_TRUE(stream->Read(&answer));
  EXPECT_EQ(answer.lease_ttl().seconds(), 60);

  beat.set_lease_id("00000000000000ff");
  ASSERT_TRUE(stream->Write(beat));
  EXPECT_FALSE(stream->Read(&answer));
  const absl::Status status = rpc::ToAbslStatus(stream->Finish());
  EXPECT_EQ(ReasonOf(status), "LEASE_MISMATCH") << status;
}

TEST_P(FabricServiceTest, ResumesAWatchWithExactlyWhatWasMissed) {
  const int64_t first = PutPlan(PlanRequest("a", 0, 1)).plan().revision();
  PutPlan(PlanRequest("b", 0, 1));
  PutPlan(PlanRequest("c", 0, 1));
  Context status_context;
  v1::StatusResponse status;
  ASSERT_TRUE(stub_->Status(&status_context, {}, &status).ok());
  v1::WatchPlansRequest request;
  request.set_epoch(status.epoch());
  request.set_after_revision(first);

  Context context;
  auto reader = stub_->WatchPlans(&context, request);
  std::vector<std::string> seen;
  v1::WatchPlansResponse message;
  while (seen.size() < 2 && reader->Read(&message)) {
    EXPECT_THAT(message.kind(),
                testing::AnyOf(v1::WATCH_KIND_CHANGE, v1::WATCH_KIND_BOOKMARK));
    for (const v1::PlanChange& change : message.changes()) {
      seen.push_back(change.put().app_name());
    }
  }
  EXPECT_THAT(seen, ElementsAre("b", "c"));
  context.TryCancel();
  while (reader->Read(&message)) {
  }
  reader->Finish();
}

TEST_P(FabricServiceTest, SendsABookmarkWithinASecondWhileNothingChanges) {
  Context context;
  auto reader = stub_->WatchPlans(&context, {});
  v1::WatchPlansResponse message;
  ASSERT_TRUE(reader->Read(&message));
  ASSERT_EQ(message.kind(), v1::WATCH_KIND_SNAPSHOT_END);

  const absl::Time start = absl::Now();
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.kind(), v1::WATCH_KIND_BOOKMARK);
  EXPECT_LT(absl::Now() - start, absl::Milliseconds(1500));
  context.TryCancel();
  while (reader->Read(&message)) {
  }
  reader->Finish();
}

TEST_P(FabricServiceTest, EndsWatchesWithARetryHintWhenItStops) {
  Context context;
  auto reader = stub_->WatchPlans(&context, {});
  v1::WatchPlansResponse message;
  ASSERT_TRUE(reader->Read(&message));

  fabric_->StopWatches();

  while (reader->Read(&message)) {
  }
  const absl::Status status = rpc::ToAbslStatus(reader->Finish());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(status.GetPayload("type.googleapis.com/google.rpc.RetryInfo")
                  .has_value());
}

TEST_P(FabricServiceTest, ForgetsWatchersWhoseClientsHaveGone) {
  for (int i = 0; i < 20; ++i) {
    Context context;
    auto reader = stub_->WatchPlans(&context, {});
    v1::WatchPlansResponse message;
    ASSERT_TRUE(reader->Read(&message));
    context.TryCancel();
    while (reader->Read(&message)) {
    }
    reader->Finish();
  }

  // The server hears of a cancelled call a little later.
  while (fabric_->plan_watch().watcher_count() > 0) {
    std::this_thread::yield();
  }
}

TEST_P(FabricServiceTest, RefusesBytesThatAreNoRequest) {
  Context context;
  v1::WatchPlansRequest request;
  request.set_app_name("Not An App");
  auto reader = stub_->WatchPlans(&context, request);
  v1::WatchPlansResponse message;

  EXPECT_FALSE(reader->Read(&message));

  const absl::Status status = rpc::ToAbslStatus(reader->Finish());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), "REQUEST_INVALID");
}

TEST_P(FabricServiceTest, ServesOneThousandWatchersOfOneChannel) {
  struct Reader {
    Context context{absl::Seconds(30)};
    std::unique_ptr<grpc::ClientReader<v1::WatchPlansResponse>> reader;
  };
  std::vector<std::unique_ptr<Reader>> readers;
  v1::WatchPlansResponse message;
  // gRPC lets 100 streams run on one connection at once by default unless the
  // server says otherwise; ours does not limit them.
  for (int i = 0; i < 1000; ++i) {
    readers.push_back(std::make_unique<Reader>());
    readers.back()->reader = stub_->WatchPlans(&readers.back()->context, {});
  }
  for (auto& reader : readers) {
    ASSERT_TRUE(reader->reader->Read(&message));
    ASSERT_EQ(message.kind(), v1::WATCH_KIND_SNAPSHOT_END);
  }

  PutPlan(PlanRequest("billing", 0, 1));

  for (auto& reader : readers) {
    do {
      ASSERT_TRUE(reader->reader->Read(&message));
    } while (message.kind() != v1::WATCH_KIND_CHANGE);
    EXPECT_EQ(message.changes(0).put().app_name(), "billing");
  }
  for (auto& reader : readers) {
    reader->context.TryCancel();
    while (reader->reader->Read(&message)) {
    }
    reader->reader->Finish();
  }
}

}  // namespace
}  // namespace mycelium::fabric
