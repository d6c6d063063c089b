// What the fabric promises, without sockets: one thread, a clock that the test
// moves, and FabricCore::Settle() for what happens by itself.

#include "services/fabric/fabric_core.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/fake_clock.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "services/fabric/keys.h"
#include "services/fabric/plan_registry.h"
#include "services/fabric/store/memory_store.h"
#include "services/fabric/store/store.h"
#include "services/fabric/store_txn.h"
#include "services/fabric/validate.h"

namespace mycelium::fabric {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

const std::string& Digest(char c) {
  static std::map<char, std::string>& digests =
      *new std::map<char, std::string>();
  return digests.emplace(c, std::string(64, c)).first->second;
}

// A repo that knows what the test tells it.
class FakeCatalog final : public SporeCatalog {
 public:
  void Find(const std::string& digest, Callback callback) override {
    const auto it = spores.find(digest);
    if (it == spores.end()) {
      callback(missing);
    } else {
      callback(it->second);
    }
  }

  std::map<std::string, mycelium::spore::v1::SporeInfo> spores;
  absl::Status missing = absl::NotFoundError("no such spore");
};

class FabricCoreTest : public testing::Test {
 protected:
  FabricCoreTest() {
    StoreOptions options;
    options.clock = &clock_;
    options.threads = StoreOptions::Threads::kNone;
    store_ = NewMemoryStore(options);
    Start();
  }

  void Start() {
    FabricOptions options;
    options.clock = &clock_;
    options.threads = StoreOptions::Threads::kNone;
    options.catalog = &catalog_;
    fabric_ = FabricCore::Create(store_.get(), options);
  }

  // The answer of a call that calls back before it returns.
  template <typename Registry, typename Request, typename Response>
  static absl::StatusOr<Response> Call(Registry& registry,
                                       void (Registry::*method)(const Request&,
                                                                Done<Response>),
                                       const Request& request) {
    absl::StatusOr<Response> result = absl::UnknownError("no answer");
    (registry.*method)(request, [&result](absl::StatusOr<Response> answer) {
      result = std::move(answer);
    });
    return result;
  }

  static v1::PutPlanRequest PlanRequest(const std::string& app, int min,
                                        int max, char digest = 'a') {
    v1::PutPlanRequest request;
    request.mutable_plan()->set_app_name(app);
    request.mutable_plan()->set_digest(Digest(digest));
    request.mutable_plan()->set_min(min);
    request.mutable_plan()->set_max(max);
    return request;
  }
  absl::StatusOr<v1::PutPlanResponse> Put(const v1::PutPlanRequest& request) {
    return Call(fabric_->plans(), &PlanRegistry::Put, request);
  }
  absl::StatusOr<v1::DeletePlanResponse> DeletePlan(
      const v1::DeletePlanRequest& request) {
    return Call(fabric_->plans(), &PlanRegistry::Delete, request);
  }
  absl::StatusOr<v1::ScaleAppResponse> Scale(const std::string& app,
                                             int count) {
    v1::ScaleAppRequest request;
    request.set_app_name(app);
    request.set_count(count);
    return Call(fabric_->plans(), &PlanRegistry::Scale, request);
  }
  absl::Status PutBudget(const std::string& app, int instances,
                         int64_t cpu_milli = 0) {
    v1::PutBudgetRequest request;
    request.mutable_budget()->set_app_name(app);
    request.mutable_budget()->set_max_instances(instances);
    request.mutable_budget()->set_cpu_milli(cpu_milli);
    return Call(fabric_->budgets(), &BudgetRegistry::Put, request).status();
  }

  static v1::JoinNodeRequest JoinRequest(const std::string& node,
                                         const std::string& previous = "") {
    v1::JoinNodeRequest request;
    request.mutable_node()->set_node_id(node);
    request.mutable_node()->set_address("127.0.0.1:7703");
    request.mutable_node()->mutable_capacity()->set_cpu_milli(1000);
    request.mutable_node()->mutable_capacity()->set_memory_mb(1024);
    request.set_previous_lease_id(previous);
    return request;
  }
  // Joins a node and returns its lease.
  std::string Join(const std::string& node) {
    const auto response =
        Call(fabric_->nodes(), &NodeRegistry::Join, JoinRequest(node));
    EXPECT_TRUE(response.ok()) << response.status();
    fabric_->Settle();
    return response.ok() ? response->lease_id() : "";
  }
  absl::Status Beat(const std::string& node, const std::string& lease) {
    v1::HeartbeatRequest request;
    request.set_node_id(node);
    request.set_lease_id(lease);
    return fabric_->nodes().Heartbeat(request).status();
  }
  v1::Node::State StateOf(const std::string& node) {
    fabric_->Settle();
    const auto nodes = fabric_->nodes().List({});
    for (const v1::Node& n : nodes->nodes()) {
      if (n.node_id() == node) return n.state();
    }
    return v1::Node::STATE_UNSPECIFIED;
  }

  absl::StatusOr<v1::ClaimSlotResponse> Claim(const v1::Slot& slot,
                                              const std::string& node,
                                              const std::string& lease,
                                              const std::string& instance) {
    v1::ClaimSlotRequest request;
    request.set_app_name(slot.app_name());
    request.set_index(slot.index());
    request.set_generation(slot.generation());
    request.set_node_id(node);
    request.set_lease_id(lease);
    request.set_instance_id(instance);
    return Call(fabric_->slots(), &SlotRegistry::Claim, request);
  }
  absl::Status SetState(const v1::Slot& slot, v1::Slot::State state) {
    v1::UpdateSlotRequest request;
    request.set_app_name(slot.app_name());
    request.set_index(slot.index());
    request.set_generation(slot.generation());
    request.set_claim_revision(slot.claim_revision());
    request.set_state(state);
    return Call(fabric_->slots(), &SlotRegistry::Update, request).status();
  }
  absl::Status Release(const v1::Slot& slot) {
    v1::ReleaseSlotRequest request;
    request.set_app_name(slot.app_name());
    request.set_index(slot.index());
    request.set_generation(slot.generation());
    request.set_claim_revision(slot.claim_revision());
    return Call(fabric_->slots(), &SlotRegistry::Release, request).status();
  }
  std::vector<v1::Slot> Slots() {
    fabric_->Settle();
    const auto slots = fabric_->slots().List({});
    EXPECT_TRUE(slots.ok()) << slots.status();
    return {slots->slots().begin(), slots->slots().end()};
  }
  v1::RegisterEndpointRequest EndpointRequest(const v1::Slot& slot,
                                              const std::string& lease) {
    v1::RegisterEndpointRequest request;
    request.set_lease_id(lease);
    v1::Endpoint* endpoint = request.mutable_endpoint();
    endpoint->set_app_name(slot.app_name());
    endpoint->set_url("http://127.0.0.1:8081");
    endpoint->set_node_id(slot.node_id());
    endpoint->set_instance_id(slot.instance_id());
    endpoint->set_digest(slot.digest());
    endpoint->set_index(slot.index());
    endpoint->set_generation(slot.generation());
    endpoint->set_claim_revision(slot.claim_revision());
    return request;
  }
  absl::StatusOr<v1::RegisterEndpointResponse> Register(
      const v1::RegisterEndpointRequest& request) {
    return Call(fabric_->endpoints(), &EndpointRegistry::Register, request);
  }
  absl::StatusOr<v1::UpdateEndpointResponse> StartDrain(
      const v1::Endpoint& endpoint, const std::string& lease) {
    v1::UpdateEndpointRequest request;
    request.set_app_name(endpoint.app_name());
    request.set_instance_id(endpoint.instance_id());
    request.set_lease_id(lease);
    request.set_state(v1::Endpoint::STATE_DRAINING);
    return Call(fabric_->endpoints(), &EndpointRegistry::Update, request);
  }
  std::vector<v1::Endpoint> Endpoints() {
    fabric_->Settle();
    const auto endpoints = fabric_->endpoints().List({});
    return {endpoints->endpoints().begin(), endpoints->endpoints().end()};
  }

  // One instance of `app`, ready and registered, on a node of its own.
  struct Instance {
    std::string lease;
    v1::Slot slot;
    v1::Endpoint endpoint;
  };
  Instance RunOne(const std::string& app) {
    Instance instance;
    instance.lease = Join("n1");
    EXPECT_TRUE(Put(PlanRequest(app, 1, 1)).ok());
    const auto claimed = Claim(Slots()[0], "n1", instance.lease, "i1");
    EXPECT_TRUE(claimed.ok()) << claimed.status();
    instance.slot = claimed->slot();
    EXPECT_TRUE(SetState(instance.slot, v1::Slot::STATE_READY).ok());
    const auto registered =
        Register(EndpointRequest(instance.slot, instance.lease));
    EXPECT_TRUE(registered.ok()) << registered.status();
    instance.endpoint = registered->endpoint();
    return instance;
  }

  LeaseId OpenEdge(const std::string& id, int64_t applied) {
    v1::ReportEdgeRequest request;
    request.mutable_edge()->set_edge_id(id);
    request.set_epoch(store_->Epoch());
    request.set_applied_revision(applied);
    const auto lease = Call(fabric_->edges(), &EdgeRegistry::Open, request);
    EXPECT_TRUE(lease.ok()) << lease.status();
    fabric_->Settle();
    return lease.ok() ? *lease : kNoLease;
  }
  absl::Status ReportLoad(const std::string& id, LeaseId lease,
                          const v1::Endpoint& endpoint, int64_t applied,
                          int64_t in_flight) {
    v1::ReportEdgeRequest request;
    request.set_epoch(store_->Epoch());
    request.set_applied_revision(applied);
    v1::EndpointLoad* load = request.add_draining();
    load->set_app_name(endpoint.app_name());
    load->set_instance_id(endpoint.instance_id());
    load->set_in_flight(in_flight);
    return fabric_->edges().Report(id, lease, request);
  }

  // Moves the clock, with a heartbeat of each of `alive` every second.
  void Pass(absl::Duration time,
            const std::map<std::string, std::string>& alive = {}) {
    const absl::Duration step = absl::Milliseconds(500);
    for (absl::Duration t; t < time; t += step) {
      clock_.Advance(step);
      for (const auto& [node, lease] : alive) {
        EXPECT_TRUE(Beat(node, lease).ok());
      }
      EXPECT_TRUE(store_->Tick().ok());
      fabric_->Settle();
    }
  }

  std::vector<std::string> EventTypes() {
    fabric_->Settle();
    std::vector<std::string> types;
    const auto events = fabric_->events().List({});
    for (const v1::Event& event : events->events()) {
      types.push_back(event.type());
    }
    return types;
  }

  FakeClock clock_{absl::FromUnixSeconds(1'000'000)};
  FakeCatalog catalog_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<FabricCore> fabric_;
};

// --- Plans -------------------------------------------------------------------

TEST_F(FabricCoreTest, OnlyWhatNeedsNewInstancesMakesANewGeneration) {
  v1::PutPlanRequest request = PlanRequest("billing", 1, 2);
  EXPECT_EQ(Put(request)->plan().generation(), 1);
  request.mutable_plan()->set_max(5);
  request.mutable_plan()->mutable_strategy()->set_max_surge(2);
  EXPECT_EQ(Put(request)->plan().generation(), 1);
  request.mutable_plan()->set_digest(Digest('b'));
  EXPECT_EQ(Put(request)->plan().generation(), 2);
  request.mutable_plan()->set_port(8080);
  EXPECT_EQ(Put(request)->plan().generation(), 3);
  request.mutable_plan()->mutable_placement()->set_spread_label("zone");
  EXPECT_EQ(Put(request)->plan().generation(), 4);
}

TEST_F(FabricCoreTest, GenerationsGoOnCountingAfterADelete) {
  ASSERT_TRUE(Put(PlanRequest("billing", 1, 1)).ok());
  v1::DeletePlanRequest deletion;
  deletion.set_app_name("billing");
  ASSERT_TRUE(DeletePlan(deletion).ok());

  EXPECT_EQ(Put(PlanRequest("billing", 1, 1))->plan().generation(), 2);
}

TEST_F(FabricCoreTest, PuttingTheSamePlanAgainChangesNothing) {
  const auto first = Put(PlanRequest("billing", 1, 2));
  const int64_t revision = store_->Revision();
  clock_.Advance(absl::Seconds(5));

  const auto second = Put(PlanRequest("billing", 1, 2));

  EXPECT_TRUE(first->changed());
  EXPECT_FALSE(second->changed());
  EXPECT_EQ(second->plan().revision(), first->plan().revision());
  EXPECT_EQ(store_->Revision(), revision);
  EXPECT_EQ(second->previous().revision(), first->plan().revision());
}

TEST_F(FabricCoreTest, IgnoresWhatTheFabricSetsInAPlanThatIsPut) {
  v1::PutPlanRequest request = PlanRequest("billing", 1, 2);
  request.mutable_plan()->set_generation(77);
  request.mutable_plan()->set_revision(78);
  request.mutable_plan()->set_count(79);
  request.mutable_plan()->mutable_create_time()->set_seconds(80);
  request.mutable_plan()->mutable_spore()->set_name("forged");

  const auto response = Put(request);

  EXPECT_EQ(response->plan().generation(), 1);
  EXPECT_EQ(response->plan().revision(), store_->Revision());
  EXPECT_EQ(response->plan().count(), 1);
  EXPECT_EQ(response->plan().create_time().seconds(), 1'000'000);
  EXPECT_FALSE(response->plan().has_spore());
}

TEST_F(FabricCoreTest, ValidateOnlyAnswersAsIfAndChangesNothing) {
  v1::PutPlanRequest request = PlanRequest("billing", 1, 2);
  request.set_validate_only(true);

  const auto response = Put(request);

  EXPECT_TRUE(response->changed());
  EXPECT_EQ(response->plan().generation(), 1);
  v1::GetPlanRequest get;
  get.set_app_name("billing");
  EXPECT_EQ(ReasonOf(fabric_->plans().Get(get).status()), "PLAN_NOT_FOUND");
}

TEST_F(FabricCoreTest, AnExpectedRevisionOfZeroDemandsThatThereIsNone) {
  v1::PutPlanRequest request = PlanRequest("billing", 1, 2);
  request.set_expected_revision(0);
  ASSERT_TRUE(Put(request).ok());
  request.mutable_plan()->set_max(3);

  const absl::Status status = Put(request).status();

  EXPECT_EQ(ReasonOf(status), "REVISION_MISMATCH");
  EXPECT_EQ(MetadataOf(status, "expected_revision"), "0");
}

TEST_F(FabricCoreTest, ARequestIdRepeatsTheAnswerInsteadOfTheAct) {
  v1::PutPlanRequest request = PlanRequest("billing", 1, 2);
  request.set_request_id("req-1");
  request.set_expected_revision(0);
  const auto first = Put(request);
  ASSERT_TRUE(first.ok());
  ASSERT_TRUE(Put(PlanRequest("billing", 2, 2)).ok());

  const auto retry = Put(request);

  ASSERT_TRUE(retry.ok()) << retry.status();
  EXPECT_EQ(retry->SerializeAsString(), first->SerializeAsString());
  v1::GetPlanRequest get;
  get.set_app_name("billing");
  EXPECT_EQ(fabric_->plans().Get(get)->plan().min(), 2);
}

TEST_F(FabricCoreTest, ARequestIdIsForOneRequestOnly) {
  v1::PutPlanRequest request = PlanRequest("billing", 1, 2);
  request.set_request_id("req-1");
  ASSERT_TRUE(Put(request).ok());
  request.mutable_plan()->set_max(3);

  EXPECT_THAT(std::string(Put(request).status().message()),
              HasSubstr("requestId"));
}

TEST_F(FabricCoreTest, RequestIdsAreForgottenAfterTenMinutes) {
  v1::DeletePlanRequest deletion;
  deletion.set_app_name("billing");
  deletion.set_request_id("req-1");
  ASSERT_TRUE(Put(PlanRequest("billing", 1, 1)).ok());
  ASSERT_TRUE(DeletePlan(deletion).ok());
  Pass(absl::Minutes(9));
  EXPECT_TRUE(DeletePlan(deletion).ok());

  Pass(absl::Minutes(3));

  EXPECT_EQ(ReasonOf(DeletePlan(deletion).status()), "PLAN_NOT_FOUND");
}

TEST_F(FabricCoreTest, CountsAreStateThatAPutKeepsWithinItsBounds) {
  ASSERT_TRUE(Put(PlanRequest("billing", 1, 5)).ok());
  const int64_t revision = store_->Revision();
  EXPECT_EQ(Scale("billing", 4)->plan().count(), 4);
  EXPECT_EQ(Scale("billing", 4)->plan().revision(), revision);

  EXPECT_EQ(Put(PlanRequest("billing", 1, 6))->plan().count(), 4);
  EXPECT_EQ(Put(PlanRequest("billing", 1, 3))->plan().count(), 3);
  EXPECT_EQ(Put(PlanRequest("billing", 5, 6))->plan().count(), 5);
}

TEST_F(FabricCoreTest, RefusesCountsOutsideThePlan) {
  ASSERT_TRUE(Put(PlanRequest("billing", 2, 3)).ok());

  const absl::Status status = Scale("billing", 4).status();

  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ReasonOf(status), "COUNT_OUT_OF_RANGE");
  EXPECT_EQ(MetadataOf(status, "max"), "3");
  EXPECT_EQ(ReasonOf(Scale("shop", 1).status()), "PLAN_NOT_FOUND");
}

std::vector<std::string> Warnings(const v1::PutPlanResponse& response) {
  std::vector<std::string> reasons;
  for (const auto& warning : response.warnings()) {
    absl::Status status(static_cast<absl::StatusCode>(warning.code()),
                        warning.message());
    for (const auto& detail : warning.details()) {
      status.SetPayload(detail.type_url(), absl::Cord(detail.value()));
    }
    reasons.push_back(ReasonOf(status));
  }
  return reasons;
}

TEST_F(FabricCoreTest, WarnsOfWhatIsDoubtfulAboutAPlan) {
  Join("n1");
  EXPECT_THAT(Warnings(*Put(PlanRequest("a", 1, 1))),
              ElementsAre("SPORE_NOT_FOUND"));
  catalog_.missing = absl::UnavailableError("connection refused");
  EXPECT_THAT(Warnings(*Put(PlanRequest("b", 1, 1))),
              ElementsAre("REPO_UNAVAILABLE"));

  mycelium::spore::v1::SporeInfo spore;
  spore.set_digest(Digest('a'));
  spore.set_app_name("c");
  spore.mutable_nutrients()->set_cpu_milli(2000);
  catalog_.spores[Digest('a')] = spore;
  ASSERT_TRUE(PutBudget("c", 0, 3000).ok());
  EXPECT_THAT(Warnings(*Put(PlanRequest("c", 2, 2))),
              ElementsAre("BUDGET_EXCEEDED", "NO_CAPACITY"));
}

TEST_F(FabricCoreTest, RefusesASporeThatWasSignedForAnotherApp) {
  mycelium::spore::v1::SporeInfo spore;
  spore.set_digest(Digest('a'));
  spore.set_name("payments/shop");
  spore.set_app_name("shop");
  catalog_.spores[Digest('a')] = spore;

  const absl::Status status = Put(PlanRequest("billing", 1, 1)).status();

  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), "NAME_MISMATCH");
  EXPECT_EQ(MetadataOf(status, "spore_name"), "payments/shop");
}

TEST_F(FabricCoreTest, SlotsReserveWhatTheManifestAsksFor) {
  mycelium::spore::v1::SporeInfo spore;
  spore.set_digest(Digest('a'));
  spore.set_app_name("billing");
  spore.mutable_nutrients()->set_cpu_milli(250);
  spore.mutable_nutrients()->set_memory_mb(128);
  catalog_.spores[Digest('a')] = spore;
  ASSERT_TRUE(Put(PlanRequest("billing", 1, 1)).ok());
  ASSERT_TRUE(Put(PlanRequest("shop", 1, 1, 'b')).ok());

  const std::vector<v1::Slot> slots = Slots();

  ASSERT_THAT(slots, SizeIs(2));
  EXPECT_EQ(slots[0].nutrients().cpu_milli(), 250);
  EXPECT_EQ(slots[0].nutrients().memory_mb(), 128);
  EXPECT_EQ(slots[1].nutrients().cpu_milli(), 100);
  EXPECT_EQ(slots[1].nutrients().memory_mb(), 64);
}

TEST_F(FabricCoreTest, PagesAreAllTrueAtTheRevisionOfTheFirst) {
  for (const char* app : {"a", "b", "c", "d"}) {
    ASSERT_TRUE(Put(PlanRequest(app, 0, 1)).ok());
  }
  v1::ListPlansRequest request;
  request.set_page_size(2);
  const auto first = fabric_->plans().List(request);
  ASSERT_TRUE(Put(PlanRequest("c", 0, 9)).ok());
  ASSERT_TRUE(Put(PlanRequest("e", 0, 1)).ok());
  request.set_page_token(first->next_page_token());

  const auto second = fabric_->plans().List(request);

  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->revision(), first->revision());
  ASSERT_THAT(second->plans(), SizeIs(2));
  EXPECT_EQ(second->plans(0).app_name(), "c");
  EXPECT_EQ(second->plans(0).max(), 1);
  EXPECT_EQ(second->next_page_token(), "");
}

TEST_F(FabricCoreTest, RefusesTokensOfOtherLists) {
  for (const char* app : {"a", "b"}) {
    ASSERT_TRUE(Put(PlanRequest(app, 0, 1)).ok());
  }
  v1::ListPlansRequest plans;
  plans.set_page_size(1);
  v1::ListSlotsRequest slots;
  slots.set_page_token(fabric_->plans().List(plans)->next_page_token());
  EXPECT_EQ(ReasonOf(fabric_->slots().List(slots).status()),
            "PAGE_TOKEN_INVALID");
  plans.set_page_token("rubbish");
  EXPECT_EQ(ReasonOf(fabric_->plans().List(plans).status()),
            "PAGE_TOKEN_INVALID");
  plans.set_page_token("");
  plans.set_page_size(-1);
  EXPECT_EQ(ReasonOf(fabric_->plans().List(plans).status()), "REQUEST_INVALID");
}

// --- Slots, claims and budgets -----------------------------------------------

TEST_F(FabricCoreTest, OneOfTwoClaimersWins) {
  const std::string one = Join("n1");
  const std::string two = Join("n2");
  ASSERT_TRUE(Put(PlanRequest("billing", 1, 1)).ok());
  const v1::Slot slot = Slots()[0];

  const auto first = Claim(slot, "n1", one, "i1");
  const absl::Status second = Claim(slot, "n2", two, "i2").status();

  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->slot().state(), v1::Slot::STATE_CLAIMED);
  EXPECT_EQ(first->slot().claim_revision(), first->slot().revision());
  EXPECT_EQ(second.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(second), "SLOT_CLAIMED");
  EXPECT_EQ(MetadataOf(second, "node_id"), "n1");
  // The winner may ask again.
  EXPECT_EQ(Claim(slot, "n1", one, "i1")->slot().claim_revision(),
            first->slot().claim_revision());
}

TEST_F(FabricCoreTest, RefusesClaimsThatCannotBe) {
  const std::string lease = Join("n1");
  ASSERT_TRUE(Put(PlanRequest("billing", 1, 1)).ok());
  v1::Slot slot = Slots()[0];
  v1::Slot other = slot;
  other.set_index(7);

  EXPECT_EQ(ReasonOf(Claim(other, "n1", lease, "i1").status()),
            "SLOT_NOT_FOUND");
  EXPECT_EQ(ReasonOf(Claim(slot, "n1", "00000000000000ff", "i1").status()),
            "LEASE_NOT_FOUND");
  EXPECT_EQ(ReasonOf(Claim(slot, "n9", lease, "i1").status()),
            "LEASE_NOT_FOUND");
  v1::CordonNodeRequest cordon;
  cordon.set_node_id("n1");
  ASSERT_TRUE(Call(fabric_->nodes(), &NodeRegistry::Cordon, cordon).ok());
  EXPECT_EQ(ReasonOf(Claim(slot, "n1", lease, "i1").status()),
            "NODE_NOT_SCHEDULABLE");
}

TEST_F(FabricCoreTest,
       ClaimsNeverExceedABudgetThatShrankAfterTheSlotsWereMade) {
  const std::string lease = Join("n1");
  ASSERT_TRUE(Put(PlanRequest("billing", 3, 3)).ok());
  const std::vector<v1::Slot> slots = Slots();
  ASSERT_THAT(slots, SizeIs(3));
  // The reconciler has not seen the budget yet.
  ASSERT_TRUE(PutBudget("billing", 1).ok());

  EXPECT_TRUE(Claim(slots[0], "n1", lease, "i0").ok());
  const absl::Status second = Claim(slots[1], "n1", lease, "i1").status();

  EXPECT_EQ(ReasonOf(second), "BUDGET_EXCEEDED");
  EXPECT_EQ(MetadataOf(second, "dimension"), "maxInstances");
  EXPECT_EQ(MetadataOf(second, "limit"), "1");
  EXPECT_EQ(MetadataOf(second, "used"), "1");
  EXPECT_EQ(MetadataOf(second, "wanted"), "1");
}

TEST_F(FabricCoreTest, AStaleClaimCannotSayAnything) {
  const Instance instance = RunOne("billing");
  v1::Slot stale = instance.slot;
  stale.set_claim_revision(stale.claim_revision() - 1);

  EXPECT_EQ(ReasonOf(SetState(stale, v1::Slot::STATE_UNHEALTHY)), "CLAIM_LOST");
  EXPECT_TRUE(Release(stale).ok());
  EXPECT_EQ(Slots()[0].state(), v1::Slot::STATE_READY);
}

TEST_F(FabricCoreTest, ReleasingASlotTakesItsEndpointAlong) {
  const Instance instance = RunOne("billing");

  ASSERT_TRUE(Release(instance.slot).ok());

  EXPECT_THAT(Endpoints(), IsEmpty());
  ASSERT_THAT(Slots(), SizeIs(1));
  EXPECT_EQ(Slots()[0].state(), v1::Slot::STATE_PENDING);
  EXPECT_EQ(Slots()[0].claim_revision(), 0);
}

TEST_F(FabricCoreTest, ARefusedSlotIsOfferedToAnotherNode) {
  const std::string one = Join("n1");
  const std::string two = Join("n2");
  ASSERT_TRUE(Put(PlanRequest("billing", 1, 1)).ok());
  const v1::Slot slot = Slots()[0];
  const auto claimed = Claim(slot, "n1", one, "i1");
  ASSERT_TRUE(SetState(claimed->slot(), v1::Slot::STATE_REFUSED).ok());

  Pass(absl::Seconds(6), {{"n1", one}, {"n2", two}});

  ASSERT_THAT(Slots(), SizeIs(1));
  EXPECT_EQ(Slots()[0].state(), v1::Slot::STATE_PENDING);
  EXPECT_THAT(Slots()[0].refused_by(), ElementsAre("n1"));
  EXPECT_EQ(ReasonOf(Claim(slot, "n1", one, "i2").status()), "SLOT_REFUSED");
  EXPECT_TRUE(Claim(slot, "n2", two, "i3").ok());
}

TEST_F(FabricCoreTest, AWaitingSlotSaysSoAndSinceWhen) {
  ASSERT_TRUE(Put(PlanRequest("billing", 1, 1)).ok());
  EXPECT_EQ(Slots()[0].reason(), "NO_NODE");

  const std::string lease = Join("n1");
  EXPECT_EQ(Slots()[0].reason(), "UNCLAIMED");
  EXPECT_EQ(Slots()[0].since_time().seconds(), 1'000'000);

  // Its holder dies, and it waits from then on.
  ASSERT_TRUE(Claim(Slots()[0], "n1", lease, "i1").ok());
  Pass(absl::Seconds(12));
  EXPECT_EQ(Slots()[0].reason(), "NO_NODE");
  EXPECT_GE(Slots()[0].since_time().seconds(), 1'000'009);
}

TEST_F(FabricCoreTest, ARollingUpdateGoesThroughWithoutLosingAnInstance) {
  const std::string lease = Join("n1");
  ASSERT_TRUE(Put(PlanRequest("billing", 3, 3)).ok());
  int instances = 0;
  const auto run_agent = [&] {
    for (const v1::Slot& slot : Slots()) {
      if (slot.surplus() && slot.claim_revision() != 0) {
        ASSERT_TRUE(Release(slot).ok());
      } else if (slot.claim_revision() == 0) {
        const auto claimed =
            Claim(slot, "n1", lease, absl::StrCat("i", ++instances));
        ASSERT_TRUE(claimed.ok()) << claimed.status();
        ASSERT_TRUE(SetState(claimed->slot(), v1::Slot::STATE_READY).ok());
      }
    }
  };
  run_agent();
  Pass(absl::Seconds(4), {{"n1", lease}});

  ASSERT_TRUE(Put(PlanRequest("billing", 3, 3, 'b')).ok());
  for (int i = 0; i < 30; ++i) {
    Pass(absl::Seconds(1), {{"n1", lease}});
    int ready = 0;
    const std::vector<v1::Slot> slots = Slots();
    for (const v1::Slot& slot : slots) {
      ready += slot.state() == v1::Slot::STATE_READY && !slot.surplus();
    }
    EXPECT_GE(ready, 3);
    EXPECT_LE(slots.size(), 4u);
    run_agent();
  }

  ASSERT_THAT(Slots(), SizeIs(3));
  for (const v1::Slot& slot : Slots()) {
    EXPECT_EQ(slot.generation(), 2);
    EXPECT_EQ(slot.digest(), Digest('b'));
    EXPECT_LT(slot.index(), 3);
  }
}

TEST_F(FabricCoreTest, AnAppOfTheLargestSizeThatWaitsTakesANewPlan) {
  constexpr int kCount = 1000;
  ASSERT_TRUE(Put(PlanRequest("billing", kCount, kCount)).ok());
  fabric_->Settle();
  ASSERT_TRUE(Put(PlanRequest("billing", kCount, kCount, 'b')).ok());
  fabric_->Settle();

  const auto stored = store_->Range(RangeRequest::Prefix(kSlots));
  ASSERT_TRUE(stored.ok()) << stored.status();
  ASSERT_THAT(stored->entries, SizeIs(kCount));
  for (const auto& entry : stored->entries) {
    v1::Slot slot;
    ASSERT_TRUE(slot.ParseFromString(entry->value));
    EXPECT_EQ(slot.digest(), Digest('b'));
    EXPECT_EQ(slot.generation(), 2);
  }
  // More than one transaction can take, so each tells of its own part.
  const std::vector<std::string> types = EventTypes();
  EXPECT_GE(std::count(types.begin(), types.end(), "SLOTS_CHANGED"), 3);
}

TEST_F(FabricCoreTest, AnAppOfTheLargestSizeAndPlacementGetsItsSlots) {
  constexpr int kCount = 1000;
  Join("node-1");
  v1::PutPlanRequest request = PlanRequest("billing", kCount, kCount);
  auto& labels = *request.mutable_plan()->mutable_placement();
  for (int i = 0; i < 16; ++i) {
    std::string key = absl::StrCat("label-", i, "-");
    key.resize(63, 'k');
    (*labels.mutable_required_labels())[key] = std::string(63, 'v');
  }
  ASSERT_TRUE(Put(request).ok());
  fabric_->Settle();

  // Each tells its placement, and why no node takes it.
  const auto stored = store_->Range(RangeRequest::Prefix(kSlots));
  ASSERT_TRUE(stored.ok()) << stored.status();
  ASSERT_THAT(stored->entries, SizeIs(kCount));
  size_t bytes = 0;
  for (const auto& entry : stored->entries) bytes += entry->value.size();
  EXPECT_GT(bytes, StoreOptions().max_txn_bytes);
}

// --- Nodes and leases --------------------------------------------------------

TEST_F(FabricCoreTest, ASilentNodeIsSuspectThenLostWithAllThatItHeld) {
  RunOne("billing");
  EXPECT_EQ(StateOf("n1"), v1::Node::STATE_READY);
  Pass(absl::Seconds(3));
  EXPECT_EQ(StateOf("n1"), v1::Node::STATE_SUSPECT);
  EXPECT_THAT(Endpoints(), SizeIs(1));

  Pass(absl::Seconds(7));

  EXPECT_EQ(StateOf("n1"), v1::Node::STATE_LOST);
  EXPECT_THAT(Endpoints(), IsEmpty());
  EXPECT_EQ(Slots()[0].state(), v1::Slot::STATE_PENDING);
  EXPECT_THAT(EventTypes(), testing::Contains("NODE_LOST"));
}

TEST_F(FabricCoreTest, WhatALostNodeHeldGoesInOneRevision) {
  RunOne("billing");
  int64_t position = store_->Revision();
  Pass(absl::Seconds(12));

  bool seen = false;
  const auto changes = store_->ReadChanges(position, 1 << 20);
  for (const auto& batch : changes->batches) {
    std::set<std::string> deleted;
    for (const Change& change : batch->changes) {
      if (change.deleted()) deleted.insert(change.key());
    }
    if (deleted.count("/alive/n1") == 0) continue;
    seen = true;
    EXPECT_EQ(deleted.size(), 3u);
    EXPECT_EQ(deleted.count("/endpoints/billing/i1"), 1u);
  }
  EXPECT_TRUE(seen);
}

TEST_F(FabricCoreTest, AHeartbeatMakesASuspectNodeReadyAgain) {
  const std::string lease = Join("n1");
  Pass(absl::Seconds(5));
  ASSERT_EQ(StateOf("n1"), v1::Node::STATE_SUSPECT);

  ASSERT_TRUE(Beat("n1", lease).ok());

  EXPECT_EQ(StateOf("n1"), v1::Node::STATE_READY);
}

TEST_F(FabricCoreTest, ANodeThatBeatsStays) {
  const std::string lease = Join("n1");

  Pass(absl::Seconds(60), {{"n1", lease}});

  EXPECT_EQ(StateOf("n1"), v1::Node::STATE_READY);
}

TEST_F(FabricCoreTest, RefusesASecondAgentForALiveNode) {
  Join("n1");

  const absl::Status status =
      Call(fabric_->nodes(), &NodeRegistry::Join, JoinRequest("n1")).status();

  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReasonOf(status), "NODE_ACTIVE");
  EXPECT_EQ(MetadataOf(status, "address"), "127.0.0.1:7703");
}

TEST_F(FabricCoreTest, AnAgentThatReturnsInTimeKeepsWhatItHad) {
  const Instance instance = RunOne("billing");
  Pass(absl::Seconds(5));

  const auto again = Call(fabric_->nodes(), &NodeRegistry::Join,
                          JoinRequest("n1", instance.lease));

  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->resumed());
  EXPECT_EQ(again->lease_id(), instance.lease);
  EXPECT_EQ(StateOf("n1"), v1::Node::STATE_READY);
  EXPECT_THAT(Endpoints(), SizeIs(1));
}

TEST_F(FabricCoreTest, AnAgentThatReturnsTooLateStartsAnew) {
  const Instance instance = RunOne("billing");
  Pass(absl::Seconds(12));

  const auto again = Call(fabric_->nodes(), &NodeRegistry::Join,
                          JoinRequest("n1", instance.lease));

  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_FALSE(again->resumed());
  EXPECT_NE(again->lease_id(), instance.lease);
  EXPECT_EQ(ReasonOf(Beat("n1", instance.lease)), "LEASE_MISMATCH");
  EXPECT_EQ(
      ReasonOf(
          Register(EndpointRequest(instance.slot, instance.lease)).status()),
      "LEASE_NOT_FOUND");
}

TEST_F(FabricCoreTest, ANodeThatLeavesIsGoneAtOnceAndCanBeForgotten) {
  const Instance instance = RunOne("billing");
  v1::DeleteNodeRequest forget;
  forget.set_node_id("n1");
  EXPECT_EQ(
      ReasonOf(Call(fabric_->nodes(), &NodeRegistry::Delete, forget).status()),
      "NODE_ACTIVE");
  v1::LeaveNodeRequest leave;
  leave.set_node_id("n1");
  leave.set_lease_id(instance.lease);

  ASSERT_TRUE(Call(fabric_->nodes(), &NodeRegistry::Leave, leave).ok());

  EXPECT_EQ(StateOf("n1"), v1::Node::STATE_LEFT);
  EXPECT_THAT(Endpoints(), IsEmpty());
  EXPECT_TRUE(Call(fabric_->nodes(), &NodeRegistry::Delete, forget).ok());
  EXPECT_EQ(StateOf("n1"), v1::Node::STATE_UNSPECIFIED);
}

TEST_F(FabricCoreTest, SchedulingSurvivesTheAgentsRestart) {
  const std::string lease = Join("n1");
  v1::DrainNodeRequest drain;
  drain.set_node_id("n1");
  ASSERT_TRUE(Call(fabric_->nodes(), &NodeRegistry::Drain, drain).ok());
  Pass(absl::Seconds(12));
  Join("n1");

  const auto nodes = fabric_->nodes().List({});
  EXPECT_EQ(nodes->nodes(0).scheduling(), v1::Node::SCHEDULING_DRAINING);

  v1::UndrainNodeRequest undrain;
  undrain.set_node_id("n1");
  const auto undrained =
      Call(fabric_->nodes(), &NodeRegistry::Undrain, undrain);
  EXPECT_EQ(undrained->node().scheduling(), v1::Node::SCHEDULING_ENABLED);
  undrain.set_node_id("n9");
  EXPECT_EQ(
      ReasonOf(
          Call(fabric_->nodes(), &NodeRegistry::Undrain, undrain).status()),
      "NODE_NOT_FOUND");
}

TEST_F(FabricCoreTest, ListsWhatANodesClaimsReserve) {
  RunOne("billing");
  fabric_->Settle();

  const auto nodes = fabric_->nodes().List({});

  EXPECT_EQ(nodes->nodes(0).reserved().cpu_milli(), 100);
  EXPECT_EQ(nodes->nodes(0).reserved().memory_mb(), 64);
}

// --- Endpoints and the acknowledged drain ------------------------------------

TEST_F(FabricCoreTest, EndpointsNeedTheClaimOfTheirInstance) {
  const Instance instance = RunOne("billing");
  v1::RegisterEndpointRequest other =
      EndpointRequest(instance.slot, instance.lease);
  other.mutable_endpoint()->set_claim_revision(1);

  EXPECT_EQ(ReasonOf(Register(other).status()), "CLAIM_LOST");

  other = EndpointRequest(instance.slot, instance.lease);
  other.mutable_endpoint()->set_instance_id("i9");
  EXPECT_EQ(ReasonOf(Register(other).status()), "CLAIM_LOST");
}

TEST_F(FabricCoreTest, WithoutAnEdgeAnEndpointIsDrainedAtOnce) {
  const Instance instance = RunOne("billing");

  const auto draining = StartDrain(instance.endpoint, instance.lease);

  EXPECT_EQ(draining->endpoint().state(), v1::Endpoint::STATE_DRAINING);
  EXPECT_EQ(Endpoints()[0].state(), v1::Endpoint::STATE_DRAINED);
  // Asked again, nothing goes back.
  EXPECT_EQ(StartDrain(instance.endpoint, instance.lease)->endpoint().state(),
            v1::Endpoint::STATE_DRAINED);
}

TEST_F(FabricCoreTest, ADrainWaitsUntilEveryEdgeHasAppliedItAndIsIdle) {
  const Instance instance = RunOne("billing");
  const LeaseId one = OpenEdge("e1", store_->Revision());
  const LeaseId two = OpenEdge("e2", store_->Revision());
  const int64_t revision =
      StartDrain(instance.endpoint, instance.lease)->endpoint().revision();
  EXPECT_EQ(Endpoints()[0].state(), v1::Endpoint::STATE_DRAINING);

  // Idle, but not applied: requests may still come.
  ASSERT_TRUE(ReportLoad("e1", one, instance.endpoint, revision - 1, 0).ok());
  ASSERT_TRUE(ReportLoad("e2", two, instance.endpoint, revision, 0).ok());
  EXPECT_EQ(Endpoints()[0].state(), v1::Endpoint::STATE_DRAINING);
  // Applied, but busy.
  ASSERT_TRUE(ReportLoad("e1", one, instance.endpoint, revision, 2).ok());
  EXPECT_EQ(Endpoints()[0].state(), v1::Endpoint::STATE_DRAINING);

  ASSERT_TRUE(ReportLoad("e1", one, instance.endpoint, revision, 0).ok());

  EXPECT_EQ(Endpoints()[0].state(), v1::Endpoint::STATE_DRAINED);
}

TEST_F(FabricCoreTest, ADrainDoesNotWaitForADeadEdge) {
  const Instance instance = RunOne("billing");
  OpenEdge("e1", store_->Revision());
  v1::UpdateEndpointRequest drain;
  drain.set_app_name("billing");
  drain.set_instance_id("i1");
  drain.set_lease_id(instance.lease);
  drain.set_state(v1::Endpoint::STATE_DRAINING);
  drain.mutable_drain_timeout()->set_seconds(3600);
  ASSERT_TRUE(
      Call(fabric_->endpoints(), &EndpointRegistry::Update, drain).ok());
  Pass(absl::Seconds(5), {{"n1", instance.lease}});
  EXPECT_EQ(Endpoints()[0].state(), v1::Endpoint::STATE_DRAINING);

  Pass(absl::Seconds(6), {{"n1", instance.lease}});

  EXPECT_EQ(Endpoints()[0].state(), v1::Endpoint::STATE_DRAINED);
}

TEST_F(FabricCoreTest, ADrainEndsAtItsDeadline) {
  const Instance instance = RunOne("billing");
  const LeaseId edge = OpenEdge("e1", store_->Revision());
  const int64_t revision =
      StartDrain(instance.endpoint, instance.lease)->endpoint().revision();
  for (int i = 0; i < 9; ++i) {
    Pass(absl::Seconds(1), {{"n1", instance.lease}});
    ASSERT_TRUE(ReportLoad("e1", edge, instance.endpoint, revision, 1).ok());
    EXPECT_EQ(Endpoints()[0].state(), v1::Endpoint::STATE_DRAINING);
  }

  Pass(absl::Seconds(2), {{"n1", instance.lease}});

  EXPECT_EQ(Endpoints()[0].state(), v1::Endpoint::STATE_DRAINED);
}

TEST_F(FabricCoreTest, RevisionsOfAnotherEpochAcknowledgeNothing) {
  const Instance instance = RunOne("billing");
  const LeaseId edge = OpenEdge("e1", 0);
  ASSERT_TRUE(StartDrain(instance.endpoint, instance.lease).ok());
  v1::ReportEdgeRequest report;
  report.set_epoch("of the disk that was lost");
  report.set_applied_revision(1'000'000);
  v1::EndpointLoad* load = report.add_draining();
  load->set_app_name("billing");
  load->set_instance_id("i1");

  ASSERT_TRUE(fabric_->edges().Report("e1", edge, report).ok());

  EXPECT_EQ(Endpoints()[0].state(), v1::Endpoint::STATE_DRAINING);
}

TEST_F(FabricCoreTest, ANewStreamOfAnEdgeTakesOverFromTheOldOne) {
  const Instance instance = RunOne("billing");
  const LeaseId old_lease = OpenEdge("e1", store_->Revision());
  const LeaseId new_lease = OpenEdge("e1", store_->Revision());

  EXPECT_EQ(ReasonOf(ReportLoad("e1", old_lease, instance.endpoint, 1, 0)),
            "LEASE_NOT_FOUND");
  EXPECT_TRUE(ReportLoad("e1", new_lease, instance.endpoint, 1, 0).ok());
  EXPECT_THAT(fabric_->edges().List({})->edges(), SizeIs(1));

  fabric_->edges().Close("e1", new_lease);
  fabric_->Settle();
  EXPECT_THAT(fabric_->edges().List({})->edges(), IsEmpty());
}

TEST_F(FabricCoreTest, TheLateEndOfAnEdgesOldLeaseLeavesItsNewStream) {
  const Instance instance = RunOne("billing");
  OpenEdge("e1", store_->Revision());
  // The lease lapses, which nobody has looked at when the edge comes back.
  clock_.Advance(EdgeRegistry::kLeaseTtl + absl::Seconds(1));
  ASSERT_TRUE(store_->Tick().ok());
  const LeaseId again = OpenEdge("e1", store_->Revision());

  EXPECT_TRUE(ReportLoad("e1", again, instance.endpoint, 1, 0).ok());
}

TEST_F(FabricCoreTest, AfterARestartADrainStillWaitsForTheEdgesOfBefore) {
  const Instance instance = RunOne("billing");
  const LeaseId edge = OpenEdge("e1", store_->Revision());
  const int64_t revision =
      StartDrain(instance.endpoint, instance.lease)->endpoint().revision();
  fabric_.reset();
  Start();
  EXPECT_EQ(Endpoints()[0].state(), v1::Endpoint::STATE_DRAINING);
  // The edge's stream broke, and it comes back.
  const LeaseId again = OpenEdge("e1", revision);
  EXPECT_NE(again, edge);
  ASSERT_TRUE(ReportLoad("e1", again, instance.endpoint, revision, 0).ok());

  EXPECT_EQ(Endpoints()[0].state(), v1::Endpoint::STATE_DRAINED);
}

// --- Events ------------------------------------------------------------------

absl::StatusOr<v1::RecordEventsResponse> Record(
    EventLog& events, const v1::RecordEventsRequest& request) {
  absl::StatusOr<v1::RecordEventsResponse> result =
      absl::UnknownError("no answer");
  events.Record(request, [&](absl::StatusOr<v1::RecordEventsResponse> answer) {
    result = std::move(answer);
  });
  return result;
}

TEST_F(FabricCoreTest, ListsEventsNewestFirstAPageAtATime) {
  v1::RecordEventsRequest request;
  for (int i = 0; i < 5; ++i) {
    v1::Event* event = request.add_events();
    event->set_type("TEST");
    event->set_message(absl::StrCat(i));
    event->set_app_name("billing");
  }
  ASSERT_TRUE(Record(fabric_->events(), request).ok());
  v1::ListEventsRequest list;
  list.set_app_name("billing");
  list.set_page_size(2);
  std::vector<std::string> messages;
  int pages = 0;
  do {
    const auto page = fabric_->events().List(list);
    ASSERT_TRUE(page.ok()) << page.status();
    for (const v1::Event& event : page->events()) {
      messages.push_back(event.message());
    }
    list.set_page_token(page->next_page_token());
    ++pages;
  } while (!list.page_token().empty());

  EXPECT_THAT(messages, ElementsAre("4", "3", "2", "1", "0"));
  EXPECT_EQ(pages, 3);
}

TEST_F(FabricCoreTest, SkipsEventsThatWereRecordedAlready) {
  v1::RecordEventsRequest request;
  request.add_events()->set_type("TEST");
  request.mutable_events(0)->set_event_id("e-1");
  ASSERT_TRUE(Record(fabric_->events(), request).ok());
  const int64_t revision = store_->Revision();

  ASSERT_TRUE(Record(fabric_->events(), request).ok());
  EXPECT_EQ(store_->Revision(), revision);

  // Also by the fabric's next process.
  fabric_.reset();
  Start();
  ASSERT_TRUE(Record(fabric_->events(), request).ok());
  EXPECT_THAT(EventTypes(), ElementsAre("TEST"));
}

TEST_F(FabricCoreTest, RefusesWrongEventsWhole) {
  v1::RecordEventsRequest request;
  request.add_events()->set_type("FINE");
  request.add_events()->set_type("not a constant");

  const absl::Status status = Record(fabric_->events(), request).status();

  EXPECT_EQ(ReasonOf(status), "EVENT_INVALID");
  EXPECT_THAT(std::string(status.message()), HasSubstr("events[1].type"));
  EXPECT_THAT(EventTypes(), IsEmpty());
}

TEST_F(FabricCoreTest, KeepsTheLastTenThousandEvents) {
  v1::RecordEventsRequest request;
  for (int i = 0; i < 100; ++i) request.add_events()->set_type("TEST");
  for (int i = 0; i < 150; ++i) {
    ASSERT_TRUE(Record(fabric_->events(), request).ok());
  }

  Pass(absl::Seconds(6));

  const auto stored = store_->Range(RangeRequest::Prefix(kEvents));
  EXPECT_EQ(stored->entries.size(), EventLog::kKept);
}

// --- Many at once ------------------------------------------------------------

TEST(FabricConcurrencyTest, ManyClaimersNeverExceedABudgetOrShareASlot) {
  // Real threads: claims of every slot by everybody, under a budget that allows
  // half of the slots.
  StoreOptions store_options;
  const std::unique_ptr<Store> store = NewMemoryStore(store_options);
  const std::unique_ptr<FabricCore> fabric =
      FabricCore::Create(store.get(), {});
  const auto wait = [](auto call) {
    std::atomic<bool> called = false;
    call([&called](const auto&) { called = true; });
    while (!called) std::this_thread::yield();
  };
  constexpr int kSlotCount = 20;
  constexpr int kClaimers = 8;
  v1::PutPlanRequest plan;
  plan.mutable_plan()->set_app_name("billing");
  plan.mutable_plan()->set_digest(Digest('a'));
  plan.mutable_plan()->set_min(kSlotCount);
  plan.mutable_plan()->set_max(kSlotCount);
  wait([&](auto done) { fabric->plans().Put(plan, std::move(done)); });
  while (fabric->slots().List({})->slots_size() < kSlotCount) {
    std::this_thread::yield();
  }
  // The budget comes in the middle, when some have claimed already.
  std::atomic<int> won = 0;
  std::atomic<int> finished = 0;
  std::vector<std::thread> claimers;
  for (int i = 0; i < kClaimers; ++i) {
    claimers.emplace_back([&, i] {
      const std::string node = absl::StrCat("n", i);
      std::string lease;
      v1::JoinNodeRequest join;
      join.mutable_node()->set_node_id(node);
      join.mutable_node()->set_address("127.0.0.1:7703");
      wait([&](auto done) {
        fabric->nodes().Join(
            join, [&, done](absl::StatusOr<v1::JoinNodeResponse> response) {
              if (response.ok()) lease = response->lease_id();
              done(0);
            });
      });
      ASSERT_FALSE(lease.empty());
      for (int index = 0; index < kSlotCount; ++index) {
        if (i == 0 && index == kSlotCount / 4) {
          v1::PutBudgetRequest budget;
          budget.mutable_budget()->set_app_name("billing");
          budget.mutable_budget()->set_max_instances(kSlotCount / 2);
          wait([&](auto done) {
            fabric->budgets().Put(budget, std::move(done));
          });
        }
        v1::ClaimSlotRequest claim;
        claim.set_app_name("billing");
        claim.set_index((index + i * 3) % kSlotCount);
        claim.set_generation(1);
        claim.set_node_id(node);
        claim.set_lease_id(lease);
        claim.set_instance_id(absl::StrCat("i", i, "-", index));
        wait([&](auto done) {
          fabric->slots().Claim(
              claim, [&, done](absl::StatusOr<v1::ClaimSlotResponse> response) {
                if (response.ok()) ++won;
                done(0);
              });
        });
      }
      ++finished;
    });
  }
  for (std::thread& claimer : claimers) claimer.join();

  EXPECT_EQ(finished.load(), kClaimers);
  // The store's log tells what was true at each moment: no claim was ever
  // added, under the budget, that made more of them than it allows.
  std::set<std::string> held;
  bool limited = false;
  int granted = 0;
  for (int64_t position = 0; position < store->Revision();) {
    const absl::StatusOr<Changes> changes =
        store->ReadChanges(position, 1 << 20);
    ASSERT_TRUE(changes.ok()) << changes.status();
    for (const auto& batch : changes->batches) {
      position = batch->revision;
      bool added = false;
      for (const Change& change : batch->changes) {
        limited |= change.key() == KeyOf(kBudgets, "billing");
        if (!absl::StartsWith(change.key(), kClaims)) continue;
        if (change.deleted()) {
          held.erase(change.key());
          continue;
        }
        EXPECT_TRUE(held.insert(change.key()).second) << change.key();
        added = true;
        ++granted;
      }
      if (added && limited) {
        EXPECT_LE(static_cast<int>(held.size()), kSlotCount / 2);
      }
    }
  }
  EXPECT_TRUE(limited);
  EXPECT_EQ(granted, won.load());
  EXPECT_GE(granted, kSlotCount / 2);
}

}  // namespace
}  // namespace mycelium::fabric
